"""What is Google Cloud Storage's own: credentials, versions and the listing of the JSON API. Sessions: test_gcs_sessions.py."""

import json
import os
import socket
import subprocess
import sys
import threading
from collections.abc import Iterator
from functools import cache
from pathlib import Path
from typing import Any
from urllib.parse import parse_qs, urlsplit

import pytest

from cloud_train.errors import MissingDependencyError, StoreError, UsageError
from cloud_train.storage import gcs_account
from cloud_train.storage.base import AccessDeniedError, Store, TransientStoreError
from cloud_train.storage.gcs import GoogleStore
from tests.faults import FaultProxy, Refuse
from tests.storage.google_server import Asked, GoogleServer, Said, google_server, said
from tests.stores import StoreServer, server_or_skip, use
from tests.support import wait_until

TOKEN = {"access_token": "token-1", "expires_in": 3600, "token_type": "Bearer"}


@pytest.fixture
def server(monkeypatch: pytest.MonkeyPatch) -> StoreServer:
    server = server_or_skip("gs")
    use(server, monkeypatch)
    return server


def opened(url: str, prefix: str = "") -> GoogleStore:
    return GoogleStore(urlsplit(url).netloc, prefix)


@cache
def private_key() -> str:
    from cryptography.hazmat.primitives.asymmetric.rsa import generate_private_key
    from cryptography.hazmat.primitives.serialization import Encoding, NoEncryption, PrivateFormat

    return generate_private_key(65537, 2048).private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption()).decode()


def log_in(monkeypatch: pytest.MonkeyPatch, folder: Path, token_uri: str, endpoint: str) -> None:
    """A service account whose tokens come from ``token_uri``, and a Cloud Storage at ``endpoint`` that is no emulator."""
    account = {
        "type": "service_account",
        "client_email": "me@test",
        "private_key": private_key(),
        "token_uri": token_uri,
        "project_id": "test",
    }
    (folder / "account.json").write_text(json.dumps(account))
    monkeypatch.setenv("GOOGLE_APPLICATION_CREDENTIALS", str(folder / "account.json"))
    monkeypatch.delenv("STORAGE_EMULATOR_HOST", raising=False)
    monkeypatch.setattr(gcs_account, "ENDPOINT", endpoint)


@pytest.fixture
def tokens() -> Iterator[GoogleServer]:
    """Gives out tokens."""
    with google_server(lambda asked: said(TOKEN)) as found:
        yield found


def signatures(proxy: FaultProxy) -> set[str | None]:
    return {record.request.headers.get("authorization") for record in proxy.records}


@pytest.mark.parametrize("name", ["Bad_Bucket", "bucket!", "-bucket", "ab", "a" * 223])
def test_a_bucket_that_cannot_be_one_is_said_to_be_none_before_anything_is_asked(name: str) -> None:
    with pytest.raises(UsageError, match=f"invalid bucket name '{name}'"):
        opened(f"gs://{name}")


def test_both_clients_sign_with_one_token_of_the_service_account(
    server: StoreServer, tokens: GoogleServer, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with FaultProxy(server) as proxy:
        log_in(monkeypatch, tmp_path, tokens.url, proxy.endpoint)
        store = opened(server.new_url())
        assert list(store.list()) == []  # the JSON API
        store.put("a", b"x")
        assert store.get("a") == b"x"
        store.multipart().begin("b", 1, "00")
        assert signatures(proxy) == {"Bearer token-1"}
    assert len(tokens.asked) == 1


def test_a_token_that_is_about_to_expire_is_renewed(
    server: StoreServer, tokens: GoogleServer, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    tokens.answer = lambda asked: said(TOKEN | {"access_token": f"token-{len(tokens.asked)}", "expires_in": 60})
    with FaultProxy(server) as proxy:
        log_in(monkeypatch, tmp_path, tokens.url, proxy.endpoint)
        store = opened(server.new_url())

        def renewed() -> bool:
            store.put("a", b"x")
            return "Bearer token-2" in signatures(proxy)

        wait_until(renewed, "another token")  # obstore asks for one at most ten times a second


def test_a_session_is_written_to_without_credentials(
    server: StoreServer, tokens: GoogleServer, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with FaultProxy(server) as proxy:
        log_in(monkeypatch, tmp_path, tokens.url, proxy.endpoint)
        parts = opened(server.new_url()).multipart()
        token = parts.begin("a", 1, "00")
        parts.finish("a", token, {0: parts.send("a", token, 0, 0, b"x")})
        by_method = {record.request.method: record.request.headers.get("authorization") for record in proxy.records}
    assert by_method == {"POST": "Bearer token-1", "PUT": None}


def refused_tokens(store: GoogleStore) -> list[StoreError]:
    """What obstore's and the JSON API's requests end with."""
    errors = []
    for act in (lambda: store.put("a", b"x"), lambda: store.multipart().begin("a", 1, "00")):
        with pytest.raises(StoreError) as caught:
            act()
        errors.append(caught.value)
    return errors


def test_a_login_that_google_refuses_is_said_with_the_way_to_log_in(
    tokens: GoogleServer, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    tokens.answer = lambda asked: said({"error": "invalid_grant", "error_description": "Token has been revoked."}, 400)
    log_in(monkeypatch, tmp_path, tokens.url, tokens.url)
    for error in refused_tokens(GoogleStore("bucket", "prefix/")):
        assert isinstance(error, AccessDeniedError)
        assert "cannot write gs://bucket/prefix/a" in error.message
        assert "revoked" in error.message
        assert "gcloud auth application-default login" in str(error.hint)


def test_a_token_that_did_not_come_is_worth_another_try(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with socket.create_server(("127.0.0.1", 0)) as closed:
        nowhere = f"http://127.0.0.1:{closed.getsockname()[1]}"
    log_in(monkeypatch, tmp_path, nowhere, nowhere)
    for error in refused_tokens(GoogleStore("bucket", "")):
        assert isinstance(error, TransientStoreError)


def test_a_file_of_credentials_that_is_not_there_is_no_anonymous_access(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("STORAGE_EMULATOR_HOST", raising=False)
    monkeypatch.setenv("GOOGLE_APPLICATION_CREDENTIALS", str(tmp_path / "missing.json"))
    with pytest.raises(AccessDeniedError, match=r"missing\.json") as caught:
        GoogleStore("bucket", "")
    assert "GOOGLE_APPLICATION_CREDENTIALS" in str(caught.value.hint)


def test_an_emulator_gets_no_credentials_and_may_be_named_without_http(
    server: StoreServer, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("GOOGLE_APPLICATION_CREDENTIALS", str(tmp_path / "missing.json"))
    monkeypatch.setenv("STORAGE_EMULATOR_HOST", server.endpoint.removeprefix("http://") + "/")
    store = opened(server.new_url())
    store.put("a", b"x")
    assert [info.key for info in store.list()] == ["a"]


# google-auth reads where the metadata server is as it is imported: so in a process of its own.
ALONE = """
import json, sys
from cloud_train.errors import StoreError
from cloud_train.storage import gcs, gcs_account
gcs_account.ENDPOINT = sys.argv[1]
store = gcs.GoogleStore(sys.argv[2], "")
outcomes = {}
for name, act in {"get": lambda: store.get("a").decode(), "list": lambda: [info.key for info in store.list()],
                  "put": lambda: store.put("b", b"x").size, "begin": lambda: len(store.multipart().begin("b", 1, "00")) > 9}.items():
    try:
        if name == "list": outcomes["sdk"] = "google.cloud.storage" in sys.modules
        outcomes[name] = act()
    except StoreError as error:
        outcomes[name] = [type(error).__name__, error.message, error.hint]
print(json.dumps(outcomes))
"""


def alone(endpoint: str, bucket: str, folder: Path, **environment: str) -> dict[str, Any]:
    cleared = {"HOME": str(folder), "CLOUDSDK_CONFIG": str(folder), "PATH": "/usr/bin:/bin"} | environment
    command = [sys.executable, "-W", "error", "-c", ALONE, endpoint, bucket]
    ended = subprocess.run(command, env=cleared, capture_output=True, text=True, timeout=60, check=False)
    assert ended.returncode == 0, ended.stderr
    assert ended.stderr == ""
    found: dict[str, Any] = json.loads(ended.stdout)
    return found


def test_without_credentials_public_objects_are_read_unsigned_and_the_hint_for_the_rest_is_to_log_in(
    server: StoreServer, tmp_path: Path
) -> None:
    url = server.new_url()
    server.put_raw(url, "a", b"public")
    with FaultProxy(server, lambda request: Refuse("expired") if request.method == "POST" else None) as proxy:
        found = alone(proxy.endpoint, urlsplit(url).netloc, tmp_path, NO_GCE_CHECK="true")
        assert signatures(proxy) == {None}
    assert (found["get"], found["list"], found["sdk"]) == ("public", ["a"], False)
    for name in ("put", "begin"):
        kind, message, hint = found[name]
        assert kind == "AccessDeniedError"
        assert "no credentials" in message
        assert "gcloud auth application-default login" in hint


def test_on_a_machine_of_google_the_metadata_server_gives_the_token(server: StoreServer, tmp_path: Path) -> None:
    def metadata(asked: Asked) -> Said:
        if "universe" in asked.target:
            return Said(404, {"Metadata-Flavor": "Google"})  # as machines of the public cloud answer
        is_token = urlsplit(asked.target).path.endswith("/token")
        answer = said(TOKEN) if is_token else said({"email": "me@test", "scopes": [gcs_account.SCOPE], "aliases": []})
        return Said(answer.status, {**answer.headers, "Metadata-Flavor": "Google"}, answer.body)

    url = server.new_url()
    server.put_raw(url, "a", b"private")
    with google_server(metadata) as machine, FaultProxy(server) as proxy:
        address = machine.url.removeprefix("http://")
        found = alone(proxy.endpoint, urlsplit(url).netloc, tmp_path, GCE_METADATA_HOST=address, GCE_METADATA_IP=address)
        assert signatures(proxy) == {"Bearer token-1"}
    assert found == {"get": "private", "list": ["a"], "put": 1, "begin": True, "sdk": False}


@pytest.mark.parametrize("absent", ["google.auth", "google.cloud", "google.cloud.storage", "obstore"])
def test_what_is_missing_is_named_with_the_way_to_install_it(absent: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("STORAGE_EMULATOR_HOST", raising=False)
    for name in [name for name in sys.modules if name == absent or name.startswith(f"{absent}.")]:
        monkeypatch.delitem(sys.modules, name)
    monkeypatch.setitem(sys.modules, absent, None)
    with pytest.raises(MissingDependencyError, match=absent.partition(".")[0]) as caught:
        GoogleStore("bucket", "")
    assert "cloud-train[gcp]" in str(caught.value.hint)
    assert "image.requirements" in str(caught.value.hint)


@pytest.mark.parametrize("refusal", ["denied", "expired"])
def test_a_refusal_of_the_json_api_says_what_to_do(
    server: StoreServer, tokens: GoogleServer, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, refusal: str
) -> None:
    with FaultProxy(server, lambda request: Refuse(refusal)) as proxy:
        log_in(monkeypatch, tmp_path, tokens.url, proxy.endpoint)
        store: Store = opened("gs://some-bucket", "prefix/")
        for act, permission in (
            (lambda: list(store.list("x")), "objects.list"),
            (lambda: store.multipart().begin("a", 1, "00"), "objects.create"),
        ):
            with pytest.raises(AccessDeniedError, match="gs://some-bucket/prefix") as caught:
                act()
            assert (permission if refusal == "denied" else "gcloud auth") in str(caught.value.hint)


def test_a_listing_by_the_json_api_agrees_with_stat_and_begins_after_a_key(server: StoreServer) -> None:
    store = opened(server.new_url())  # without a prefix, that API lists
    for key in ("a", "b", "c"):
        store.put(key, key.encode())
    found = list(store.list("", "a"))
    assert [info.key for info in found] == ["b", "c"]
    assert [info.version for info in found] == [store.stat(key).version for key in ("b", "c")]
    assert store.get("b", version=found[0].version) == b"b"


def test_the_project_that_pays_is_named_to_both_clients(
    server: StoreServer, tokens: GoogleServer, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("GOOGLE_CLOUD_QUOTA_PROJECT", "payer")
    with FaultProxy(server) as proxy:
        log_in(monkeypatch, tmp_path, tokens.url, proxy.endpoint)
        store = opened(server.new_url())
        store.put("a", b"x")
        assert [info.key for info in store.list()] == ["a"]
        by_xml, by_json = (record.request for record in proxy.records)
    assert by_xml.headers["x-goog-user-project"] == "payer"
    assert parse_qs(urlsplit(by_json.target).query)["userProject"] == ["payer"]


def test_a_bucket_that_its_requester_pays_for_says_how_to_name_a_project(monkeypatch: pytest.MonkeyPatch) -> None:
    words = "Bucket is a requester pays bucket but no user project provided."
    xml = f"<Error><Code>UserProjectMissing</Code><Message>{words}</Message></Error>".encode()

    def answer(asked: Asked) -> Said:
        return (
            said({"error": {"code": 400, "message": words, "errors": [{"reason": "required"}]}}, 400)
            if "/v1/" in asked.target
            else Said(400, {}, xml)
        )

    with google_server(answer) as google:
        store = emulated(monkeypatch, google)
        for act in (lambda: list(store.list()), lambda: store.put("a", b"x"), lambda: store.multipart().begin("a", 1, "00")):
            with pytest.raises(StoreError, match="requester pays") as caught:
                act()
            assert "GOOGLE_CLOUD_QUOTA_PROJECT" in str(caught.value.hint)


def endpoint_of(store: GoogleStore) -> str:
    return store._account.endpoint


def test_the_endpoint_is_that_of_the_universe_of_the_credentials(
    tokens: GoogleServer, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    log_in(monkeypatch, tmp_path, tokens.url, gcs_account.ENDPOINT)
    assert endpoint_of(GoogleStore("bucket", "")) == "https://storage.googleapis.com"
    account = json.loads((tmp_path / "account.json").read_text())
    (tmp_path / "account.json").write_text(json.dumps(account | {"universe_domain": "example.goog"}))
    store = GoogleStore("bucket", "")
    assert endpoint_of(store) == store._account.client.api_endpoint == "https://storage.example.goog"


def test_a_private_endpoint_of_google_is_used_and_another_host_is_refused(
    tokens: GoogleServer, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    log_in(monkeypatch, tmp_path, tokens.url, gcs_account.ENDPOINT)
    monkeypatch.setenv("API_ENDPOINT_OVERRIDE", "https://storage-mine.p.googleapis.com/")
    assert endpoint_of(GoogleStore("bucket", "")) == "https://storage-mine.p.googleapis.com"
    for hostile in ("https://storage.googleapis.com.attacker.example", "http://storage.googleapis.com", "https://me@attacker.example"):
        monkeypatch.setenv("API_ENDPOINT_OVERRIDE", hostile)
        with pytest.raises(StoreError, match="refusing to send Google's access token"):
            GoogleStore("bucket", "")


def test_the_token_follows_no_redirect_and_goes_to_no_other_address(
    tokens: GoogleServer, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with google_server(lambda asked: said({})) as other, google_server(lambda asked: Said(302, {"Location": other.url})) as google:
        log_in(monkeypatch, tmp_path, tokens.url, google.url)
        store = GoogleStore("bucket", "")
        for act in (lambda: list(store.list()), lambda: store.multipart().begin("a", 1, "00")):
            with pytest.raises(StoreError, match="302"):
                act()
        with pytest.raises(StoreError, match="refusing"):
            store.request("a", "read", "GET", f"{other.url}/a")
        assert other.asked == []
        with pytest.raises(StoreError):
            store.get("a")
        assert {asked.headers.get("authorization") for asked in other.asked} <= {None}  # obstore follows it without the token


def test_a_listing_sends_one_request_a_page_and_nothing_on_the_side(monkeypatch: pytest.MonkeyPatch) -> None:
    with google_server(lambda asked: said({"items": [ITEM | {"name": "a"}]})) as google:
        assert len(list(emulated(monkeypatch, google).list())) == 1
        assert not [thread for thread in threading.enumerate() if "bucket" in thread.name.lower()]
    assert [asked.method for asked in google.asked] == ["GET"]
    assert os.environ["DISABLE_GCS_PYTHON_CLIENT_OTEL_BUCKET_METADATA"] == "true"


def emulated(monkeypatch: pytest.MonkeyPatch, server: GoogleServer) -> GoogleStore:
    monkeypatch.setenv("STORAGE_EMULATOR_HOST", server.url)
    return GoogleStore("bucket", "")


ITEM = {"size": "1", "updated": "2026-11-24T12:00:00.123Z", "md5Hash": "gdyb21LQTcIANtvYMT7QVQ=="}


def test_a_listing_in_pages_is_read_to_its_end(monkeypatch: pytest.MonkeyPatch) -> None:
    def pages(asked: Asked) -> Said:
        page = int(parse_qs(urlsplit(asked.target).query).get("pageToken", ["0"])[0])
        return said({"items": [ITEM | {"name": f"key-{page}"}]} | ({"nextPageToken": str(page + 1)} if page < 2 else {}))

    with google_server(pages) as server:
        found = list(emulated(monkeypatch, server).list("", "key"))
    assert all(parse_qs(urlsplit(asked.target).query)["startOffset"] == ["key"] for asked in server.asked)
    assert [info.key for info in found] == ["key-0", "key-1", "key-2"]
    assert {info.version for info in found} == {'"81dc9bdb52d04dc20036dbd8313ed055"'}
    assert found[0].modified == pytest.approx(1795521600.123)


def test_the_version_of_an_object_without_md5_is_the_etag_that_obstore_sees(monkeypatch: pytest.MonkeyPatch) -> None:
    composed = {name: value for name, value in ITEM.items() if name != "md5Hash"}

    described = {"ETag": '"-CKih16GjycICEAE="', "Last-Modified": "Tue, 24 Nov 2026 12:00:00 GMT"}

    def answer(asked: Asked) -> Said:
        if asked.target.startswith("/storage/v1"):
            return said(
                {"items": [composed | {"name": "a/../b"}, composed | {"name": "c"}, composed | {"name": "gone"}, ITEM | {"name": "s"}]}
            )
        return Said(200, described) if asked.target == "/bucket/c" else Said(404)

    with google_server(answer) as server:
        versions = {info.key: info.version for info in emulated(monkeypatch, server).list()}
    assert versions == {"a/../b": "", "c": '"-CKih16GjycICEAE="', "gone": "", "s": '"81dc9bdb52d04dc20036dbd8313ed055"'}


@pytest.mark.parametrize("body", [b"<html>", b"[]", b'{"items": [{"nbme": "a"}]}', b'{"items": [{"name": "a", "size": "many"}]}'])
def test_a_listing_that_cannot_be_read_is_worth_another_try(monkeypatch: pytest.MonkeyPatch, body: bytes) -> None:
    with google_server(lambda asked: Said(200, {}, body)) as server, pytest.raises(TransientStoreError, match="gs://bucket"):
        list(emulated(monkeypatch, server).list())


@pytest.mark.parametrize(("status", "kind"), [(429, TransientStoreError), (503, TransientStoreError), (400, StoreError)])
def test_an_error_without_googles_words_is_said_by_its_status(monkeypatch: pytest.MonkeyPatch, status: int, kind: type[StoreError]) -> None:
    with google_server(lambda asked: Said(status, {}, b"<html>")) as server, pytest.raises(StoreError, match=str(status)) as caught:
        list(emulated(monkeypatch, server).list())
    assert type(caught.value) is kind


def test_the_json_api_finds_nothing_where_there_is_no_bucket(monkeypatch: pytest.MonkeyPatch) -> None:
    not_found = {"code": 404, "message": "The specified bucket does not exist.", "errors": [{"reason": "notFound"}]}
    with google_server(lambda asked: said({"error": not_found}, 404)) as server:
        store = emulated(monkeypatch, server)
        for act in (lambda: list(store.list()), lambda: store.multipart().begin("a", 1, "00")):
            with pytest.raises(StoreError, match="the bucket 'bucket' does not exist") as caught:
                act()
            assert type(caught.value) is StoreError, "a missing bucket is not a missing object"
            assert "gcloud storage buckets create gs://bucket" in str(caught.value.hint)

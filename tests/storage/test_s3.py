"""S3: what its answers mean, where its client finds region, endpoint and credentials, and how parts are checked."""

import base64
import json
import os
import re
import socket
import subprocess
import sys
import zlib
from collections.abc import Callable, Iterator
from datetime import UTC, datetime, timedelta
from hashlib import md5
from pathlib import Path
from urllib.parse import parse_qs, urlsplit

import pytest

from cloud_train.errors import MissingDependencyError, StoreError, UsageError
from cloud_train.retry import RetryPolicy
from cloud_train.storage.base import (
    AccessDeniedError,
    CredentialsEndedError,
    ObjectExistsError,
    ObjectMissingError,
    Store,
    TransientStoreError,
    UploadGoneError,
)
from cloud_train.storage.registry import open_store
from cloud_train.storage.s3 import S3Store
from cloud_train.storage.s3_access import Sdk
from tests.answers import Answer
from tests.storage.certificates import authority_and_server
from tests.storage.scripted import Asked, Scripted, s3_refusal, scripted

pytest.importorskip("boto3")
pytest.importorskip("obstore")

OBJECT = Answer(200, {"ETag": '"e"', "Last-Modified": "Tue, 24 Nov 2026 12:00:00 GMT"}, b"bytes")
ACTS: dict[str, Callable[[Store], object]] = {
    "put": lambda store: store.put("k", b"x"),
    "create": lambda store: store.create("k", b"x"),
    "get": lambda store: store.get("k"),
    "stat": lambda store: store.stat("k"),
    "list": lambda store: list(store.list("folder/")),
    "folders": lambda store: list(store.folders()),
    "delete": lambda store: store.delete("k"),
    "begin": lambda store: store.multipart().begin("k", 1, "00"),
}


@pytest.fixture(autouse=True)
def _no_settings_of_this_machine(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for name in [name for name in os.environ if name.startswith("AWS_") or name == "SSL_CERT_FILE"]:
        monkeypatch.delenv(name)
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.setenv("AWS_EC2_METADATA_DISABLED", "true")


@pytest.fixture
def keys(monkeypatch: pytest.MonkeyPatch) -> None:
    """Credentials in the environment."""
    monkeypatch.setenv("AWS_ACCESS_KEY_ID", "AKIAEXAMPLE")
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", "the-secret-key")


@pytest.fixture
def server(monkeypatch: pytest.MonkeyPatch) -> Iterator[Scripted]:
    """A server that has one object under every key."""
    with scripted(lambda asked: OBJECT) as server:
        monkeypatch.setenv("AWS_ENDPOINT_URL_S3", server.endpoint)
        yield server


@pytest.mark.parametrize("act", ACTS)
@pytest.mark.parametrize(
    "meaning",
    [
        (s3_refusal(400, "AuthorizationHeaderMalformed", "the region 'us-east-1' is wrong; expecting 'eu-west-1'"), StoreError,
         "'bucket' is in the region eu-west-1, not in us-east-1", "set AWS_REGION=eu-west-1"),
        (s3_refusal(301, "PermanentRedirect", "elsewhere", x_amz_bucket_region="eu-west-1"), StoreError,
         "'bucket' is in the region eu-west-1, not in us-east-1", "set AWS_REGION=eu-west-1"),
        (s3_refusal(404, "NoSuchBucket", "none"), StoreError, "the bucket 'bucket' does not exist", "aws s3 mb s3://bucket"),
        (s3_refusal(400, "ExpiredToken", "The provided token has expired."), CredentialsEndedError, "have expired", "aws sso login"),
        (s3_refusal(400, "InvalidToken", "malformed"), CredentialsEndedError, "token is not valid", "AWS_SESSION_TOKEN"),
    ],
    ids=["malformed-header", "redirect", "no-bucket", "expired", "invalid-token"],
)  # fmt: skip
@pytest.mark.usefixtures("keys")
def test_every_operation_says_what_an_answer_means_and_what_to_do(
    server: Scripted, meaning: tuple[Answer, type[StoreError], str, str], act: str
) -> None:
    answer, kind, said, hint = meaning
    server.answer = lambda asked: answer
    with pytest.raises(StoreError, match="s3://bucket/some/prefix") as caught:
        ACTS[act](S3Store("bucket", "some/prefix/"))
    assert type(caught.value) is kind
    assert said in caught.value.message
    assert hint in (caught.value.hint or "")
    assert not re.search("AKIAEXAMPLE|the-secret-key|AWS4-HMAC", f"{caught.value.message} {caught.value.hint}")


@pytest.mark.usefixtures("keys")
@pytest.mark.parametrize("act", ["get", "begin"])
def test_a_redirect_that_names_no_region_does_not_go_round_for_ever(server: Scripted, act: str) -> None:
    server.answer = lambda asked: s3_refusal(307, "TemporaryRedirect", "elsewhere")
    with pytest.raises(StoreError, match="'bucket' is not in the region us-east-1") as caught:
        ACTS[act](S3Store("bucket", ""))
    assert "get-bucket-location" in (caught.value.hint or "")


@pytest.mark.parametrize(
    ("answer", "said", "hint"),
    [
        (s3_refusal(403, "RequestTimeTooSkewed", "The difference is too large."), "this machine's clock is off", "set the clock"),
        (s3_refusal(403, "InvalidAccessKeyId", "It does not exist."), "does not know this access key", "aws sts get-caller-identity"),
        (s3_refusal(403, "SignatureDoesNotMatch", "Check your key."), "does not belong to the access key", "get-caller-identity"),
        (s3_refusal(403, "InvalidObjectState", "GLACIER"), "is archived", "restore"),
    ],
)
@pytest.mark.usefixtures("keys")
def test_a_refusal_that_is_no_missing_permission_is_told_apart(server: Scripted, answer: Answer, said: str, hint: str) -> None:
    server.answer = lambda asked: answer
    store = S3Store("bucket", "")
    for act in ("put", "get", "list", "begin"):
        with pytest.raises(AccessDeniedError, match=said) as caught:
            ACTS[act](store)
        assert hint in (caught.value.hint or "")


@pytest.mark.parametrize(
    ("act", "permission"),
    [
        ("put", "s3:PutObject on arn:aws:s3:::bucket/some/prefix/*"),
        ("create", "s3:PutObject on arn:aws:s3:::bucket/some/prefix/*"),
        ("begin", "s3:PutObject on arn:aws:s3:::bucket/some/prefix/*"),
        ("get", "s3:GetObject on arn:aws:s3:::bucket/some/prefix/*"),
        ("stat", "s3:GetObject on arn:aws:s3:::bucket/some/prefix/*"),
        ("list", "s3:ListBucket on arn:aws:s3:::bucket"),
        ("folders", "s3:ListBucket on arn:aws:s3:::bucket"),
        ("delete", "s3:DeleteObject on arn:aws:s3:::bucket/some/prefix/*"),
    ],
)
@pytest.mark.usefixtures("keys")
def test_a_missing_permission_is_named_with_its_resource(server: Scripted, act: str, permission: str) -> None:
    server.answer = lambda asked: s3_refusal(403, "AccessDenied", "Access Denied")
    with pytest.raises(AccessDeniedError, match="no permission") as caught:
        ACTS[act](S3Store("bucket", "some/prefix/"))
    assert permission in (caught.value.hint or "")


def test_the_permission_of_a_whole_bucket_has_no_prefix() -> None:
    assert S3Store("bucket", "").permission("write") == "s3:PutObject on arn:aws:s3:::bucket/*"


@pytest.mark.usefixtures("keys")
def test_an_upload_that_may_not_be_given_up_names_another_permission(server: Scripted) -> None:
    server.answer = lambda asked: s3_refusal(403, "AccessDenied", "Access Denied")
    parts = S3Store("bucket", "").multipart()
    with pytest.raises(AccessDeniedError) as caught:
        parts.abort("k", "upload")
    assert "s3:AbortMultipartUpload on arn:aws:s3:::bucket/*" in (caught.value.hint or "")


@pytest.mark.usefixtures("keys")
@pytest.mark.parametrize("status", [400, 409, 503])
def test_what_passes_by_itself_is_worth_another_try(server: Scripted, status: int) -> None:
    code = {400: "RequestTimeout", 409: "OperationAborted", 503: "SlowDown"}[status]
    server.answer = lambda asked: s3_refusal(status, code, "later")
    for act in ("put", "get", "list", "begin"):
        with pytest.raises(TransientStoreError, match=code) as caught:
            ACTS[act](S3Store("bucket", ""))
        assert caught.value.hint


@pytest.mark.usefixtures("keys")
def test_a_create_that_met_another_one_is_tried_again_and_finds_out_who_won(server: Scripted) -> None:
    answers = [s3_refusal(409, "ConditionalRequestConflict", "conflict"), s3_refusal(412, "PreconditionFailed", "there is one")]
    begin = Answer(206, {**OBJECT.headers, "Content-Range": "bytes 0-4/5"}, b"bytes")  # of the other's object
    server.answer = lambda asked: answers[len(server.asked) - 1] if len(server.asked) <= len(answers) else begin
    store = open_store("s3://bucket", RetryPolicy(sleep=lambda seconds: None))
    with pytest.raises(ObjectExistsError):
        store.create("k", b"ours")
    assert [asked.headers["If-None-Match"] for asked in server.asked[:2]] == ["*", "*"]


@pytest.mark.usefixtures("keys")
def test_a_missing_object_costs_one_more_request_until_the_bucket_was_seen(server: Scripted) -> None:
    server.answer = lambda asked: s3_refusal(404, "NoSuchKey", "none")
    store = S3Store("bucket", "")
    for requests in (2, 3, 4):
        with pytest.raises(ObjectMissingError):
            store.stat("k")
        assert len(server.asked) == requests


@pytest.mark.usefixtures("keys")
def test_nothing_that_listens_is_said_with_the_reason(monkeypatch: pytest.MonkeyPatch) -> None:
    with socket.create_server(("127.0.0.1", 0)) as listener:
        closed = listener.getsockname()[1]
    monkeypatch.setenv("AWS_ENDPOINT_URL_S3", f"http://127.0.0.1:{closed}")
    store = S3Store("bucket", "")
    with pytest.raises(TransientStoreError, match="Connection refused"):
        store.get("k")
    with pytest.raises(TransientStoreError, match="Could not connect to the endpoint"):
        store.multipart().begin("k", 1, "00")


def test_an_environment_that_says_everything_needs_no_sdk(server: Scripted, tmp_path: Path) -> None:
    code = (
        "import sys; from cloud_train.storage.registry import open_store; store = open_store('s3://bucket'); store.put('k', b'x');"
        "print('botocore' in sys.modules)"
    )
    keys = {"AWS_ACCESS_KEY_ID": "AKIAEXAMPLE", "AWS_SECRET_ACCESS_KEY": "the-secret-key"}
    for profile, loaded in (({}, "False"), ({"AWS_PROFILE": "default"}, "True")):
        (tmp_path / ".aws").mkdir(exist_ok=True)
        (tmp_path / "config").write_text("[default]\nregion = eu-west-1\n")
        environment = {**os.environ, **keys, **profile, "AWS_CONFIG_FILE": str(tmp_path / "config") if profile else os.devnull}
        ended = subprocess.run([sys.executable, "-c", code], env=environment, capture_output=True, text=True, check=True)
        assert ended.stdout.strip() == loaded


@pytest.mark.parametrize("package", ["botocore", "obstore"])
def test_an_extra_that_is_not_installed_is_named_with_its_command(monkeypatch: pytest.MonkeyPatch, package: str) -> None:
    for name in [name for name in sys.modules if name.split(".")[0] == package]:
        monkeypatch.delitem(sys.modules, name)
    monkeypatch.setitem(sys.modules, package, None)
    with pytest.raises(MissingDependencyError, match="need boto3 and obstore") as caught:
        S3Store("bucket", "")
    assert caught.value.hint == "install them with: pip install 'cloud-train[aws]'"


def credential(asked: Asked) -> str:
    """Access key, date and region that a request was signed with."""
    found = re.search(r"Credential=([^,]+)", asked.headers["Authorization"] or "")
    return found[1] if found else ""


@pytest.mark.parametrize("with_sdk", [False, True])
@pytest.mark.usefixtures("keys")
def test_region_and_session_token_of_the_environment_are_used(
    server: Scripted, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, with_sdk: bool
) -> None:
    if with_sdk:
        (tmp_path / "config").write_text("[default]\n")
        monkeypatch.setenv("AWS_CONFIG_FILE", str(tmp_path / "config"))
    monkeypatch.setenv("AWS_SESSION_TOKEN", "the-token")
    for name, region in (("", "us-east-1"), ("AWS_DEFAULT_REGION", "eu-west-1"), ("AWS_REGION", "eu-central-1")):
        if name:
            monkeypatch.setenv(name, region)
        server.asked.clear()
        S3Store("bucket", "").put("k", b"x")
        assert re.fullmatch(rf"AKIAEXAMPLE/\d+/{region}/s3/aws4_request", credential(server.asked[-1]))
        assert server.asked[-1].headers["x-amz-security-token"] == "the-token"
        assert server.asked[-1].target == "/bucket/k"


def test_a_profile_brings_region_endpoint_and_credentials_for_both_clients(
    server: Scripted, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "config").write_text(
        "[profile work]\nregion = eu-north-1\naws_access_key_id = AKIAWORK\naws_secret_access_key = s\n"
        f"services = local\n[services local]\ns3 =\n  endpoint_url = {server.endpoint}\n"
    )
    monkeypatch.delenv("AWS_ENDPOINT_URL_S3")
    monkeypatch.setenv("AWS_CONFIG_FILE", str(tmp_path / "config"))
    monkeypatch.setenv("AWS_PROFILE", "work")
    store = S3Store("bucket", "")
    store.put("k", b"x")
    server.answer = lambda asked: s3_refusal(404, "NoSuchUpload", "none")
    with pytest.raises(UploadGoneError):
        store.multipart().finish("k", "upload", {})
    assert len(server.asked) == 2
    assert all(re.match(r"AKIAWORK/\d+/eu-north-1/", credential(asked)) for asked in server.asked)


def test_credentials_that_a_program_makes_are_used(server: Scripted, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    made = {"Version": 1, "AccessKeyId": "AKIAMADE", "SecretAccessKey": "s", "SessionToken": "t", "Expiration": "2099-01-01T00:00:00Z"}
    (tmp_path / "made.json").write_text(json.dumps(made))
    (tmp_path / "config").write_text(f"[default]\ncredential_process = cat {tmp_path / 'made.json'}\n")
    monkeypatch.setenv("AWS_CONFIG_FILE", str(tmp_path / "config"))
    S3Store("bucket", "").put("k", b"x")
    assert credential(server.asked[-1]).startswith("AKIAMADE/")


@pytest.mark.usefixtures("keys")
def test_obstore_asks_the_sdk_for_credentials_again_before_those_it_has_can_end() -> None:
    # The SDK renews temporary credentials 10 minutes before their end; obstore uses what it has until 5 minutes before the end it was told.
    settings = Sdk().settings()
    told = settings["credential_provider"]()
    assert (told["access_key_id"], told["secret_access_key"], told["token"]) == ("AKIAEXAMPLE", "the-secret-key", None)
    assert timedelta(minutes=5) < told["expires_at"] - datetime.now(UTC) < timedelta(minutes=10)


def test_without_credentials_nothing_is_signed_and_a_refusal_says_so(server: Scripted) -> None:
    store = S3Store("bucket", "")
    assert store.get("k") == b"bytes"
    server.answer = lambda asked: s3_refusal(403, "AccessDenied", "Access Denied")
    for act in ("put", "begin"):
        with pytest.raises(AccessDeniedError, match="no AWS credentials were found") as caught:
            ACTS[act](store)
        assert "aws configure" in (caught.value.hint or "")
    assert [asked.headers["Authorization"] for asked in server.asked] == [None] * 3


@pytest.mark.parametrize(
    ("profile", "said", "hint"),
    [
        ("dev", "the login has expired", "aws sso login"),
        ("broken", "found no usable credentials", "aws configure"),
        ("half", "missing: aws_secret_access_key", "AWS_SECRET_ACCESS_KEY"),
        ("unknown", r"profile \(unknown\) could not be found", "~/.aws/config"),
    ],
)
def test_credentials_that_cannot_be_had_are_said_to_be_so(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, profile: str, said: str, hint: str
) -> None:
    (tmp_path / "config").write_text(
        "[profile dev]\nsso_session = my\nsso_account_id = 123456789012\nsso_role_name = r\nregion = us-east-1\n"
        "[sso-session my]\nsso_start_url = https://example.invalid/start\nsso_region = us-east-1\n"
        "sso_registration_scopes = sso:account:access\n"
        "[profile broken]\ncredential_process = false\n[profile half]\naws_access_key_id = AKIAHALF\n"
    )
    monkeypatch.setenv("AWS_CONFIG_FILE", str(tmp_path / "config"))
    monkeypatch.setenv("AWS_PROFILE", profile)
    for act in ("get", "stat", "begin"):
        with pytest.raises(AccessDeniedError, match=said) as caught:
            ACTS[act](S3Store("bucket", ""))
        assert hint in (caught.value.hint or "")


@pytest.mark.parametrize("endpoint", ["nowhere", "127.0.0.1:9000", "ftp://127.0.0.1", "http://"])
@pytest.mark.parametrize("signed", [False, True])
def test_an_endpoint_that_is_no_url_is_said_to_be_none(endpoint: str, signed: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    if signed:
        monkeypatch.setenv("AWS_ACCESS_KEY_ID", "AKIAEXAMPLE")
        monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", "s")
    monkeypatch.setenv("AWS_ENDPOINT_URL_S3", endpoint)
    with pytest.raises(UsageError) as caught:
        S3Store("bucket", "")
    assert "AWS_ENDPOINT_URL_S3" in (caught.value.hint or "")


@pytest.mark.usefixtures("keys")
def test_a_region_or_a_bucket_that_cannot_be_one_is_said_to_be_none(monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(UsageError, match="invalid bucket name 'my bucket'"):
        S3Store("my bucket", "")
    monkeypatch.setenv("AWS_REGION", "eu west 1")
    with pytest.raises(UsageError, match="eu west 1") as caught:
        S3Store("bucket", "")
    assert "AWS_REGION" in (caught.value.hint or "")


@pytest.mark.usefixtures("keys")
def test_an_endpoint_may_have_an_ipv6_address(monkeypatch: pytest.MonkeyPatch) -> None:
    try:
        socket.create_server(("::1", 0), family=socket.AF_INET6).close()
    except OSError:
        pytest.skip("this machine has no IPv6 loopback")
    with scripted(lambda asked: OBJECT, address="::1") as server:
        monkeypatch.setenv("AWS_ENDPOINT_URL", server.endpoint)
        store = S3Store("bucket", "")
        assert store.get("k") == b"bytes"
        server.answer = lambda asked: s3_refusal(404, "NoSuchUpload", "none")
        with pytest.raises(UploadGoneError):
            store.multipart().finish("k", "upload", {})


@pytest.mark.usefixtures("keys")
def test_an_authority_of_ones_own_is_trusted_where_it_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    authority, certificate = authority_and_server(tmp_path)
    with scripted(lambda asked: OBJECT, certificate) as server:
        monkeypatch.setenv("AWS_ENDPOINT_URL_S3", server.endpoint)
        for act in ("get", "begin"):
            with pytest.raises(StoreError, match="certificate is not trusted") as caught:
                ACTS[act](S3Store("bucket", ""))
            assert not isinstance(caught.value, TransientStoreError)
            assert "AWS_CA_BUNDLE" in (caught.value.hint or "")
        monkeypatch.setenv("AWS_CA_BUNDLE", str(authority))
        store = S3Store("bucket", "")
        assert store.get("k") == b"bytes"
        server.answer = lambda asked: s3_refusal(404, "NoSuchUpload", "none")
        with pytest.raises(UploadGoneError):
            store.multipart().finish("k", "upload", {})
        assert "SSL_CERT_FILE" not in os.environ


def keeps_checksums(asked: Asked) -> Answer:
    """S3 as far as parts go: it keeps each one's checksum and tells it again."""
    query = parse_qs(urlsplit(asked.target).query, keep_blank_values=True)
    if "uploads" in query:
        return Answer(200, {}, b"<InitiateMultipartUploadResult><UploadId>u</UploadId></InitiateMultipartUploadResult>")
    if asked.method == "PUT":
        crc = asked.headers["x-amz-checksum-crc32"]
        return Answer(200, {"ETag": '"of-a-key-of-its-own"', **({"x-amz-checksum-crc32": crc} if crc else {})})
    return Answer(200, {}, b'<CompleteMultipartUploadResult><ETag>"e-1"</ETag></CompleteMultipartUploadResult>')


def crc32(data: bytes) -> str:
    return base64.b64encode(zlib.crc32(data).to_bytes(4, "big")).decode()


@pytest.mark.usefixtures("keys")
def test_a_part_travels_with_its_crc32(server: Scripted) -> None:
    server.answer = keeps_checksums
    parts = S3Store("bucket", "").multipart()
    token = parts.begin("k", 3, "ff")
    receipt = parts.send("k", token, 0, 0, b"one")
    begun, sent = server.asked
    assert begun.headers["x-amz-checksum-algorithm"] == "CRC32"
    assert begun.headers["x-amz-meta-sha256"] == "ff"
    assert (sent.body, sent.headers["x-amz-checksum-crc32"]) == (b"one", crc32(b"one"))
    assert sent.headers["x-amz-content-sha256"] == "UNSIGNED-PAYLOAD"
    parts.finish("k", token, {0: receipt})
    assert f"<ChecksumCRC32>{crc32(b'one')}</ChecksumCRC32>" in server.asked[-1].body.decode()


@pytest.mark.usefixtures("keys")
def test_where_the_sdk_shall_send_no_checksums_a_part_travels_with_its_md5(server: Scripted, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("AWS_REQUEST_CHECKSUM_CALCULATION", "when_required")
    server.answer = keeps_checksums
    parts = S3Store("bucket", "").multipart()
    receipt = parts.send("k", parts.begin("k", 3, "ff"), 0, 0, b"one")
    begun, sent = server.asked
    assert begun.headers["x-amz-checksum-algorithm"] is None
    assert sent.headers["Content-MD5"] == base64.b64encode(md5(b"one", usedforsecurity=False).digest()).decode()
    parts.finish("k", "u", {0: receipt})
    assert "Checksum" not in server.asked[-1].body.decode()


@pytest.mark.usefixtures("keys")
def test_bytes_that_were_damaged_on_their_way_are_sent_again(server: Scripted) -> None:
    server.answer = lambda asked: s3_refusal(400, "BadDigest", "The CRC32 you specified did not match what we received.")
    with pytest.raises(TransientStoreError, match="BadDigest"):
        S3Store("bucket", "").multipart().send("k", "u", 0, 0, b"one")


def test_a_metadata_service_that_is_away_for_a_moment_does_not_end_a_run() -> None:
    store = S3Store("bucket", "")
    for name in ("MetadataRetrievalError", "EndpointConnectionError"):
        assert isinstance(store.failure("read", "k", 401, name, "no answer"), TransientStoreError)
    assert isinstance(store.failure("read", "k", 401, "CredentialRetrievalError", "ended"), AccessDeniedError)


def test_a_large_object_has_at_most_ten_thousand_parts() -> None:
    parts = S3Store("bucket", "").multipart()
    assert parts.part_bytes(100 << 20) == 8 << 20
    largest = 5 << 40
    assert -(-largest // parts.part_bytes(largest)) <= 10_000


def test_the_documented_policy_allows_all_that_can_be_missing() -> None:
    text = (Path(__file__).parents[2] / "docs" / "stores.md").read_text()
    policies = [json.loads(block) for block in re.findall(r"^```json\n(.*?)^```", text, re.MULTILINE | re.DOTALL)]
    statements = next(policy["Statement"] for policy in policies if "Statement" in policy)
    allowed = {
        (action, st["Resource"]) for st in statements for action in ([st["Action"]] if isinstance(st["Action"], str) else st["Action"])
    }
    store = S3Store("my-bucket", "runs/")
    for action in ("read", "write", "list", "delete", "abort"):
        permission, resource = re.findall(r"(s3:\w+) on (\S+)", store.permission(action))[0]
        assert (permission, resource) in allowed

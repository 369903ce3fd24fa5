"""Azure: credentials, versions, blocks and faults on a real server; what every store does is in test_store_conformance.py."""

import base64
import hashlib
import json
import os
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from datetime import UTC, datetime
from pathlib import Path

import pytest

from cloud_train.errors import StoreError, UsageError
from cloud_train.storage.azure_blob import AzureStore
from cloud_train.storage.base import AccessDeniedError, ObjectExistsError, ObjectMissingError, Store, TransientStoreError, UploadGoneError
from tests.answers import Answer
from tests.faults import Cut, FaultProxy, Flip
from tests.storage.certificates import authority_and_server
from tests.storage.scripted import scripted
from tests.stores import AZURE_ACCOUNT, AZURE_KEY, StoreServer, server_or_skip, use

pytest.importorskip("azure.storage.blob")
pytest.importorskip("obstore")

OBJECT = Answer(200, {"ETag": '"e"', "Last-Modified": "Tue, 24 Nov 2026 12:00:00 GMT"}, b"bytes")


@pytest.fixture(autouse=True)
def _no_settings_of_this_machine(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in [name for name in os.environ if name.startswith(("AZURE_", "IDENTITY_", "MSI_")) or name == "SSL_CERT_FILE"]:
        monkeypatch.delenv(name)


@pytest.fixture
def server(monkeypatch: pytest.MonkeyPatch) -> StoreServer:
    """Azurite; the environment says where it is and has its key."""
    server = server_or_skip("az")
    use(server, monkeypatch)
    return server


@pytest.fixture
def store(server: StoreServer) -> AzureStore:
    """An empty store in a container of its own. Nothing is tried again."""
    return opened(server.new_url())


def opened(url: str) -> AzureStore:
    """A new client of a container."""
    account, container = url.removeprefix("az://").split("/")
    return AzureStore(account, container, "some/prefix/")


def sas_token(permission: str, end: datetime = datetime(2099, 1, 1, tzinfo=UTC)) -> str:
    from azure.storage.blob import generate_account_sas

    token: str = generate_account_sas(AZURE_ACCOUNT, AZURE_KEY, resource_types="co", permission=permission, expiry=end)
    return token


# Credentials


@pytest.mark.parametrize("source", ["key", "account key", "SAS token", "SAS token in a connection string"])
def test_a_key_or_a_sas_token_opens_obstore_and_the_sdk_alike(server: StoreServer, monkeypatch: pytest.MonkeyPatch, source: str) -> None:
    monkeypatch.delenv("AZURE_STORAGE_CONNECTION_STRING")
    if source == "SAS token in a connection string":
        settings = f"BlobEndpoint={server.endpoint}/{AZURE_ACCOUNT};SharedAccessSignature={sas_token('racwdl')}"
        monkeypatch.setenv("AZURE_STORAGE_CONNECTION_STRING", settings)
    else:
        monkeypatch.setenv("AZURE_STORAGE_ENDPOINT", f"{server.endpoint}/{AZURE_ACCOUNT}")
        name = {"key": "AZURE_STORAGE_KEY", "account key": "AZURE_STORAGE_ACCOUNT_KEY", "SAS token": "AZURE_STORAGE_SAS_TOKEN"}[source]
        monkeypatch.setenv(name, AZURE_KEY if "key" in source else sas_token("racwdl"))
    store = opened(server.new_url())
    store.put("a", b"1")
    assert store.get("a") == b"1"
    upload(store, "b", [b"22", b"2"])
    assert [info.key for info in store.list(after="a")] == ["b"]
    store.delete("a")
    assert [info.key for info in store.list()] == ["b"]


def test_settings_that_only_obstore_reads_change_nothing(server: StoreServer, monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("AZURE_STORAGE_USE_EMULATOR", "AZURE_SKIP_SIGNATURE", "AZURE_STORAGE_USE_FABRIC_ENDPOINT"):
        monkeypatch.setenv(name, "true")
    store = opened(server.new_url())
    store.put("a", b"1")
    assert store.get("a") == b"1"


def test_without_credentials_a_public_container_is_read_and_a_private_one_says_what_is_missing(
    server: StoreServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    public, private = server.new_url(), server.new_url()
    opened(public).put("a", b"1")
    publish(server, public)
    monkeypatch.delenv("AZURE_STORAGE_CONNECTION_STRING")
    monkeypatch.setenv("AZURE_STORAGE_ENDPOINT", server.endpoint)
    assert opened(public).get("a") == b"1"
    assert [info.key for info in opened(public).list(after="0")] == ["a"]
    for act in (lambda: opened(private).get("a"), lambda: opened(private).delete("a"), lambda: list(opened(private).list())):
        with pytest.raises(AccessDeniedError, match="no credentials were found") as caught:
            act()
        assert "az login" in (caught.value.hint or "")


def publish(server: StoreServer, url: str) -> None:
    """Let everybody read a container and list it."""
    from azure.storage.blob import ContainerClient, PublicAccess

    with ContainerClient(f"{server.endpoint}/{AZURE_ACCOUNT}", url.rpartition("/")[2], credential=AZURE_KEY) as client:
        client.set_container_access_policy({}, public_access=PublicAccess.CONTAINER)


def test_a_wrong_key_an_expired_sas_token_and_a_permission_too_few_are_told_apart_and_never_shown(
    server: StoreServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    url = server.new_url()
    monkeypatch.delenv("AZURE_STORAGE_CONNECTION_STRING")
    monkeypatch.setenv("AZURE_STORAGE_ENDPOINT", f"{server.endpoint}/{AZURE_ACCOUNT}")
    wrong = base64.b64encode(b"wrong").decode()
    expired = sas_token("racwdl", datetime(2020, 1, 1, tzinfo=UTC))
    for name, value, said in (
        ("AZURE_STORAGE_KEY", wrong, "the account key in AZURE_STORAGE_KEY was refused"),
        ("AZURE_STORAGE_SAS_TOKEN", expired, "valid until 2020-01-01"),
        ("AZURE_STORAGE_SAS_TOKEN", sas_token("l"), "c and w in sp="),
    ):
        with monkeypatch.context() as context:
            context.setenv(name, value)
            for act in (lambda: opened(url).put("a", b"1"), lambda: opened(url).multipart().send("a", "t-00", 0, 0, b"1")):
                with pytest.raises(AccessDeniedError) as caught:
                    act()
                text = f"{caught.value.message} | {caught.value.hint}"
                assert said in text
                assert value not in text
                assert "sig=" not in text


def test_a_token_of_an_identity_and_an_authority_of_ones_own_serve_obstore_and_the_sdk(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    authority, certificate = authority_and_server(tmp_path)
    token = json.dumps({"access_token": "the-token", "expires_on": str(int(time.time()) + 7_200), "token_type": "Bearer", "resource": "r"})
    with (
        scripted(lambda asked: Answer(200, {"Content-Type": "application/json"}, token.encode())) as identity,
        scripted(lambda asked: refusal(400, "InvalidBlockList") if "comp=blocklist" in asked.target else OBJECT, certificate) as service,
    ):
        monkeypatch.setenv("IDENTITY_ENDPOINT", identity.endpoint)
        monkeypatch.setenv("IDENTITY_HEADER", "header")
        monkeypatch.setenv("AZURE_TOKEN_CREDENTIALS", "ManagedIdentityCredential")
        monkeypatch.setenv("AZURE_STORAGE_ENDPOINT", service.endpoint)
        acts: list[Callable[[Store], object]] = [lambda store: store.get("k"), lambda store: store.multipart().finish("k", "t-ff", {})]
        for act in acts:
            with pytest.raises(StoreError, match="certificate is not trusted") as caught:
                act(AzureStore("acct", "container", ""))
            assert not isinstance(caught.value, TransientStoreError)
        monkeypatch.setenv("SSL_CERT_FILE", str(authority))
        store = AzureStore("acct", "container", "")
        assert store.get("k") == b"bytes"
        with pytest.raises(UploadGoneError):
            store.multipart().finish("k", "t-ff", {})
    assert [asked.headers["Authorization"] for asked in service.asked] == ["Bearer the-token"] * 2
    assert [asked.target.partition("?")[0] for asked in service.asked] == ["/container/k"] * 2


@pytest.mark.parametrize("container", ["", "ab", "Upper", "two--dashes", "-x", "a" * 64, "under_score"])
def test_a_name_that_no_container_can_have_is_refused(container: str) -> None:
    with pytest.raises(UsageError, match="invalid container name"):
        AzureStore("acct", container, "")


def test_the_sdks_are_imported_only_when_they_are_needed(server: StoreServer) -> None:
    program = f"""
import sys
from cloud_train.storage.registry import open_store
def loaded():
    return [name for name in ("azure.core", "azure.storage.blob", "azure.identity", "requests") if name in sys.modules]
store = open_store("{server.new_url()}/prefix")
assert not loaded() and "obstore" in sys.modules
store.put("a", b"1")
store.create("b", b"2")
assert store.get("a") == b"1" and store.stat("a").size == 1 and len(list(store.list())) == 2 and not list(store.folders())
assert not loaded(), loaded()
store.delete("a")
assert loaded() == ["azure.core", "azure.storage.blob", "requests"], loaded()
"""
    ended = subprocess.run([sys.executable, "-W", "error", "-c", program], capture_output=True, text=True, check=False, timeout=60)
    assert (ended.returncode, ended.stdout, ended.stderr) == (0, "", "")


def test_the_sdk_warns_of_nothing_on_stderr(monkeypatch: pytest.MonkeyPatch) -> None:
    program = """
from cloud_train.storage.azure_account import Credentials, account_from
from cloud_train.storage.azure_blob import AzureStore
from cloud_train.storage.base import TransientStoreError
assert Credentials(account_from("acct", {}))() == {"sas_token": [], "expires_at": None}
try:
    list(AzureStore("acct", "container", "").list(after="0"))
except TransientStoreError:
    print("damaged")
"""
    monkeypatch.setenv("AZURE_TOKEN_CREDENTIALS", "EnvironmentCredential")
    monkeypatch.setenv("AZURE_STORAGE_KEY", AZURE_KEY)
    with scripted(lambda asked: Answer(200, {"Content-Type": "application/xml"}, b"=?xml?><damaged")) as service:
        monkeypatch.setenv("AZURE_STORAGE_ENDPOINT", service.endpoint)
        ended = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=False, timeout=60)
    assert (ended.stdout, ended.stderr) == ("damaged\n", "")


@pytest.mark.parametrize("absent", ["azure", "obstore"])
def test_a_missing_package_is_named_with_the_command_that_installs_it(absent: str) -> None:
    program = f"""
import sys
sys.modules["{absent}"] = None
from cloud_train.errors import MissingDependencyError
from cloud_train.storage.registry import open_store
try:
    open_store("az://acct/container")
except MissingDependencyError as error:
    print(error.message, "|", error.hint)
"""
    ended = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=False, timeout=60)
    assert ended.stdout == f"stores on az:// need {absent} | install it with: pip install 'cloud-train[azure]'\n", ended.stderr


# Objects


def test_a_version_is_the_same_text_wherever_it_comes_from(store: AzureStore) -> None:
    store.put("a", b"1")
    version = store.stat("a").version
    assert version.startswith('"')
    assert version.endswith('"')
    assert [info.version for info in store.list()] == [version]
    assert [info.version for info in store.list(after="0")] == [version], "listed by the SDK"
    assert store.get("a", version=version) == b"1"
    assert store.get("a", 1, version=version) == b""


def test_a_listing_that_begins_in_the_middle_asks_the_service_to_begin_there(server: StoreServer, monkeypatch: pytest.MonkeyPatch) -> None:
    with FaultProxy(server) as proxy:
        use(server, monkeypatch, proxy.endpoint)
        store = opened(server.new_url())
        for key in ("logs/1", "logs/2", "logs/3", "other"):
            store.put(key, b"1")
        assert [info.key for info in store.list("logs/", after="logs/1")] == ["logs/2", "logs/3"]
        assert proxy.sent("GET", "startFrom=some%2Fprefix%2Flogs%2F1") == 1
        assert [info.key for info in store.list("logs/", after="a")] == ["logs/1", "logs/2", "logs/3"]
        assert list(store.list("logs/", after="other")) == []


def test_folders_of_a_hierarchical_namespace_are_no_objects(server: StoreServer) -> None:
    url = server.new_url()
    store = opened(url)
    server.put_raw(url, "some/prefix/logs", metadata={"hdi_isfolder": "true"})
    store.put("logs/1", b"1")
    store.put("other", b"1")
    store.put("logs/empty", b"")
    expected = ["logs/1", "logs/empty", "other"]
    assert [info.key for info in store.list()] == expected
    assert [info.key for info in store.list(after="0")] == expected, "listed by the SDK"
    assert list(store.folders()) == ["logs"]


def test_a_marker_of_a_folder_is_not_taken_for_the_object_beside_it(server: StoreServer) -> None:
    url = server.new_url()
    server.put_raw(url, "some/prefix/same", b"an object")
    server.put_raw(url, "some/prefix/same/")
    assert {(info.key, info.size) for info in opened(url).list()} == {("same", 9), ("same/", 0)}


def test_a_container_that_does_not_exist_is_named_whatever_is_asked_of_it(server: StoreServer) -> None:
    store = opened(server.url_of_missing_bucket())
    for act in (
        lambda: store.stat("a"),
        lambda: store.delete("a"),
        lambda: list(store.list(after="a")),
        lambda: store.multipart().send("a", "t-ff", 0, 0, b"x"),
    ):
        with pytest.raises(StoreError, match=f"has no container '{store.container}'") as caught:
            act()
        assert not isinstance(caught.value, ObjectMissingError | UploadGoneError)
        assert "az storage container create" in (caught.value.hint or "")


@pytest.mark.parametrize("status", [409, 412])
def test_either_answer_to_a_conditional_create_means_that_the_key_is_taken(monkeypatch: pytest.MonkeyPatch, status: int) -> None:
    code = {409: "BlobAlreadyExists", 412: "ConditionNotMet"}[status]
    with scripted(lambda asked: refusal(status, code)) as service:
        monkeypatch.setenv("AZURE_STORAGE_ENDPOINT", service.endpoint)
        monkeypatch.setenv("AZURE_STORAGE_KEY", AZURE_KEY)
        with pytest.raises(ObjectExistsError):
            AzureStore("acct", "container", "").create("k", b"x")
        assert service.asked[0].headers["If-None-Match"] == "*"


def refusal(status: int, code: str) -> Answer:
    body = f'<?xml version="1.0" encoding="utf-8"?><Error><Code>{code}</Code><Message>It is so.\nRequestId:1</Message></Error>'
    return Answer(status, {"Content-Type": "application/xml", "x-ms-error-code": code}, body.encode())


# Blocks


def upload(store: AzureStore, key: str, parts: list[bytes]) -> None:
    """Write an object in parts."""
    data = b"".join(parts)
    blocks = store.multipart()
    token = blocks.begin(key, len(data), hashlib.sha256(data).hexdigest())
    blocks.finish(key, token, {number: blocks.send(key, token, number, 0, part) for number, part in enumerate(parts)})


def test_an_object_in_blocks_carries_its_sha256(store: AzureStore) -> None:
    upload(store, "a", [b"one", b"two", b"3"])
    assert store.get("a") == b"onetwo3"
    assert store.stat("a").sha256 == hashlib.sha256(b"onetwo3").hexdigest()


def test_parts_are_at_least_8_mib_and_at_most_50_000(store: AzureStore) -> None:
    blocks = store.multipart()
    assert blocks.part_bytes(1) == blocks.part_bytes(50_000 * (8 << 20)) == 8 << 20
    for size in (50_000 * (8 << 20) + 1, 5 << 40, 190 << 40):
        assert -(-size // blocks.part_bytes(size)) <= 50_000
        assert blocks.part_bytes(size) <= 4_000 << 20, "the largest block that Azure takes"


def test_the_service_is_told_the_md5_of_every_block_and_the_blocks_names_hold_it(
    server: StoreServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    with FaultProxy(server) as proxy:
        use(server, monkeypatch, proxy.endpoint)
        store = opened(server.new_url())
        blocks = store.multipart()
        token = blocks.begin("a", 3, "00")
        assert not proxy.records, "an upload begins with its first block"
        receipts = [blocks.send("a", token, 0, 0, b"one"), blocks.send("a", token, 49_999, 0, b"two")]
        sent = [record.request.headers["content-md5"] for record in proxy.records if "comp=block&" in record.request.target]
    md5s = [hashlib.md5(data, usedforsecurity=False) for data in (b"one", b"two")]
    assert sent == [base64.b64encode(md5.digest()).decode() for md5 in md5s]
    assert [receipt.rpartition(".")[2] for receipt in receipts] == [md5.hexdigest() for md5 in md5s]
    assert {len(receipt) for receipt in receipts} == {55}


def test_two_uploads_of_one_key_do_not_see_each_others_parts_and_the_first_to_end_wins(store: AzureStore) -> None:
    blocks = store.multipart()
    first, second = blocks.begin("a", 3, "00"), blocks.begin("a", 3, "00")
    receipt = blocks.send("a", first, 0, 0, b"one")
    late = blocks.send("a", second, 0, 0, b"two")
    blocks.finish("a", first, {0: receipt})
    with pytest.raises(UploadGoneError):
        blocks.finish("a", second, {0: late})
    assert store.get("a") == b"one"


def test_of_a_part_that_was_sent_twice_the_one_whose_receipt_is_given_counts(store: AzureStore) -> None:
    blocks = store.multipart()
    token = blocks.begin("a", 6, "00")
    kept = blocks.send("a", token, 0, 0, b"one")
    assert blocks.send("a", token, 0, 0, b"one") == kept
    blocks.send("a", token, 1, 3, b"two")
    last = blocks.send("a", token, 1, 3, b"TWO")
    blocks.finish("a", token, {1: last, 0: kept})
    assert store.get("a") == b"oneTWO"


def test_a_block_that_is_missing_at_the_end_makes_the_upload_gone_and_no_object(store: AzureStore) -> None:
    blocks = store.multipart()
    token = blocks.begin("a", 6, "00")
    receipt = blocks.send("a", token, 0, 0, b"one")
    with pytest.raises(UploadGoneError):
        blocks.finish("a", token, {0: receipt, 1: receipt.replace(".00000.", ".00001.")})
    with pytest.raises(ObjectMissingError):
        store.stat("a")


def test_another_programs_unfinished_upload_is_said_to_be_in_the_way(store: AzureStore) -> None:
    store.blob("a").stage_block("a short name", b"theirs")
    with pytest.raises(StoreError, match="another program has an unfinished upload"):
        store.multipart().send("a", store.multipart().begin("a", 3, "00"), 0, 0, b"one")


# Faults


@pytest.fixture
def broken(server: StoreServer, monkeypatch: pytest.MonkeyPatch) -> Iterator[tuple[AzureStore, FaultProxy]]:
    """A store behind a fault proxy."""
    with FaultProxy(server) as proxy:
        use(server, monkeypatch, proxy.endpoint)
        yield opened(server.new_url()), proxy


def test_an_answer_that_was_damaged_on_its_way_is_an_error_of_this_room_or_harmless(broken: tuple[AzureStore, FaultProxy]) -> None:
    store, proxy = broken
    store.put("a", b"1")
    blocks = store.multipart()
    token = blocks.begin("big", 3, "00")
    acts: list[Callable[[], object]] = [
        lambda: blocks.send("big", token, 0, 0, b"one"),
        lambda: list(store.list(after="0")),
        lambda: list(store.list()),
        lambda: store.delete("missing"),
    ]
    transient = 0
    for act in acts:
        for offset in range(3, 600, 29):
            proxy.plan = lambda request, offset=offset: Flip(offset)  # type: ignore[misc] # bound now, not when it is called
            try:
                act()
            except (TransientStoreError, UploadGoneError) as error:
                transient += isinstance(error, TransientStoreError)
    assert transient


def test_a_connection_that_breaks_is_worth_another_try_and_is_tried_once_here(broken: tuple[AzureStore, FaultProxy]) -> None:
    store, proxy = broken
    blocks = store.multipart()
    token = blocks.begin("big", 100_000, "00")
    acts: list[Callable[[], object]] = [
        lambda: blocks.send("big", token, 0, 0, bytes(100_000)),
        lambda: blocks.finish("big", token, {}),
        lambda: store.delete("a"),
        lambda: list(store.list(after="0")),
    ]
    for act in acts:
        for fault in (Cut("response", after=-1), Cut("request", after=0)):
            before = len(proxy.records)
            proxy.plan = lambda request, fault=fault: fault  # type: ignore[misc] # bound now, not when it is called
            with pytest.raises(TransientStoreError):
                act()
            assert len(proxy.records) == before + 1

"""Uploads in parts to Google Cloud Storage: what a session does beyond what every store's uploads do (test_store_conformance.py)."""

import hashlib
import random
import traceback
from http.client import HTTPConnection
from urllib.parse import urlsplit

import pytest

from cloud_train.errors import StoreError
from cloud_train.retry import RetryPolicy
from cloud_train.storage import gcs_sessions
from cloud_train.storage.base import AccessDeniedError, ObjectMissingError, TransientStoreError, UploadGoneError
from cloud_train.storage.gcs import GoogleStore
from cloud_train.storage.retrying import RetryingStore
from tests.answers import Request
from tests.faults import Cut, Fault, FaultProxy, Lose, Refuse
from tests.storage.google_server import Asked, Said, google_server, said
from tests.stores import StoreServer, server_or_skip, use

UNIT = 256 << 10
"""All pieces but the last are multiples of this."""
PART = 2 * UNIT
DATA = random.Random(0).randbytes(2 * PART + UNIT + 1_000)
SHA256 = hashlib.sha256(DATA).hexdigest()
PIECES = [DATA[:PART], DATA[PART : 2 * PART], DATA[2 * PART :]]


@pytest.fixture(autouse=True)
def small_parts(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(gcs_sessions, "PART_BYTES", PART)


@pytest.fixture
def server(monkeypatch: pytest.MonkeyPatch) -> StoreServer:
    server = server_or_skip("gs")
    use(server, monkeypatch)
    return server


@pytest.fixture
def bucket(server: StoreServer) -> str:
    return urlsplit(server.new_url()).netloc


def send_all(store: GoogleStore | RetryingStore, token: str) -> dict[int, str]:
    parts = store.multipart()
    return {number: parts.send("a", token, number, number * PART, piece) for number, piece in enumerate(PIECES)}


def put(uri: str, endpoint: str, body: bytes, span: str) -> int:
    """The status of a request to a session."""
    connection = HTTPConnection(urlsplit(endpoint).netloc, timeout=10)
    try:
        connection.request("PUT", uri, body, {"Content-Range": span})
        response = connection.getresponse()
        response.read()
        return response.status
    finally:
        connection.close()


def begun_at(asked: Asked, path: str) -> Said:
    """The answer to a request that begins a session."""
    return Said(200, {"Location": f"http://{asked.headers['host']}{path}"})


class Nth:
    """A plan: one fault, for the so-maniest request of a method."""

    def __init__(self, method: str, number: int, fault: Fault) -> None:
        self._method = method
        self._left = number
        self._fault = fault

    def __call__(self, request: Request) -> Fault | None:
        self._left -= request.method == self._method
        if request.method == self._method and self._left == 0:
            return self._fault
        return None


@pytest.mark.parametrize("size", [0, 1, UNIT, PART, PART + 1, 2 * PART, len(DATA)])
def test_whatever_its_size_an_object_is_seen_only_when_it_is_finished(bucket: str, size: int) -> None:
    store = GoogleStore(bucket, "")
    parts = store.multipart()
    token = parts.begin("a", size, SHA256)
    pieces = [DATA[offset : min(size, offset + PART)] for offset in range(0, max(size, 1), PART)]
    receipts = {number: parts.send("a", token, number, number * PART, piece) for number, piece in enumerate(pieces)}
    with pytest.raises(ObjectMissingError):
        store.stat("a")
    parts.finish("a", token, receipts)
    assert store.get("a") == DATA[:size]
    assert store.stat("a").sha256 == SHA256


def test_of_a_part_that_arrived_in_part_only_the_rest_is_sent(server: StoreServer, bucket: str, monkeypatch: pytest.MonkeyPatch) -> None:
    with FaultProxy(server, Nth("PUT", 1, Refuse("busy"))) as proxy:
        use(server, monkeypatch, proxy.endpoint)
        store = GoogleStore(bucket, "")
        token = store.multipart().begin("a", len(DATA), SHA256)
        assert put(token, server.endpoint, DATA[:UNIT], f"bytes 0-{UNIT - 1}/*") == 308
        with pytest.raises(TransientStoreError):
            store.multipart().send("a", token, 0, 0, PIECES[0])
        before = sum(record.sent for record in proxy.records)
        store.multipart().finish("a", token, send_all(store, token))
        assert store.get("a") == DATA
        assert sum(record.sent for record in proxy.records) - before == len(DATA) - UNIT


def test_bytes_that_arrive_changed_never_become_an_object(server: StoreServer, bucket: str, monkeypatch: pytest.MonkeyPatch) -> None:
    use(server, monkeypatch)
    store = GoogleStore(bucket, "")
    token = store.multipart().begin("a", len(DATA), SHA256)
    changed = bytes([DATA[0] ^ 1]) + DATA[1:UNIT]
    assert put(token, server.endpoint, changed, f"bytes 0-{UNIT - 1}/*") == 308
    with pytest.raises(UploadGoneError, match="checksum mismatch"):
        store.multipart().finish("a", token, send_all(store, token))
    with pytest.raises(ObjectMissingError):
        store.stat("a")


def test_an_upload_names_the_project_that_pays_and_the_checksum(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("GOOGLE_CLOUD_QUOTA_PROJECT", "payer")

    def answer(asked: Asked) -> Said:
        return begun_at(asked, "/session") if asked.method == "POST" else said({"crc32c": "xPJDEQ=="})

    with google_server(answer) as google:
        monkeypatch.setenv("STORAGE_EMULATOR_HOST", google.url)
        parts = GoogleStore("bucket", "").multipart()
        token = parts.begin("a", 1, SHA256)
        with pytest.raises(UploadGoneError, match="checksum mismatch"):  # by this process, where the server compares nothing
            parts.finish("a", token, {0: parts.send("a", token, 0, 0, b"x")})
    begun, sent = google.asked
    assert begun.target == "/upload/storage/v1/b/bucket/o?uploadType=resumable&name=a&userProject=payer"
    assert sent.headers["x-goog-hash"].startswith("crc32c=")
    assert sent.headers["content-range"] == "bytes 0-0/1"


def test_a_part_whose_acknowledgement_was_lost_is_not_sent_again(server: StoreServer, bucket: str, monkeypatch: pytest.MonkeyPatch) -> None:
    with FaultProxy(server, Nth("PUT", 1, Cut("response", -1))) as proxy:
        use(server, monkeypatch, proxy.endpoint)
        store = GoogleStore(bucket, "")
        parts = store.multipart()
        token = parts.begin("a", len(DATA), SHA256)
        with pytest.raises(TransientStoreError):
            parts.send("a", token, 0, 0, PIECES[0])
        parts.finish("a", token, send_all(store, token))
        assert store.get("a") == DATA
        assert sum(record.sent for record in proxy.records if record.request.method == "PUT") == len(DATA)


@pytest.mark.parametrize("number", range(1, 4))
@pytest.mark.parametrize("fault", [Cut("request", 1000), Cut("response", -1), Refuse("busy"), Refuse("throttled")])
def test_behind_retries_one_fault_costs_at_most_one_part(
    server: StoreServer, bucket: str, monkeypatch: pytest.MonkeyPatch, fault: Fault, number: int
) -> None:
    with FaultProxy(server, Nth("PUT", number, fault)) as proxy:
        use(server, monkeypatch, proxy.endpoint)
        store = RetryingStore(GoogleStore(bucket, ""), RetryPolicy(sleep=lambda seconds: None))
        parts = store.multipart()
        token = parts.begin("a", len(DATA), SHA256)
        receipts = send_all(store, token)
        try:
            parts.finish("a", token, receipts)
        except UploadGoneError:
            assert (fault, number) == (Cut("response", -1), 3), "it was finished, and only the answer was lost"
        assert store.get("a") == DATA
        assert store.stat("a").sha256 == SHA256
        assert sum(record.sent for record in proxy.records if record.request.method == "PUT") <= len(DATA) + PART


def test_bytes_that_were_acknowledged_and_are_not_there_end_the_upload(
    server: StoreServer, bucket: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    with FaultProxy(server, Nth("PUT", 1, Lose())) as proxy:
        use(server, monkeypatch, proxy.endpoint)
        parts = GoogleStore(bucket, "").multipart()
        token = parts.begin("a", len(DATA), SHA256)
        parts.send("a", token, 0, 0, PIECES[0])
        with pytest.raises(TransientStoreError):
            parts.send("a", token, 1, PART, PIECES[1])
        with pytest.raises(UploadGoneError, match="has 0 bytes"):
            parts.send("a", token, 1, PART, PIECES[1])


def test_a_server_that_takes_less_than_it_was_sent_gets_the_rest(monkeypatch: pytest.MonkeyPatch) -> None:
    spans: list[str] = []

    def miserly(asked: Asked) -> Said:
        if asked.method == "POST":
            return Said(200, {"Location": f"{google.url}/session"})
        span = asked.headers["content-range"]
        if span != "bytes */*":
            spans.append(span)
        return Said(308, {"Range": f"bytes=0-{len(spans) * UNIT - 1}"} if spans else {})

    with google_server(miserly) as google:
        monkeypatch.setenv("STORAGE_EMULATOR_HOST", google.url)
        parts = GoogleStore("bucket", "").multipart()
        parts.send("a", parts.begin("a", 2 * PART, SHA256), 0, 0, PIECES[0])
    assert spans == [f"bytes 0-{PART - 1}/{2 * PART}", f"bytes {UNIT}-{PART - 1}/{2 * PART}"]


def test_a_server_that_takes_nothing_is_not_asked_for_ever(monkeypatch: pytest.MonkeyPatch) -> None:
    with google_server(lambda asked: begun_at(asked, "/session") if asked.method == "POST" else Said(308)) as google:
        monkeypatch.setenv("STORAGE_EMULATOR_HOST", google.url)
        parts = GoogleStore("bucket", "").multipart()
        token = parts.begin("a", 2 * PART, SHA256)
        with pytest.raises(TransientStoreError):
            parts.send("a", token, 0, 0, PIECES[0])
        with pytest.raises(TransientStoreError):
            parts.finish("a", parts.begin("a", 0, SHA256), {0: "0"})


@pytest.mark.parametrize(
    ("status", "kind"),
    [
        (404, UploadGoneError),
        (410, UploadGoneError),
        (499, UploadGoneError),
        (403, AccessDeniedError),
        (429, TransientStoreError),
        (503, TransientStoreError),
    ],
)
def test_what_a_session_answers_is_explained(monkeypatch: pytest.MonkeyPatch, status: int, kind: type[StoreError]) -> None:
    with google_server(lambda asked: begun_at(asked, "/secret") if asked.method == "POST" else Said(status)) as server:
        monkeypatch.setenv("STORAGE_EMULATOR_HOST", server.url)
        parts = GoogleStore("bucket", "prefix/").multipart()
        token = parts.begin("a", 2 * PART, SHA256)
        for act in (lambda: parts.send("a", token, 0, 0, PIECES[0]), lambda: parts.finish("a", token, {1: str(2 * PART)})):
            with pytest.raises(kind, match="gs://bucket/prefix/a") as caught:
                act()
            assert "secret" not in "".join(traceback.format_exception(caught.value))
    if kind is AccessDeniedError:
        assert "storage.objects.create" in str(caught.value.hint)


def test_the_uri_of_a_session_is_in_no_error(server: StoreServer, bucket: str, monkeypatch: pytest.MonkeyPatch) -> None:
    with FaultProxy(server, Nth("PUT", 1, Cut("response", -1))) as proxy:
        use(server, monkeypatch, proxy.endpoint)
        parts = GoogleStore(bucket, "").multipart()
        token = parts.begin("a", len(DATA), SHA256)
        with pytest.raises(TransientStoreError) as cut:
            parts.send("a", token, 0, 0, PIECES[0])
    with pytest.raises(TransientStoreError) as refused:  # nobody listens there any more
        parts.send("a", token, 0, 0, PIECES[0])
    secret = token.rpartition("upload_id=")[2]
    assert secret
    for caught in (cut, refused):
        assert secret not in "".join(traceback.format_exception(caught.value))

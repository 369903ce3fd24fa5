"""The Google Cloud Storage server of the tests, asked by Google's own client and over plain HTTP: it keeps to what Google documents."""

import json
import random
import threading
from collections.abc import Mapping
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing
from http.client import HTTPConnection
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import pytest

from tests.stores import StoreServer, server_or_skip, use

CHUNK = 256 << 10
DATA = random.Random(0).randbytes(2 * CHUNK + 1_000) + b"\r\n"
Reply = tuple[int, Mapping[str, str], bytes]


@pytest.fixture
def server(monkeypatch: pytest.MonkeyPatch) -> StoreServer:
    server = server_or_skip("gs")
    use(server, monkeypatch)
    return server


@pytest.fixture
def bucket(server: StoreServer) -> Any:
    from google.cloud import storage

    with closing(storage.Client()) as client:
        yield client.bucket(urlsplit(server.new_url()).netloc)


def ask(server: StoreServer, method: str, target: str, body: bytes = b"", headers: Mapping[str, str] | None = None) -> Reply:
    with closing(HTTPConnection(urlsplit(server.endpoint).netloc, timeout=30)) as connection:
        connection.request(method, target.removeprefix(server.endpoint), body, dict(headers or {}))
        with connection.getresponse() as response:
            return response.status, {name.lower(): value for name, value in response.getheaders()}, response.read()


def test_a_creation_at_once_by_many_succeeds_once(bucket: Any) -> None:
    from google.api_core.exceptions import PreconditionFailed

    start = threading.Barrier(8)

    def create(number: int) -> bool:
        start.wait()
        try:
            bucket.blob("one").upload_from_string(b"%d" % number, if_generation_match=0)
        except PreconditionFailed:
            return False
        return True

    with ThreadPoolExecutor(8) as pool:
        outcomes = list(pool.map(create, range(8)))
    assert outcomes.count(True) == 1
    assert bucket.blob("one").download_as_bytes() == b"%d" % outcomes.index(True)


def test_a_generation_changes_with_each_write_and_can_be_asked_for(bucket: Any) -> None:
    from google.api_core.exceptions import NotFound, PreconditionFailed

    blob = bucket.blob("one")
    blob.upload_from_string(b"first")
    first = blob.generation
    blob.upload_from_string(b"second", if_generation_match=first)
    assert blob.generation != first
    with pytest.raises(PreconditionFailed):
        blob.download_as_bytes(if_generation_match=first)
    with pytest.raises(NotFound):
        bucket.blob("one", generation=first).download_as_bytes()
    with pytest.raises(PreconditionFailed):
        blob.delete(if_generation_match=first)
    assert blob.download_as_bytes(if_generation_match=blob.generation) == b"second"


@pytest.mark.parametrize("data", [b"", b"x", DATA])
def test_the_two_apis_show_the_same_object(server: StoreServer, bucket: Any, data: bytes) -> None:
    blob = bucket.blob("a folder/größe")
    blob.metadata = {"sha256": "12ab"}
    blob.upload_from_string(data)
    status, headers, body = ask(server, "GET", f"/{bucket.name}/a%20folder%2Fgr%C3%B6%C3%9Fe")
    assert (status, body) == (200, data)
    assert headers["x-goog-meta-sha256"] == "12ab"
    assert headers["x-goog-generation"] == str(blob.generation)
    assert f"crc32c={blob.crc32c}" in headers["x-goog-hash"]
    assert blob.download_as_bytes() == data
    assert ask(server, "HEAD", f"/{bucket.name}/a%20folder/gr%C3%B6%C3%9Fe")[1]["content-length"] == str(len(data))


def test_ranges_are_cut_at_the_end_and_refused_beyond_it(server: StoreServer, bucket: Any) -> None:
    bucket.blob("digits").upload_from_string(b"0123456789")
    place = f"/{bucket.name}/digits"
    for wanted, body, place_of_it in (("2-4", b"234", "2-4"), ("8-", b"89", "8-9"), ("8-99", b"89", "8-9"), ("-3", b"789", "7-9")):
        status, headers, found = ask(server, "GET", place, headers={"Range": f"bytes={wanted}"})
        assert (status, found, headers["content-range"]) == (206, body, f"bytes {place_of_it}/10")
    assert ask(server, "GET", place, headers={"Range": "bytes=10-20"})[0] == 416


def test_lists_come_in_pages_in_order_with_prefixes_and_folders(bucket: Any) -> None:
    names = ["a", "a/1", "a/2", "a/b/1", "ab", "b/1", "c/../e", "c//d", "dir/", "ä"]
    for name in reversed(names):
        bucket.blob(name).upload_from_string(name)
    for size in (1, 2, 3, 100):
        assert [blob.name for blob in bucket.list_blobs(page_size=size)] == names
        listing = bucket.list_blobs(delimiter="/", page_size=size)
        assert ([blob.name for blob in listing], sorted(listing.prefixes)) == (["a", "ab", "ä"], ["a/", "b/", "c/", "dir/"])
    assert [blob.name for blob in bucket.list_blobs(prefix="a/")] == ["a/1", "a/2", "a/b/1"]
    assert [blob.name for blob in bucket.list_blobs(start_offset="ab", end_offset="c/")] == ["ab", "b/1"]
    for name in names:
        assert bucket.blob(name).download_as_bytes() == name.encode()
        bucket.blob(name).delete()
    assert list(bucket.list_blobs()) == []


def begun(server: StoreServer, bucket: Any, query: str = "") -> str:
    place = f"/upload/storage/v1/b/{bucket.name}/o?uploadType=resumable&name=big{query}"
    return ask(server, "POST", place, b'{"metadata": {"sha256": "12ab"}}', {"Content-Type": "application/json"})[1]["location"]


def send(server: StoreServer, session: str, start: int, end: int, total: int | str = len(DATA)) -> Reply:
    return ask(server, "PUT", session, DATA[start:end], {"Content-Range": f"bytes {start}-{end - 1}/{total}"})


def state(server: StoreServer, session: str) -> Reply:
    return ask(server, "PUT", session, headers={"Content-Range": f"bytes */{len(DATA)}"})


def test_a_resumable_session_says_what_arrived(server: StoreServer, bucket: Any) -> None:
    session = begun(server, bucket)
    status, headers, _ = state(server, session)
    assert status == 308
    assert "range" not in headers
    for end in (CHUNK, 2 * CHUNK):
        assert send(server, session, end - CHUNK, end)[0] == 308
        assert state(server, session)[1]["range"] == f"bytes=0-{end - 1}"
    assert not bucket.blob("big").exists()
    assert send(server, session, CHUNK, 2 * CHUNK)[1]["range"] == f"bytes=0-{2 * CHUNK - 1}"  # what came before is not taken again
    status, _, body = send(server, session, 2 * CHUNK, len(DATA))
    assert (status, json.loads(body)["size"]) == (200, str(len(DATA)))
    assert state(server, session)[0] == 200
    assert bucket.blob("big").download_as_bytes() == DATA
    assert bucket.get_blob("big").metadata == {"sha256": "12ab"}


def test_bytes_that_would_leave_a_gap_are_refused(server: StoreServer, bucket: Any) -> None:
    session = begun(server, bucket)
    assert send(server, session, CHUNK, 2 * CHUNK)[0] == 503
    assert "range" not in state(server, session)[1]


def test_a_session_that_was_cancelled_is_gone(server: StoreServer, bucket: Any) -> None:
    session = begun(server, bucket)
    send(server, session, 0, CHUNK)
    assert ask(server, "DELETE", session)[0] == 499
    assert state(server, session)[0] == 404


def test_a_session_checks_its_precondition_at_its_end_too(server: StoreServer, bucket: Any) -> None:
    session = begun(server, bucket, "&ifGenerationMatch=0")
    bucket.blob("big").upload_from_string(b"meanwhile")
    assert send(server, session, 0, len(DATA))[0] == 412
    assert bucket.blob("big").download_as_bytes() == b"meanwhile"


def test_the_clients_parallel_upload_works(bucket: Any, tmp_path: Path) -> None:
    from google.cloud.storage import transfer_manager

    (tmp_path / "big").write_bytes(DATA)
    transfer_manager.upload_chunks_concurrently(tmp_path / "big", bucket.blob("big"), chunk_size=CHUNK, worker_type="thread", max_workers=2)
    assert bucket.blob("big").download_as_bytes() == DATA


def test_a_checksum_that_is_wrong_is_refused(server: StoreServer, bucket: Any) -> None:
    assert ask(server, "PUT", f"/{bucket.name}/one", b"data", {"x-goog-hash": "crc32c=AAAAAA=="})[0] == 400
    assert not bucket.blob("one").exists()


def test_a_bucket_that_does_not_exist_is_told_from_a_missing_object(server: StoreServer, bucket: Any) -> None:
    assert b"NoSuchBucket" in ask(server, "GET", "/none-such/key")[2]
    assert b"NoSuchBucket" in ask(server, "PUT", "/none-such/key", b"x")[2]
    assert b"NoSuchBucket" in ask(server, "GET", "/none-such?list-type=2")[2]
    assert b"NoSuchKey" in ask(server, "GET", f"/{bucket.name}/key")[2]

"""Files from a real web server on loopback, read as a store and downloaded whole and verified, or not at all."""

import os
import subprocess
import sys
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path

import pytest

from cloud_train.errors import CorruptError, StoreError
from cloud_train.retry import RetryPolicy
from cloud_train.storage.base import (
    UNKNOWN_SIZE,
    AccessDeniedError,
    InvalidKeyError,
    ObjectChangedError,
    ObjectMissingError,
    TransientStoreError,
)
from cloud_train.storage.https import HttpStore, fetch_url
from cloud_train.storage.registry import check_url, open_store
from cloud_train.storage.transfer.progress import Progress
from tests.storage.certificates import authority_and_server
from tests.support import wait_until
from tests.web_server import Answer, FileServer, serving, sha256
from tests.worker.small_disk import small_disk

CONTENT = bytes(range(256)) * 4096  # 1 MiB
LARGE = b"".join(number.to_bytes(8, "big") for number in range(1 << 19))  # 4 MiB, in parts of 1 MiB
FETCHING = """
import sys
from pathlib import Path
from cloud_train.storage.https import fetch_url
fetch_url(sys.argv[1], Path(sys.argv[2]), sha256=sys.argv[3])
"""


@dataclass
class Waits:
    """A retry policy whose waits are noted down, not made."""

    made: list[float] = field(default_factory=list)

    @property
    def policy(self) -> RetryPolicy:
        return RetryPolicy(5, first_wait=1.0, sleep=self.made.append, jitter=lambda: 1.0)


@pytest.fixture(autouse=True)
def without_proxies(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("no_proxy", "*")


@pytest.fixture
def server() -> Iterator[FileServer]:
    with serving(**{"data.bin": CONTENT, "large.bin": LARGE, "empty": b""}) as server:
        yield server


@pytest.fixture
def waits() -> Waits:
    return Waits()


@pytest.fixture
def target(tmp_path: Path) -> Path:
    return tmp_path / "downloads" / "file"


@pytest.fixture
def get(server: FileServer, target: Path, waits: Waits) -> Callable[..., bytes]:
    """Download a file of the server; returns its bytes."""

    def get(path: str, sum_: str | None = None, **options: float) -> bytes:
        fetch_url(server.url + path, target, sha256=sum_, policy=waits.policy, **options)  # type: ignore[arg-type]  # only numbers
        return target.read_bytes()

    return get


def names(folder: Path) -> list[str]:
    return sorted(path.name for path in folder.iterdir())


# Reading as a store


def test_a_file_and_any_range_of_it_is_read(server: FileServer) -> None:
    store = HttpStore(server.url)
    info = store.stat("data.bin")
    assert (info.size, info.version) == (len(CONTENT), f'"{sha256(CONTENT)[:8]}"')
    assert store.read("data.bin") == (info, CONTENT)
    assert store.get("data.bin", 1000, 5000, version=info.version) == CONTENT[1000:5000]
    assert store.get("data.bin", len(CONTENT) - 1) == CONTENT[-1:]
    assert store.get("data.bin", len(CONTENT)) == store.get("data.bin", 7, 7) == b""
    assert b"".join(store.pieces("data.bin", 5, None)) == CONTENT[5:]
    assert b"".join(store.pieces("data.bin", 5, 1005, version=info.version)) == CONTENT[5:1005]
    assert store.has_ranges


def test_of_a_server_that_ignores_ranges_the_range_is_cut_out_here(server: FileServer) -> None:
    store = HttpStore(server.url)
    server.answers = [Answer(ranges=False)] * 3
    assert store.stat("data.bin").size == len(CONTENT)
    assert not store.has_ranges
    assert store.get("data.bin", 1000, 5000) == CONTENT[1000:5000]
    assert b"".join(store.pieces("data.bin", 300_000, 700_000)) == CONTENT[300_000:700_000]


def test_a_file_that_changed_is_another_version(server: FileServer) -> None:
    store = HttpStore(server.url)
    version = store.stat("data.bin").version
    for content in (CONTENT[::-1], CONTENT[:100]):
        server.files["/data.bin"] = content
        with pytest.raises(ObjectChangedError, match=f"{server.url}/data.bin changed while being read"):
            store.get("data.bin", 5, 50, version=version)
        with pytest.raises(ObjectChangedError):
            list(store.pieces("data.bin", 50, 200, version=version))
    with pytest.raises(ObjectChangedError):
        list(store.pieces("data.bin", 50, 200))


def test_a_size_that_the_server_does_not_tell_is_unknown(server: FileServer) -> None:
    server.answers = [Answer(ranges=False, chunked=True)]
    assert HttpStore(server.url).stat("data.bin").size == UNKNOWN_SIZE


def test_an_empty_file_has_no_first_byte(server: FileServer) -> None:
    assert HttpStore(server.url).stat("empty").size == 0


def test_a_weak_etag_is_not_a_version(server: FileServer) -> None:
    server.answers = [Answer(headers=(("ETag", 'W/"weak"'),))]
    assert HttpStore(server.url).stat("data.bin").version == ""


def test_keys_keep_what_is_percent_encoded_and_do_not_leave_the_url(server: FileServer) -> None:
    server.files["/folder/a%20b/%C3%BC.bin"] = server.files["/folder/what%3F%231"] = b"x"
    store = HttpStore(f"{server.url}/folder/")
    assert store.get("a%20b/ü.bin") == store.get("what?#1") == b"x"
    for key in ("../data.bin", "a/../../data.bin", "/data.bin", "a\\b", "."):
        with pytest.raises(InvalidKeyError):
            store.get(key)


def test_it_is_read_only_and_cannot_be_listed(server: FileServer) -> None:
    store = HttpStore(server.url)
    for refused in (
        lambda: store.put("a", b""),
        lambda: store.create("a", b""),
        lambda: store.delete("data.bin"),
        store.multipart,
        lambda: list(store.list()),
        lambda: list(store.folders()),
    ):
        with pytest.raises(StoreError, match=f"{server.url} is a web server, which can only be read"):
            refused()
    assert store.get("data.bin", 0, 3) == CONTENT[:3]
    assert store.local_path("data.bin") is None
    assert len(server.requests) == 1


def test_runs_cannot_be_kept_on_a_web_server() -> None:
    from cloud_train.errors import UsageError

    for use in (check_url, open_store):
        with pytest.raises(UsageError, match=r"unsupported store scheme 'https://'"):
            use("https://example.com/runs")


@pytest.mark.parametrize(
    ("status", "error"), [(403, AccessDeniedError), (401, AccessDeniedError), (404, ObjectMissingError), (410, ObjectMissingError)]
)
def test_refusals_are_errors_of_a_store(server: FileServer, status: int, error: type[StoreError]) -> None:
    server.answers = [Answer(status)]
    with pytest.raises(error, match=rf"cannot download {server.url}/data.bin: the server responded with {status} \("):
        HttpStore(server.url).stat("data.bin")


def test_a_busy_server_says_when_to_come_back(server: FileServer) -> None:
    server.answers = [Answer(503, (("Retry-After", "7"),))]
    with pytest.raises(TransientStoreError, match="503") as caught:
        HttpStore(server.url).stat("data.bin")
    assert caught.value.retry_after == 7


# Downloading


def test_a_small_file_takes_two_requests_and_leaves_nothing_beside_it(get: Callable[..., bytes], server: FileServer, target: Path) -> None:
    assert get("/data.bin", sha256(CONTENT)) == CONTENT
    assert server.ranges() == ["bytes=0-0", None]
    assert names(target.parent) == ["file"]


def test_a_large_file_comes_in_parts(get: Callable[..., bytes], server: FileServer, target: Path) -> None:
    assert get("/large.bin", sha256(LARGE)) == LARGE
    assert len(server.requests) > 4
    assert {request.get("if-range") for request in server.requests[2:]} == {f'"{sha256(LARGE)[:8]}"'}
    assert names(target.parent) == ["file"]


@pytest.mark.parametrize("content", [CONTENT, LARGE, b""])
def test_a_server_that_tells_no_size_and_knows_no_ranges_is_read_to_the_end(
    get: Callable[..., bytes], server: FileServer, content: bytes
) -> None:
    server.files["/file"] = content
    server.answers = [Answer(ranges=False, chunked=True)] * 3
    assert get("/file", sha256(content)) == content


@pytest.mark.parametrize("chunked", [False, True])
@pytest.mark.parametrize("ranges", [False, True])
def test_an_answer_that_ends_early_is_continued(
    get: Callable[..., bytes], server: FileServer, waits: Waits, chunked: bool, ranges: bool
) -> None:
    cut = Answer(only=400_000, chunked=chunked, ranges=ranges)
    usual = Answer(chunked=chunked, ranges=ranges)
    comes_whole = not (ranges or chunked)
    server.answers = [*[usual] * (1 if comes_whole else 2), cut, *[usual] * 20]
    assert get("/large.bin", sha256(LARGE)) == LARGE
    assert waits.made == [1.0]


@pytest.mark.parametrize("status", [408, 429, 500, 502, 503, 504])
def test_a_server_that_is_busy_or_broken_is_asked_again(get: Callable[..., bytes], server: FileServer, waits: Waits, status: int) -> None:
    server.answers = [Answer(status), Answer(status, (("Retry-After", "7"),)), Answer(status, (("Retry-After", "3600"),)), Answer(status)]
    assert get("/data.bin", sha256(CONTENT)) == CONTENT
    assert waits.made == [1, 7, 60, 8]


def test_after_the_last_attempt_what_came_is_kept(get: Callable[..., bytes], server: FileServer, target: Path, waits: Waits) -> None:
    server.answers = [Answer(), Answer(), Answer(), Answer(), Answer(), *[Answer(500)] * 40]
    with pytest.raises(StoreError, match=r"large\.bin: the server responded with 500 \(Internal Server Error\) \(tried 5 times\)"):
        get("/large.bin", sha256(LARGE))
    assert not target.exists()
    server.answers, before = [], len(server.requests)
    assert get("/large.bin", sha256(LARGE)) == LARGE
    assert len(server.requests) - before < 6, "parts that had arrived did not move again"


@pytest.mark.parametrize("status", [403, 404, 410, 418])
def test_a_refusal_is_not_retried(get: Callable[..., bytes], server: FileServer, waits: Waits, status: int) -> None:
    server.answers = [Answer(status)]
    with pytest.raises(StoreError, match=rf"cannot download {server.url}/data.bin: the server responded with {status} \("):
        get("/data.bin", sha256(CONTENT))
    assert (waits.made, len(server.requests)) == ([], 1)


def test_a_server_that_is_not_there_is_named(waits: Waits, target: Path) -> None:
    with serving() as server:
        url = server.url
    with pytest.raises(StoreError, match=rf"cannot download {url}/gone: connection refused \(tried 5 times\)"):
        fetch_url(f"{url}/gone", target, policy=waits.policy)
    assert waits.made == [1, 2, 4, 8]


def test_a_server_that_falls_silent_is_asked_again(get: Callable[..., bytes], server: FileServer, waits: Waits) -> None:
    server.answers = [Answer(), Answer(only=1000, hold=True)]
    assert get("/data.bin", sha256(CONTENT), timeout_seconds=0.2) == CONTENT
    assert waits.made == [1]


def test_a_file_that_changes_meanwhile_is_begun_again(get: Callable[..., bytes], server: FileServer) -> None:
    class Changing(dict[str, bytes]):
        asked = 0

        def get(self, key: str, default: bytes | None = None) -> bytes | None:  # type: ignore[override]  # as it is called
            self.asked += 1
            return LARGE if self.asked < 5 else LARGE[::-1]

    server.files = Changing()
    assert get("/large.bin", sha256(LARGE[::-1])) == LARGE[::-1]


def test_another_file_is_refused_with_both_sums(get: Callable[..., bytes], server: FileServer, target: Path) -> None:
    for path, content in (("/data.bin", CONTENT), ("/large.bin", LARGE)):
        with pytest.raises(CorruptError) as caught:
            get(path, "0" * 64)
        assert f"{server.url}{path}" in caught.value.message
        assert sha256(content) in caught.value.message
        assert "0" * 64 in caught.value.message
        assert not target.exists()
        assert list(target.parent.parent.rglob("*.partial*")) == []


def test_another_range_than_the_requested_one_is_not_taken(get: Callable[..., bytes], server: FileServer, waits: Waits) -> None:
    server.answers = [Answer(), Answer(headers=(("Content-Range", f"bytes 7-{len(LARGE) - 1}/{len(LARGE)}"),))]
    server.answers += [Answer(headers=(("Content-Range", "nonsense"),))]
    assert get("/large.bin", sha256(LARGE)) == LARGE
    assert waits.made


def test_redirects_are_followed_with_the_range_and_without_the_password(server: FileServer, target: Path) -> None:
    server.answers = [Answer(302, (("Location", "/data.bin?moved"),))]
    fetch_url(server.url.replace("http://", "http://anna:s3cret%21@") + "/data.bin", target, sha256=sha256(CONTENT))
    assert target.read_bytes() == CONTENT
    assert server.ranges() == ["bytes=0-0", "bytes=0-0", None]
    login = "Basic YW5uYTpzM2NyZXQh"
    assert [request.get("authorization") for request in server.requests] == [login, None, login]


@pytest.mark.parametrize("location", ["file:///etc/passwd", "ftp://127.0.0.1/x", "data:,x", "/data.bin", "http://u:p@127.0.0.1:1:2/", None])
def test_redirects_to_nowhere_are_refused(get: Callable[..., bytes], server: FileServer, location: str | None) -> None:
    server.answers = [Answer(302, (("Location", location),) if location else ())] * 20
    with pytest.raises(StoreError, match=rf"cannot download {server.url}/data.bin: "):
        get("/data.bin", sha256(CONTENT))


@pytest.mark.parametrize("url", ["ftp://host/x", "file:///etc/passwd", "http://", "http://host:port/x", "data.bin", "http://[::1/x", ""])
def test_what_is_not_a_url_of_http_is_refused(target: Path, url: str) -> None:
    with pytest.raises(StoreError):
        fetch_url(url, target)


def test_no_secret_of_a_url_is_told_or_left_on_the_disk(server: FileServer, target: Path, waits: Waits) -> None:
    server.answers = [Answer(503), Answer(), Answer(), Answer(404)]
    url = server.url.replace("http://", "http://anna:s3cret@") + "/data.bin?token=s3cret#s3cret"
    fetch_url(url, target, policy=waits.policy)
    assert server.requests[0]["path"] == "/data.bin?token=s3cret"
    told = ""
    for sum_ in ("1" * 64, "2" * 64):
        with pytest.raises((StoreError, CorruptError)) as caught:
            fetch_url(url, target, sha256=sum_, policy=waits.policy)
        told += f"{caught.value.message} {caught.value.hint} {caught.value.__cause__}"
    assert "s3cret" not in told + "".join(names(target.parent))


def test_progress_is_told(server: FileServer, target: Path) -> None:
    told: list[Progress] = []
    fetch_url(f"{server.url}/large.bin", target, progress=told.append)
    assert (told[-1].files_done, told[-1].bytes_done, told[-1].bytes) == (1, len(LARGE), len(LARGE))


def test_a_download_that_was_killed_is_continued(server: FileServer, target: Path) -> None:
    server.answers = [*[Answer()] * 4, *[Answer(only=1000, hold=True)] * 9]
    process = subprocess.Popen([sys.executable, "-c", FETCHING, f"{server.url}/large.bin", str(target), sha256(LARGE)])
    try:
        wait_until(lambda: len(server.requests) > 5, "some parts have arrived, others are on their way", seconds=60)
    finally:
        process.kill()
        process.wait()
    assert not target.exists()
    server.answers = []
    summary = fetch_url(f"{server.url}/large.bin", target, sha256=sha256(LARGE))
    assert target.read_bytes() == LARGE
    assert summary.resumed_parts >= 1
    assert names(target.parent) == ["file"]


def test_what_an_earlier_version_of_the_file_left_is_not_used(server: FileServer, target: Path) -> None:
    server.answers = [*[Answer()] * 4, *[Answer(404)] * 9]
    with pytest.raises(StoreError):
        fetch_url(f"{server.url}/large.bin", target, sha256=sha256(LARGE))
    server.answers, server.files["/large.bin"] = [], LARGE[::-1]
    assert fetch_url(f"{server.url}/large.bin", target, sha256=sha256(LARGE[::-1])).resumed_parts == 0
    assert target.read_bytes() == LARGE[::-1]


def test_a_full_disk_is_named(server: FileServer, tmp_path: Path) -> None:
    with small_disk(tmp_path / "disk", kilobytes=512) as disk:
        for path in ("/data.bin", "/large.bin"):
            with pytest.raises(StoreError, match=f"cannot write {disk / 'file'}: no space left on device"):
                fetch_url(f"{server.url}{path}", disk / "file")


def test_a_certificate_that_is_not_trusted_is_refused_at_once(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, target: Path, waits: Waits
) -> None:
    authority, tls = authority_and_server(tmp_path)
    monkeypatch.delenv("SSL_CERT_FILE", raising=False)
    with serving(tls, **{"data.bin": CONTENT}) as server:
        with pytest.raises(StoreError, match=r"the server's certificate is not trusted \("):
            fetch_url(f"{server.url}/data.bin", target, policy=waits.policy)
        assert (server.requests, waits.made) == ([], [])
        monkeypatch.setenv("SSL_CERT_FILE", os.fspath(authority))
        fetch_url(f"{server.url}/data.bin", target)
    assert target.read_bytes() == CONTENT

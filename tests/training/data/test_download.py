"""Downloads from a real server on loopback, whole and verified or not at all."""

import shutil
import ssl
import subprocess
import sys
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from cloud_train.data.sequences import SequencesData
from cloud_train.data.text import TextData
from cloud_train.errors import CorruptError, StoreError
from cloud_train.spec.problems import FieldError
from cloud_train.training.data.download import fetch, path_or_download
from tests.support import wait_until
from tests.web_server import Answer, FileServer, serving, sha256
from tests.worker.small_disk import fill, small_disk

CONTENT = bytes(range(256)) * 4096  # 1 MiB
SUM = sha256(CONTENT)
FETCHING = """
import sys
from pathlib import Path
from cloud_train.training.data.download import fetch
print(fetch(sys.argv[1], sys.argv[2], Path(sys.argv[3])))
"""

Get = Callable[..., Path]


@pytest.fixture
def server(monkeypatch: pytest.MonkeyPatch) -> Iterator[FileServer]:
    monkeypatch.setenv("no_proxy", "*")
    with serving(**{"data.bin": CONTENT}) as server:
        yield server


@pytest.fixture
def pauses() -> list[float]:
    return []


@pytest.fixture
def get(server: FileServer, tmp_path: Path, pauses: list[float]) -> Get:
    """Fetch data.bin from the server; the pauses are noted down, not made."""

    def get(path: str = "/data.bin", sum_: str = SUM, **options: float) -> Path:
        return fetch(server.url + path, sum_, tmp_path, pause=pauses.append, **options)  # type: ignore[arg-type]  # only numbers

    return get


def part_of(cache: Path, content_sum: str = SUM) -> Path:
    return cache / "downloads" / f"{content_sum[:16]}-data.bin.part"


def left_behind(cache: Path, content: bytes, etag: str | None = None) -> None:
    """What a run that was killed leaves."""
    part = part_of(cache)
    part.parent.mkdir(parents=True)
    part.write_bytes(content)
    if etag is not None:
        part.with_name(f"{part.name}.etag").write_text(etag)


def test_a_file_is_fetched_once_and_lies_under_its_sum_and_name(get: Get, server: FileServer, tmp_path: Path) -> None:
    path = get()
    assert path == tmp_path / "downloads" / f"{SUM[:16]}-data.bin"
    assert path.read_bytes() == CONTENT
    assert get() == path
    assert len(server.requests) == 1
    assert sorted(each.name for each in path.parent.iterdir()) == [path.name, f"{path.name}.lock"]


def test_start_and_end_of_a_download_are_told(get: Get, server: FileServer, capsys: pytest.CaptureFixture[str]) -> None:
    get(clock=iter([0.0, 1.0, 1.5, 2.5, 3.0, 3.5, 4.0, 4.5] + [5.0] * 100).__next__)
    first, last = capsys.readouterr().out.splitlines()
    assert first == f"downloading {server.url}/data.bin (1.0 MB)"
    assert last.startswith(f"downloaded {server.url}/data.bin (1.0 MB) in ")
    get()
    assert capsys.readouterr().out == ""


def test_a_long_download_says_how_far_it_is_every_ten_seconds(get: Get, server: FileServer, capsys: pytest.CaptureFixture[str]) -> None:
    server.files["/data.bin"] = content = CONTENT * 8
    seconds = iter(range(0, 10**6, 6))
    get(sum_=sha256(content), clock=lambda: float(next(seconds)))
    lines = capsys.readouterr().out.splitlines()
    progress = [line for line in lines if "/s" in line]
    assert progress
    assert all(" of 8.4 MB, " in line for line in progress)


def test_a_cached_file_that_was_damaged_is_downloaded_again(get: Get, server: FileServer) -> None:
    path = get()
    path.write_bytes(CONTENT[:-1] + b"x")
    assert get().read_bytes() == CONTENT
    assert len(server.requests) == 2


@pytest.mark.parametrize("etag", [None, '"old"', "same"])
def test_a_part_that_was_left_is_continued(get: Get, server: FileServer, tmp_path: Path, etag: str | None) -> None:
    etag = f'"{SUM[:8]}"' if etag == "same" else etag
    left_behind(tmp_path, CONTENT[:1000], etag)
    assert get().read_bytes() == CONTENT
    assert server.ranges() == ["bytes=1000-"]
    assert server.requests[0].get("if-range") == etag


def test_an_etag_that_promises_little_is_not_sent_back(get: Get, server: FileServer) -> None:
    server.answers = [Answer(only=1000, headers=(("ETag", 'W/"weak"'),))]
    assert get().read_bytes() == CONTENT
    assert server.ranges() == [None, "bytes=1000-"]
    assert "if-range" not in server.requests[1]


def test_a_server_that_ignores_what_is_there_sends_everything_again(get: Get, server: FileServer, tmp_path: Path) -> None:
    left_behind(tmp_path, b"something else")
    server.answers = [Answer(ranges=False)]
    assert get().read_bytes() == CONTENT
    assert server.ranges() == ["bytes=14-"]


@pytest.mark.parametrize("too_much", [b"", b"and more"])
def test_a_part_that_is_whole_is_taken_and_one_that_is_longer_is_not(get: Get, server: FileServer, tmp_path: Path, too_much: bytes) -> None:
    left_behind(tmp_path, CONTENT + too_much)
    assert get().read_bytes() == CONTENT
    assert server.ranges() == [f"bytes={len(CONTENT + too_much)}-", *([None] if too_much else [])]


def test_a_part_of_another_file_is_given_up_once(get: Get, server: FileServer, tmp_path: Path) -> None:
    left_behind(tmp_path, b"x" * 1000)
    assert get().read_bytes() == CONTENT
    assert server.ranges() == ["bytes=1000-", None]


@pytest.mark.parametrize("content_range", [f"bytes 7-{len(CONTENT) - 1}/{len(CONTENT)}", "nonsense"])
def test_another_part_than_was_asked_for_is_not_taken(get: Get, server: FileServer, tmp_path: Path, content_range: str) -> None:
    left_behind(tmp_path, CONTENT[:1000])
    server.answers = [Answer(headers=(("Content-Range", content_range),))]
    assert get().read_bytes() == CONTENT
    assert server.ranges() == ["bytes=1000-", None]


@pytest.mark.parametrize("chunked", [False, True])
def test_an_answer_that_ends_early_is_continued(get: Get, server: FileServer, pauses: list[float], chunked: bool) -> None:
    server.answers = [Answer(only=400_000, chunked=chunked), Answer(only=300_000, chunked=chunked)]
    assert get().read_bytes() == CONTENT
    assert server.ranges() == [None, "bytes=400000-", "bytes=700000-"]
    assert pauses == [1, 2]


@pytest.mark.parametrize("status", [429, 500, 502, 503, 504])
def test_a_server_that_is_busy_or_broken_is_asked_again(get: Get, server: FileServer, pauses: list[float], status: int) -> None:
    server.answers = [Answer(status), Answer(status, (("Retry-After", "7"),)), Answer(status, (("Retry-After", "3600"),)), Answer(status)]
    assert get().read_bytes() == CONTENT
    assert pauses == [1, 7, 60, 8]


def test_after_five_failures_in_a_row_it_gives_up_and_keeps_what_came(
    get: Get, server: FileServer, tmp_path: Path, pauses: list[float]
) -> None:
    server.answers = [Answer(only=10)] + [Answer(500)] * 4
    with pytest.raises(StoreError, match=r"data\.bin: the server answered 500 \(Internal Server Error\), 5 times in a row") as caught:
        get()
    assert "10 B that came are kept" in str(caught.value.hint)
    assert pauses == [1, 2, 4, 8]
    assert part_of(tmp_path).read_bytes() == CONTENT[:10]
    assert get().read_bytes() == CONTENT
    assert server.ranges()[-1] == "bytes=10-"


def test_failures_that_bring_much_do_not_count(get: Get, server: FileServer, pauses: list[float]) -> None:
    server.files["/data.bin"] = content = CONTENT * 8
    server.answers = [Answer(only=len(CONTENT))] * 7
    assert get(sum_=sha256(content)).read_bytes() == content
    assert pauses == [1] * 7


@pytest.mark.parametrize(("status", "phrase"), [(403, "Forbidden"), (404, "Not Found"), (410, "Gone"), (418, "I'm a Teapot")])
def test_a_refusal_is_not_repeated(get: Get, server: FileServer, pauses: list[float], status: int, phrase: str) -> None:
    server.answers = [Answer(status)]
    with pytest.raises(StoreError, match=rf"cannot download {server.url}/data.bin: the server answered {status} \({phrase}\)"):
        get()
    assert pauses == []
    assert len(server.requests) == 1


def test_nobody_there_is_tried_again_and_then_named(tmp_path: Path, pauses: list[float], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("no_proxy", "*")
    with serving() as server:
        url = server.url
    with pytest.raises(StoreError, match=rf"cannot download {url}/gone: connection refused, 5 times in a row"):
        fetch(f"{url}/gone", SUM, tmp_path, pause=pauses.append)
    assert pauses == [1, 2, 4, 8]


def test_a_server_that_falls_silent_is_asked_again(get: Get, server: FileServer, capsys: pytest.CaptureFixture[str]) -> None:
    server.answers = [Answer(only=1000, hold=True)]
    assert get(timeout_seconds=0.1).read_bytes() == CONTENT
    assert server.ranges() == [None, "bytes=1000-"]
    assert "no answer for 0.1 s; trying again in 1 s" in capsys.readouterr().out


def test_a_certificate_that_is_not_trusted_is_refused_at_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, pauses: list[float]) -> None:
    monkeypatch.setenv("no_proxy", "*")
    if shutil.which("openssl") is None:
        pytest.skip("openssl is not here to make a certificate")
    certificate, key = tmp_path / "certificate", tmp_path / "key"
    made = ["openssl", "req", "-x509", "-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:P-256", "-nodes", "-subj", "/CN=127.0.0.1"]
    subprocess.run([*made, "-addext", "subjectAltName=IP:127.0.0.1", "-keyout", key, "-out", certificate], check=True, capture_output=True)
    tls = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    tls.load_cert_chain(certificate, key)
    with serving(tls, **{"data.bin": CONTENT}) as server:
        with pytest.raises(StoreError, match=r"the server's certificate is not trusted \(self-signed certificate\)"):
            fetch(f"{server.url}/data.bin", SUM, tmp_path, pause=pauses.append)
        assert (server.requests, pauses) == ([], [])
        monkeypatch.setenv("SSL_CERT_FILE", str(certificate))
        assert fetch(f"{server.url}/data.bin", SUM, tmp_path).read_bytes() == CONTENT


def test_another_file_is_refused_with_both_sums_and_deleted(get: Get, server: FileServer, tmp_path: Path) -> None:
    wanted = "0" * 64
    with pytest.raises(CorruptError) as caught:
        get(sum_=wanted)
    assert f"{server.url}/data.bin" in caught.value.message
    assert f"its SHA-256 is {SUM}, and not {wanted}" in caught.value.message
    assert caught.value.hint
    assert [path.suffix for path in (tmp_path / "downloads").iterdir()] == [".lock"]
    assert len(server.requests) == 1


def test_an_empty_file_is_a_file(get: Get, server: FileServer) -> None:
    server.files["/empty"] = b""
    assert get("/empty", sha256(b"")).read_bytes() == b""


def test_redirections_are_followed_with_the_range_and_without_the_password(get: Get, server: FileServer, tmp_path: Path) -> None:
    left_behind(tmp_path, CONTENT[:1000])
    server.answers = [Answer(302, (("Location", "/data.bin?moved"),))]
    url = server.url.replace("http://", "http://anna:s3cret%21@") + "/data.bin"
    assert fetch(url, SUM, tmp_path).read_bytes() == CONTENT
    assert server.ranges() == ["bytes=1000-", "bytes=1000-"]
    assert [request.get("authorization") for request in server.requests] == ["Basic YW5uYTpzM2NyZXQh", None]


@pytest.mark.parametrize("location", ["file:///etc/passwd", "ftp://127.0.0.1/x", "data:,x", "/data.bin", "http://u:p@127.0.0.1:1:2/", None])
def test_redirections_to_nowhere_are_refused(get: Get, server: FileServer, location: str | None) -> None:
    server.answers = [Answer(302, (("Location", location),) if location else ())] * 20
    with pytest.raises(StoreError, match=rf"cannot download {server.url}/data.bin: "):
        get()


@pytest.mark.parametrize("url", ["ftp://host/x", "file:///etc/passwd", "http://", "http://host:port/x", "data.bin", "http://[::1/x", ""])
def test_what_is_no_address_of_http_is_refused(tmp_path: Path, url: str) -> None:
    with pytest.raises(StoreError):
        fetch(url, SUM, tmp_path)


def test_nothing_secret_of_an_address_is_told(
    server: FileServer, tmp_path: Path, pauses: list[float], capsys: pytest.CaptureFixture[str]
) -> None:
    server.answers = [Answer(only=10), Answer(503), Answer(), Answer(404), Answer()]
    url = server.url.replace("http://", "http://anna:s3cret@") + "/data.bin?token=s3cret#s3cret"
    fetch(url, SUM, tmp_path, pause=pauses.append)
    assert server.requests[0]["path"] == "/data.bin?token=s3cret"
    told = capsys.readouterr().out
    for sum_ in ("1" * 64, "2" * 64):
        with pytest.raises((StoreError, CorruptError)) as caught:
            fetch(url, sum_, tmp_path, pause=pauses.append)
        told += f"{caught.value.message} {caught.value.hint} {caught.value.__cause__}"
    assert "s3cret" not in told + "".join(path.name for path in (tmp_path / "downloads").iterdir())


@pytest.mark.parametrize("path", ["/a%20b/ü.bin", "/data.bin?name=../../etc", "/" + "x" * 300, "/"])
def test_the_name_in_the_cache_is_plain_whatever_the_address(server: FileServer, tmp_path: Path, path: str) -> None:
    from urllib.parse import quote

    server.files[quote(path.partition("?")[0], safe="/%")] = CONTENT
    found = fetch(server.url + path, SUM, tmp_path)
    assert found.parent == tmp_path / "downloads"
    assert found.read_bytes() == CONTENT
    assert found.name.isascii()


def test_a_killed_download_is_continued_by_the_process_that_waited_for_it(
    get: Get, server: FileServer, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    server.answers = [Answer(only=600_000, hold=True)]
    process = subprocess.Popen([sys.executable, "-c", FETCHING, f"{server.url}/data.bin", SUM, str(tmp_path)], stdout=subprocess.DEVNULL)
    part = part_of(tmp_path)
    try:
        wait_until(lambda: part.exists() and part.stat().st_size == 600_000, "most of the file has come", seconds=60)
        with ThreadPoolExecutor(1) as pool:
            path = pool.submit(get)
            wait_until(lambda: "waiting for another process that is downloading" in capsys.readouterr().out, "the second one waits")
            assert len(server.requests) == 1
            process.kill()
            assert path.result(30).read_bytes() == CONTENT
    finally:
        process.kill()
        process.wait()
    assert server.ranges() == [None, "bytes=600000-"]
    assert server.requests[1]["if-range"] == f'"{SUM[:8]}"'


def test_many_at_once_share_one_download(get: Get, server: FileServer) -> None:
    with ThreadPoolExecutor(8) as pool:
        paths = set(pool.map(lambda _: get(), range(8)))
    assert len(paths) == len(server.requests) == 1


def test_a_full_disk_is_named_and_what_came_is_kept(get: Get, server: FileServer, tmp_path: Path) -> None:
    with small_disk(tmp_path / "disk", kilobytes=512) as disk:
        with pytest.raises(StoreError, match=f"cannot write to {disk / 'downloads'}: no space left on device"):
            fetch(f"{server.url}/data.bin", SUM, disk)
        size = part_of(disk).stat().st_size
        assert 100_000 < size < 512 << 10
        assert len(server.requests) == 1
        subprocess.run(["mount", "-o", "remount,size=4m", str(disk)], check=True)
        assert fetch(f"{server.url}/data.bin", SUM, disk).read_bytes() == CONTENT
        assert server.ranges() == [None, f"bytes={size}-"]


def test_a_disk_with_no_room_at_all_is_named(server: FileServer, tmp_path: Path) -> None:
    with small_disk(tmp_path / "disk", kilobytes=64) as disk:
        fill(disk)
        with pytest.raises(StoreError, match=f"cannot write to {disk / 'downloads'}: no space left on device"):
            fetch(f"{server.url}/data.bin", SUM, disk)


def test_a_cache_that_is_a_file_is_named(server: FileServer, tmp_path: Path) -> None:
    (tmp_path / "downloads").write_text("")
    with pytest.raises(StoreError, match=f"{tmp_path / 'downloads'} is a link or a file"):
        fetch(f"{server.url}/data.bin", SUM, tmp_path)


def test_data_with_a_path_is_not_downloaded(server: FileServer, tmp_path: Path) -> None:
    assert path_or_download(TextData(dataset="text", path="x"), tmp_path / "x") == tmp_path / "x"
    data = SequencesData(dataset="sequences", url=f"{server.url}/data.bin", sha256=SUM)
    assert path_or_download(data, tmp_path).read_bytes() == CONTENT
    with pytest.raises(FieldError, match="nothing says where the data comes from"):
        path_or_download(TextData(dataset="text"), tmp_path)

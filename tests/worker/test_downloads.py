"""Downloads before a program starts, from a real server on loopback: in the cache whole and verified, or not at all."""

import os
import signal
import subprocess
import sys
from collections.abc import Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest

from cloud_train.data.downloads import Download, downloads_of, unpacked_place
from cloud_train.data.mnist import MnistData
from cloud_train.data.sequences import SequencesData
from cloud_train.data.text import TextData
from cloud_train.errors import CorruptError, StoreError
from cloud_train.run import layout
from cloud_train.run.cached import seal
from cloud_train.run.record import Program, RunRecord
from cloud_train.run.states import Cause
from cloud_train.spec.problems import FieldError
from cloud_train.storage.base import TransientStoreError
from cloud_train.worker import contract
from cloud_train.worker.data import download_all
from tests.downloads import fetched
from tests.support import wait_until
from tests.web_server import Answer, FileServer, serving, sha256
from tests.worker.launching import RUN_ID, Launched
from tests.worker.small_disk import fill, small_disk

CONTENT = bytes(range(256)) * 4096  # 1 MiB
SUM = sha256(CONTENT)
FETCHING = """
import sys
from pathlib import Path
from tests.downloads import fetched
print(fetched(sys.argv[1], sys.argv[2], Path(sys.argv[3])))
"""


@pytest.fixture
def server(monkeypatch: pytest.MonkeyPatch) -> Iterator[FileServer]:
    monkeypatch.setenv("no_proxy", "*")
    with serving(**{"data.bin": CONTENT}) as server:
        yield server


def test_a_file_is_downloaded_once_and_has_its_sum_and_name_in_the_cache(server: FileServer, tmp_path: Path) -> None:
    path = fetched(f"{server.url}/data.bin", SUM, tmp_path)
    assert path == tmp_path / "downloads" / f"{SUM[:16]}-data.bin"
    assert path.read_bytes() == CONTENT
    asked = len(server.requests)
    assert fetched(f"{server.url}/data.bin", SUM, tmp_path) == path
    assert len(server.requests) == asked


def test_the_worker_notes_what_it_downloads_without_what_may_be_secret(server: FileServer, tmp_path: Path) -> None:
    notes: list[str] = []
    url = server.url.replace("http://", "http://anna:geheim@") + "/data.bin?key=geheim"
    download_all([Download(url, SUM, "data.bin")], tmp_path, notes.append)
    assert notes[0].startswith("data: downloading http://")
    assert notes[-1].endswith(f"is in {tmp_path}/downloads/{SUM[:16]}-data.bin")
    assert "geheim" not in "".join(notes)


def test_a_cached_file_that_was_damaged_is_downloaded_again(server: FileServer, tmp_path: Path) -> None:
    path = fetched(f"{server.url}/data.bin", SUM, tmp_path)
    path.write_bytes(CONTENT[:-1] + b"x")
    assert fetched(f"{server.url}/data.bin", SUM, tmp_path).read_bytes() == CONTENT


def test_a_cached_file_that_was_only_touched_is_not(server: FileServer, tmp_path: Path) -> None:
    path = fetched(f"{server.url}/data.bin", SUM, tmp_path)
    asked = len(server.requests)
    os.utime(path, (1, 1))
    fetched(f"{server.url}/data.bin", SUM, tmp_path)
    assert len(server.requests) == asked


def test_an_archive_whose_unpacked_folder_is_as_it_was_is_not_needed_again(server: FileServer, tmp_path: Path) -> None:
    folder = unpacked_place(SUM, tmp_path)
    folder.mkdir(parents=True)
    seal(folder)
    fetched(f"{server.url}/data.bin", SUM, tmp_path)
    assert not server.requests
    (folder / "another").touch()
    assert fetched(f"{server.url}/data.bin", SUM, tmp_path).read_bytes() == CONTENT


def test_another_file_is_refused_and_not_kept(server: FileServer, tmp_path: Path) -> None:
    with pytest.raises(CorruptError, match="SHA-256"):
        fetched(f"{server.url}/data.bin", "0" * 64, tmp_path)
    assert not list((tmp_path / "downloads").glob("*data.bin"))


@pytest.mark.parametrize("status", [403, 404, 410])
def test_a_refusal_is_not_one_that_passes(server: FileServer, tmp_path: Path, status: int) -> None:
    server.answers = [Answer(status=status)]
    with pytest.raises(StoreError, match=f"the server responded with {status}") as caught:
        fetched(f"{server.url}/data.bin", SUM, tmp_path)
    assert not isinstance(caught.value, TransientStoreError)


def test_a_folder_in_the_place_of_the_file_is_replaced(server: FileServer, tmp_path: Path) -> None:
    (tmp_path / "downloads" / f"{SUM[:16]}-data.bin" / "inside").mkdir(parents=True)
    assert fetched(f"{server.url}/data.bin", SUM, tmp_path).read_bytes() == CONTENT


@pytest.mark.parametrize(
    ("url", "name"),
    [
        ("https://h/a%20b/ü.bin", "_.bin"),
        ("https://h/data.bin?name=../../etc", "data.bin"),
        ("https://h/" + "x" * 300, "x" * 100),
        ("https://h/", ""),
    ],
)
def test_the_name_in_the_cache_is_plain_whatever_the_url(url: str, name: str) -> None:
    (file,) = downloads_of({"url": url, "sha256": SUM})
    assert file.place_in(Path("cache")) == Path(f"cache/downloads/{SUM[:16]}-{name}")


def test_a_killed_download_is_continued_by_the_process_that_waited_for_it(server: FileServer, tmp_path: Path) -> None:
    server.answers = [Answer(), Answer(only=len(CONTENT) // 2, hold=True, ranges=False)]
    command = [sys.executable, "-c", FETCHING, f"{server.url}/data.bin", SUM, str(tmp_path)]
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join(path for path in sys.path if path) or str(Path.cwd())}
    first = subprocess.Popen(command, stdout=subprocess.PIPE, text=True, cwd=Path(__file__).parents[2], env=environment)
    wait_until(lambda: len(server.requests) >= 2, "the first process downloads")
    second = subprocess.Popen(command, stdout=subprocess.PIPE, text=True, cwd=Path(__file__).parents[2], env=environment)
    first.send_signal(signal.SIGKILL)
    first.communicate()
    server.release()
    out, _ = second.communicate(timeout=60)
    assert second.returncode == 0
    assert Path(out.splitlines()[-1]).read_bytes() == CONTENT


def test_many_at_once_share_one_download(server: FileServer, tmp_path: Path) -> None:
    with ThreadPoolExecutor(8) as pool:
        paths = set(pool.map(lambda _: fetched(f"{server.url}/data.bin", SUM, tmp_path), range(8)))
    assert len(paths) == 1
    alone = len(server.requests)
    server.requests.clear()
    fetched(f"{server.url}/data.bin", SUM, tmp_path / "other")
    assert alone == len(server.requests)


def test_a_full_disk_is_named(server: FileServer, tmp_path: Path) -> None:
    with small_disk(tmp_path / "disk", kilobytes=512) as disk, pytest.raises(StoreError, match="no space left on device"):
        fetched(f"{server.url}/data.bin", SUM, disk)
    with small_disk(tmp_path / "small", kilobytes=64) as disk:
        fill(disk)
        with pytest.raises(StoreError, match="no space left on device"):
            fetched(f"{server.url}/data.bin", SUM, disk)


def test_a_cache_that_is_a_file_is_named(tmp_path: Path) -> None:
    (tmp_path / "downloads").touch()
    with pytest.raises(StoreError, match=f"{tmp_path / 'downloads'} is a link or a file"):
        fetched("http://127.0.0.1:9/data.bin", SUM, tmp_path)


PRINTS = "import os, pathlib; print([path.name for path in pathlib.Path(os.environ['CLOUD_TRAIN_DATA'], 'downloads').glob('[!.]*.bin')])"


GIVES_UP_AT_ONCE = """
from cloud_train.retry import RetryPolicy
from cloud_train.storage import https
https.fetch_url.__kwdefaults__["policy"] = RetryPolicy(attempts=1)
"""


def attempt(
    launched: Launched, url: str, environment: Mapping[str, str] | None = None, plan: dict[str, Any] | None = None
) -> subprocess.Popen[bytes]:
    """A worker whose job has its data at ``url``; in the trainer's place, a program prints what was downloaded."""
    program = Program((sys.executable, "-m", "cloud_train.training"), str(launched.work), grace_seconds=20)
    job = {"model": {"kind": "rnn"}, "data": {"dataset": "text", "url": url, "sha256": SUM}}
    launched.directory.mkdir(parents=True, exist_ok=True)
    (launched.directory / layout.RUN).write_bytes(RunRecord(RUN_ID, 0.0, job, program, plan or {}, {}).to_json())
    before = f"from cloud_train.worker.attempts import program\nprogram.TRAINER = {('-c', PRINTS)!r}\n"
    return launched.start(before=before + GIVES_UP_AT_ONCE, environment=environment)


def test_a_program_starts_when_its_data_is_downloaded(server: FileServer, launched: Launched) -> None:
    attempt(launched, f"{server.url}/data.bin").wait(60)
    assert launched.status().cause is Cause.SUCCEEDED
    assert launched.output() == f"['{SUM[:16]}-data.bin']\n".encode()
    assert f"data: downloading {server.url}/data.bin" in launched.worker_log()


def test_the_limit_of_a_download_is_that_of_the_plan(server: FileServer, launched: Launched) -> None:
    attempt(launched, f"{server.url}/data.bin", plan={"most_download_bytes": 5}).wait(60)
    assert (launched.status().cause, launched.output()) == (Cause.FAILED, b"")
    assert "but at most 5 bytes are allowed" in launched.status().message


def test_a_refused_download_is_the_jobs_fault_and_no_program_starts(server: FileServer, launched: Launched) -> None:
    attempt(launched, f"{server.url}/gone.bin").wait(60)
    assert (launched.status().cause, launched.output()) == (Cause.FAILED, b"")
    assert "the server responded with 404 (Not Found) (check the URL" in launched.status().message


@pytest.mark.parametrize("status", [503, None])
def test_a_server_that_stays_away_is_not_the_jobs_fault(server: FileServer, launched: Launched, status: int | None) -> None:
    server.answers = [Answer(status)] * 9
    url = f"{server.url}/data.bin" if status else "http://127.0.0.1:9/data.bin"
    attempt(launched, url).wait(60)
    assert (launched.status().cause, launched.output()) == (Cause.INFRASTRUCTURE, b"")
    assert f"the data cannot be fetched: cannot download {url}: " in launched.status().message


def test_a_clouds_worker_downloads_nothing_from_its_own_machine(server: FileServer, launched: Launched) -> None:
    attempt(launched, f"{server.url}/data.bin", {contract.PLATFORM: "sagemaker"}).wait(60)
    assert launched.status().cause is Cause.FAILED
    assert "this machine itself" in launched.status().message
    assert not server.requests


def test_a_download_in_progress_ends_with_the_attempt(server: FileServer, launched: Launched) -> None:
    server.answers = [Answer(), Answer(only=1000, hold=True, ranges=False)]
    worker = attempt(launched, f"{server.url}/data.bin")
    wait_until(lambda: len(server.requests) >= 2, "the file is being downloaded")
    launched.cancel()
    worker.wait(60)
    assert (launched.status().cause, launched.output()) == (Cause.CANCELLED, b"")


def test_a_data_set_says_what_it_downloads() -> None:
    names = {"a.gz": "1" * 64, "b.gz": "2" * 64}
    assert [file.url for file in downloads_of({"url": "https://h/x/?key=1", "sha256": names})] == [
        "https://h/x/a.gz?key=1",
        "https://h/x/b.gz?key=1",
    ]
    assert [file.name for file in MnistData(dataset="mnist").downloads()] == list(MnistData(dataset="mnist").sha256)
    assert [file.most_bytes for file in TextData(dataset="text", url="https://h/a.txt", sha256=SUM).downloads()] == [1 << 30]
    for nothing in (None, {}, {"url": None}, {"url": "https://h/x", "sha256": None}, {"path": "x", "url": "https://h/x", "sha256": SUM}):
        assert downloads_of(nothing) == []


def test_data_is_at_its_path_or_at_its_download(tmp_path: Path) -> None:
    assert TextData(dataset="text", path="a.txt").source_at(tmp_path / "a.txt") == tmp_path / "a.txt"
    text = TextData(dataset="text", url="https://h/a.txt", sha256=SUM)
    assert text.source_at(tmp_path) == tmp_path / "downloads" / f"{SUM[:16]}-a.txt"
    with pytest.raises(FieldError, match="the source is missing"):
        SequencesData(dataset="sequences").source_at(tmp_path)

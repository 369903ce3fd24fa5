"""Uploads and downloads: what arrives, what is noticed on the way, and what is left behind."""

import hashlib
import os
import random
import threading
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import pytest

from cloud_train.errors import CorruptError, StoreError
from cloud_train.retry import RetryPolicy
from cloud_train.storage.base import Store
from cloud_train.storage.retrying import RetryingStore
from cloud_train.storage.transfer import engine
from cloud_train.storage.transfer.downloading import Download, download
from cloud_train.storage.transfer.engine import Options
from cloud_train.storage.transfer.progress import Progress
from cloud_train.storage.transfer.uploading import Upload, upload
from tests.storage.memory_store import FaultyStore, MemoryStore
from tests.support import wait_until

SIZES = {"empty": 0, "small": 10, "two parts": 2000, "large": 4001, "exact": 5000}


@pytest.fixture
def options(tmp_path: Path) -> Options:
    return Options(threads=4, part_bytes=1000, state=tmp_path / "state")


def bytes_of(seed: int | str, size: int) -> bytes:
    return random.Random(seed).randbytes(size)


def file_of(folder: Path, name: str, size: int) -> Path:
    path = folder / name
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(bytes_of(name, size))
    return path


def left_over(folder: Path) -> list[str]:
    return [path.name for path in folder.rglob(".cloud-train-*")]


@pytest.mark.parametrize("in_order", [False, True])
def test_files_of_every_size_arrive_as_they_were(in_order: bool, tmp_path: Path, options: Options) -> None:
    store = MemoryStore(in_order=in_order)
    sent = upload(store, [Upload(file_of(tmp_path / "from", name, size), f"x/{name}") for name, size in SIZES.items()], options)
    assert (sent.files, sent.bytes) == (len(SIZES), sum(SIZES.values()))
    fetched = download(store, [Download(f"x/{name}", tmp_path / "to" / name, size) for name, size in SIZES.items()], options)
    assert (fetched.files, fetched.bytes, fetched.unverified) == (len(SIZES), sum(SIZES.values()), ())
    assert {path.name: path.read_bytes() for path in (tmp_path / "to").iterdir()} == {name: bytes_of(name, SIZES[name]) for name in SIZES}
    assert not left_over(tmp_path)
    assert not (tmp_path / "state").exists()


def test_on_every_kind_of_store_files_go_up_and_come_down(store: Store, tmp_path: Path) -> None:
    options = Options(state=tmp_path / "state")
    small, large = file_of(tmp_path / "from", "small", 1000), file_of(tmp_path / "from", "large", (17 << 20) + 5)
    summary = upload(store, [Upload(small, "a/small"), Upload(large, "a/large")], options)
    assert (summary.files, summary.bytes) == (2, 1000 + (17 << 20) + 5)
    download(store, [Download(f"a/{path.name}", tmp_path / "to" / path.name, path.stat().st_size) for path in (small, large)], options)
    for path in (small, large):
        assert (tmp_path / "to" / path.name).read_bytes() == path.read_bytes()
    assert not left_over(tmp_path / "to")


def test_how_a_store_takes_large_files_is_asked_only_where_one_goes_up(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    store, options = MemoryStore(), Options(state=tmp_path / "state")
    monkeypatch.setattr(store, "multipart", lambda: pytest.fail("for some stores that loads an SDK"))
    store.place("large", bytes(17 << 20))
    upload(store, [Upload(file_of(tmp_path, "small", 1000), "small")], options)
    sizes = {"small": 1000, "large": 17 << 20}
    assert download(store, [Download(name, tmp_path / "to" / name, size) for name, size in sizes.items()], options).files == 2


def test_a_large_object_carries_the_sha256_of_the_whole(tmp_path: Path, options: Options) -> None:
    store = MemoryStore()
    upload(store, [Upload(file_of(tmp_path, "large", 5000), "large")], options)
    assert store.stat("large").sha256 == hashlib.sha256(bytes_of("large", 5000)).hexdigest()


@pytest.mark.parametrize("size", [10, 5000])
def test_an_upload_that_is_acknowledged_but_lost_is_noticed_and_sent_again(size: int, tmp_path: Path, options: Options) -> None:
    store = MemoryStore()
    lost: list[str] = []

    def lose_the_first(name: str, key: str) -> None:
        if name == "stat" and not lost:
            lost.append(key)
            del store.objects[key]

    store.before = lose_the_first
    summary = upload(store, [Upload(file_of(tmp_path, "file", size), "file")], options)
    assert (lost, summary.files, store.objects["file"][0]) == (["file"], 1, bytes_of("file", size))


@pytest.mark.parametrize("size", [10, 5000])
def test_an_upload_that_is_lost_each_time_is_an_error(size: int, tmp_path: Path, options: Options) -> None:
    store = MemoryStore()
    store.before = lambda name, key: store.objects.clear() if name == "stat" else None
    with pytest.raises(StoreError, match=r"memory://store/file was written, but was missing .* \(3 times\)"):
        upload(store, [Upload(file_of(tmp_path, "file", size), "file")], options)
    assert store.asked("put", "finish") == 3


def test_an_upload_of_which_a_part_is_acknowledged_but_lost_is_sent_again(tmp_path: Path, options: Options) -> None:
    store = MemoryStore()
    broken: list[str] = []

    def lose_a_part(name: str, key: str) -> None:
        if name == "finish" and not broken:
            broken.append(key)
            (upload_in_progress,) = store.uploads.values()
            del upload_in_progress[2][3]

    store.before = lose_a_part
    upload(store, [Upload(file_of(tmp_path, "file", 5000), "file")], options)
    assert (store.objects["file"][0], store.asked("send"), store.asked("begin"), store.uploads) == (bytes_of("file", 5000), 10, 2, {})


@pytest.mark.parametrize("size", [10, 5000])
def test_a_file_that_changes_while_it_is_sent_is_begun_again(size: int, tmp_path: Path, options: Options) -> None:
    path = file_of(tmp_path, "file", size)
    store = MemoryStore()

    def write_anew(name: str, key: str) -> None:
        if name in ("send", "put") and store.asked("send", "put") == 1:
            path.write_bytes(b"y" * size)

    store.before = write_anew
    upload(store, [Upload(path, "file")], options)
    data, info = store.objects["file"]
    assert info.sha256 == hashlib.sha256(data).hexdigest()
    if size > 1000:  # a small one was read before it was sent: it is what the file was at that time
        assert data == b"y" * size


def test_a_file_that_never_stops_changing_is_an_error_and_no_object(tmp_path: Path, options: Options) -> None:
    path = file_of(tmp_path, "file", 5000)

    def write_anew(name: str, key: str) -> None:
        if name == "send":
            path.write_bytes(os.urandom(5000))

    store = MemoryStore(before=write_anew)
    with pytest.raises(StoreError, match="file changed while being read"):
        upload(store, [Upload(path, "file")], options)
    assert (store.objects, store.uploads) == ({}, {})


@pytest.mark.parametrize("size", [10, 5000])
def test_a_file_that_is_not_what_its_manifest_says_is_refused(size: int, tmp_path: Path, options: Options) -> None:
    store = MemoryStore()
    with pytest.raises(CorruptError, match=r"checksum mismatch for .*: expected the SHA-256"):
        upload(store, [Upload(file_of(tmp_path, "file", size), "file", "0" * 64)], options)
    assert (store.objects, store.uploads) == ({}, {})


def test_a_store_that_does_not_answer_does_not_delay_the_end_of_an_upload(
    tmp_path: Path, options: Options, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(engine, "_ABORT_SECONDS", 0.01)
    answers = threading.Event()

    def fail(name: str, key: str) -> None:
        if name == "finish":
            raise StoreError("no")
        if name == "abort":
            answers.wait(60)

    store = MemoryStore(before=fail)
    with pytest.raises(StoreError, match="no"):
        upload(store, [Upload(file_of(tmp_path, "file", 10_000), "file")], options)
    assert store.uploads
    answers.set()
    wait_until(lambda: not store.uploads, "it is aborted later")


def test_an_upload_that_failed_is_aborted_and_sent_again_from_the_beginning(tmp_path: Path, options: Options) -> None:
    path = file_of(tmp_path, "file", 10_000)

    def fail(name: str, key: str) -> None:
        if name == "finish":
            raise StoreError("no")

    store = MemoryStore(before=fail)
    with pytest.raises(StoreError, match="no"):
        upload(store, [Upload(path, "file")], options)
    assert store.uploads == {}, "its parts would be charged for"
    path.write_bytes(bytes_of("other", 10_000))
    store.before = lambda name, key: None
    assert upload(store, [Upload(path, "file")], options).resumed_parts == 0
    assert (store.objects["file"][0], store.uploads) == (bytes_of("other", 10_000), {})


@pytest.mark.parametrize("has_sha256", [True, False])
def test_a_download_goes_on_where_it_failed(has_sha256: bool, tmp_path: Path, options: Options) -> None:
    store = MemoryStore()
    store.place("file", bytes_of("file", 10_000), "" if has_sha256 else None)

    def fail_at_the_seventh(name: str, key: str) -> None:
        if store.asked("get") == 7:
            raise StoreError("the network went away")

    store.before = fail_at_the_seventh
    target = Download("file", tmp_path / "to" / "file", 10_000)
    with pytest.raises(StoreError, match="went away"):
        download(store, [target], replace(options, threads=1))
    assert not target.path.exists()
    store.before = lambda name, key: None
    store.calls.clear()
    summary = download(store, [target], options)
    assert summary.resumed_parts + store.asked("get") == 10
    assert summary.resumed_parts >= 6
    assert summary.unverified == (() if has_sha256 else ("file",))
    assert target.path.read_bytes() == bytes_of("file", 10_000)
    assert not left_over(tmp_path)


@pytest.mark.parametrize("has_sha256", [True, False])
def test_what_a_crash_left_behind_is_not_trusted(has_sha256: bool, tmp_path: Path, options: Options) -> None:
    store = MemoryStore(before=lambda name, key: None)
    store.place("file", bytes_of("file", 10_000), "" if has_sha256 else None)

    def fail_at_the_seventh(name: str, key: str) -> None:
        if store.asked("get") == 7:
            raise StoreError("the network went away")

    store.before = fail_at_the_seventh
    target = Download("file", tmp_path / "to" / "file", 10_000)
    with pytest.raises(StoreError, match="went away"):
        download(store, [target], replace(options, threads=1))
    (partial,) = target.path.parent.glob("*.partial")
    with partial.open("r+b") as file:
        file.seek(2500)
        file.write(b"damage")
    store.before = lambda name, key: None
    download(store, [target], options)
    assert target.path.read_bytes() == bytes_of("file", 10_000)


def test_an_object_that_is_replaced_in_the_middle_is_begun_again(tmp_path: Path, options: Options) -> None:
    store = MemoryStore()
    store.place("file", bytes_of("old", 10_000))
    store.before = lambda name, key: store.place("file", bytes_of("new", 9_000)) if store.asked("get") == 5 else None
    download(store, [Download("file", tmp_path / "file", 10_000)], replace(options, threads=1))
    assert (tmp_path / "file").read_bytes() == bytes_of("new", 9_000)


def test_an_object_that_never_stops_changing_is_an_error_and_no_file(tmp_path: Path, options: Options) -> None:
    store = MemoryStore()
    store.place("file", bytes_of("file", 5000))
    store.before = lambda name, key: store.place("file", os.urandom(5000)) if name == "get" else None
    with pytest.raises(StoreError, match="3 times"):
        download(store, [Download("file", tmp_path / "file", 5000)], options)
    assert not (tmp_path / "file").exists()


@pytest.mark.parametrize("size", [10, 5000])
def test_a_damaged_object_is_fetched_twice_and_never_shown(size: int, tmp_path: Path, options: Options) -> None:
    store = MemoryStore()
    store.place("file", bytes_of("file", size), "0" * 64)
    (tmp_path / "file").write_text("what was there before")
    with pytest.raises(CorruptError, match="checksum mismatch for memory://store/file"):
        download(store, [Download("file", tmp_path / "file", size)], options)
    assert (tmp_path / "file").read_text() == "what was there before"
    assert store.asked("get", "read") == 2 * max(1, size // 1000)
    assert not left_over(tmp_path)


def test_the_sha256_of_a_manifest_counts_for_more_than_that_of_the_object(tmp_path: Path, options: Options) -> None:
    store = MemoryStore()
    store.place("file", b"not what the manifest says")
    with pytest.raises(CorruptError):
        download(store, [Download("file", tmp_path / "file", 26, sha256=hashlib.sha256(b"else").hexdigest())], options)


def test_after_an_error_nothing_more_begins(tmp_path: Path, options: Options) -> None:
    store = MemoryStore()
    files = [Download(f"{number:03}", tmp_path / f"{number}", 1) for number in range(500)]  # none of them exists
    with pytest.raises(StoreError, match="there is no 0"):
        download(store, files, options)
    assert store.asked("stat") <= 10


def test_a_file_that_cannot_be_read_is_named(tmp_path: Path, options: Options) -> None:
    with pytest.raises(StoreError, match=r"cannot read .*nothing: no such file"):
        upload(MemoryStore(), [Upload(tmp_path / "nothing", "x")], options)


def test_progress_ends_with_everything_done_and_counts_no_resumed_part_as_moved(tmp_path: Path, options: Options) -> None:
    seen: list[Progress] = []
    store = MemoryStore()
    upload(store, [Upload(file_of(tmp_path, name, size), name) for name, size in SIZES.items()], replace(options, report=seen.append))
    last = seen[-1]
    assert (last.files_done, last.files, last.bytes_done, last.bytes) == (len(SIZES), len(SIZES), sum(SIZES.values()), sum(SIZES.values()))


def test_the_time_limit_ends_a_transfer_and_the_next_call_goes_on(tmp_path: Path, options: Options) -> None:
    now = [0.0]
    store = MemoryStore(before=lambda name, key: now.__setitem__(0, now[0] + 1))
    files = [Upload(file_of(tmp_path, f"{number}", 10), f"{number}") for number in range(50)]
    with pytest.raises(StoreError, match="not finished within the time limit of 20 s"):
        upload(store, files, replace(options, time_limit=20, clock=lambda: now[0]))
    assert 0 < len(store.objects) < 50
    upload(store, files, options)
    assert len(store.objects) == 50


def test_parts_in_flight_stay_within_the_memory_that_was_allowed(tmp_path: Path, options: Options) -> None:
    in_flight: list[int] = []
    most: list[int] = []

    class Watched(MemoryStore):
        def pieces(self, key: str, start: int, end: int | None, *, version: str | None = None) -> Iterator[bytes]:
            in_flight.append(1)
            most.append(len(in_flight))
            yield from super().pieces(key, start, end, version=version)
            in_flight.pop()

    store = Watched()
    store.place("file", bytes_of("file", 100_000))
    download(store, [Download("file", tmp_path / "file", 100_000)], replace(options, threads=16, memory_bytes=6000))
    assert max(most) <= 6


def test_through_200_seeds_of_faults_nothing_corrupt_is_ever_visible(tmp_path: Path) -> None:
    arrived = 0
    for seed in range(200):
        policy = RetryPolicy(sleep=lambda seconds: None)
        memory = MemoryStore(in_order=seed % 2 == 0)
        faulty = FaultyStore(memory, seed, 0.04)
        folder = tmp_path / f"{seed}"
        arrived += _there_and_back(RetryingStore(faulty, policy), folder, Options(threads=3, part_bytes=100, state=folder / "state"))
        for key, (data, _) in memory.objects.items():
            assert data == bytes_of(key, len(data)), f"seed {seed}: {key}"
        assert memory.asked("send") <= 8 + 5 + faulty.faults, "at most one part more for each fault"
    assert arrived > 190


def _there_and_back(store: Store, folder: Path, options: Options) -> bool:
    sizes = {"a": 50, "b": 790, "c": 451, "d": 0}
    try:
        upload(store, [Upload(file_of(folder / "from", name, size), name) for name, size in sizes.items()], options)
        download(store, [Download(name, folder / "to" / name, size) for name, size in sizes.items()], options)
    except (StoreError, CorruptError):
        return False
    finally:
        for path in (folder / "to").glob("[!.]*"):
            assert path.read_bytes() == bytes_of(path.name, sizes[path.name])
    return True


@pytest.mark.parametrize("in_order", [False, True])
def test_a_file_that_becomes_shorter_while_it_is_sent_is_begun_again(in_order: bool, tmp_path: Path, options: Options) -> None:
    path = file_of(tmp_path, "file", 5000)
    store = MemoryStore(in_order=in_order)

    def cut_off(name: str, key: str) -> None:
        if name == "send" and store.asked("send") == 2:
            path.write_bytes(bytes_of("file", 5000)[:3500])

    store.before = cut_off
    upload(store, [Upload(path, "file")], replace(options, threads=1))
    assert store.objects["file"][0] == bytes_of("file", 5000)[:3500]
    assert not store.uploads

"""Downloads: where they continue, what is noticed on the way, and what is left behind."""

import hashlib
import os
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import pytest

from cloud_train.errors import CorruptError, StoreError
from cloud_train.storage.transfer.downloading import Download, download
from cloud_train.storage.transfer.engine import Options
from cloud_train.storage.transfer.progress import Progress
from cloud_train.storage.transfer.uploading import Upload, upload
from tests.storage.memory_store import MemoryStore
from tests.storage.transfer.files import SIZES, bytes_of, file_of, left_over


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

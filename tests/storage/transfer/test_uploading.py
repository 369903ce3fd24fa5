"""Uploads: what arrives, what is noticed on the way, and what is left behind."""

import hashlib
import os
import threading
from dataclasses import replace
from pathlib import Path

import pytest

from cloud_train.errors import CorruptError, StoreError
from cloud_train.storage.transfer import engine
from cloud_train.storage.transfer.downloading import Download, download
from cloud_train.storage.transfer.engine import Options
from cloud_train.storage.transfer.uploading import Upload, upload
from tests.storage.memory_store import MemoryStore
from tests.storage.transfer.files import bytes_of, file_of
from tests.support import wait_until


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


def test_a_file_that_cannot_be_read_is_named(tmp_path: Path, options: Options) -> None:
    with pytest.raises(StoreError, match=r"cannot read .*nothing: no such file"):
        upload(MemoryStore(), [Upload(tmp_path / "nothing", "x")], options)


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

"""Whole folders: what is compared, what moves, and what must not get out of the folder."""

import os
import shutil
from dataclasses import replace
from pathlib import Path

import pytest

from cloud_train.errors import StoreError
from cloud_train.storage.base import ObjectInfo, Store
from cloud_train.storage.transfer.engine import Options
from cloud_train.storage.transfer.folders import download_folder
from cloud_train.storage.transfer.uploading import Upload, upload
from tests.storage.memory_store import MemoryStore
from tests.stores import StoreServer

READS = ("get", "read")


@pytest.fixture
def options(tmp_path: Path) -> Options:
    return Options(threads=4, part_bytes=1000, state=tmp_path / "state")


@pytest.fixture
def tree(tmp_path: Path) -> Path:
    """Thirty small files and a large one."""
    folder = tmp_path / "tree"
    for number in range(30):
        path = folder / f"{number % 3}" / f"{number}.txt"
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(f"file {number:02}")
    (folder / "large").write_bytes(os.urandom(4500))
    return folder


def send(store: Store, tree: Path, options: Options) -> None:
    """Upload the tree under ``x/``."""
    files = sorted(path for path in tree.rglob("*") if path.is_file())
    upload(store, [Upload(path, f"x/{path.relative_to(tree).as_posix()}") for path in files], options)


def content(folder: Path) -> dict[str, bytes]:
    return {path.relative_to(folder).as_posix(): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


def test_a_folder_goes_up_and_comes_down(tree: Path, tmp_path: Path, options: Options) -> None:
    store = MemoryStore()
    send(store, tree, options)
    assert {key: data for key, (data, _) in store.objects.items()} == {f"x/{path}": data for path, data in content(tree).items()}
    assert download_folder(store, "x/", tmp_path / "copy", options).files == 31
    assert content(tmp_path / "copy") == content(tree)


def test_on_every_kind_of_store_a_folder_goes_up_and_comes_down(store: Store, tree: Path, tmp_path: Path) -> None:
    options = Options(state=tmp_path / "state")
    send(store, tree, options)
    assert download_folder(store, "x/", tmp_path / "copy", options).files == 31
    assert content(tmp_path / "copy") == content(tree)
    assert download_folder(store, "x/", tmp_path / "copy", options).unchanged == 31


def test_an_unchanged_folder_costs_one_listing_and_nothing_else(tree: Path, tmp_path: Path, options: Options) -> None:
    store = MemoryStore()
    send(store, tree, options)
    copy = tmp_path / "copy"
    download_folder(store, "x/", copy, options)
    download_folder(store, "x/", copy, options)  # files whose times were too fresh to show a change are known for certain after this
    store.calls.clear()
    assert download_folder(store, "x/", copy, options).unchanged == 31
    assert store.calls == [("list", "x/")]


def test_only_what_changed_moves(tree: Path, tmp_path: Path, options: Options) -> None:
    store, copy = MemoryStore(), tmp_path / "copy"
    send(store, tree, options)
    download_folder(store, "x/", copy, options)
    (tree / "1" / "7.txt").write_text("longer than it was")
    store.put("x/1/7.txt", (tree / "1" / "7.txt").read_bytes())
    store.calls.clear()
    assert download_folder(store, "x/", copy, options).files == 1
    assert store.asked(*READS) == 1
    assert content(copy) == content(tree)


@pytest.mark.parametrize("shift_seconds", [-3600, 0, 3600])
def test_neither_equal_sizes_nor_any_clock_hide_a_change(shift_seconds: int, tree: Path, tmp_path: Path, options: Options) -> None:
    store, copy = MemoryStore(), tmp_path / "copy"
    send(store, tree, options)
    download_folder(store, "x/", copy, options)
    path = copy / "1" / "7.txt"
    before = path.stat()
    path.write_text("FILE 01")
    moment = before.st_mtime_ns + shift_seconds * 10**9
    os.utime(path, ns=(moment, moment))
    assert download_folder(store, "x/", copy, options).files == 1
    assert path.read_text() == "file 07"
    store.place("x/1/7.txt", b"FILE 99")
    assert download_folder(store, "x/", copy, options).files == 1
    assert path.read_text() == "FILE 99"


def test_a_change_within_the_same_tick_of_the_clock_is_found(tree: Path, tmp_path: Path, options: Options) -> None:
    store, copy = MemoryStore(), tmp_path / "copy"
    send(store, tree, options)
    for round_number in range(20):
        download_folder(store, "x/", copy, options)
        assert content(copy) == content(tree)
        for number in range(30):
            (copy / f"{number % 3}" / f"{number}.txt").write_text(f"{round_number:04}{number:03}")


def test_a_tree_that_nothing_is_remembered_of_is_compared_by_sha256(tree: Path, tmp_path: Path, options: Options) -> None:
    store = MemoryStore()
    send(store, tree, options)
    copied = shutil.copytree(tree, tmp_path / "copy")
    store.calls.clear()
    summary = download_folder(store, "x/", copied, options)
    assert (summary.files, summary.unchanged, store.asked(*READS), store.asked("stat")) == (0, 31, 0, 31)


@pytest.mark.parametrize("damage", ["", "[]", "{", '{"format": 1, "files": {"x/1/7.txt": [1]}}', '{"format": 99, "files": {}}'])
def test_a_damaged_memory_only_costs_a_comparison(damage: str, tree: Path, tmp_path: Path, options: Options) -> None:
    store, copy = MemoryStore(), tmp_path / "copy"
    send(store, tree, options)
    download_folder(store, "x/", copy, options)
    (memory,) = (tmp_path / "state").iterdir()
    memory.write_text(damage)
    assert download_folder(store, "x/", copy, options).unchanged == 31


def test_objects_without_a_sha256_are_fetched_remembered_and_said(tmp_path: Path, options: Options) -> None:
    store = MemoryStore()
    store.place("x/a", b"somebody else's", None)
    (tmp_path / "copy").mkdir()
    (tmp_path / "copy" / "a").write_bytes(b"15 other bytes!")
    assert download_folder(store, "x/", tmp_path / "copy", options).unverified == ("x/a",)
    assert (tmp_path / "copy" / "a").read_bytes() == b"somebody else's"


def test_what_an_interrupted_call_did_is_not_done_again(tree: Path, tmp_path: Path, options: Options) -> None:
    store, copy = MemoryStore(), tmp_path / "copy"
    send(store, tree, options)
    store.calls.clear()

    def fail(name: str, key: str) -> None:
        if store.asked(*READS) == 20:
            raise StoreError("the network went away")

    store.before = fail
    with pytest.raises(StoreError, match="went away"):
        download_folder(store, "x/", copy, options)
    store.before = lambda name, key: None
    there = len(content(copy))
    assert 0 < there < 31
    summary = download_folder(store, "x/", copy, options)
    assert (summary.files, summary.unchanged) == (31 - there, there)


BAD = ["../../escaped", "/escaped", "a//b", "a/../../escaped", "bell\a", "back\\slash", "marker/", "a/.cloud-train-x"]


def test_no_key_leads_out_of_the_folder_and_each_that_would_is_said(tmp_path: Path, options: Options) -> None:
    store = MemoryStore()
    for key in [*BAD, "good"]:
        store.place(f"x/{key}", b"content")
    summary = download_folder(store, "x/", tmp_path / "deep" / "er" / "copy", options)
    assert [key for key, _ in summary.skipped] == sorted(f"x/{key}" for key in BAD)
    assert content(tmp_path / "deep") == {"er/copy/good": b"content"}


def test_on_real_servers_no_key_leads_out_of_the_folder(store_server: StoreServer, tmp_path: Path) -> None:
    from cloud_train.storage.registry import open_store

    bucket = store_server.new_url()
    for key in ["x/good", "x/../../escaped", "x/marker/", "x/a//b", "x/Case", "x/case"]:
        store_server.put_raw(bucket, key, b"" if key.endswith("/") else b"content")
    summary = download_folder(open_store(bucket), "x/", tmp_path / "deep" / "copy", Options(state=tmp_path / "state"))
    assert {key for key, _ in summary.skipped} == {"x/../../escaped", "x/marker/", "x/a//b"}
    assert content(tmp_path / "deep") == dict.fromkeys(["copy/good", "copy/Case", "copy/case"], b"content")


def test_no_link_inside_the_folder_is_written_through(tmp_path: Path, options: Options) -> None:
    store, copy, outside = MemoryStore(), tmp_path / "copy", tmp_path / "outside"
    copy.mkdir()
    outside.mkdir()
    (outside / "victim").write_text("victim")
    (copy / "folder").symlink_to(outside)
    (copy / "file").symlink_to(outside / "victim")
    store.place("x/folder/victim", b"attack")
    store.place("x/folder/large", b"attack" * 1000)
    store.place("x/file", b"attack")
    summary = download_folder(store, "x/", copy, options)
    assert [key for key, _ in summary.skipped] == ["x/folder/large", "x/folder/victim"]
    assert content(outside) == {"victim": b"victim"}
    assert not (copy / "file").is_symlink()
    assert (copy / "file").read_bytes() == b"attack"


@pytest.mark.parametrize("size", [5, 5000])
def test_a_folder_in_the_place_of_a_file_is_left_alone_and_said(size: int, tmp_path: Path, options: Options) -> None:
    store = MemoryStore()
    store.place("x/a", b"a" * size)
    (tmp_path / "copy" / "a").mkdir(parents=True)
    ((key, reason),) = download_folder(store, "x/", tmp_path / "copy", options).skipped
    assert key == "x/a"
    assert reason.startswith("a folder ")
    assert reason.endswith("is in the way")
    assert [path.name for path in (tmp_path / "copy").iterdir()] == ["a"]


def test_nothing_is_deleted_on_either_side(tree: Path, tmp_path: Path, options: Options) -> None:
    store = MemoryStore()
    store.place("x/theirs", b"theirs")
    send(store, tree, options)
    assert "x/theirs" in store.objects
    (tmp_path / "copy").mkdir()
    (tmp_path / "copy" / "mine").write_text("mine")
    download_folder(store, "x/", tmp_path / "copy", options)
    assert (tmp_path / "copy" / "mine").read_text() == "mine"


def test_an_object_that_is_gone_since_it_was_listed_is_said(tmp_path: Path, options: Options) -> None:
    store = MemoryStore()
    for key, size in (("a", 5), ("large", 5000), ("stays", 5)):
        store.place(f"x/{key}", b"a" * size)

    def delete_in_time(name: str, key: str) -> None:
        if name in ("stat", "read") and key != "x/stays":
            del store.objects[key]

    store.before = delete_in_time
    summary = download_folder(store, "x/", tmp_path / "copy", options)
    assert (summary.files, [key for key, _ in summary.skipped]) == (1, ["x/a", "x/large"])


def test_a_folder_that_is_taken_away_in_the_middle_is_made_again(tmp_path: Path, options: Options) -> None:
    target = tmp_path / "target"

    class Removing(MemoryStore):
        def read(self, key: str, end: int | None = None) -> tuple[ObjectInfo, bytes]:
            if key.endswith("/other"):  # the second of its folder
                shutil.rmtree(target / key.split("/", maxsplit=1)[0])
            return super().read(key, end)

    store = Removing()
    for key in ("0/file", "0/other", "1/file", "1/other"):
        store.put(key, b"x")
    download_folder(store, "", target, replace(options, threads=1))
    assert sorted(content(target)) == ["0/other", "1/other"]

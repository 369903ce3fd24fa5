"""Small files, written whole by several threads."""

import errno
import os
import threading
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from cloud_train.storage.base import InvalidKeyError
from cloud_train.storage.transfer.local_files import SmallFiles


def open_folders() -> list[str]:
    links = (entry.readlink() for entry in Path("/proc/self/fd").iterdir() if entry.is_symlink())
    return sorted(str(link) for link in links if link.is_dir())


def test_each_thread_holds_one_folder_open_and_none_is_left_at_the_end(tmp_path: Path) -> None:
    before, files, together = open_folders(), SmallFiles(), threading.Barrier(3)

    def write(name: str) -> None:
        for number, below in enumerate(((name, "x"), (name, "x"), (name,))):
            status = files.write(tmp_path, below, f"file-{number}", b"x" * number, durable=False)
            assert status.st_size == number
        together.wait()
        together.wait()

    with ThreadPoolExecutor(2) as pool:
        written = [pool.submit(write, name) for name in ("a", "b")]
        together.wait()
        assert open_folders() == sorted([*before, str(tmp_path / "a"), str(tmp_path / "b")])
        files.close()
        together.wait()
        for each in written:
            each.result()
    assert open_folders() == before
    found = sorted(str(path.relative_to(tmp_path)) for path in tmp_path.rglob("*") if path.is_file())
    assert found == ["a/file-2", "a/x/file-0", "a/x/file-1", "b/file-2", "b/x/file-0", "b/x/file-1"]


def test_many_threads_write_into_one_folder_without_taking_each_others_names(tmp_path: Path) -> None:
    files = SmallFiles()
    with ThreadPoolExecutor(8) as pool:
        list(pool.map(lambda number: files.write(tmp_path, (), f"{number}", b"%d" % number, durable=False), range(400)))
    files.close()
    assert {path.name: path.read_text() for path in tmp_path.iterdir()} == {f"{number}": f"{number}" for number in range(400)}


def test_a_write_in_pieces_arrives_whole(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    write = os.write
    monkeypatch.setattr(os, "write", lambda descriptor, data: write(descriptor, memoryview(data)[:7]))
    SmallFiles().write(tmp_path, (), "file", bytes(range(100)), durable=True)
    assert (tmp_path / "file").read_bytes() == bytes(range(100))


def test_what_cannot_be_written_leaves_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "taken").mkdir()
    files = SmallFiles()
    with pytest.raises(InvalidKeyError, match="a folder named 'taken' is in the way"):
        files.write(tmp_path, (), "taken", b"x", durable=False)

    def full(*_: object) -> int:
        raise OSError(errno.ENOSPC, "no space")

    monkeypatch.setattr(os, "write", full)
    with pytest.raises(OSError, match="no space"):
        files.write(tmp_path, (), "file", b"x", durable=False)
    assert [path.name for path in tmp_path.iterdir()] == ["taken"]

"""Archives as folders: whole, once, and nowhere else."""

import io
import os
import stat
import subprocess
import tarfile
import threading
import zipfile
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from cloud_train.errors import CorruptError, StoreError
from cloud_train.training.data import unpack
from cloud_train.training.data.unpack import unpacked
from tests.web_server import sha256
from tests.worker.small_disk import small_disk

FILES = {"images/train/cat/1.jpg": b"one", "images/train/dog/2.jpg": bytes(100_000), "images/empty": b""}
MODES = ("w:", "w:gz", "zip")
Members = dict[str, bytes]
Change = Callable[[tarfile.TarInfo], None]


def pack(path: Path, mode: str, files: Members) -> Path:
    """An archive of ``files``; a name that ends with ``/`` is a folder."""
    if mode == "zip":
        with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as archive:
            for name, content in files.items():
                archive.writestr(name, content)
        return path
    with tarfile.open(path, mode) as archive:  # type: ignore[call-overload]  # a mode of MODES
        for name, content in files.items():
            add(archive, name, content)
    return path


def add(archive: tarfile.TarFile, name: str, content: bytes = b"", kind: bytes = tarfile.REGTYPE, link: str = "") -> None:
    info = tarfile.TarInfo(name.rstrip("/"))
    info.type, info.size, info.linkname = tarfile.DIRTYPE if name.endswith("/") else kind, len(content), link
    archive.addfile(info, io.BytesIO(content))


def unpack_it(archive: Path, cache: Path) -> Path:
    return unpacked(archive, sha256(archive.read_bytes()), cache)


def contents(folder: Path) -> Members:
    return {path.relative_to(folder).as_posix(): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


def refused(archive: Path, cache: Path, match: str) -> None:
    """The archive is refused, and nothing of it is left, inside the cache or elsewhere."""
    before = set(cache.parent.rglob("*"))
    with pytest.raises(CorruptError, match=match) as caught:
        unpack_it(archive, cache)
    assert str(archive) in caught.value.message
    assert caught.value.hint
    left = set(cache.parent.rglob("*")) - before
    assert {path.suffix for path in left if path.is_file()} == {".lock"}


@pytest.mark.parametrize("mode", MODES)
def test_an_archive_is_unpacked_once_whatever_its_name(tmp_path: Path, mode: str, capsys: pytest.CaptureFixture[str]) -> None:
    archive = pack(tmp_path / "data.bin", mode, FILES)
    folder = unpack_it(archive, tmp_path)
    assert folder == tmp_path / "unpacked" / sha256(archive.read_bytes())[:16] / "images"
    assert contents(folder.parent) == FILES
    assert "unpacked 3 files of data.bin" in capsys.readouterr().out
    assert unpack_it(archive, tmp_path) == folder
    assert capsys.readouterr().out == ""
    (folder / "empty").write_bytes(b"changed")
    assert unpack_it(archive, tmp_path) == folder
    assert (folder / "empty").read_bytes() == b""


@pytest.mark.parametrize("mode", MODES)
def test_more_than_one_thing_at_the_top_is_a_folder_of_them(tmp_path: Path, mode: str) -> None:
    archive = pack(tmp_path / "data", mode, {"./train/1": b"one", "val/": b"", "./val/2": b"two"})
    folder = unpack_it(archive, tmp_path)
    assert folder.parent == tmp_path / "unpacked"
    assert contents(folder) == {"train/1": b"one", "val/2": b"two"}


@pytest.mark.parametrize("mode", MODES)
def test_a_single_file_is_in_a_folder(tmp_path: Path, mode: str) -> None:
    assert contents(unpack_it(pack(tmp_path / "data", mode, {"only": b"one"}), tmp_path)) == {"only": b"one"}


@pytest.mark.parametrize("mode", MODES)
def test_what_macos_adds_is_left_out(tmp_path: Path, mode: str) -> None:
    extras = {"__MACOSX/images/train/cat/._1.jpg": b"x", "images/train/._cat": b"x", "images/.DS_Store": b"x"}
    folder = unpack_it(pack(tmp_path / "data", mode, {**extras, **FILES}), tmp_path)
    assert contents(folder.parent) == FILES


@pytest.mark.parametrize("mode", MODES)
@pytest.mark.parametrize("name", ["../outside", "images/../../outside", "/outside", "..", "a\\..\\b", "./"])
def test_a_member_that_would_lie_elsewhere_is_refused(tmp_path: Path, mode: str, name: str) -> None:
    if mode == "zip":
        archive = pack(tmp_path / "data", mode, {"first": b"1", name.rstrip("/") or name: b"x"})
    else:
        archive = pack(tmp_path / "data", mode, {"first": b"1"})
        with tarfile.open(archive, mode) as file:  # type: ignore[call-overload]  # a mode of MODES
            info = tarfile.TarInfo(name)
            info.size = 1
            file.addfile(info, io.BytesIO(b"x"))
    (tmp_path / "cache").mkdir()
    refused(archive, tmp_path / "cache", "leads outside the archive")


@pytest.mark.parametrize("kind", [tarfile.SYMTYPE, tarfile.LNKTYPE, tarfile.CHRTYPE, tarfile.BLKTYPE, tarfile.FIFOTYPE])
def test_links_and_devices_of_a_tar_are_refused(tmp_path: Path, kind: bytes) -> None:
    with tarfile.open(tmp_path / "data.tar", "w") as archive:
        add(archive, "folder/link", kind=kind, link="/etc")
    (tmp_path / "cache").mkdir()
    refused(tmp_path / "data.tar", tmp_path / "cache", "member 'folder/link' is a link or a device")


@pytest.mark.parametrize("kind", [stat.S_IFLNK, stat.S_IFIFO, stat.S_IFCHR])
def test_links_and_devices_of_a_zip_are_refused(tmp_path: Path, kind: int) -> None:
    info = zipfile.ZipInfo("link")
    info.external_attr = (kind | 0o777) << 16
    with zipfile.ZipFile(tmp_path / "data.zip", "w") as archive:
        archive.writestr(info, "/etc/passwd")
    (tmp_path / "cache").mkdir()
    refused(tmp_path / "data.zip", tmp_path / "cache", "member 'link' is a link or a device")


def test_a_member_that_is_there_twice_is_refused(tmp_path: Path) -> None:
    with tarfile.open(tmp_path / "data.tar", "w") as archive:
        add(archive, "a", b"one")
        add(archive, "a", b"two")
    (tmp_path / "cache").mkdir()
    refused(tmp_path / "data.tar", tmp_path / "cache", "member 'a' cannot be written: file exists")


@pytest.mark.parametrize("mode", MODES)
@pytest.mark.parametrize("name", ["a/b", "x" * 300])
def test_a_member_for_which_there_is_no_place_is_refused(tmp_path: Path, mode: str, name: str) -> None:
    archive = pack(tmp_path / "data", mode, {"a": b"", name: b""})
    (tmp_path / "cache").mkdir()
    refused(archive, tmp_path / "cache", "cannot be written")


@pytest.mark.parametrize("mode", MODES)
@pytest.mark.parametrize("part", [0, 0.001, 0.01, 0.5, 0.85])
def test_an_archive_that_is_cut_off_is_refused(tmp_path: Path, mode: str, part: float) -> None:
    archive = pack(tmp_path / "data", mode, {name: os.urandom(20_000) for name in "abc"})
    os.truncate(archive, round(part * archive.stat().st_size))
    (tmp_path / "cache").mkdir()
    refused(archive, tmp_path / "cache", "data: ")


def test_a_tar_that_is_cut_off_between_two_members_is_refused(tmp_path: Path) -> None:
    archive = pack(tmp_path / "data.tar", "w:", {"a": b"x" * 512, "b": b"y"})
    os.truncate(archive, 1024)
    (tmp_path / "cache").mkdir()
    refused(archive, tmp_path / "cache", "member 'a' is the last readable one")


def test_damage_between_two_members_is_not_taken_for_the_end(tmp_path: Path) -> None:
    archive = pack(tmp_path / "data.tar", "w:", {"a": b"x" * 512, "b": b"y"})
    content = bytearray(archive.read_bytes())
    content[1024 + 150] ^= 1  # the sum of the second header
    archive.write_bytes(content)
    (tmp_path / "cache").mkdir()
    refused(archive, tmp_path / "cache", "member 'a' is the last readable one")


@pytest.mark.parametrize("mode", ["w:gz", "zip"])
def test_a_flipped_bit_in_a_member_is_noticed(tmp_path: Path, mode: str) -> None:
    archive = pack(tmp_path / "data", mode, {"noise": os.urandom(50_000)})
    content = bytearray(archive.read_bytes())
    content[25_000] ^= 1
    archive.write_bytes(content)
    (tmp_path / "cache").mkdir()
    refused(archive, tmp_path / "cache", "data: ")


def test_a_size_below_zero_is_refused(tmp_path: Path) -> None:
    info = tarfile.TarInfo("a")
    info.size = -512
    header = bytearray(info.tobuf(tarfile.GNU_FORMAT))
    (tmp_path / "data.tar").write_bytes(header + bytes(10_240))
    (tmp_path / "cache").mkdir()
    refused(tmp_path / "data.tar", tmp_path / "cache", "member 'a' has a negative size")


def test_an_encrypted_member_is_refused(tmp_path: Path) -> None:
    archive = pack(tmp_path / "data.zip", "zip", {"a": b"x"})
    content = bytearray(archive.read_bytes())
    content[content.index(b"PK\x01\x02") + 8] |= 1
    archive.write_bytes(content)
    (tmp_path / "cache").mkdir()
    refused(archive, tmp_path / "cache", "member 'a' is encrypted")


def test_what_is_no_archive_is_refused(tmp_path: Path) -> None:
    (tmp_path / "data.zip").write_bytes(b"<html>not found</html>" * 100)
    (tmp_path / "cache").mkdir()
    refused(tmp_path / "data.zip", tmp_path / "cache", "not a readable .zip, .tar or .tar.gz")


@pytest.mark.parametrize("mode", MODES)
def test_an_archive_of_more_than_the_disk_has_is_refused_before_it_is_full(tmp_path: Path, mode: str) -> None:
    archive = pack(tmp_path / "data", mode, {"zeros": bytes(2_000_000)})
    with small_disk(tmp_path / "disk", kilobytes=1024) as disk:
        with pytest.raises(StoreError, match=f"data contains more than fits on the disk of {disk / 'unpacked'}"):
            unpack_it(archive, disk)
        assert [path.suffix for path in (disk / "unpacked").iterdir()] == [".lock"]
        subprocess.run(["mount", "-o", "remount,size=4m", str(disk)], check=True)
        assert contents(unpack_it(archive, disk)) == {"zeros": bytes(2_000_000)}


def test_a_disk_that_fills_up_meanwhile_is_named_and_cleared(tmp_path: Path) -> None:
    archive = pack(tmp_path / "data.zip", "zip", {f"{number}": b"x" for number in range(100)})  # a page each, whatever their sizes say
    with small_disk(tmp_path / "disk", kilobytes=128) as disk:
        with pytest.raises(StoreError, match=f"cannot write to {disk / 'unpacked'}: no space left on device"):
            unpack_it(archive, disk)
        assert [path.suffix for path in (disk / "unpacked").iterdir()] == [".lock"]


def test_an_archive_of_too_many_members_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(unpack, "_MOST_MEMBERS", 2)
    with pytest.raises(StoreError, match="contains more than 2 members"):
        unpack_it(pack(tmp_path / "data.tar", "w:", {"a": b"", "b": b"", "c": b""}), tmp_path)


def test_what_an_interrupted_run_left_is_cleared_away(tmp_path: Path) -> None:
    archive = pack(tmp_path / "data.tar", "w:", FILES)
    left = tmp_path / "unpacked" / f"{sha256(archive.read_bytes())[:16]}.part" / "images"
    left.mkdir(parents=True)
    (left / "half").write_text("")
    assert contents(unpack_it(archive, tmp_path).parent) == FILES


def test_of_many_at_once_one_unpacks(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    archive = pack(tmp_path / "data.tar", "w:gz", FILES)
    together = threading.Barrier(4)

    def unpack_together(_: int) -> Path:
        together.wait()
        return unpack_it(archive, tmp_path)

    with ThreadPoolExecutor(4) as pool:
        folders = set(pool.map(unpack_together, range(4)))
    assert len(folders) == 1
    assert capsys.readouterr().out.count("unpacking data.tar (") == 1


def test_an_archive_is_not_needed_once_it_is_unpacked(tmp_path: Path) -> None:
    archive = pack(tmp_path / "data.tar.gz", "w:gz", FILES)
    sum_ = sha256(archive.read_bytes())
    folder = unpacked(archive, sum_, tmp_path / "cache")
    archive.unlink()
    assert unpacked(archive, sum_, tmp_path / "cache") == folder
    assert contents(folder.parent) == FILES


def identities(folder: Path) -> dict[str, int]:
    return {path.relative_to(folder.parent).as_posix(): path.stat().st_ino for path in (folder, *folder.rglob("*"))}


@pytest.mark.parametrize("mode", MODES)
def test_a_folder_that_an_earlier_version_unpacked_is_verified_where_another_run_reads_it(
    tmp_path: Path, mode: str, capsys: pytest.CaptureFixture[str]
) -> None:
    archive = pack(tmp_path / "data", mode, {**FILES, "images/none/": b"", "._data": b"x"})
    folder = unpack_it(archive, tmp_path)
    before = identities(folder)
    next((tmp_path / "unpacked").glob(".cloud-train-seal-*")).unlink()
    capsys.readouterr()
    assert unpack_it(archive, tmp_path) == folder
    assert capsys.readouterr().out == f"comparing {folder.parent} with data\n"
    assert unpack_it(archive, tmp_path) == folder
    assert capsys.readouterr().out == ""
    assert identities(folder) == before


DAMAGE: dict[str, Callable[[Path], object]] = {
    "other_content": lambda folder: (folder / "empty").write_bytes(b"x"),
    "cut_off": lambda folder: os.truncate(folder / "train" / "dog" / "2.jpg", 99_999),
    "missing": lambda folder: (folder / "empty").unlink(),
    "a_link": lambda folder: (folder / "empty").replace(folder / "train" / "empty").with_name("link").symlink_to("empty"),
    "another_file": lambda folder: (folder / "train" / "cat" / "3.jpg").write_bytes(b"x"),
    "another_folder": lambda folder: (folder / "train" / "fox").mkdir(),
}


@pytest.mark.parametrize("damage", DAMAGE)
@pytest.mark.parametrize("mode", MODES)
def test_a_folder_that_changed_is_there_until_another_one_is_unpacked(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, mode: str, damage: str
) -> None:
    archive = pack(tmp_path / "data", mode, FILES)
    folder = unpack_it(archive, tmp_path)
    DAMAGE[damage](folder)
    damaged = identities(folder.parent)

    def interrupted(*_: object) -> int:
        assert identities(folder.parent) == damaged
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(unpack, "_unpack", interrupted)
        with pytest.raises(KeyboardInterrupt):
            unpack_it(archive, tmp_path)
    assert identities(folder.parent) == damaged
    assert contents(unpack_it(archive, tmp_path).parent) == FILES
    assert not [path.name for path in (tmp_path / "unpacked").iterdir() if path.suffix in (".part", ".old")]


def test_an_archive_that_is_damaged_meanwhile_takes_nothing_from_the_folder(tmp_path: Path) -> None:
    archive = pack(tmp_path / "data", "w:", FILES)
    total = sha256(archive.read_bytes())
    folder = unpacked(archive, total, tmp_path)
    (folder / "more").write_bytes(b"x")
    os.truncate(archive, 3000)
    with pytest.raises(CorruptError):
        unpacked(archive, total, tmp_path)
    assert contents(folder.parent) == {**FILES, "images/more": b"x"}

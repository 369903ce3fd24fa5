"""Unpacks archives from the network, each once and completely, into its own folder.

An archive is not trusted. This module writes its members one by one, without ``extractall``: only regular files and folders, only under
names that stay inside the folder, and no more than fits on the disk.
"""

import errno
import fcntl
import gzip
import os
import re
import shutil
import stat
import tarfile
import zipfile
import zlib
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from typing import IO, Literal, NamedTuple

from cloud_train.beneath import open_file
from cloud_train.data.downloads import UNPACKED, unpacked_place
from cloud_train.errors import CorruptError, StoreError
from cloud_train.run.cached import is_folder, is_sealed, open_lock, others, own_folder, remove, replace, seal

_MOST_MEMBERS = 20_000_000
_PIECE_BYTES = 1 << 20
_ZIP = (b"PK\x03\x04", b"PK\x05\x06")
_GZIP = b"\x1f\x8b"
_MACOS_EXTRAS = re.compile(r"__MACOSX|\.DS_Store|\._.*")
"""Files that macOS adds to archives, which would look like broken images."""
_UNREADABLE = (tarfile.TarError, zipfile.BadZipFile, gzip.BadGzipFile, zlib.error, EOFError, NotImplementedError, ValueError)
"""What the standard library raises for a file that is not an archive, is truncated, or uses an unsupported format."""
_HINT = "recreate the archive with plain files and folders only"
_CLASHES = (errno.EEXIST, errno.ENOTDIR, errno.EISDIR, errno.ENAMETOOLONG, errno.EILSEQ)


@contextmanager
def exclusive(path: Path, doing: str) -> Iterator[None]:
    """Hold the lock ``path`` for a block, after waiting for another process on this machine that is ``doing`` the same.

    It is an flock, which the kernel releases however its holder ends. Its file is kept, so that no process holds a lock on a deleted file.
    """
    descriptor = open_lock(path)
    try:
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            print(f"waiting for another process that is {doing}", flush=True)
            fcntl.flock(descriptor, fcntl.LOCK_EX)
        yield
    finally:
        os.close(descriptor)


@contextmanager
def disk_errors(folder: Path) -> Iterator[None]:
    """Turn OSErrors inside the block into a StoreError that names ``folder``."""
    try:
        yield
    except OSError as error:
        hints = {
            errno.ENOSPC: "free some space on that disk, then resume the run",
            errno.EDQUOT: "your disk quota is exhausted: delete some files, then resume the run",
            errno.EACCES: "check the folder's permissions",
            errno.EROFS: "that disk is read-only: use another one",
        }
        reason = os.strerror(error.errno or 0).lower()
        raise StoreError(f"cannot write to {folder}: {reason}", hint=hints.get(error.errno or 0)) from error


def shown_bytes(count: float) -> str:
    """A number of bytes with a decimal unit, such as ``9.9 MB``."""
    if count < 1000:
        return f"{count:.0f} B"
    for unit in ("kB", "MB"):
        count /= 1000
        if count < 999.95:
            return f"{count:.1f} {unit}"
    return f"{count / 1000:,.1f} GB"


def unpacked(archive: Path, sha256: str, cache: Path) -> Path:
    """The folder in ``cache`` to which ``archive``, a verified .zip, .tar or .tar.gz (recognized by its content), is unpacked.

    It is unpacked once for all runs, into a temporary folder that is then renamed, so the folder is complete or absent. A folder that has
    changed since then is compared with the archive and replaced only if it differs, because other runs may be reading it. If the archive
    contains a single folder, that folder is returned. Files that macOS adds (``__MACOSX``, ``._name``) are skipped. Raises CorruptError,
    naming the member that is truncated, a link or a device, a duplicate, or outside the folder; StoreError if the disk is full.
    """
    folder = unpacked_place(sha256, cache)
    beside = folder.with_name(f"{folder.name}.part")
    with disk_errors(folder.parent):
        own_folder(cache, UNPACKED)
        with exclusive(folder.with_name(f"{folder.name}.lock"), f"unpacking {archive.name}"):
            if not is_sealed(folder):
                if not (is_folder(folder) and _is_unpacked(archive, folder)):
                    _unpack_beside(archive, beside, folder)
                seal(folder)
    return _content(folder)


def _content(folder: Path) -> Path:
    with disk_errors(folder):
        inside = list(folder.iterdir())
    return inside[0] if len(inside) == 1 and inside[0].is_dir() else folder


class _Member(NamedTuple):
    """One entry of an archive."""

    name: str
    size: int
    """Bytes of its content."""
    kind: str
    """``file``, ``folder``, or another kind in words."""
    open: Callable[[], IO[bytes]]


def _is_unpacked(archive: Path, folder: Path) -> bool:
    """Whether the folder contains exactly what the archive does."""
    print(f"comparing {folder} with {archive.name}", flush=True)
    paths: set[str] = set()
    for member in _members(archive):
        parts = _parts(archive, member)
        if any(_MACOS_EXTRAS.fullmatch(part) for part in parts):
            continue
        if member.kind == "folder":
            paths.add("/".join([*parts, ""]))
        elif _has_content(archive, member, folder, parts):
            paths.add("/".join(parts))
        else:
            return False
    return not others(folder, paths)


def _has_content(archive: Path, member: _Member, folder: Path, parts: list[str]) -> bool:
    try:
        descriptor = open_file(folder, parts)
    except OSError:
        return False  # it is missing, a link or a folder
    with open(descriptor, "rb") as file:  # noqa: PTH123 -- of a descriptor
        return all(file.read(len(piece)) == piece for piece in _pieces(archive, member)) and not file.read(1)


def _unpack_beside(archive: Path, beside: Path, folder: Path) -> None:
    print(f"unpacking {archive.name} ({shown_bytes(archive.stat().st_size)})", flush=True)
    remove(beside)
    try:
        beside.mkdir()
        files = _unpack(archive, beside)
        replace(folder, beside)
    finally:
        remove(beside)
    print(f"unpacked {files:,} file{'s' if files != 1 else ''} of {archive.name}", flush=True)


def _unpack(archive: Path, folder: Path) -> int:
    """Write the members into ``folder``; returns the number of files."""
    files, left = 0, shutil.disk_usage(folder).free
    for number, member in enumerate(_members(archive)):
        left -= member.size
        if number >= _MOST_MEMBERS or left < 0:
            much = f"more than fits on the disk of {folder.parent}" if left < 0 else f"more than {_MOST_MEMBERS:,} members"
            raise StoreError(f"{archive.name} contains {much}", hint="free some space there, or use a smaller archive")
        parts = _parts(archive, member)
        if not any(_MACOS_EXTRAS.fullmatch(part) for part in parts):
            with _clashes(archive, member):
                _write(archive, member, folder.joinpath(*parts))
            files += member.kind == "file"
    return files


def _parts(archive: Path, member: _Member) -> list[str]:
    """The parts of a member's path."""
    parts = [part for part in member.name.split("/") if part not in ("", ".")]
    if member.name.startswith("/") or ".." in parts or "\\" in member.name or "\0" in member.name or (member.kind == "file" and not parts):
        raise _refused(archive, member.name, "leads outside the archive")
    if member.kind not in ("file", "folder"):
        raise _refused(archive, member.name, f"is {member.kind}")
    return parts


def _write(archive: Path, member: _Member, path: Path) -> None:
    if member.kind == "folder":
        path.mkdir(parents=True, exist_ok=True)
        return
    path.parent.mkdir(parents=True, exist_ok=True)
    with path.open("xb") as file:
        for piece in _pieces(archive, member):
            file.write(piece)


def _pieces(archive: Path, member: _Member) -> Iterator[bytes]:
    with _unreadable(archive, member.name), member.open() as content:
        while piece := content.read(_PIECE_BYTES):
            yield piece


def _members(archive: Path) -> Iterator[_Member]:
    with archive.open("rb") as file:
        begin = file.read(4)
    if begin in _ZIP:
        return _zip_members(archive)
    return _tar_members(archive, "r:gz" if begin.startswith(_GZIP) else "r:")


def _zip_members(archive: Path) -> Iterator[_Member]:
    with _unreadable(archive):
        opened = zipfile.ZipFile(archive)
    with opened:
        for info in opened.infolist():
            kind = "folder" if info.is_dir() else "file"
            mode = stat.S_IFMT(info.external_attr >> 16)  # the Unix file type; 0 if the archive was not made on Unix
            if mode not in (0, stat.S_IFREG, stat.S_IFDIR):
                kind = "a link or a device"
            elif info.flag_bits & 1:
                kind = "encrypted"
            yield _Member(info.orig_filename, info.file_size, kind, partial(opened.open, info))


def _tar_members(archive: Path, mode: Literal["r:", "r:gz"]) -> Iterator[_Member]:
    with _unreadable(archive):
        opened = tarfile.open(archive, mode)  # noqa: SIM115 -- closed below; an error here has its own message
    with opened:
        last = ""
        while (info := _next(archive, opened, last)) is not None:
            last = info.name
            kind = "file" if info.isfile() else "folder" if info.isdir() else "a link or a device"
            yield _Member(info.name, info.size if info.isfile() else 0, kind, partial(_content_of, opened, info))
            opened.members.clear()  # type: ignore[attr-defined]  # typeshed lacks it; a million of them would fill the memory
        with _unreadable(archive):
            _check_end(archive, opened, last)


def _next(archive: Path, opened: tarfile.TarFile, last: str) -> tarfile.TarInfo | None:
    with _unreadable(archive, last):
        info = opened.next()
    if info is not None and info.size < 0:  # some versions of tarfile would loop forever
        raise _refused(archive, info.name, "has a negative size")
    return info


def _content_of(opened: tarfile.TarFile, info: tarfile.TarInfo) -> IO[bytes]:
    content = opened.extractfile(info)
    if content is None:
        raise tarfile.ReadError("it has no content")
    return content


def _check_end(archive: Path, opened: tarfile.TarFile, last: str) -> None:
    """Check for the block of zeros at the end, for which tarfile also takes an unreadable header. Reading on makes gzip verify its
    checksum.
    """
    file = opened.fileobj
    file.seek(opened.offset)
    if file.read(tarfile.BLOCKSIZE) != bytes(tarfile.BLOCKSIZE):
        raise _refused(archive, last, "is the last readable one: the archive is truncated or damaged after it")
    while file.read(_PIECE_BYTES):
        pass


@contextmanager
def _unreadable(archive: Path, name: str = "") -> Iterator[None]:
    try:
        yield
    except _UNREADABLE as error:
        what = f"cannot read member {name!r}" if name else "not a readable .zip, .tar or .tar.gz"
        raise CorruptError(f"{archive}: {what}: {error}", hint=_HINT) from error


@contextmanager
def _clashes(archive: Path, member: _Member) -> Iterator[None]:
    try:
        yield
    except OSError as error:
        if error.errno not in _CLASHES:
            raise
        raise _refused(archive, member.name, f"cannot be written: {os.strerror(error.errno).lower()}") from error


def _refused(archive: Path, name: str, what: str) -> CorruptError:
    return CorruptError(f"{archive}: member {name!r} {what}", hint=_HINT)

"""Reproducible layers: the same files give the same bytes on any machine.

A layer is a tar with sorted entries that contain nothing specific to a machine: owner 0, time 0, and only the executable bit of the mode.
The digest of that tar (``diff_id``) goes into the image's id. The tar is sent compressed with gzip, which is also the same everywhere,
unless Python was built with another zlib.
"""

import hashlib
import os
import tarfile
import zlib
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from importlib.resources import files
from io import FileIO
from pathlib import Path
from typing import BinaryIO, Literal, cast

from cloud_train.beneath import open_plain
from cloud_train.docker import container_paths
from cloud_train.image.context import Context
from cloud_train.image.errors import ImageError

_CODE, _LIBRARY = (place.removeprefix("/") for place in (container_paths.CODE, container_paths.LIBRARY))  # tars have no leading slash

_OUTSIDE = ("__main__.py", "client.py", "plugins.py", "cli", "docker", "image", "orchestrator", "providers")
"""Parts of the package that neither the worker nor a trainer imports."""
_PIECE = 1 << 20
_GZIP_HEADER = b"\x1f\x8b\x08\x00\x00\x00\x00\x00\x00\xff"  # deflate, no name, time 0, unknown system: RFC 1952, section 2.3


@dataclass(frozen=True)
class Member:
    """One entry of a layer: a folder, a link, or a file with the source of its bytes."""

    name: str
    kind: Literal["file", "folder", "link"]
    source: Path | None = None
    content: bytes = b""
    """The content of a file without a ``source``."""
    expected: tuple[int, int] | None = None
    """The size in bytes and modification time in nanoseconds that ``source`` had when it was listed."""
    executable: bool = False
    open_to_all: bool = False
    """Whether all users may write to a folder, as to /tmp."""
    target: str = ""


@dataclass(frozen=True)
class Layer:
    """A layer: its members, and the digest of its tar. The tar itself is written only when it is sent."""

    members: tuple[Member, ...]
    diff_id: str
    """The digest of the tar."""
    created_by: str
    """Its description in the image's history."""


@dataclass(frozen=True)
class Blob:
    """A file with its digest and its size in bytes."""

    file: Path
    digest: str
    size: int


def worker_members(package: Path | None = None) -> list[Member]:
    """The files of the package ``cloud_train`` (by default the installed one) that run inside an attempt, without compiled and hidden ones.

    Also the folders for the worker's volumes, which are writable for any user.
    """
    package = package or Path(str(files("cloud_train")))
    inside = (path for path in _package_files(str(package)) if path.partition("/")[0] not in _OUTSIDE)
    named = [Member(f"{_LIBRARY}/cloud_train/{path}", "file", source=Path(package, path)) for path in inside]
    volumes = [Member(place.removeprefix("/"), "folder", open_to_all=True) for place in (container_paths.WORK, container_paths.CACHE)]
    return [*_folders([member.name for member in (*named, *volumes)]), *volumes, *named]


def code_members(context: Context) -> list[Member]:
    """The members of a context, under /workspace."""
    return [Member(_CODE, "folder"), *context_members(context, f"{_CODE}/")]


def context_members(context: Context, prefix: str = "") -> Iterator[Member]:
    """The members of a context, their names prefixed with ``prefix``."""
    for entry in context.entries:
        source, expected = (context.folder / entry.path, (entry.size, entry.modified_ns)) if entry.kind == "file" else (None, None)
        yield Member(prefix + entry.path, entry.kind, source=source, expected=expected, executable=entry.executable, target=entry.target)


def make_layer(members: Iterable[Member], created_by: str) -> Layer:
    """Make a layer by reading its members. Raises ImageError for a file that cannot be read or changes while being read."""
    listed = tuple(members)
    hashing = _Hashing()
    write_tar(listed, cast(BinaryIO, hashing))
    return Layer(listed, hashing.digest, created_by)


def write_layer(layer: Layer, file: BinaryIO) -> int:
    """Write a layer's tar, and return its size in bytes. Raises ImageError if files have changed since the layer was made."""
    hashing = _Hashing(file)
    write_tar(layer.members, cast(BinaryIO, hashing))
    if hashing.digest != layer.diff_id:
        raise ImageError("files changed while the image was being built", hint="wait until nothing writes to the folder, then retry")
    return hashing.size


def write_tar(members: Iterable[Member], file: BinaryIO) -> None:
    """Write members as a reproducible tar, sorted by the bytes of their names."""
    for member in sorted(members, key=lambda member: os.fsencode(member.name)):
        info = tarfile.TarInfo(member.name)
        if member.kind == "folder":
            info.type, info.mode = tarfile.DIRTYPE, 0o1777 if member.open_to_all else 0o755
            file.write(_header(info))
        elif member.kind == "link":
            info.type, info.mode, info.linkname = tarfile.SYMTYPE, 0o777, member.target
            file.write(_header(info))
        else:
            info.mode = 0o755 if member.executable else 0o644
            _write_file(file, info, member)
    file.write(bytes(2 * tarfile.BLOCKSIZE))  # the end


def compress(layer: Layer, file: Path) -> Blob:
    """Write a layer's tar, compressed with gzip. Raises ImageError like ``write_layer``."""
    with file.open("wb") as plain:
        hashing = _Hashing(plain)
        compressing = _Gzip(hashing)
        write_layer(layer, cast(BinaryIO, compressing))
        compressing.finish()
    return Blob(file, hashing.digest, hashing.size)


def digest_of(data: bytes) -> str:
    """The digest of some bytes, ``sha256:…``."""
    return f"sha256:{hashlib.sha256(data).hexdigest()}"


class _Hashing:
    """Writes to a file while hashing and counting its bytes; without a file, only hashes and counts."""

    def __init__(self, file: BinaryIO | None = None) -> None:
        self.size = 0
        self._file = file
        self._hash = hashlib.sha256()

    @property
    def digest(self) -> str:
        return f"sha256:{self._hash.hexdigest()}"

    def write(self, data: bytes) -> int:
        self._hash.update(data)
        self.size += len(data)
        return len(data) if self._file is None else self._file.write(data)


class _Gzip:
    """Compresses its input with gzip, without a time or a system in the header (RFC 1952)."""

    def __init__(self, file: _Hashing) -> None:
        self._file = file
        self._compressor = zlib.compressobj(6, zlib.DEFLATED, -zlib.MAX_WBITS)
        self._checksum = self._size = 0
        file.write(_GZIP_HEADER)

    def write(self, data: bytes) -> int:
        self._checksum = zlib.crc32(data, self._checksum)
        self._size += len(data)
        self._file.write(self._compressor.compress(data))
        return len(data)

    def finish(self) -> None:
        self._file.write(self._compressor.flush())
        self._file.write(self._checksum.to_bytes(4, "little") + (self._size & 0xFFFFFFFF).to_bytes(4, "little"))


def _package_files(folder: str, above: str = "") -> Iterator[str]:
    # pathlib takes several times as long, and every submission lists the package.
    with os.scandir(folder) as entries:
        for entry in entries:
            if entry.name == "__pycache__" or entry.name.startswith(".") or entry.name.endswith(".pyc"):
                continue
            if entry.is_dir():
                yield from _package_files(entry.path, f"{above}{entry.name}/")
            else:
                yield f"{above}{entry.name}"


def _folders(names: Iterable[str]) -> list[Member]:
    above = {"/".join(parts[:length]) for parts in (name.split("/") for name in names) for length in range(1, len(parts))}
    return [Member(name, "folder") for name in sorted(above)]


def _header(info: tarfile.TarInfo) -> bytes:
    # GNU's format allows names of any length and any bytes. Not every engine supports the newer format's encoding of non-UTF-8 bytes.
    return info.tobuf(tarfile.GNU_FORMAT, "utf-8", "surrogateescape")


def _write_file(target: BinaryIO, info: tarfile.TarInfo, member: Member) -> None:
    if member.source is None:
        info.size = len(member.content)
        target.write(_header(info) + member.content)
    else:
        try:
            with _opened(member) as file:
                info.size = _copy(file, target, info, member)
        except OSError as error:
            raise ImageError(
                f"cannot read {member.source}: {error.strerror or error}", hint="change its permissions, or add it to .dockerignore"
            ) from error
    target.write(bytes(-info.size % tarfile.BLOCKSIZE))


def _opened(member: Member) -> FileIO:
    """Open a member's file. Refuses a file of the user's folder that became a link or a pipe after it was listed."""
    assert member.source is not None
    if member.expected is not None:
        return FileIO(open_plain(member.source), "rb")
    return FileIO(os.open(member.source, os.O_RDONLY | os.O_CLOEXEC), "rb")


def _copy(file: FileIO, target: BinaryIO, info: tarfile.TarInfo, member: Member) -> int:
    """Write a file's header and content, and return the content's size. Raises ImageError if the file changes meanwhile."""
    assert member.source is not None
    before = _state(file)
    if member.expected is not None and before != member.expected:
        raise _changed(member.source)
    info.size = remaining = before[0]
    target.write(_header(info))
    while remaining and (piece := file.read(min(remaining, _PIECE))):
        target.write(piece)
        remaining -= len(piece)
    if remaining or _state(file) != before:
        raise _changed(member.source)
    return info.size


def _state(file: FileIO) -> tuple[int, int]:
    status = os.fstat(file.fileno())
    return status.st_size, status.st_mtime_ns


def _changed(path: Path) -> ImageError:
    return ImageError(f"{path} changed while being read", hint="wait until nothing writes to it, or add it to .dockerignore; then retry")

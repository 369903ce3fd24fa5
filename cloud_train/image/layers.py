"""Layers that are the same bytes for the same files, on any machine.

A layer is a tar whose entries are sorted and carry nothing of the machine they come from: owner 0, time 0, and of the mode only whether a
file is executable. The digest of that tar (``diff_id``) is what an image's id is made from. What travels is the tar compressed with gzip,
which is the same everywhere too, except where Python was built with another zlib.
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

_OUTSIDE = ("__main__.py", "client.py", "inherited.py", "plugins.py", "cli", "docker", "image", "orchestrator", "providers")
"""Parts of the package that no worker and no trainer imports."""
_PIECE = 1 << 20
_GZIP_HEADER = b"\x1f\x8b\x08\x00\x00\x00\x00\x00\x00\xff"  # deflate, no name, time 0, unknown system: RFC 1952, section 2.3


@dataclass(frozen=True)
class Member:
    """One entry of a layer: a folder, a link, or a file with the source of its bytes."""

    name: str
    kind: Literal["file", "folder", "link"]
    source: Path | None = None
    content: bytes = b""
    """Of a file without a ``source``."""
    expected: tuple[int, int] | None = None
    """Size in bytes and time of modification in nanoseconds that ``source`` had when it was looked at."""
    executable: bool = False
    open_to_all: bool = False
    """Whether a folder is writable for all users, like /tmp."""
    target: str = ""


@dataclass(frozen=True)
class Layer:
    """A layer: what is in it, and the digest of its tar. The tar itself is written only where it is sent."""

    members: tuple[Member, ...]
    diff_id: str
    """Digest of the tar."""
    created_by: str
    """What the image's history calls it."""


@dataclass(frozen=True)
class Blob:
    """Bytes in a file, with their digest."""

    file: Path
    digest: str
    size: int


def worker_members(package: Path | None = None) -> list[Member]:
    """What of the package ``cloud_train``, by default the installed one, runs inside an attempt, without what Python compiles and without
    hidden files; and the folders in which a worker of any user writes where the engine puts a volume of its own there.
    """
    package = package or Path(str(files("cloud_train")))
    inside = (path for path in _package_files(str(package)) if path.partition("/")[0] not in _OUTSIDE)
    named = [Member(f"{_LIBRARY}/cloud_train/{path}", "file", source=Path(package, path)) for path in inside]
    volumes = [Member(place.removeprefix("/"), "folder", open_to_all=True) for place in (container_paths.WORK, container_paths.CACHE)]
    return [*_folders([member.name for member in (*named, *volumes)]), *volumes, *named]


def code_members(context: Context) -> list[Member]:
    """The files of a context, under /workspace."""
    return [Member(_CODE, "folder"), *context_members(context, f"{_CODE}/")]


def context_members(context: Context, prefix: str = "") -> Iterator[Member]:
    """The files of a context under names that start with ``prefix``."""
    for entry in context.entries:
        source, expected = (context.folder / entry.path, (entry.size, entry.modified_ns)) if entry.kind == "file" else (None, None)
        yield Member(prefix + entry.path, entry.kind, source=source, expected=expected, executable=entry.executable, target=entry.target)


def make_layer(members: Iterable[Member], created_by: str) -> Layer:
    """Read the members of a layer. Raises ImageError for a file that cannot be read, or that changes while it is read."""
    listed = tuple(members)
    hashing = _Hashing()
    write_tar(listed, cast(BinaryIO, hashing))
    return Layer(listed, hashing.digest, created_by)


def write_layer(layer: Layer, file: BinaryIO) -> int:
    """Write a layer's tar, and return its size in bytes. Raises ImageError if its files have changed since the layer was made."""
    hashing = _Hashing(file)
    write_tar(layer.members, cast(BinaryIO, hashing))
    if hashing.digest != layer.diff_id:
        raise ImageError("files changed while the image was built from them", hint="wait until nothing writes to the folder, and retry")
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
    """Write a layer's tar as gzip. Raises ImageError as ``write_layer`` does."""
    with file.open("wb") as plain:
        hashing = _Hashing(plain)
        compressing = _Gzip(hashing)
        write_layer(layer, cast(BinaryIO, compressing))
        compressing.finish()
    return Blob(file, hashing.digest, hashing.size)


def digest_of(data: bytes) -> str:
    """``sha256:…`` of some bytes."""
    return f"sha256:{hashlib.sha256(data).hexdigest()}"


class _Hashing:
    """A file that is written, hashed and measured at once; without a file, only hashed and measured."""

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
    """A file that writes its input as gzip, without time or place of origin (RFC 1952)."""

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
    # pathlib takes several times as long, and every submission looks through the package.
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
    # GNU's format has names of any length and any bytes; not every engine reads the newer format's spelling of bytes that are not UTF-8.
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
                f"{member.source} cannot be read: {error.strerror or error}", hint="change its permissions, or add it to .dockerignore"
            ) from error
    target.write(bytes(-info.size % tarfile.BLOCKSIZE))


def _opened(member: Member) -> FileIO:
    """The open file of a member. A file of the user's folder that has become a link or a pipe since it was listed is refused."""
    assert member.source is not None
    if member.expected is not None:
        return FileIO(open_plain(member.source), "rb")
    return FileIO(os.open(member.source, os.O_RDONLY | os.O_CLOEXEC), "rb")


def _copy(file: FileIO, target: BinaryIO, info: tarfile.TarInfo, member: Member) -> int:
    """Write a file's header and bytes, and return their number. A change of the file in the meantime is detected."""
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
    return ImageError(f"{path} changed while being read", hint="wait until nothing writes to it, or add it to .dockerignore, and retry")

"""Layers that are the same bytes for the same files, on any machine.

A layer is a tar whose entries are sorted and carry nothing of the machine they come from: owner 0, time 0, and of the mode only whether a
file is executable. The digest of that tar (``diff_id``) is what an image's id is made from. What travels is the tar compressed with gzip,
which is the same everywhere too, except where Python was built with another zlib.
"""

import hashlib
import io
import os
import tarfile
import zlib
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from importlib.resources import files
from pathlib import Path
from typing import BinaryIO, Literal, cast

from cloud_train.image.context import Context
from cloud_train.image.errors import ImageError
from cloud_train.run import container_paths

_CODE, _LIBRARY = (place.removeprefix("/") for place in (container_paths.CODE, container_paths.LIBRARY))  # tars have no leading slash

_PIECE = 1 << 20
_GZIP_HEADER = b"\x1f\x8b\x08\x00\x00\x00\x00\x00\x00\xff"  # deflate, no name, time 0, unknown system: RFC 1952, section 2.3


@dataclass(frozen=True)
class Member:
    """One entry of a layer: a folder, a link, or a file with where its bytes are."""

    name: str
    kind: Literal["file", "folder", "link"]
    source: Path | None = None
    content: bytes = b""
    """Of a file without a ``source``."""
    expected: tuple[int, int] | None = None
    """Size in bytes and time of modification in nanoseconds that ``source`` had when it was looked at."""
    executable: bool = False
    target: str = ""


@dataclass(frozen=True)
class Layer:
    """A layer that lies in a file as a plain tar."""

    tar: Path
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
    """The package ``cloud_train``, by default the installed one, without what Python compiles and without hidden files."""
    package = package or Path(str(files("cloud_train")))
    relative = [path.relative_to(package) for path in package.rglob("*") if path.is_file()]
    kept = [path for path in relative if path.suffix != ".pyc" and not any(part == "__pycache__" or part[0] == "." for part in path.parts)]
    named = [Member(f"{_LIBRARY}/cloud_train/{path.as_posix()}", "file", source=package / path) for path in kept]
    return [*_folders([member.name for member in named]), *named]


def code_members(context: Context) -> list[Member]:
    """The files of a context, under /workspace."""
    return [Member(_CODE, "folder"), *context_members(context, f"{_CODE}/")]


def context_members(context: Context, prefix: str = "") -> Iterator[Member]:
    """The files of a context under names that start with ``prefix``."""
    for entry in context.entries:
        source, expected = (context.folder / entry.path, (entry.size, entry.modified_ns)) if entry.kind == "file" else (None, None)
        yield Member(prefix + entry.path, entry.kind, source=source, expected=expected, executable=entry.executable, target=entry.target)


def make_layer(members: Iterable[Member], tar: Path, created_by: str) -> Layer:
    """Write a layer's tar. Raises ImageError for a file that cannot be read or changes while it is."""
    with tar.open("wb") as file:
        hashing = _Hashing(file)
        write_tar(members, cast(BinaryIO, hashing))
    return Layer(tar, hashing.digest, created_by)


def write_tar(members: Iterable[Member], file: BinaryIO) -> None:
    """Write members as a reproducible tar, sorted by the bytes of their names."""
    # GNU's format takes names of any length and any bytes; the newer one spells bytes that are no UTF-8 as not every engine reads them.
    archive = tarfile.TarFile(fileobj=file, mode="w", format=tarfile.GNU_FORMAT, encoding="utf-8", errors="surrogateescape")
    for member in sorted(members, key=lambda member: os.fsencode(member.name)):
        info = tarfile.TarInfo(member.name)
        if member.kind == "folder":
            info.type, info.mode = tarfile.DIRTYPE, 0o755
            archive.addfile(info)
        elif member.kind == "link":
            info.type, info.mode, info.linkname = tarfile.SYMTYPE, 0o777, member.target
            archive.addfile(info)
        else:
            info.mode = 0o755 if member.executable else 0o644
            _add_file(archive, info, member)
    # Two empty blocks are the end. close() would add up to 20 more, which would all be sent.
    file.write(bytes(2 * tarfile.BLOCKSIZE))


def compress(layer: Layer, file: Path) -> Blob:
    """Write a layer's tar as gzip."""
    compressor = zlib.compressobj(6, zlib.DEFLATED, -zlib.MAX_WBITS)
    checksum = size = 0
    with layer.tar.open("rb") as source, file.open("wb") as plain:
        hashing = _Hashing(plain)
        hashing.write(_GZIP_HEADER)
        while piece := source.read(_PIECE):
            checksum = zlib.crc32(piece, checksum)
            size += len(piece)
            hashing.write(compressor.compress(piece))
        hashing.write(compressor.flush())
        hashing.write(checksum.to_bytes(4, "little") + (size & 0xFFFFFFFF).to_bytes(4, "little"))
    return Blob(file, hashing.digest, hashing.size)


def digest_of(data: bytes) -> str:
    """``sha256:…`` of some bytes."""
    return f"sha256:{hashlib.sha256(data).hexdigest()}"


class _Hashing:
    """A file that is written, hashed and measured at once."""

    def __init__(self, file: BinaryIO) -> None:
        self.size = 0
        self._file = file
        self._hash = hashlib.sha256()

    @property
    def digest(self) -> str:
        return f"sha256:{self._hash.hexdigest()}"

    def tell(self) -> int:
        return self.size

    def write(self, data: bytes) -> int:
        self._hash.update(data)
        self.size += len(data)
        return self._file.write(data)


def _folders(names: Iterable[str]) -> list[Member]:
    above = {"/".join(parts[:length]) for parts in (name.split("/") for name in names) for length in range(1, len(parts))}
    return [Member(name, "folder") for name in sorted(above)]


def _add_file(archive: tarfile.TarFile, info: tarfile.TarInfo, member: Member) -> None:
    if member.source is None:
        info.size = len(member.content)
        archive.addfile(info, io.BytesIO(member.content))
        return
    try:
        with member.source.open("rb") as file:
            before = _state(file)
            if member.expected is not None and before != member.expected:
                raise _changed(member.source)
            info.size = before[0]
            try:
                archive.addfile(info, file)
            except OSError as error:
                # A file that got shorter ends too early; anything else is the disk's own trouble.
                raise _changed(member.source) if _state(file) != before else error from error
            if _state(file) != before:
                raise _changed(member.source)
    except OSError as error:
        raise ImageError(
            f"{member.source} cannot be read: {error.strerror or error}", hint="change its permissions, or add it to .dockerignore"
        ) from error


def _state(file: BinaryIO) -> tuple[int, int]:
    status = os.fstat(file.fileno())
    return status.st_size, status.st_mtime_ns


def _changed(path: Path) -> ImageError:
    return ImageError(
        f"{path} changed while it was read", hint="wait until nothing writes to it, or add it to .dockerignore, and try again"
    )

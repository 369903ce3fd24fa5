"""A sharded image set: images in tar files, and ``shards.json``, the index with the shard and offset of each image.

A member is called ``<class>/<file>``, or, if the set is split, ``train/<class>/<file>``, ``val/<class>/<file>`` and
``test/<class>/<file>``. With the index, an image can be read without reading anything else of its tar, and a program can begin while most
shards are still being downloaded. An index is not trusted: its names cannot lead outside the folder, and every image must be inside its
shard. Imports only the standard library: the worker reads it too.

The index is JSON: ``format`` (1), ``classes`` (their names, sorted), and ``shards``, each with ``name``, ``part`` (``train``, ``val`` or
``test``), ``size`` in bytes, ``sha256``, and, for its images in the order of the file, the lists ``members`` (names), ``offsets`` (of the
content, in bytes) and ``sizes`` (in bytes).
"""

from __future__ import annotations  # the worker also runs on Python 3.10, in users' own images

import json
import os
import re
import stat
from array import array
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from io import BytesIO
from pathlib import Path
from typing import Any, BinaryIO, Literal, cast, get_args, overload

from cloud_train.data.json_stream import JsonStream
from cloud_train.errors import CorruptError

INDEX = "shards.json"
"""Name of the index, beside the shards."""
ENDING = ".tar"
"""How a shard's name ends."""
MOST_INDEX_BYTES = 1 << 30
"""Size above which an index is not read: enough for ten million images."""
BLOCK_BYTES = 512
"""Everything in a tar begins at a multiple of this many bytes (POSIX.1-2001, pax, "ustar Interchange Format")."""

_FORMAT = 1
_MOST_SHARD_BYTES = 1 << 50
_MOST_SHARDS = 100_000
_MOST_CLASSES = 100_000
_LONGEST_NAME = 255  # bytes, as on every usual file system
_SHARD = re.compile(r"[A-Za-z0-9_][A-Za-z0-9._-]{0,200}\.tar")
_SHA256 = re.compile(r"[0-9a-f]{64}")
_UNFIT = re.compile("[\x00-\x1f\x7f-\x9f\ud800-\udfff/]")
_HINT = "pack the images again with cloud-train pack, or copy the whole set again"

Part = Literal["train", "val", "test"]


class Names(Sequence[str]):
    """Many short strings in little more memory than their characters need; a tuple takes 60 bytes more for each."""

    __slots__ = ("_characters", "_ends")

    def __init__(self, names: Iterable[str]) -> None:
        self._characters = bytearray()
        self._ends = array("I")  # end of each name in the bytes
        for name in names:
            self._characters += name.encode()
            self._ends.append(len(self._characters))

    def __len__(self) -> int:
        return len(self._ends)

    @overload
    def __getitem__(self, at: int) -> str: ...

    @overload
    def __getitem__(self, at: slice) -> tuple[str, ...]: ...

    def __getitem__(self, at: int | slice) -> str | tuple[str, ...]:
        if isinstance(at, slice):
            return tuple(self[number] for number in range(*at.indices(len(self))))
        number = range(len(self))[at]
        return self._characters[self._ends[number - 1] if number else 0 : self._ends[number]].decode()

    def __iter__(self) -> Iterator[str]:
        begin = 0
        for end in self._ends:
            yield self._characters[begin:end].decode()
            begin = end

    def __eq__(self, other: object) -> bool:
        if not isinstance(other, Names):
            return NotImplemented
        return self._ends == other._ends and self._characters == other._characters

    __hash__ = None  # type: ignore[assignment]  # its attributes are mutable

    def __repr__(self) -> str:
        return f"Names({list(self)!r})"


def _numbers(numbers: Iterable[int]) -> array[int]:
    """Numbers from 0 below 2^64, in four bytes each, or in eight where one of them needs it. Raises ValueError for a larger one."""
    found = array("I")
    for number in numbers:
        try:
            found.append(number)
        except OverflowError:
            if found.typecode == "Q" or not 0 <= number < 1 << 64:
                raise ValueError(f"{number} is out of range") from None
            found = array("Q", found)
            found.append(number)
    return found


@dataclass(frozen=True)
class Shard:
    """One tar file, as the index describes it."""

    name: str
    """Name of the file."""
    part: Part
    """What its images are for; if no shard is ``val``, validation images are held out of ``train``."""
    size: int
    """Size of the file, in bytes."""
    sha256: str | None
    """SHA-256 of the file, in hexadecimal; None if there is no index and the tar itself was scanned."""
    members: Sequence[str]
    """Names of the images in it."""
    offsets: Sequence[int]
    """Where in the file each image's content begins, in bytes."""
    sizes: Sequence[int]
    """Bytes of each image."""

    def __post_init__(self) -> None:
        # Ten million images have to fit into a decoder's memory in addition to the training.
        object.__setattr__(self, "members", self.members if isinstance(self.members, Names) else Names(self.members))
        for column in ("offsets", "sizes"):
            values = getattr(self, column)
            object.__setattr__(self, column, values if isinstance(values, array) else _numbers(values))


@dataclass(frozen=True)
class ShardIndex:
    """All shards of a set."""

    classes: tuple[str, ...]
    """Names of the classes, sorted."""
    shards: tuple[Shard, ...]

    def of_part(self, part: Part) -> tuple[tuple[int, Shard], ...]:
        """The shards of a part, each with its number in the index."""
        return tuple((number, shard) for number, shard in enumerate(self.shards) if shard.part == part)

    def count(self, part: Part) -> int:
        """Images of a part."""
        return sum(len(shard.members) for _, shard in self.of_part(part))

    def to_json(self) -> bytes:
        """The index as a file; the same index makes the same bytes."""
        columns = ("name", "part", "size", "sha256")
        lists = ("members", "offsets", "sizes")
        shards = [
            {name: getattr(shard, name) for name in columns} | {name: list(getattr(shard, name)) for name in lists} for shard in self.shards
        ]
        document = {"format": _FORMAT, "classes": self.classes, "shards": shards}
        return json.dumps(document, ensure_ascii=False, separators=(",", ":")).encode() + b"\n"

    @classmethod
    def from_json(cls, data: bytes, place: str) -> ShardIndex:
        """Read what ``to_json`` wrote. Raises CorruptError, which names ``place`` and the first mistake."""
        return cls.read(BytesIO(data), place)

    @classmethod
    def read(cls, file: BinaryIO, place: str) -> ShardIndex:
        """Like ``from_json``, for an open file, in no more memory than the file has bytes."""
        try:
            classes, shards = _document(JsonStream(file))
        except (ValueError, RecursionError) as error:
            raise CorruptError(f"{place} is not a usable index of shards: {error}", hint=_HINT) from error
        return cls(classes, shards)


def read_index(path: Path) -> ShardIndex:
    """The index in a file. Raises CorruptError; OSError where the file cannot be read."""
    descriptor = os.open(path, os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC)  # without O_NONBLOCK, opening a pipe would block
    with os.fdopen(descriptor, "rb") as file:
        found = os.fstat(descriptor)
        if not stat.S_ISREG(found.st_mode):
            raise CorruptError(f"{path} is not a file", hint=_HINT)
        if found.st_size > MOST_INDEX_BYTES:
            raise CorruptError(f"{path} is larger than {MOST_INDEX_BYTES >> 20} MiB, the most that an index may have", hint=_HINT)
        return ShardIndex.read(file, str(path))


def class_of(member: str) -> str:
    """The class of an image, from its member's name."""
    return member.split("/")[-2]


def part_of(member: str) -> Part | None:
    """The part that a member belongs to, from its name; None if it is not the name of an image in a shard."""
    names = member.split("/")
    if len(names) not in (2, 3) or not all(is_name(name) for name in names):
        return None
    part = "train" if len(names) == 2 else names[0]
    return cast(Part, part) if part in get_args(Part) else None


def is_name(name: object) -> bool:
    """Whether ``name`` is valid as the name of a class or of an image file."""
    if not isinstance(name, str) or not name or name.startswith(".") or _UNFIT.search(name):
        return False
    return len(name.encode()) <= _LONGEST_NAME


def _document(stream: JsonStream) -> tuple[tuple[str, ...], tuple[Shard, ...]]:
    """The classes and the shards of an index. Raises ValueError."""
    found: dict[str, Any] = {}
    for key in stream.fields():
        if key == "format":
            found[key] = stream.whole()
        elif key == "classes":
            found[key] = tuple(_limited(stream.texts(), _MOST_CLASSES, "classes"))
        elif key == "shards":
            found[key] = tuple(_shard(stream) for _ in _limited(stream.items(), _MOST_SHARDS, "shards"))
        else:
            stream.skip()
    stream.finish()
    if found.get("format") != _FORMAT:
        raise ValueError(f"its format is unknown; this version reads format {_FORMAT}")
    classes, shards = found.get("classes", ()), found.get("shards", ())
    _check_classes(classes)
    if not shards:
        raise ValueError("it lists no shards")
    names = set(classes)
    for shard in shards:
        _check_members(shard, names)
    if len({shard.name.lower() for shard in shards}) < len(shards):
        raise ValueError("two shards have the same name")
    return classes, shards


def _limited(values: Iterable[Any], most: int, what: str) -> Iterator[Any]:
    for number, value in enumerate(values):
        if number == most:
            raise ValueError(f"it has more than {most:,} {what}")
        yield value


def _check_classes(found: Sequence[str]) -> None:
    if not all(is_name(name) for name in found):
        raise ValueError("the name of a class is invalid")
    if sorted(set(found)) != list(found):
        raise ValueError("its classes are not sorted, or one is listed twice")


def _shard(stream: JsonStream) -> Shard:
    """The next shard, checked except for its members' names. Raises ValueError."""
    found: dict[str, Any] = {}
    for key in stream.fields():
        if key in ("name", "part", "sha256"):
            found[key] = stream.text()
        elif key == "size":
            found[key] = stream.whole()
        elif key == "members":
            found[key] = Names(stream.texts())
        elif key in ("offsets", "sizes"):
            found[key] = _numbers(stream.wholes())
        else:
            stream.skip()
    name, part, sha256, size = (found.get(key) for key in ("name", "part", "sha256", "size"))
    if name is None or not _SHARD.fullmatch(name):
        raise ValueError(f"{_short(name)} is not a valid shard name")
    if part not in get_args(Part):
        raise ValueError(f"the part of {name} is {_short(part)}, which is neither train nor val nor test")
    if size is None or size > _MOST_SHARD_BYTES:
        raise ValueError(f"the size of {name} is invalid: {size}")
    if sha256 is None or not _SHA256.fullmatch(sha256):
        raise ValueError(f"the SHA-256 of {name} is invalid: {_short(sha256)}")
    if missing := [key for key in ("members", "offsets", "sizes") if key not in found]:
        raise ValueError(f"{name} has no {missing[0]}")
    if not len(found["members"]) == len(found["offsets"]) == len(found["sizes"]):
        raise ValueError(f"the lists of {name} differ in length")
    _check_extents(name, size, found["offsets"], found["sizes"])
    return Shard(name, cast(Part, part), size, sha256, found["members"], found["offsets"], found["sizes"])


def _check_members(shard: Shard, classes: set[str]) -> None:
    for member in shard.members:
        if part_of(member) != shard.part or class_of(member) not in classes:
            raise ValueError(f"{shard.name} has a member {_short(member)}, which is not an image of {shard.part} in one of the classes")


def _check_extents(shard: str, size: int, offsets: Sequence[int], sizes: Sequence[int]) -> None:
    end = 0
    for offset, length in zip(offsets, sizes, strict=True):
        if offset % BLOCK_BYTES or offset < end + BLOCK_BYTES or offset + length > size:
            raise ValueError(f"an image of {length} bytes at {offset} is not inside {shard} after the previous image")
        end = offset + length


def _short(text: str | None) -> str:
    """A value from an index, shortened for a message."""
    return repr(text and text[:300])

"""A sharded image set: images in tar files, and ``shards.json``, the index that says where in which of them each image lies.

A member is called ``<class>/<file>``, or ``train/<class>/<file>`` and ``val/<class>/<file>`` where the set is split. With the index an
image is read without looking at anything else of its tar, and a program can begin while most shards are still on their way. Whoever wrote
an index is not trusted: names lead nowhere, and every image lies inside its shard. Imports the standard library only: the worker reads it
too.

The index is JSON: ``format`` (1), ``classes`` (their names, sorted), and ``shards``, each with ``name``, ``part`` (``train`` or ``val``),
``size`` in bytes, ``sha256``, and of its images, in the order in which they lie there, the lists ``members`` (names), ``offsets`` (of the
content, in bytes) and ``sizes`` (in bytes).
"""

from __future__ import annotations  # the worker runs on Python 3.10 as well, in images of the user's

import json
import os
import re
import stat
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Literal

from cloud_train.errors import CorruptError

INDEX = "shards.json"
"""Name of the index, beside the shards."""
ENDING = ".tar"
"""How a shard's name ends."""
MOST_INDEX_BYTES = 1 << 30
"""Size above which an index is not read: enough for ten million images."""
BLOCK_BYTES = 512
"""Everything in a tar begins at a multiple of so many bytes (POSIX.1-2001, pax, "ustar Interchange Format")."""

_FORMAT = 1
_MOST_SHARD_BYTES = 1 << 50
_LONGEST_NAME = 255  # bytes, as on every usual file system
_SHARD = re.compile(r"[A-Za-z0-9_][A-Za-z0-9._-]{0,200}\.tar")
_SHA256 = re.compile(r"[0-9a-f]{64}")
_UNFIT = re.compile("[\x00-\x1f\x7f-\x9f\ud800-\udfff/]")
_HINT = "pack the images anew with cloud-train pack, or copy all of the set anew from where it was packed"

Part = Literal["train", "val"]


@dataclass(frozen=True)
class Shard:
    """One tar file, as the index describes it."""

    name: str
    """Of its file."""
    part: Part
    """What its images are for; without any ``val``, validation takes its part of ``train``."""
    size: int
    """Of the file, in bytes."""
    sha256: str | None
    """Of the file, in hexadecimal; None where the tar itself was looked at, because there is no index."""
    members: tuple[str, ...]
    """Names of the images in it."""
    offsets: tuple[int, ...]
    """Where in the file each image's content begins, in bytes."""
    sizes: tuple[int, ...]
    """Bytes of each image."""


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
        document = {"format": _FORMAT, "classes": self.classes, "shards": [asdict(shard) for shard in self.shards]}
        return json.dumps(document, ensure_ascii=False, separators=(",", ":")).encode() + b"\n"

    @classmethod
    def from_json(cls, data: bytes, place: str) -> ShardIndex:
        """Read what ``to_json`` wrote. Raises CorruptError that names ``place`` and the first thing that cannot be right."""
        try:
            document = json.loads(data)
            if not isinstance(document, dict) or document.get("format") != _FORMAT:
                raise ValueError(f"its format is not {_FORMAT}, the one that this version knows")
            classes = _classes(document.get("classes"))
            listed = document.get("shards")
            if not isinstance(listed, list) or not listed:
                raise ValueError("it lists no shards")
            shards = tuple(_shard(entry, set(classes)) for entry in listed)
            if len({shard.name.lower() for shard in shards}) < len(shards):
                raise ValueError("two shards have one name")
        except (ValueError, RecursionError) as error:
            raise CorruptError(f"{place} is no index of shards that can be used: {error}", hint=_HINT) from error
        return cls(classes, shards)


def read_index(path: Path) -> ShardIndex:
    """The index in a file. Raises CorruptError; OSError where the file cannot be read."""
    descriptor = os.open(path, os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC)  # a pipe would keep its reader waiting
    with os.fdopen(descriptor, "rb") as file:
        if not stat.S_ISREG(os.fstat(descriptor).st_mode):
            raise CorruptError(f"{path} is not a file", hint=_HINT)
        data = file.read(MOST_INDEX_BYTES + 1)
    if len(data) > MOST_INDEX_BYTES:
        raise CorruptError(f"{path} is larger than {MOST_INDEX_BYTES >> 20} MiB, the most that an index may have", hint=_HINT)
    return ShardIndex.from_json(data, str(path))


def class_of(member: str) -> str:
    """The class of an image, by the name of the member that it is."""
    return member.split("/")[-2]


def part_of(member: str) -> Part | None:
    """The part that a member's name says it belongs to; None for a name that is not one of an image in a shard."""
    names = member.split("/")
    if len(names) not in (2, 3) or not all(is_name(name) for name in names):
        return None
    if len(names) == 2 or names[0] == "train":
        return "train"
    return "val" if names[0] == "val" else None


def is_name(name: object) -> bool:
    """Whether it can be the name of a class or of an image's file."""
    if not isinstance(name, str) or not name or name.startswith(".") or _UNFIT.search(name):
        return False
    return len(name.encode()) <= _LONGEST_NAME


def _classes(found: Any) -> tuple[str, ...]:
    if not isinstance(found, list) or not all(is_name(name) for name in found):
        raise ValueError("its classes are not names")
    if sorted(set(found)) != found:
        raise ValueError("its classes are not sorted, or one is there twice")
    return tuple(found)


def _shard(entry: Any, classes: set[str]) -> Shard:
    if not isinstance(entry, dict):
        raise ValueError("a shard is no mapping")
    name, part, sha256 = (entry.get(key) for key in ("name", "part", "sha256"))
    size: Any = entry.get("size")
    if not isinstance(name, str) or not _SHARD.fullmatch(name):
        raise ValueError(f"{_short(name)} is not a valid shard name")
    if part not in ("train", "val"):
        raise ValueError(f"{name} belongs to {_short(part)}, which is neither train nor val")
    if not _is_count(size) or size > _MOST_SHARD_BYTES:
        raise ValueError(f"the size of {name} is {_short(size)}")
    if not isinstance(sha256, str) or not _SHA256.fullmatch(sha256):
        raise ValueError(f"the SHA-256 of {name} is {_short(sha256)}")
    members, offsets, sizes = (entry.get(key) for key in ("members", "offsets", "sizes"))
    if not (isinstance(members, list) and isinstance(offsets, list) and isinstance(sizes, list)):
        raise ValueError(f"the members of {name} are no lists")
    if not len(members) == len(offsets) == len(sizes):
        raise ValueError(f"the lists of {name} differ in length")
    _check_members(name, members, part, classes)
    _check_extents(name, size, offsets, sizes)
    return Shard(name, part, size, sha256, tuple(members), tuple(offsets), tuple(sizes))


def _check_members(shard: str, members: Sequence[Any], part: Part, classes: set[str]) -> None:
    for member in members:
        if not isinstance(member, str) or part_of(member) != part or class_of(member) not in classes:
            raise ValueError(f"{shard} has a member {_short(member)}, which is not an image of {part} in one of the classes")


def _check_extents(shard: str, size: int, offsets: Sequence[Any], sizes: Sequence[Any]) -> None:
    end = 0
    for offset, length in zip(offsets, sizes, strict=True):
        if not _is_count(offset) or not _is_count(length) or offset % BLOCK_BYTES or offset < end + BLOCK_BYTES or offset + length > size:
            raise ValueError(f"an image of {_short(length)} bytes at {_short(offset)} does not lie in {shard} behind the one before it")
        end = offset + length


def _short(value: Any) -> str:
    """A value for a message, whatever an index may hold."""
    if isinstance(value, str):
        return repr(value[:300])
    return repr(value) if value is None or isinstance(value, (bool, float)) or _is_count(value) else "something else"


def _is_count(value: Any) -> bool:
    return isinstance(value, int) and not isinstance(value, bool) and 0 <= value < 1 << 63

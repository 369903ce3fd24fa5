"""Divides a job's code into several layers, so that changing one file uploads little more than that file.

A layer is sent as a whole, and each layer costs about 230 bytes in every manifest and configuration that is pushed. So neither a single
layer nor one layer per file is a good choice. The layers depend only on names and sizes, never on earlier uploads: the same files give the
same layers on any machine. The bits of a hash of its name assign a file to a layer. A layer that would become too large is halved by the
next bit, which changes no other layer.

With ``s`` compressed bytes of files in ``n`` layers, a change sends about ``s / n + 230 n`` bytes, at least ``2 sqrt(230 s)``: the minimum
without knowledge of earlier uploads. Program text changes from one submission to the next, so it is divided finely, and everything else
coarsely.
"""

import hashlib
import os
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from cloud_train.image.layers import Member

LARGE_FILE_BYTES = 64 * 1024
"""A file of at least this size gets its own layer. Compressed it has about 16 kB, much more than a layer's overhead."""

PROGRAM_TEXT = frozenset(
    {"c", "cc", "cfg", "cpp", "cu", "h", "hpp", "ini", "ipynb", "jl", "lua", "py", "pyi", "pyx", "r", "rs", "sh", "toml", "yaml", "yml"}
)
"""Suffixes of files that are edited by hand."""

_MOST_ALONE = 8
"""How many of the largest files get a layer each."""


@dataclass(frozen=True)
class _Rule:
    """How members of one kind are divided: halved, at most ``most_halvings`` times, until no layer has more than ``bytes``."""

    bytes: int
    most_halvings: int


_PROGRAM_TEXT = _Rule(14 * 1024, 5)
_OTHER_SMALL = _Rule(1024 * 1024, 1)
_OTHER_LARGE = _Rule(LARGE_FILE_BYTES, 2)


def split(members: Sequence[Member]) -> list[list[Member]]:
    """Divide files, links and folders into layers. Each layer includes the folders above its members.

    Otherwise an engine would create these folders with a mode of its own.
    """
    folders = {member.name: member for member in members if member.kind == "folder"}
    above = _folders_above(members)
    leaves = [member for member in members if member.name not in above]
    by_size = sorted(leaves, key=lambda member: (-_size(member), os.fsencode(member.name)))
    large = [member for member in by_size if _size(member) >= LARGE_FILE_BYTES]
    small = by_size[len(large) :]
    if _total(small) > _PROGRAM_TEXT.bytes:
        text = [member for member in small if _is_program_text(member)]
        others = [member for member in small if not _is_program_text(member)]
    else:
        text, others = small, []
    groups = [
        *([member] for member in large[:_MOST_ALONE]),
        *_divided(large[_MOST_ALONE:], _OTHER_LARGE),
        *_divided(others, _OTHER_SMALL),
        # Last, because an engine reuses an image's layers only below the first new one.
        *_divided(text, _PROGRAM_TEXT),
    ]
    return [[*(folders[name] for name in sorted(_folders_above(group)) if name in folders), *group] for group in groups]


def _divided(members: Sequence[Member], rule: _Rule, halved: int = 0) -> Iterator[list[Member]]:
    if not members:
        return
    if len(members) == 1 or halved == rule.most_halvings or _total(members) <= rule.bytes:
        yield list(members)
        return
    halves: tuple[list[Member], list[Member]] = ([], [])
    for member in members:
        halves[_bit(member.name, halved)].append(member)
    for half in halves:
        yield from _divided(half, rule, halved + 1)


def _bit(name: str, number: int) -> int:
    """Bit ``number`` (0 to 7) of the SHA-256 of a name, which selects one of two halves."""
    return hashlib.sha256(os.fsencode(name)).digest()[0] >> (7 - number) & 1


def _size(member: Member) -> int:
    return member.expected[0] if member.expected is not None else len(member.content)


def _total(members: Sequence[Member]) -> int:
    return sum(_size(member) for member in members)


def _is_program_text(member: Member) -> bool:
    return member.name.rpartition("/")[2].rpartition(".")[2].lower() in PROGRAM_TEXT


def _folders_above(members: Sequence[Member]) -> set[str]:
    found = set()
    for member in members:
        name = member.name.rpartition("/")[0]
        while name and name not in found:
            found.add(name)
            name = name.rpartition("/")[0]
    return found

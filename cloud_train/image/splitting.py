"""The code of a job as several layers, so that a change of one file sends little more than that file.

A layer is sent as a whole, and each layer costs about 230 bytes in every manifest and configuration that is pushed, so neither one layer
for everything nor one for every file will do. The layers follow from names and sizes alone, never from what was sent before: the same
files are the same layers on any machine. Files go into them by the bits of a hash of their name. Where a layer would become too large, it
is halved by the next bit, which changes that layer and no other.

With ``s`` compressed bytes of files over ``n`` layers, a change sends about ``s / n + 230 n`` bytes, which is least at ``2 sqrt(230 s)``:
whoever does not know what was sent before cannot send less. Hence program text, which is what changes from one submission to the next, is
divided finely, and everything else coarsely.
"""

import hashlib
import os
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from cloud_train.image.layers import Member

LARGE_FILE_BYTES = 64 * 1024
"""A file of this size or more gets a layer of its own. Compressed it has some 16 kB, more than a layer's overhead."""

PROGRAM_TEXT = frozenset(
    {"c", "cc", "cfg", "cpp", "cu", "h", "hpp", "ini", "ipynb", "jl", "lua", "py", "pyi", "pyx", "r", "rs", "sh", "toml", "yaml", "yml"}
)
"""Suffixes of files that people edit."""

_MOST_ALONE = 8
"""Large files with a layer of their own each: the largest."""


@dataclass(frozen=True)
class _Rule:
    """How members of one kind are divided: in halves, as often as ``most_halvings``, until none has more than ``bytes``."""

    bytes: int
    most_halvings: int


_PROGRAM_TEXT = _Rule(14 * 1024, 5)
_OTHER_SMALL = _Rule(1024 * 1024, 1)
_OTHER_LARGE = _Rule(LARGE_FILE_BYTES, 2)


def split(members: Sequence[Member]) -> list[list[Member]]:
    """Divide files, links and folders into layers, each with the folders above what is in it.

    An engine gives a folder that no layer names a mode of its own, so a layer names every folder that it touches.
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
        # Last, since an engine keeps the layers of an image below the first that is new.
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
    """The first bits of a name's SHA-256 say in which halves it is; ``number`` is at most 7."""
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

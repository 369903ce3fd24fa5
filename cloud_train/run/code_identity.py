"""The identity of a script's code, recorded when a run begins and beside its checkpoints, so that a change of the code can be noticed.

Only what a program usually consists of is read: source files and settings below 1 MiB, by their names. Data, weights, hidden folders and
folders in which tools keep their output are left out, and so is everything beyond the limits, so that a folder full of data costs little.
"""

from __future__ import annotations  # the worker also runs on Python 3.10, in users' own images

import os
import re
import stat
from collections.abc import Collection, Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from cloud_train.run import layout
from cloud_train.run.repository import commit_of

LARGEST_BYTES = 1 << 20
"""A larger file is not code."""
MOST_FILES = 2_000
"""As many files are read."""
MOST_FOLDERS = 2_000
MOST_LISTED = 50_000
"""No further folder is listed once the ones before had this many names."""
_MOST_BYTES = 16 << 20
_LISTED = 3
_MOST_IN_MANIFEST = 100
_SHORT = 12
_COMMIT = re.compile(r"[0-9a-f]{40}|[0-9a-f]{64}")
LISTED_NO_FILES = "there are too many files to name those that differ"

_SUFFIXES = frozenset(
    (
        *(".py", ".pyx", ".pxd", ".pyi", ".ipynb", ".sh", ".bash", ".pl", ".rb", ".r", ".jl", ".lua", ".js", ".mjs", ".ts", ".php", ".sql"),
        *(".c", ".cc", ".cpp", ".cxx", ".cu", ".cuh", ".h", ".hh", ".hpp", ".m", ".mm", ".go", ".rs", ".java", ".kt", ".scala", ".swift"),
        *(".cs", ".f", ".f90", ".hs", ".ml", ".clj", ".ex", ".zig", ".nim", ".d", ".proto", ".cmake"),
        *(".yaml", ".yml", ".toml", ".cfg", ".ini"),
    )
)
_NAMES = frozenset(("Makefile", "Dockerfile", "CMakeLists.txt"))
_LEFT_OUT = frozenset(
    (
        "__pycache__",
        "node_modules",
        "venv",
        "env",
        "site-packages",
        "lightning_logs",
        "wandb",
        "mlruns",
        "outputs",
        "multirun",
        "cloud-train-output",
    )
)
_RUN_DIRECTORY = {layout.RUN, layout.ATTEMPTS}
"""What a run's directory has, which may be in a store beside the code: a script may write anything there."""


@dataclass(frozen=True)
class CodeIdentity:
    """What identifies the code in a folder."""

    sha256: str
    """Of the names and contents of its files, in hexadecimal."""
    commit: str = ""
    """The git commit that is checked out there; empty if the folder is in no repository, or there is no git."""
    is_modified: bool = False
    """Whether tracked files differ from that commit."""
    files: Mapping[str, str] = field(default_factory=dict)
    """Each file, relative to the folder with ``/``, and its SHA-256."""


def code_identity(folder: Path, leave_out: Collection[str] = ()) -> CodeIdentity:
    """The identity of the code in ``folder``; files that cannot be read are left out, and so are the files and folders in ``leave_out``.

    The limits apply in a fixed order, folders nearer to the top first, so the same files always give the same identity.
    """
    import hashlib  # takes 2 ms

    files: dict[str, str] = {}
    total = 0
    for name, size in _names(folder, frozenset(leave_out)):
        total += size
        if len(files) == MOST_FILES or total > _MOST_BYTES:
            break
        if (content := _content(folder / name)) is not None:
            files[name] = hashlib.sha256(content).hexdigest()
    digest = hashlib.sha256()
    for name in sorted(files, key=os.fsencode):
        digest.update(os.fsencode(name) + b"\0" + files[name].encode() + b"\n")
    found = commit_of(folder.absolute()) or {}
    return CodeIdentity(digest.hexdigest(), found.get("commit", ""), bool(found.get("dirty")), files)


def identity_beside(folder: Path, job_file: Path | None, store: Path | None) -> CodeIdentity:
    """The identity of a script's code in ``folder``, without the job file and the folder of the store, should they be in there."""
    folder = folder.resolve()
    beside = [place.resolve() for place in (job_file, store) if place is not None]
    return code_identity(folder, [place.relative_to(folder).as_posix() for place in beside if place.is_relative_to(folder)])


def in_manifest(identity: Mapping[str, Any]) -> dict[str, Any]:
    """What the manifest of a checkpoint records of a script's code, from the identity as ``asdict`` gives it or as a run records it.

    The files are only listed if there are few of them, so that a manifest stays small.
    """
    named = ("sha256", "commit", "is_modified")
    files = identity.get("files")
    few = isinstance(files, dict) and len(files) <= _MOST_IN_MANIFEST
    return {**{name: identity.get(name) for name in named}, **({"files": files} if few else {})}


def code_difference(before: object, now: Mapping[str, Any]) -> str:
    """How the code differs from that of a checkpoint, in words; empty if it does not, or if that is unknown.

    ``before`` comes from a manifest, which is not trusted. New files do not count where the files are known, since a program may have
    written them.
    """
    if not isinstance(before, dict) or not isinstance(before.get("sha256"), str) or before["sha256"] == now["sha256"]:
        return ""
    earlier, files = before.get("files"), now.get("files")
    if isinstance(files, dict) and isinstance(earlier, dict) and all(isinstance(one, str) for one in (*earlier, *earlier.values())):
        changes = [change for change in changed_files(earlier, files) if not change.endswith(" is new")]
        if not changes:
            return ""
        return listed([change if change.isprintable() else ascii(change) for change in changes]) + _commits(before, now)
    return f"{LISTED_NO_FILES}{_commits(before, now)}"


def _commits(before: Mapping[str, Any], now: Mapping[str, Any]) -> str:
    was, is_now = (one if isinstance(one := of.get("commit"), str) and _COMMIT.fullmatch(one) else "" for of in (before, now))
    return f" (commit {was[:_SHORT]}, now {is_now[:_SHORT]})" if was and is_now and was != is_now else ""


def changed_files(before: Mapping[str, str], now: Mapping[str, str]) -> list[str]:
    """The files that differ between two identities, each as ``train.py`` or, for a file of one alone, ``train.py is missing``."""
    found = []
    for name in sorted({*before, *now}):
        if name not in now:
            found.append(f"{name} is missing")
        elif name not in before:
            found.append(f"{name} is new")
        elif before[name] != now[name]:
            found.append(name)
    return found


def listed(changes: list[str]) -> str:
    """The first of these changes, and how many more there are."""
    more = f" and {len(changes) - _LISTED:,} more" if len(changes) > _LISTED else ""
    return ", ".join(changes[:_LISTED]) + more


def _names(top: Path, leave_out: frozenset[str]) -> Iterator[tuple[str, int]]:
    """The names and sizes of the files of code: those of one folder by name, then those of the folders in it."""
    waiting, number, seen = [""], 0, 0
    while number < min(len(waiting), MOST_FOLDERS) and seen < MOST_LISTED:
        above = waiting[number]
        number += 1
        try:
            with os.scandir(top / above) as entries:
                inside = sorted(entries, key=lambda entry: os.fsencode(entry.name))
        except OSError:
            continue
        seen += len(inside)
        if {entry.name for entry in inside} >= _RUN_DIRECTORY:
            continue
        for entry in inside:
            name = above + entry.name
            if entry.is_dir(follow_symlinks=False):
                if not entry.name.startswith(".") and entry.name not in _LEFT_OUT and name not in leave_out:
                    waiting.append(f"{name}/")
            elif name not in leave_out and (size := _size_of_code(entry)) is not None:
                yield name, size


def _size_of_code(entry: os.DirEntry[str]) -> int | None:
    """The size of a file that is taken for code; None for anything else."""
    stem, suffix = os.path.splitext(entry.name)  # noqa: PTH122 -- no path object for each of thousands of names
    is_requirements = suffix == ".txt" and stem.startswith("requirements")
    may_be = suffix.lower() in _SUFFIXES or entry.name in _NAMES or is_requirements or not suffix
    if not may_be or entry.name.startswith("."):
        return None
    try:
        status = entry.stat()
    except OSError:
        return None
    is_program = bool(suffix or entry.name in _NAMES or status.st_mode & stat.S_IXUSR)
    return status.st_size if stat.S_ISREG(status.st_mode) and is_program and status.st_size <= LARGEST_BYTES else None


def _content(path: Path) -> bytes | None:
    try:
        descriptor = os.open(path, os.O_RDONLY | os.O_NONBLOCK | os.O_NOCTTY | os.O_CLOEXEC)  # it may have become a pipe by now
        with os.fdopen(descriptor, "rb") as file:
            return file.read(LARGEST_BYTES) if stat.S_ISREG(os.fstat(descriptor).st_mode) else None
    except OSError:
        return None

"""Fit a lock file to wheels from another source: ``own_wheels.py LOCK FOLDER`` prints LOCK, pinned to the wheels in FOLDER.

The Dockerfile and `make venv` run it. A package that is in FOLDER as a wheel, such as a CPU build of torch, is pinned to that file by
its SHA-256, and packages that only the other build needs are dropped. All other packages keep the hashes that the lock gives them.
Standard library only.
"""

import hashlib
import re
import sys
import zipfile
from dataclasses import dataclass
from email import message_from_bytes
from pathlib import Path

_TOP = {"-r requirements.in", "cloud-train (pyproject.toml)"}
"""How uv names the two files that locks are made from: what they ask for is always needed."""


@dataclass
class Entry:
    """A package in the lock."""

    name: str
    text: str
    """Its lines."""
    needed_by: set[str]
    """Names of packages, or one of ``_TOP``."""


@dataclass(frozen=True)
class Wheel:
    """A wheel from another source than the lock's."""

    version: str
    sha256: str
    needs: frozenset[str]

    @classmethod
    def of(cls, path: Path) -> "Wheel":
        """Read the file."""
        with zipfile.ZipFile(path) as archive:
            (metadata,) = (name for name in archive.namelist() if re.fullmatch(r"[^/]+\.dist-info/METADATA", name))
            needs = message_from_bytes(archive.read(metadata)).get_all("Requires-Dist", [])
        with path.open("rb") as file:
            sha256 = hashlib.file_digest(file, "sha256").hexdigest()
        return cls(path.name.split("-")[1], sha256, frozenset(_name(each) for each in needs if "extra ==" not in each))


def fitted(lock: str, wheels: dict[str, Wheel]) -> str:
    """The lock, with the packages in ``wheels`` (by name) pinned to those files."""
    entries = _entries(lock)
    while True:
        kept = {entry.name for entry in entries}
        left = [entry for entry in entries if any(_needs(name, entry, kept, wheels) for name in entry.needed_by)]
        if len(left) == len(entries):
            break
        entries = left
    return "".join(_pinned(entry.name, wheels[entry.name]) if entry.name in wheels else entry.text for entry in entries)


def _needs(name: str, entry: Entry, kept: set[str], wheels: dict[str, Wheel]) -> bool:
    if name in _TOP:
        return True
    return name in kept and (name not in wheels or entry.name in wheels[name].needs)


def _pinned(name: str, wheel: Wheel) -> str:
    return f"{name}=={wheel.version} \\\n    --hash=sha256:{wheel.sha256}\n"


def _entries(lock: str) -> list[Entry]:
    entries: list[Entry] = []
    for line in lock.splitlines(keepends=True):
        if not line.startswith((" ", "#")) and line.strip():
            entries.append(Entry(_name(line), "", set()))
        if entries:
            entries[-1].text += line
            if comment := re.fullmatch(r"\s+#\s+(?:via\s+)?(-[rc] \S+|[A-Za-z0-9._-]+(?: \(pyproject\.toml\))?)\s*", line):
                entries[-1].needed_by.add(comment[1])
    return entries


def _name(requirement: str) -> str:
    found = re.match(r"[A-Za-z0-9._-]+", requirement)
    return re.sub(r"[-_.]+", "-", found[0]).lower() if found else ""


def main(lock: Path, folder: Path) -> None:
    """Print a lock, fitted to the wheels in a folder."""
    wheels = {_name(path.name.split("-")[0]): Wheel.of(path) for path in sorted(folder.glob("*.whl"))}
    print(fitted(lock.read_text(encoding="utf-8"), wheels), end="")


if __name__ == "__main__":
    main(Path(sys.argv[1]), Path(sys.argv[2]))

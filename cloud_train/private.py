"""Folders and files that only their owner may look into: the ledger, locks, notes, tracebacks."""

from __future__ import annotations  # the worker runs on Python 3.10 as well, in images of the user's

import os
import stat
from contextlib import suppress
from pathlib import Path

FOLDER, FILE = 0o700, 0o600
_SHARED_ON_PURPOSE = stat.S_ISVTX | stat.S_ISGID  # as /tmp is, or the folder of a team
_OF_OTHERS = stat.S_IRWXG | stat.S_IRWXO


def make_folder(folder: Path) -> None:
    """Make a private folder, and those above it that are missing; one that is there and is ours is made private. Raises OSError."""
    try:
        found = folder.stat()
    except FileNotFoundError:
        if not folder.parent.exists():
            make_folder(folder.parent)
        with suppress(FileExistsError):  # another process was quicker
            folder.mkdir(FOLDER)
        return
    if found.st_mode & _OF_OTHERS and found.st_uid == os.geteuid() and not found.st_mode & _SHARED_ON_PURPOSE and not _is_home(folder):
        with suppress(OSError):
            folder.chmod(FOLDER)


def make_file(path: Path) -> None:
    """Make an empty private file; one that is there and is ours is made private. Never opens a file that was there. Raises OSError."""
    try:
        found = path.stat()
    except FileNotFoundError:
        with suppress(FileExistsError):
            os.close(os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, FILE))
        return
    if found.st_mode & _OF_OTHERS and found.st_uid == os.geteuid():
        with suppress(OSError):
            path.chmod(FILE)


def write_text(path: Path, text: str) -> None:
    """Write a private file in place of what was there, whole or not at all. Raises OSError."""
    temporary = path.with_name(f"{path.name}.{os.urandom(4).hex()}")
    descriptor = os.open(temporary, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC | os.O_NOFOLLOW, FILE)
    try:
        with os.fdopen(descriptor, "w", encoding="utf-8", errors="backslashreplace") as file:
            file.write(text)
        temporary.replace(path)
    except BaseException:
        temporary.unlink(missing_ok=True)
        raise


def _is_home(folder: Path) -> bool:
    try:
        return folder.samefile(Path.home())
    except (OSError, RuntimeError):
        return False

"""Folders and files that only their owner may read: the ledger, locks, notes, tracebacks."""

from __future__ import annotations  # the worker also runs on Python 3.10, in the user's images

import os
import stat
from contextlib import suppress
from pathlib import Path

FOLDER, FILE = 0o700, 0o600
_SHARED_ON_PURPOSE = stat.S_ISVTX | stat.S_ISGID  # such as /tmp, or a team's folder
_OF_OTHERS = stat.S_IRWXG | stat.S_IRWXO


def make_folder(folder: Path) -> None:
    """Create a private folder and its missing parents. An existing folder of the user is made private. Raises OSError."""
    try:
        found = folder.stat()
    except FileNotFoundError:
        if not folder.parent.exists():
            make_folder(folder.parent)
        with suppress(FileExistsError):  # another process was faster
            folder.mkdir(FOLDER)
        return
    if found.st_mode & _OF_OTHERS and found.st_uid == os.geteuid() and not found.st_mode & _SHARED_ON_PURPOSE and not _is_home(folder):
        with suppress(OSError):
            folder.chmod(FOLDER)


def make_file(path: Path) -> None:
    """Create an empty private file. An existing file of the user is made private, but never opened. Raises OSError."""
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
    """Write a private file atomically, replacing an existing one. Raises OSError."""
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

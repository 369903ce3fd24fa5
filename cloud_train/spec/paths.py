"""Paths as a job file writes them, and reading the files they name."""

import errno
import os
import stat
from pathlib import Path

LARGEST_TEXT_BYTES = 1 << 30
"""The largest file of text or of labelled lines that is read."""
_PIECE_BYTES = 1 << 20


def has_home(path: str) -> bool:
    """Whether the home folder that ``path`` may begin with, such as ``~`` or ``~ada``, is known."""
    try:
        Path(path).expanduser()
    except RuntimeError:
        return False
    return True


def is_there(path: Path) -> bool:
    """Whether ``path`` exists, as far as this user can see."""
    try:
        return path.exists()
    except OSError:  # the name is too long, or a folder above it is not accessible
        return False


def read_plain(path: Path, most: int) -> bytes | None:
    """The content of ``path``; None if it is not a regular file of at most ``most`` bytes. Never blocks. Raises OSError.

    Reads no more bytes than ``fstat`` reports: some kernel files (``/proc/kmsg``) look like empty regular files and block their reader.
    """
    descriptor = os.open(path, os.O_RDONLY | os.O_NONBLOCK | os.O_NOCTTY | os.O_CLOEXEC)
    try:
        found = os.fstat(descriptor)
        if stat.S_ISDIR(found.st_mode):
            raise IsADirectoryError(errno.EISDIR, os.strerror(errno.EISDIR), str(path))
        if not stat.S_ISREG(found.st_mode) or found.st_size > most:
            return None
        content = bytearray()
        while len(content) < found.st_size and (piece := os.read(descriptor, min(_PIECE_BYTES, found.st_size - len(content)))):
            content += piece
        return bytes(content)
    finally:
        os.close(descriptor)

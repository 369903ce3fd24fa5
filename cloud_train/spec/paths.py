"""Paths as a job file writes them, and reading what is there."""

import errno
import os
import stat
from pathlib import Path

_PIECE_BYTES = 1 << 20


def has_home(path: str) -> bool:
    """Whether the home folder that ``path`` may begin with, such as ``~`` or ``~ada``, is known."""
    try:
        Path(path).expanduser()
    except RuntimeError:
        return False
    return True


def is_there(path: Path) -> bool:
    """Whether there is anything at ``path``."""
    try:
        return path.exists()
    except OSError:  # a name that is too long, or a folder that may not be entered
        return False


def read_plain(path: Path, most: int) -> bytes | None:
    """The file at ``path``; None if it is not a plain file of at most ``most`` bytes. Never waits for one. Raises OSError.

    Only as many bytes are read as the file has by its own account. Some files of the kernel (``/proc/kmsg``) look like plain files of no
    bytes, and block their reader.
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

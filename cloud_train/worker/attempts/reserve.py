"""A little of the disk, set aside: when the program has filled the rest, the worker can still write down how it ended."""

import os
from contextlib import suppress
from pathlib import Path

from cloud_train.beneath import open_within, unlink_within

RESERVE_BYTES = 64 * 1024
"""Enough for a status and some lines of log, each in a block of its own."""


class DiskReserve:
    """A file that holds the space until it is needed."""

    def __init__(self, path: Path, root: Path | None = None) -> None:
        """``root``: a folder above, below which no link is followed."""
        self._path, self._root = path, root

    def take(self) -> None:
        """Set the space aside, if there is any."""
        with suppress(OSError):
            descriptor = open_within(self._path, self._root, os.O_WRONLY | os.O_CREAT, 0o600)
            try:
                os.posix_fallocate(descriptor, 0, RESERVE_BYTES)
            finally:
                os.close(descriptor)

    def release(self) -> None:
        """Give the space back."""
        with suppress(OSError):
            unlink_within(self._path, self._root)


def is_full(folder: Path) -> bool:
    """Whether the disk under ``folder`` has no room left."""
    try:
        disk = os.statvfs(folder)
    except OSError:
        return False
    return disk.f_bavail * disk.f_frsize < RESERVE_BYTES

"""The folder that the runs of a machine share for what they download: its locks, and the words for what goes wrong on its disk."""

import errno
import fcntl
import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from cloud_train.errors import StoreError
from cloud_train.run.cached import open_lock


@contextmanager
def exclusive(path: Path, doing: str) -> Iterator[None]:
    """Hold the lock ``path`` for a block, after waiting for another process of this machine that is ``doing`` the same.

    It is an flock, which the kernel releases however its holder ends. Its file stays, so that no process holds a lock on a deleted file.
    """
    descriptor = open_lock(path)
    try:
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            print(f"waiting for another process that is {doing}", flush=True)
            fcntl.flock(descriptor, fcntl.LOCK_EX)
        yield
    finally:
        os.close(descriptor)


@contextmanager
def disk_errors(folder: Path) -> Iterator[None]:
    """Turn what the operating system refuses inside the block into a StoreError that names ``folder``."""
    try:
        yield
    except OSError as error:
        hints = {
            errno.ENOSPC: "free some space on that disk, then resume the run",
            errno.EDQUOT: "your disk quota is used up: delete something, then resume the run",
            errno.EACCES: "you have no permission there",
            errno.EROFS: "that disk is read-only",
        }
        reason = os.strerror(error.errno or 0).lower()
        raise StoreError(f"cannot write to {folder}: {reason}", hint=hints.get(error.errno or 0)) from error


def shown_bytes(count: float) -> str:
    """An amount of bytes in powers of 1,000, such as ``9.9 MB``."""
    if count < 1000:
        return f"{count:.0f} B"
    for unit in ("kB", "MB"):
        count /= 1000
        if count < 999.95:
            return f"{count:.1f} {unit}"
    return f"{count / 1000:,.1f} GB"

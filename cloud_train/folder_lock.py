"""The lock of a folder in a store: who holds it is alone in checking and changing what the folder contains.

It is an flock on a file in the folder; the kernel releases it when its holder ends. Containers on one machine share it. On NFS, Linux
turns it into a lock at the server (flock(2), "NFS details").
"""

import fcntl
import os
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from cloud_train.beneath import IrregularError, open_plain
from cloud_train.errors import StoreError

NAME = ".cloud-train-lock"
"""The file's name. Names with this prefix are no objects of a store."""

_PATIENCE_SECONDS = 10.0
_PAUSE_SECONDS = 0.005


@contextmanager
def held(directory: int, path: Path) -> Iterator[None]:
    """Hold the lock of an open folder, whose path is ``path``. Nothing that takes long may happen meanwhile.

    Raises StoreError if it cannot be taken within ten seconds: another process was suspended while it held the lock.
    """
    try:
        descriptor = _opened(directory)
    except OSError as error:
        reason = error.what if isinstance(error, IrregularError) else os.strerror(error.errno or 0).lower()
        raise StoreError(f"cannot lock {path / NAME}: {reason}", hint="make that file writable, or remove it") from error
    try:
        _take(descriptor, path)
        yield
    finally:
        os.close(descriptor)


def _take(descriptor: int, path: Path) -> None:
    give_up_at = time.monotonic() + _PATIENCE_SECONDS
    while True:
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            if time.monotonic() > give_up_at:
                reason = f"another process has held the lock {path / NAME} for {_PATIENCE_SECONDS:g} s"
                raise StoreError(reason, hint="end that process, or let it continue") from None
            time.sleep(_PAUSE_SECONDS)
        else:
            return


def _opened(directory: int) -> int:
    try:
        return open_plain(NAME, os.O_RDWR | os.O_CREAT, directory=directory)
    except PermissionError:  # another user's; reading is enough on a local disk
        return open_plain(NAME, os.O_RDONLY, directory=directory)

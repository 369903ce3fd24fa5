"""Locks between processes: an flock on a file. The kernel releases it however its holder ends, so it never goes stale.

A lock on a path tells that a process is alive, such as the one that submits a run. The lock of a folder in a store is held for a moment,
while the folder's contents are checked and changed; containers on one machine share it. On NFS, Linux turns it into a lock at the server
(flock(2), "NFS details").
"""

from __future__ import annotations  # the worker also runs on Python 3.10, in users' own images

import fcntl
import os
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from cloud_train.beneath import IrregularError, open_plain
from cloud_train.errors import StoreError
from cloud_train.private import FILE, make_folder

FOLDER_LOCK = ".cloud-train-lock"
"""The name of a folder's lock file. Names with this prefix are not objects of a store."""

_PATIENCE_SECONDS = 10.0
_PAUSE_SECONDS = 0.005


def take(path: Path) -> int | None:
    """Take the lock; returns the open descriptor that holds it, to pass on or close, or None if another process holds it.

    Raises StoreError if the file cannot be created.
    """
    try:
        make_folder(path.parent)
        descriptor = os.open(path, os.O_RDWR | os.O_CREAT | os.O_APPEND, FILE)
    except OSError as error:
        raise StoreError(
            f"cannot create {path}: {(error.strerror or str(error)).lower()}", hint="set CLOUD_TRAIN_HOME to a folder that you can write to"
        ) from error
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        os.close(descriptor)
        return None
    return descriptor


def is_held(path: Path) -> bool:
    """Whether any process holds the lock."""
    try:
        descriptor = os.open(path, os.O_RDONLY)
    except (FileNotFoundError, NotADirectoryError):
        return False
    try:
        fcntl.flock(descriptor, fcntl.LOCK_SH | fcntl.LOCK_NB)
        return False
    except BlockingIOError:
        return True
    finally:
        os.close(descriptor)


@contextmanager
def held(path: Path) -> Iterator[bool]:
    """Hold the lock for a block, then remove its file; yields False if another process holds it."""
    descriptor = take(path)
    try:
        yield descriptor is not None
    finally:
        if descriptor is not None:
            with suppress(OSError):
                path.unlink()
            os.close(descriptor)


@contextmanager
def folder_held(directory: int, path: Path) -> Iterator[None]:
    """Hold the lock of an open folder in a store, whose path is ``path``, to check and change its contents. Hold it only for a moment.

    Raises StoreError if it cannot be taken within ten seconds: another process was suspended while it held the lock.
    """
    try:
        descriptor = _opened(directory)
    except OSError as error:
        reason = error.what if isinstance(error, IrregularError) else os.strerror(error.errno or 0).lower()
        raise StoreError(f"cannot lock {path / FOLDER_LOCK}: {reason}", hint="make that file writable, or remove it") from error
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
                reason = f"another process has held the lock {path / FOLDER_LOCK} for {_PATIENCE_SECONDS:g} s"
                raise StoreError(reason, hint="end that process, or let it continue") from None
            time.sleep(_PAUSE_SECONDS)
        else:
            return


def _opened(directory: int) -> int:
    try:
        return open_plain(FOLDER_LOCK, os.O_RDWR | os.O_CREAT, directory=directory)
    except PermissionError:  # another user's; reading is enough on a local disk
        return open_plain(FOLDER_LOCK, os.O_RDONLY, directory=directory)

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

    Raises StoreError if the file cannot be created, or the file system has no locks.
    """
    try:
        make_folder(path.parent)
        descriptor = os.open(path, os.O_RDWR | os.O_CREAT | os.O_APPEND, FILE)
    except OSError as error:
        raise StoreError(
            f"cannot create {path}: {(error.strerror or str(error)).lower()}", hint="set CLOUD_TRAIN_HOME to a folder that you can write to"
        ) from error
    try:
        is_taken = _flock(descriptor, fcntl.LOCK_EX, path)
    except StoreError:
        os.close(descriptor)
        raise
    if not is_taken:
        os.close(descriptor)
        return None
    return descriptor


def is_held(path: Path) -> bool:
    """Whether any process holds the lock. Raises StoreError where the file system has no locks."""
    try:
        descriptor = os.open(path, os.O_RDONLY)
    except (FileNotFoundError, NotADirectoryError):
        return False
    try:
        return not _flock(descriptor, fcntl.LOCK_SH, path)
    finally:
        os.close(descriptor)


def check(folder: Path) -> None:
    """Raise StoreError if the file system of an existing folder has no locks, OSError if it cannot be written. Leaves nothing behind."""
    import tempfile  # takes 10 ms, and only ``doctor`` needs it

    with tempfile.TemporaryFile(dir=folder) as file:
        _flock(file.fileno(), fcntl.LOCK_EX, folder)


def _flock(descriptor: int, kind: int, path: Path) -> bool:
    """Take a lock without waiting; False if another process holds it. Raises StoreError where the file system has no locks."""
    try:
        fcntl.flock(descriptor, kind | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    except OSError as error:  # such as ENOLCK on NFS without a lock daemon, or ENOSYS on Lustre mounted without flock
        raise StoreError(
            f"cannot lock {path}: the file system says {(error.strerror or str(error)).lower()}",
            hint="use a folder on a local disk (CLOUD_TRAIN_HOME for locks and the ledger, store for runs), or mount this one with locks",
        ) from error
    return True


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
        if _flock(descriptor, fcntl.LOCK_EX, path / FOLDER_LOCK):
            return
        if time.monotonic() > give_up_at:
            reason = f"another process has held the lock {path / FOLDER_LOCK} for {_PATIENCE_SECONDS:g} s"
            raise StoreError(reason, hint="end that process, or let it continue")
        time.sleep(_PAUSE_SECONDS)


def _opened(directory: int) -> int:
    try:
        return open_plain(FOLDER_LOCK, os.O_RDWR | os.O_CREAT, directory=directory)
    except PermissionError:  # another user's; reading is enough on a local disk
        return open_plain(FOLDER_LOCK, os.O_RDONLY, directory=directory)

"""Locks between processes on one machine: an flock on a file. The kernel releases it however its holder ends, so it never goes stale."""

import fcntl
import os
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from cloud_train.errors import StoreError
from cloud_train.private import FILE, make_folder


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

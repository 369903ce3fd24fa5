"""Small files, each written whole or not at all: under a temporary name in its folder, and renamed when it is complete.

Files of one folder often follow each other, and opening the folder costs as much as writing one of them: each thread holds that open which
it wrote into last.
"""

import errno
import os
import secrets
import threading
from collections.abc import Sequence
from contextlib import suppress
from pathlib import Path

from cloud_train.storage.base import InvalidKeyError
from cloud_train.storage.transfer.paths import TEMPORARY, open_folder

_NEW = os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC | os.O_NOFOLLOW


class SmallFiles:
    """Writes files; may be used by many threads."""

    def __init__(self) -> None:
        self._own = threading.local()
        self._lock = threading.Lock()
        self._held: set[int] = set()
        self._token = secrets.token_hex(8)

    def write(self, folder: Path, below: Sequence[str], name: str, data: bytes, *, durable: bool) -> os.stat_result:
        """Write a file in the folder ``below`` a trusted one, both made if need be, in place of what has its name; returns its status.

        ``durable``: sync it to the disk before it gets its name. Raises OSError and StoreError; InvalidKeyError where a folder has its
        name, or a link or a file is where a folder is needed.
        """
        try:
            return self._write(self._opened(folder, below), name, data, durable)
        except FileNotFoundError:  # the folder was taken away since this thread opened it
            self._leave()
            return self._write(self._opened(folder, below), name, data, durable)

    def close(self) -> None:
        """Close the folders of all threads, when none of them writes any more."""
        with self._lock:
            held, self._held = self._held, set()
            self._own = threading.local()
        for descriptor in held:
            os.close(descriptor)

    def _write(self, directory: int, name: str, data: bytes, durable: bool) -> os.stat_result:
        temporary = f"{TEMPORARY}{self._token}-{threading.get_ident():x}.partial"
        descriptor = os.open(temporary, _NEW, 0o644, dir_fd=directory)
        try:
            written = os.write(descriptor, data)
            while written < len(data):
                written += os.write(descriptor, memoryview(data)[written:])
            if durable:
                os.fsync(descriptor)
            _rename(temporary, name, directory)
            return os.fstat(descriptor)
        except BaseException:
            with suppress(FileNotFoundError):
                os.unlink(temporary, dir_fd=directory)
            raise
        finally:
            os.close(descriptor)

    def _opened(self, folder: Path, below: Sequence[str]) -> int:
        if getattr(self._own, "place", None) != (folder, below):
            self._leave()
            descriptor = open_folder(folder, below)
            with self._lock:
                self._held.add(descriptor)
            self._own.place, self._own.descriptor = (folder, below), descriptor
        return int(self._own.descriptor)

    def _leave(self) -> None:
        if getattr(self._own, "place", None) is not None:
            self._own.place = None
            with self._lock:
                self._held.discard(self._own.descriptor)
            os.close(self._own.descriptor)


def _rename(temporary: str, name: str, directory: int) -> None:
    try:
        os.rename(temporary, name, src_dir_fd=directory, dst_dir_fd=directory)
    except OSError as error:
        if error.errno in (errno.EISDIR, errno.ENOTEMPTY):
            raise InvalidKeyError(f"there is a folder called {name!r} in its place", hint="move it away") from error
        raise

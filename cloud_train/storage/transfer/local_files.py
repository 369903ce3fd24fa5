"""Local files in a transfer: their SHA-256, small files written whole, and partial files.

A small file is written under a temporary name in its folder, then renamed. Opening the folder takes as long as writing the file, and files
of one folder often follow each other, so each thread keeps its last folder open.

A large file is written in parts, and another process can complete it after a crash. Next to the target are the partial file and a second
file with the object's version and the parts that arrived. Neither is trusted: the finished file is verified by its SHA-256, or else each
part by the SHA-256 that was noted when it arrived.
"""

import errno
import fcntl
import hashlib
import json
import mmap
import os
import secrets
import threading
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import asdict, dataclass
from pathlib import Path

from cloud_train.beneath import IrregularError, open_plain
from cloud_train.private import FILE
from cloud_train.storage.base import InvalidKeyError
from cloud_train.storage.transfer.paths import TEMPORARY, open_folder

PIECE_BYTES = 1 << 18
"""Read size for hashing: large enough to rarely wait for other threads, small enough for the CPU's cache."""


class StoppedError(Exception):
    """The transfer was stopped. It does not leave the pool, which raises the original error instead."""


class Hasher:
    """The SHA-256 of an open file, continued as the file grows, with a reused buffer."""

    def __init__(self, descriptor: int) -> None:
        self._descriptor = descriptor
        # Page-aligned memory: the kernel copies into a bytearray of this size, which begins 16 bytes into a page, at a third of the speed.
        self._piece = memoryview(mmap.mmap(-1, PIECE_BYTES))
        self._sha256 = hashlib.sha256()
        self.at = 0
        """Number of bytes hashed, from the beginning."""

    def advance(self, end: int, stopped: threading.Event) -> None:
        """Hash up to ``end`` or the end of the file, unless ``stopped`` is set."""
        while self.at < end and not stopped.is_set():
            read = os.preadv(self._descriptor, [self._piece[: end - self.at]], self.at)
            if not read:
                return
            self._sha256.update(self._piece[:read])
            self.at += read

    def hexdigest(self) -> str:
        """The SHA-256 so far, in hexadecimal."""
        return self._sha256.hexdigest()


def hash_file(descriptor: int, size: int, stopped: threading.Event) -> str:
    """The SHA-256 of the first ``size`` bytes of an open file, in hexadecimal; raises StoppedError."""
    hasher = Hasher(descriptor)
    hasher.advance(size, stopped)
    if stopped.is_set():
        raise StoppedError
    return hasher.hexdigest()


_NEW = os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC | os.O_NOFOLLOW


class SmallFiles:
    """Writes small files; thread-safe."""

    def __init__(self) -> None:
        self._own = threading.local()
        self._lock = threading.Lock()
        self._held: set[int] = set()
        self._token = secrets.token_hex(8)

    def write(self, folder: Path, below: Sequence[str], name: str, data: bytes, *, durable: bool) -> os.stat_result:
        """Write, or replace, a file in the folder ``below`` a trusted one, both created if missing; returns its status.

        ``durable``: sync it before it gets its name. Raises OSError and StoreError; InvalidKeyError if a folder has its name, or if a link
        or a file is where a folder is needed.
        """
        try:
            return self._write(self._opened(folder, below), name, data, durable)
        except FileNotFoundError:  # the folder was deleted since this thread opened it
            self._leave()
            return self._write(self._opened(folder, below), name, data, durable)

    def close(self) -> None:
        """Close the folders of all threads, which must have finished."""
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
            raise InvalidKeyError(f"a folder named {name!r} is in the way", hint="move it away") from error
        raise


_MOST_NOTES_BYTES = 64 << 20
_MOST_DIGITS = 9


def name_for(*texts: str) -> str:
    """A file name derived from strings, the same in every process."""
    return hashlib.sha256("\0".join(texts).encode("utf-8", "surrogatepass")).hexdigest()[:32]


@dataclass(frozen=True)
class Source:
    """The source of a partial file, which is useless for any other source."""

    url: str
    key: str
    version: str
    size: int
    part_bytes: int


class PartialFile:
    """A file written in parts, under a temporary name in the folder ``directory`` (a descriptor that the caller keeps and closes).

    Only one process at a time holds a partial file; a second one for the same target uses another name and starts from the beginning.
    """

    def __init__(self, directory: int, target: str, source: Source) -> None:
        self._directory = directory
        self._source = source
        self.name = f"{TEMPORARY}{name_for(source.url, source.key, target)}.partial"
        self.descriptor = self._take(self.name)
        if self.descriptor < 0:
            self.name = f"{TEMPORARY}{secrets.token_hex(16)}.partial"
            self.descriptor = self._take(self.name)
        self._notes_name = f"{self.name}.parts"
        self.arrived = self._read_notes()
        """The parts that arrived: number → SHA-256, empty if it was not noted."""
        if not self.arrived:
            self.restart()

    def restart(self) -> None:
        """Forget all parts and allocate the file's size, so that a full disk is detected now if the file system supports that."""
        self.arrived = {}
        os.ftruncate(self.descriptor, 0)
        os.ftruncate(self.descriptor, self._source.size)
        if self._source.size and hasattr(os, "posix_fallocate"):  # not on macOS
            try:
                os.posix_fallocate(self.descriptor, 0, self._source.size)
            except OSError as error:
                if error.errno not in (errno.EOPNOTSUPP, errno.EINVAL):
                    raise
        self._append(json.dumps(asdict(self._source)), os.O_TRUNC)

    def write(self, offset: int, data: bytes | bytearray | memoryview) -> None:
        """Write bytes at ``offset``."""
        view = memoryview(data)
        while view:
            written = os.pwrite(self.descriptor, view, offset)
            offset, view = offset + written, view[written:]

    def note(self, number: int, sha256: str) -> None:
        """Note that a part is complete, with its SHA-256 if available."""
        self.arrived[number] = sha256
        self._append(f"{number} {sha256}", 0)

    def publish(self, target: str) -> None:
        """Rename the file to ``target``, replacing an existing file. Raises OSError."""
        os.rename(self.name, target, src_dir_fd=self._directory, dst_dir_fd=self._directory)
        self._remove(self._notes_name)

    def discard(self) -> None:
        """Delete the file and its notes."""
        self._remove(self.name)
        self._remove(self._notes_name)

    def close(self) -> None:
        """Close the file; the parts that arrived stay for the next attempt."""
        os.close(self.descriptor)

    def _take(self, name: str) -> int:
        """Open and lock a file; -1 if another process holds it or if it is not a regular file."""
        while True:
            try:
                descriptor = open_plain(name, os.O_RDWR | os.O_CREAT, directory=self._directory)
            except IrregularError:
                return -1
            if not _lock(descriptor):
                os.close(descriptor)
                return -1
            # The previous holder may just have renamed it to its final name, in which case it must not be written.
            with suppress(FileNotFoundError):
                if os.path.samestat(os.fstat(descriptor), os.stat(name, dir_fd=self._directory, follow_symlinks=False)):
                    return descriptor
            os.close(descriptor)

    def _read_notes(self) -> dict[int, str]:
        try:
            descriptor = open_plain(self._notes_name, directory=self._directory)
        except OSError:
            return {}
        with os.fdopen(descriptor, errors="replace") as file:
            first, *lines = file.read(_MOST_NOTES_BYTES).split("\n")
        if first != json.dumps(asdict(self._source)) or os.fstat(self.descriptor).st_size != self._source.size:
            return {}
        arrived = {}
        for line in lines[:-1]:  # after the last line feed there is nothing, or a line torn by a crash
            number, _, sha256 = line.partition(" ")
            if number.isascii() and number.isdecimal() and len(number) <= _MOST_DIGITS:
                arrived[int(number)] = sha256
        return arrived

    def _append(self, line: str, flags: int) -> None:
        mode = os.O_WRONLY | os.O_CREAT | os.O_APPEND | flags
        descriptor = open_plain(self._notes_name, mode, FILE, directory=self._directory)
        try:
            os.write(descriptor, f"{line}\n".encode())
        finally:
            os.close(descriptor)

    def _remove(self, name: str) -> None:
        with suppress(FileNotFoundError):
            os.unlink(name, dir_fd=self._directory)


def _lock(descriptor: int) -> bool:
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    return True

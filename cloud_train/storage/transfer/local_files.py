"""A file that arrives in parts, which another process can complete after a crash.

Beside the target lie the partial file and a second one that names the version of the object and the parts that arrived. Neither is trusted:
the finished file is compared with the object's SHA-256, or where there is none, each part with the SHA-256 noted when it arrived.
"""

import errno
import fcntl
import hashlib
import json
import os
import secrets
from contextlib import suppress
from dataclasses import asdict, dataclass

from cloud_train.beneath import IrregularError, open_plain
from cloud_train.private import FILE
from cloud_train.storage.transfer.paths import TEMPORARY

_MOST_NOTES_BYTES = 64 << 20
_MOST_DIGITS = 9


def name_for(*texts: str) -> str:
    """A file's name for a few texts, the same in every process."""
    return hashlib.sha256("\0".join(texts).encode("utf-8", "surrogatepass")).hexdigest()[:32]


@dataclass(frozen=True)
class Source:
    """The very bytes that a partial file is of: it is of no use for any others."""

    url: str
    key: str
    version: str
    size: int
    part_bytes: int


class PartialFile:
    """A file that arrives in parts, under a temporary name in the folder ``directory`` (a descriptor, which stays the caller's).

    Only one process at a time holds a partial file; a second one for the same target works under a name of its own, and from the start.
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
        """The parts that arrived: number → SHA-256 of its bytes, empty where it was not noted."""
        if not self.arrived:
            self.begin_anew()

    def begin_anew(self) -> None:
        """Forget what arrived, and give the file its size, so that a full disk shows at once where the file system can tell."""
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
        """Write bytes to their place."""
        view = memoryview(data)
        while view:
            written = os.pwrite(self.descriptor, view, offset)
            offset, view = offset + written, view[written:]

    def note(self, number: int, sha256: str) -> None:
        """Note that a part is there whole, with its SHA-256 if there is one."""
        self.arrived[number] = sha256
        self._append(f"{number} {sha256}", 0)

    def publish(self, target: str) -> None:
        """Give the file its name, in place of what had it. Raises OSError."""
        os.rename(self.name, target, src_dir_fd=self._directory, dst_dir_fd=self._directory)
        self._remove(self._notes_name)

    def discard(self) -> None:
        """Delete it."""
        self._remove(self.name)
        self._remove(self._notes_name)

    def close(self) -> None:
        """Let go of it; what arrived stays for who comes next."""
        os.close(self.descriptor)

    def _take(self, name: str) -> int:
        """Open and lock a file; -1 if another process holds it, or if something that is not a plain file has its name."""
        while True:
            try:
                descriptor = open_plain(name, os.O_RDWR | os.O_CREAT, directory=self._directory)
            except IrregularError:
                return -1
            if not _lock(descriptor):
                os.close(descriptor)
                return -1
            # Who held it until a moment ago may have given it its final name: then it is not ours to write.
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
        for line in lines[:-1]:  # behind the last line feed is nothing, or a line that a crash cut off
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

"""The SHA-256 of files that may still grow, at the speed of the hash itself beside threads that do other things."""

import hashlib
import mmap
import os
import threading

PIECE_BYTES = 1 << 18
"""How much of a file is read at once for hashing: enough that other threads rarely make it wait, and little enough for the CPU's cache."""


class StoppedError(Exception):
    """The transfer was stopped; never leaves the pool, whose caller has another error to raise."""


class Hasher:
    """The SHA-256 of an open file, taken on and on as the file grows. Its memory is used again for each piece."""

    def __init__(self, descriptor: int) -> None:
        self._descriptor = descriptor
        # Memory that begins with a page: to where a bytearray of this size begins, 16 bytes on, the kernel copies at a third of the speed.
        self._piece = memoryview(mmap.mmap(-1, PIECE_BYTES))
        self._sha256 = hashlib.sha256()
        self.at = 0
        """How many bytes it is of, from the beginning."""

    def go_on(self, end: int, stopped: threading.Event) -> None:
        """Hash what lies before ``end``; leaves off where the file ends, and when ``stopped`` is set."""
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
    """SHA-256 of the first ``size`` bytes of an open file, or of all if it has fewer, in hexadecimal; raises StoppedError."""
    hasher = Hasher(descriptor)
    hasher.go_on(size, stopped)
    if stopped.is_set():
        raise StoppedError
    return hasher.hexdigest()

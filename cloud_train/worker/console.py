"""Copies the program's output to the worker's standard output, where users of a platform look for it: CloudWatch, Cloud Logging, user_logs.

The program writes directly into its log. A forked process reads what is added to that file and writes it to the standard output, so a
platform whose log is slow or stuck delays neither the program nor the worker. Platforms bill logs by the byte, so if a program prints too
much, the copy is cut short, with a line that says so; the run's own log always has everything.
"""

from __future__ import annotations

import os
import select
from collections.abc import Callable, Mapping
from contextlib import suppress
from pathlib import Path
from time import monotonic

from cloud_train.beneath import open_within
from cloud_train.run.platform_rules import CONSOLE_OUTPUT
from cloud_train.worker import contract

_LOOK_SECONDS = 1.0
_PIECE_BYTES = 64 * 1024
_BURST_BYTES = 1 << 20
"""What a program may print at once."""
_BYTES_PER_SECOND = 16 * 1024
"""What it may print in the long run: at most 1.4 GB a day for each node."""
_LAST_BYTES = 64 * 1024
"""The end of the output that is always copied, because it has the reason for a failure."""


def wanted(environment: Mapping[str, str] = os.environ, pid: int | None = None) -> bool:
    """Whether a platform or a container logs this worker's standard output: it has a platform, or is a container's process 1."""
    is_there = bool(environment.get(contract.PLATFORM)) or (os.getpid() if pid is None else pid) == 1
    return is_there and environment.get(CONSOLE_OUTPUT) != "0"


class Copying:
    """Passes what was added to a file to ``write``, within the allowance; a line of text says what was left out."""

    def __init__(self, read: Callable[[int, int], bytes], write: Callable[[bytes], None], clock: Callable[[], float] = monotonic) -> None:
        """``read(start, size)`` returns at most so many bytes of the file."""
        self._read, self._write, self._clock = read, write, clock
        self._at, self._allowed, self._since = 0, float(_BURST_BYTES), clock()
        self._ends_line = True

    def look(self, size: int, *, is_last: bool = False) -> None:
        """Write what is new in a file that has ``size`` bytes now: whole lines only, unless it ``is_last``."""
        now = self._clock()
        self._allowed, self._since = min(_BURST_BYTES, self._allowed + (now - self._since) * _BYTES_PER_SECOND), now
        until = self._at + int(min(size - self._at, self._allowed))
        self._copy(until, whole_lines=not is_last or until < size)
        if size - self._at > _PIECE_BYTES or (is_last and size > self._at):
            self._skip_to(size - _LAST_BYTES)
            if is_last:
                self._copy(size, whole_lines=False)
        if is_last and not self._ends_line:
            self._write(b"\n")
            self._ends_line = True

    def _copy(self, until: int, *, whole_lines: bool) -> None:
        while self._at < until:
            piece = self._read(self._at, min(_PIECE_BYTES, until - self._at))
            if whole_lines and len(piece) < _PIECE_BYTES:
                piece = piece[: max(piece.rfind(b"\n"), piece.rfind(b"\r")) + 1]  # progress bars end their lines with a carriage return
            if not piece:
                return
            self._write(piece)
            self._at, self._allowed, self._ends_line = self._at + len(piece), self._allowed - len(piece), piece.endswith(b"\n")

    def _skip_to(self, start: int) -> None:
        """Leave out what comes before ``start`` and before the next line."""
        if start <= self._at:
            return
        start += self._read(start, _LAST_BYTES).find(b"\n") + 1
        said = f"[cloud-train: {start - self._at:,} bytes of output were left out here; see them with: cloud-train logs]\n".encode()
        self._write(said if self._ends_line else b"\n" + said)
        self._at, self._ends_line = start, True


class Console:
    """The process that copies one attempt's output until ``end``, or until the worker has died."""

    def __init__(self, log: Path, root: Path, in_child: Callable[[], None]) -> None:
        """Start it; ``root`` is a folder above ``log`` below which no link is followed."""
        reading, self._writing = os.pipe()
        self.pid = os.fork()
        if self.pid == 0:
            os.close(self._writing)
            _copy_and_exit(log, root, in_child, reading)
        os.close(reading)

    def end(self) -> None:
        """Let it copy the rest and exit."""
        self.close()

    def close(self) -> None:
        """Close the pipe, in the worker or in a forked child of it; it is closed once only in each."""
        if self._writing >= 0:
            os.close(self._writing)
            self._writing = -1


def _copy_and_exit(log: Path, root: Path, in_child: Callable[[], None], reading: int) -> None:
    try:
        in_child()
        os.setsid()  # leave the worker's process group, which may be killed as a whole
        with suppress(OSError):  # the reader of the standard output is gone, or the log is no regular file: the worker reports that
            descriptor = open_within(log, root)
            copying = Copying(lambda start, size: os.pread(descriptor, size, start), _write)
            while not select.select([reading], [], [], _LOOK_SECONDS)[0]:
                copying.look(os.fstat(descriptor).st_size)
            copying.look(os.fstat(descriptor).st_size, is_last=True)
    finally:
        os._exit(0)  # never return into the worker's code


def _write(data: bytes) -> None:
    while data:
        data = data[os.write(1, data) :]

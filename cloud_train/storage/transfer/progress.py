"""The progress of a transfer: files, bytes, rate and remaining time, reported a few times a second."""

import threading
import time
from collections import deque
from collections.abc import Callable
from dataclasses import dataclass

_TELL_SECONDS = 0.1
_WINDOW_SECONDS = 10.0


@dataclass(frozen=True)
class Progress:
    """The state of a transfer."""

    files_done: int
    files: int
    bytes_done: int
    """Including bytes that did not have to be transferred."""
    bytes: int
    rate: float
    """Bytes per second that were transferred over the last ten seconds."""
    eta: float | None
    """Remaining seconds at this rate; None if unknown."""


class Meter:
    """Counts the bytes and files of all threads, and reports them on the thread that calls ``tell``."""

    def __init__(self, report: Callable[[Progress], None] | None, clock: Callable[[], float] = time.monotonic) -> None:
        self._report = report
        self._clock = clock
        self._lock = threading.Lock()
        self._files = self._files_done = self._bytes = self._bytes_done = self._moved = 0
        self._samples: deque[tuple[float, int]] = deque([(clock(), 0)])
        self._told = -_TELL_SECONDS

    def expect(self, files: int, size: int) -> None:
        """Add files and bytes to the total."""
        with self._lock:
            self._files += files
            self._bytes += size

    def add(self, size: int, moved: int | None = None) -> None:
        """Count ``size`` more bytes as done (negative: undone), ``moved`` of them by a transfer, all by default."""
        with self._lock:
            self._bytes_done += size
            self._moved += max(0, size) if moved is None else moved

    def finish_file(self) -> None:
        """Count one more file as done."""
        with self._lock:
            self._files_done += 1

    @property
    def moved(self) -> int:
        """Bytes transferred so far, including repetitions."""
        return self._moved

    def tell(self, *, last: bool = False) -> None:
        """Report, unless that was done a moment ago; with ``last``, always."""
        now = self._clock()
        if self._report is None or (now - self._told < _TELL_SECONDS and not last):
            return
        self._told = now
        with self._lock:
            self._samples.append((now, self._moved))
            files_done, files, bytes_done, size = self._files_done, self._files, self._bytes_done, self._bytes
        while len(self._samples) > 2 and now - self._samples[0][0] > _WINDOW_SECONDS:
            self._samples.popleft()
        (begin, before), (end, after) = self._samples[0], self._samples[-1]
        rate = (after - before) / (end - begin) if end > begin else 0.0
        eta = max(0, size - bytes_done) / rate if rate > 0 else None
        self._report(Progress(files_done, files, bytes_done, size, rate, eta))

"""The worker's own log, for people: what it did and why. Keeping it never stops the worker."""

import os
import time
from collections import deque
from collections.abc import Callable
from pathlib import Path

from cloud_train.beneath import open_within
from cloud_train.worker.redaction import Redactor

_KEPT_LINES = 200


class WorkerLog:
    """Appends lines such as ``2026-11-23T12:00:00Z resuming from step 1200``."""

    def __init__(self, path: Path, redactor: Redactor, wall_clock: Callable[[], float] = time.time, root: Path | None = None) -> None:
        """``root``: a folder above, below which no link is followed."""
        self._path, self._root = path, root
        self._redactor = redactor
        self._wall_clock = wall_clock
        self._waiting: deque[str] = deque(maxlen=_KEPT_LINES)

    def note(self, text: str) -> None:
        """Write one line; where that fails (disk full, say) it waits for the next one."""
        stamp = time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime(self._wall_clock()))
        self._waiting.append(f"{stamp} {self._redactor.clean(text)}\n")
        try:
            _append(self._path, self._root, "".join(self._waiting).encode(errors="replace"))
        except OSError:
            return
        self._waiting.clear()


def _append(path: Path, root: Path | None, data: bytes) -> None:
    descriptor = open_within(path, root, os.O_WRONLY | os.O_APPEND | os.O_CREAT)
    try:
        size = os.fstat(descriptor).st_size
        if os.write(descriptor, data) < len(data):
            os.ftruncate(descriptor, size)  # no torn line where the disk filled up in the middle
            raise OSError(f"{path} took a part only")
    finally:
        os.close(descriptor)

"""Writing metrics as JSON lines, buffered and in whole lines."""

import json
import math
import os
import time
from collections.abc import Callable, Mapping
from contextlib import suppress
from pathlib import Path

from cloud_train.beneath import IrregularError, open_within
from cloud_train.errors import StoreError

INTERVAL_SECONDS = 0.5
"""Minimum time between two writes."""


class MetricsWriter:
    """Appends lines ``{"step", "epoch", "time", "split", "name", "value"}`` to a file, at most once per ``INTERVAL_SECONDS``."""

    def __init__(self, path: Path, clock: Callable[[], float] = time.monotonic, root: Path | None = None) -> None:
        """``root``: an ancestor folder, below which no link is followed."""
        self._path, self._root = path, root
        self._clock = clock
        self._lines: list[str] = []
        self._last_write = -math.inf
        self._process = os.getpid()

    def add(self, step: int, epoch: float | None, split: str, values: Mapping[str, float]) -> None:
        """Buffer the metrics of one step, and write if a write is due. A value that is not finite becomes null."""
        # The part that all values share is formatted once; a dictionary per value would cost about three times as much.
        shared = f'{{"step": {int(step)}, "epoch": {_number(epoch)}, "time": {time.time():.3f}, "split": {json.dumps(split)}, "name": '
        for name, value in values.items():
            self._lines.append(f'{shared}{json.dumps(name)}, "value": {_number(value)}}}\n')
        if self._clock() - self._last_write >= INTERVAL_SECONDS:
            self.flush()

    def flush(self) -> None:
        """Write the buffered lines; raises StoreError if that fails, and keeps them for the next time."""
        # A forked child, such as a data loader's worker, inherits the buffer; writing it there too would duplicate the lines.
        if not self._lines or os.getpid() != self._process:
            return
        data = "".join(self._lines).encode()
        try:
            _append(self._path, self._root, data)
        except IrregularError as error:
            raise StoreError(f"cannot write metrics to {error.path}: it is {error.what}") from error
        except OSError as error:
            raise StoreError(f"cannot write metrics to {self._path}: {os.strerror(error.errno or 0).lower()}") from error
        self._lines.clear()
        self._last_write = self._clock()

    def flush_quietly(self) -> None:
        """``flush`` at the very end of a process, where an error could not be handled any more."""
        with suppress(StoreError):
            self.flush()


def _append(path: Path, root: Path | None, data: bytes) -> None:
    descriptor = open_within(path, root, os.O_WRONLY | os.O_APPEND | os.O_CREAT)
    try:
        size = os.fstat(descriptor).st_size
        try:
            while data:
                data = data[os.write(descriptor, data) :]
        except OSError:
            os.ftruncate(descriptor, size)  # leave no torn line when the disk fills up
            raise
    finally:
        os.close(descriptor)


def _number(value: float | None) -> str:
    number = math.nan if value is None else float(value)
    return repr(number) if math.isfinite(number) else "null"

"""Uploading growing files (output, logs, metrics) in segments, which ``run.streams`` reads."""

import os
import stat
from collections.abc import Callable
from pathlib import Path

from cloud_train.beneath import IrregularError, held, open_within, read_all
from cloud_train.run.streams import segment_key, stream_of
from cloud_train.storage.base import Store

_LEAST_SECONDS = 2.0  # between two segments
_MOST_SECONDS = 10.0
_SLOW_DOWN = 300  # the time between two segments is a three-hundredth of the attempt's age, within these bounds
_SEGMENT_BYTES = 8 << 20


class StreamUpload:
    """Uploads one file. A segment that may not have arrived is sent again with the same bytes, so nothing is duplicated or changed."""

    def __init__(self, path: Path, store: Store, key: str, *, by_line: bool, clock: Callable[[], float], root: Path | None = None) -> None:
        """``by_line``: cut only after line feeds, except at the very end. ``root``: an ancestor folder, below which no link is followed."""
        self._root = root
        self._path, self._store, self._key, self._by_line, self._clock = path, store, key, by_line, clock
        self._segments: list[tuple[int, int]] = []
        self._under_way: int | None = None
        """End of a segment that was sent and may or may not have arrived."""
        self._began = self._next = clock()

    def resume(self) -> None:
        """Continue after the segments that an earlier process uploaded."""
        for info in self._store.list(f"{self._key}."):
            found = stream_of(info.key)
            if found and found[0] == self._key and found[1] == self._end:
                self._segments.append((found[1], found[1] + info.size))

    def look(self) -> None:
        """Send a segment if one is due and there is new data."""
        now = self._clock()
        if now >= self._next and (data := self._new(whole_lines=self._by_line)):
            self._send(data)
            self._next = now + min(_MOST_SECONDS, max(_LEAST_SECONDS, (now - self._began) / _SLOW_DOWN))

    def flush(self) -> None:
        """Send all remaining data, whether or not it ends with a line feed."""
        while data := self._new(whole_lines=False):
            self._send(data)

    def finish(self) -> None:
        """Send all remaining data, then check that every segment arrived, and send lost ones again."""
        self.flush()
        if not self._segments and self._path.exists():
            self._send(b"")
        there = {info.key: info.size for info in self._store.list(f"{self._key}.")}
        for start, end in self._segments:
            if there.get(segment_key(self._key, start)) != end - start:
                self._store.put(segment_key(self._key, start), self._read(start, end))

    @property
    def _end(self) -> int:
        return self._segments[-1][1] if self._segments else 0

    def _send(self, data: bytes) -> None:
        start = self._end
        self._under_way = start + len(data)
        self._store.put(segment_key(self._key, start), data)
        if self._segments and self._segments[-1][0] == start:  # an empty segment that was sent while the stream had no data
            self._segments.pop()
        self._segments.append((start, self._under_way))
        self._under_way = None

    def _new(self, whole_lines: bool) -> bytes:
        if self._under_way is not None:
            return self._read(self._end, self._under_way)
        try:
            size = self._size()
        except (FileNotFoundError, IrregularError):
            return b""
        data = self._read(self._end, min(size, self._end + _SEGMENT_BYTES)) if size > self._end else b""
        if self._by_line and (whole_lines or len(data) == _SEGMENT_BYTES):
            lines = data[: data.rfind(b"\n") + 1]
            return data if not lines and len(data) == _SEGMENT_BYTES else lines  # a line longer than a segment is cut after all
        return data

    def _size(self) -> int:
        """Size of the file; 0 for anything other than a regular file."""
        root = self._root or self._path.parent
        with held(root, self._path.parent.relative_to(root).parts) as directory:
            status = os.stat(self._path.name, dir_fd=directory, follow_symlinks=False)
        return status.st_size if stat.S_ISREG(status.st_mode) else 0

    def _read(self, start: int, end: int) -> bytes:
        descriptor = open_within(self._path, self._root)
        try:
            return read_all(descriptor, start, end)
        finally:
            os.close(descriptor)

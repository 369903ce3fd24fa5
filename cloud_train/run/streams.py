"""Growing files of a run (output, logs, metrics) in a store: one file that is appended to, or a sequence of segments.

Objects in cloud stores cannot be appended to, so a stream there is a sequence of objects, each named after its first byte's offset::

    attempts/1/logs/node-0/output.log.000000000000000
    attempts/1/logs/node-0/output.log.000000000001846

A segment is written once, or again with the same bytes if a response was lost, so nothing is duplicated, and the names show gaps.
"""

import re
from bisect import bisect_right
from collections.abc import Iterable, Iterator
from contextlib import suppress
from typing import Protocol

from cloud_train.storage.base import ObjectMissingError, Store

_OFFSET = re.compile(r"\.([0-9]{15})")
_PIECE_BYTES = 1 << 20
_TAIL_PIECE_BYTES = 1 << 16
_TAIL_BYTES = 16 << 20  # how far back to look for the start of a tail, in addition to the length that the lines may have
_LONGEST_LINE_BYTES = 1 << 16
_READ_AT_ONCE = 32  # segments are small, so latency dominates, and a day's run has about 9,000


class Stream(Protocol):
    """One stream, which can be read from any offset."""

    def exists(self) -> bool:
        """Whether anything has been written, even an empty segment."""

    def size(self) -> int:
        """Number of bytes that can be read now; 0 if the stream does not exist yet."""

    def read(self, start: int, end: int | None = None) -> bytes:
        """Bytes ``start`` to ``end``, as far as they exist; may return fewer than are available."""

    def forget(self, before: int) -> None:
        """Promise not to read before this byte again, so that following a stream for days needs no more memory over time."""


def open_stream(store: Store, key: str) -> Stream:
    """The stream ``key``, in the form that this store uses."""
    return FileStream(store, key) if store.local_path(key) is not None else SegmentedStream(store, key)


def segment_key(key: str, offset: int) -> str:
    """The key of the segment of stream ``key`` that begins at byte ``offset``."""
    return f"{key}.{offset:015d}"


def stream_of(key: str) -> tuple[str, int] | None:
    """The stream and the offset in a segment's key; None for other keys."""
    match = _OFFSET.search(key, max(0, len(key) - 16))
    return (key[: match.start()], int(match[1])) if match else None


class FileStream:
    """A stream in one object of a local folder."""

    def __init__(self, store: Store, key: str) -> None:
        self._store, self._key = store, key

    def exists(self) -> bool:
        """Whether the file exists."""
        with suppress(ObjectMissingError):
            return bool(self._store.stat(self._key))
        return False

    def size(self) -> int:
        """The file's size."""
        with suppress(ObjectMissingError):
            return self._store.stat(self._key).size
        return 0

    def read(self, start: int, end: int | None = None) -> bytes:
        """The file's bytes from ``start`` to ``end``."""
        with suppress(ObjectMissingError):
            return self._store.get(self._key, start, end)
        return b""

    def forget(self, before: int) -> None:
        """Nothing to do: no state is kept."""


class SegmentedStream:
    """A stream in segments. Known segments are remembered until ``forget``, so looking for new data takes one request if there is none."""

    def __init__(self, store: Store, key: str) -> None:
        self._store, self._key = store, key
        self._starts: list[int] = []
        self._keys: list[str] = []
        self._end = 0
        self._behind_a_gap: int | None = None

    def exists(self) -> bool:
        """Whether any segment exists; a finished empty stream has one of 0 bytes."""
        return bool(self._keys) or any(_offset(info.key, self._key) is not None for info in self._store.list(self._key))

    def size(self) -> int:
        """The offset up to which the segments form an unbroken sequence now."""
        self._look()
        return self._end

    def read(self, start: int, end: int | None = None) -> bytes:
        """Bytes from known segments; looks for new ones if ``start`` is past them or ``end`` is None."""
        if start >= self._end or end is None:
            self._look()
        wanted, position, limit = [], start, self._end if end is None else min(end, self._end)
        while position < limit:
            number = bisect_right(self._starts, position) - 1
            assert number >= 0, "read before the forgotten offset"
            first, behind = self._starts[number], [*self._starts[number + 1 : number + 2], self._end][0]
            wanted.append((self._keys[number], position - first, min(limit, behind) - first))
            position = min(limit, behind)
        return _joined(wanted, self._fetch(wanted))

    def forget(self, before: int) -> None:
        """Forget the segments that end before it, except the last two, from which the next listing starts."""
        known = min(bisect_right(self._starts, before), len(self._starts) - 1) - 1
        if known > 0:
            del self._starts[:known], self._keys[:known]

    def missing(self) -> tuple[int, int] | None:
        """The first gap: a byte range that is missing although later bytes arrived. In a live run it may still be filled."""
        self._look()
        return None if self._behind_a_gap is None else (self._end, self._behind_a_gap)

    def _look(self) -> None:
        # The last segment is listed again: a restarted writer may have written a longer version of it.
        after = self._keys[-2] if len(self._keys) > 1 else ""
        self._behind_a_gap = None
        for info in self._store.list(self._key, after):
            start = 0 if info.key == self._key else _offset(info.key, self._key)
            if start is None:
                continue
            if start > self._end:
                self._behind_a_gap = start
                return
            if start + info.size > self._end:
                if not self._keys or info.key != self._keys[-1]:
                    self._starts.append(start)
                    self._keys.append(info.key)
                self._end = start + info.size

    def _fetch(self, wanted: list[tuple[str, int, int]]) -> Iterable[bytes]:
        if len(wanted) < 2:
            return [self._store.get(*part) for part in wanted]
        from concurrent.futures import ThreadPoolExecutor  # takes 8 ms, which reading a local run can save

        with ThreadPoolExecutor(_READ_AT_ONCE) as pool:
            return list(pool.map(lambda part: self._store.get(*part), wanted))


class LogReader:
    """Reads one log; each ``read`` continues where the one before ended."""

    def __init__(self, store: Store, key: str) -> None:
        self.stream = open_stream(store, key)
        self._position = 0

    def skip_to_tail(self, lines: int) -> None:
        """Continue with the last ``lines`` lines."""
        self._position = start_of_tail(self.stream, lines)

    def read(self) -> Iterator[bytes]:
        """Whatever was added since the last call, in pieces of at most 1 MiB; nothing if the log does not exist yet."""
        while piece := self.stream.read(self._position, self._position + _PIECE_BYTES):
            self._position += len(piece)
            self.stream.forget(self._position)
            yield piece


def start_of_tail(stream: Stream, lines: int) -> int:
    """The byte offset at which the last ``lines`` lines of a log begin; a last line without a line feed counts.

    A tail of enormous lines, such as a file full of NULs, is cut: it begins at most 16 MiB plus 64 KiB per line before the end.
    """
    end = stream.size()
    if lines <= 0:
        return end
    wanted = lines
    position = end
    least = max(0, end - _TAIL_BYTES - lines * _LONGEST_LINE_BYTES)
    while position > least:
        start = max(least, position - _TAIL_PIECE_BYTES)
        piece = stream.read(start, position)
        if position == end and piece.endswith(b"\n"):
            wanted += 1
        feeds = piece.count(b"\n")
        if feeds >= wanted:
            return start + _end_of_nth_feed_from_right(piece, wanted)
        wanted -= feeds
        position = start
    return least


def _end_of_nth_feed_from_right(piece: bytes, count: int) -> int:
    place = len(piece)
    for _ in range(count):
        place = piece.rindex(b"\n", 0, place)
    return place + 1


def _joined(wanted: list[tuple[str, int, int]], pieces: Iterable[bytes]) -> bytes:
    """The pieces up to the first that is shorter than its segment was when listed: the next one would end up at the wrong offset."""
    whole = []
    for (_, start, end), piece in zip(wanted, pieces, strict=True):
        whole.append(piece)
        if len(piece) < end - start:
            break
    return b"".join(whole)


def _offset(key: str, stream: str) -> int | None:
    found = stream_of(key)
    return found[1] if found and found[0] == stream else None

"""What grows while a run is at work (its output, its metrics) as it is in a store: one file that is appended to, or segments.

No object of a cloud's store can be appended to. There a stream is a row of objects, each named after the byte at which it begins::

    attempts/1/logs/node-0/output.log.000000000000000
    attempts/1/logs/node-0/output.log.000000000001846

A segment is written once, and again with the same bytes where an answer was lost: nothing is doubled, and the names show what is missing.
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
_TAIL_BYTES = 16 << 20  # in which the beginning of a tail is looked for, and as much again as the lines may have
_LONGEST_LINE_BYTES = 1 << 16
_READ_AT_ONCE = 32  # segments are small: what they take is the waiting for each, and a run of a day has some 9,000


class Stream(Protocol):
    """One stream, read forwards or at any place."""

    def exists(self) -> bool:
        """Whether its writer has begun."""

    def size(self) -> int:
        """How many bytes can be read now; 0 if the stream does not exist yet."""

    def read(self, start: int, end: int | None = None) -> bytes:
        """Bytes ``start`` to ``end``, or as many of them as there are now; may return fewer than there are."""

    def forget(self, before: int) -> None:
        """Nothing before this byte is read again: so following a stream for days takes no more memory than at the beginning."""


def open_stream(store: Store, key: str) -> Stream:
    """The stream ``key``, in whichever form this store has it."""
    return FileStream(store, key) if store.local_path(key) is not None else SegmentedStream(store, key)


def segment_key(key: str, offset: int) -> str:
    """The object for the segment of stream ``key`` that begins at byte ``offset``."""
    return f"{key}.{offset:015d}"


def stream_of(key: str) -> tuple[str, int] | None:
    """The stream and the offset of a segment's key, or None for an object that is not a segment."""
    match = _OFFSET.search(key, max(0, len(key) - 16))
    return (key[: match.start()], int(match[1])) if match else None


class FileStream:
    """A stream in one object of a local folder."""

    def __init__(self, store: Store, key: str) -> None:
        self._store, self._key = store, key

    def exists(self) -> bool:
        """Whether the file is there."""
        with suppress(ObjectMissingError):
            return bool(self._store.stat(self._key))
        return False

    def size(self) -> int:
        """The file's size."""
        with suppress(ObjectMissingError):
            return self._store.stat(self._key).size
        return 0

    def read(self, start: int, end: int | None = None) -> bytes:
        """What is there between the two places."""
        with suppress(ObjectMissingError):
            return self._store.get(self._key, start, end)
        return b""

    def forget(self, before: int) -> None:
        """Nothing is known of a file."""


class SegmentedStream:
    """A stream in segments. What it knows of them stays until it may ``forget``; only what follows is asked for again: one request
    where nothing is new.
    """

    def __init__(self, store: Store, key: str) -> None:
        self._store, self._key = store, key
        self._starts: list[int] = []
        self._keys: list[str] = []
        self._end = 0
        self._behind_a_gap: int | None = None

    def exists(self) -> bool:
        """Whether any segment is there; a stream that stayed empty has one of 0 bytes."""
        return bool(self._keys) or any(_offset(info.key, self._key) is not None for info in self._store.list(self._key))

    def size(self) -> int:
        """The end of what follows on each other without a gap, as it is now."""
        self._look()
        return self._end

    def read(self, start: int, end: int | None = None) -> bytes:
        """Bytes of one segment, or of several that are known; looks for further ones where none is known, or where all are asked for."""
        if start >= self._end or end is None:
            self._look()
        wanted, position, limit = [], start, self._end if end is None else min(end, self._end)
        while position < limit:
            number = bisect_right(self._starts, position) - 1
            assert number >= 0, "what was forgotten is not read again"
            first, behind = self._starts[number], [*self._starts[number + 1 : number + 2], self._end][0]
            wanted.append((self._keys[number], position - first, min(limit, behind) - first))
            position = min(limit, behind)
        return _joined(wanted, self._fetch(wanted))

    def forget(self, before: int) -> None:
        """Let go of the segments that end there, but for the last two, from which on is looked."""
        known = min(bisect_right(self._starts, before), len(self._starts) - 1) - 1
        if known > 0:
            del self._starts[:known], self._keys[:known]

    def missing(self) -> tuple[int, int] | None:
        """The first range of bytes that never arrived though later ones did; of a run that is at work they may still come."""
        self._look()
        return None if self._behind_a_gap is None else (self._end, self._behind_a_gap)

    def _look(self) -> None:
        # The last segment is looked at again: it may have been written a second time, and longer, by a restarted writer.
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
        from concurrent.futures import ThreadPoolExecutor  # 8 ms, which a look at a local run does without

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
        """What was added since the last call, in pieces of at most 1 MiB; nothing if the log does not exist yet."""
        while piece := self.stream.read(self._position, self._position + _PIECE_BYTES):
            self._position += len(piece)
            self.stream.forget(self._position)
            yield piece


def start_of_tail(stream: Stream, lines: int) -> int:
    """Where the last ``lines`` lines of a log begin, in bytes; a last line without a line feed counts as a line.

    A tail of enormous lines (a file full of NULs, say) is cut: it begins at most 16 MiB, and 64 KiB for each line, before the end.
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
    """The pieces up to the first one that is shorter than its segment was when it was listed: what follows would stand in a wrong place."""
    whole = []
    for (_, start, end), piece in zip(wanted, pieces, strict=True):
        whole.append(piece)
        if len(piece) < end - start:
            break
    return b"".join(whole)


def _offset(key: str, stream: str) -> int | None:
    found = stream_of(key)
    return found[1] if found and found[0] == stream else None

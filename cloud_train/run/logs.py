"""Logs as they lie in a run directory: bytes, read forwards in pieces or backwards from the end, in constant memory."""

from collections.abc import Iterator

from cloud_train.run.streams import Stream, open_stream
from cloud_train.storage.base import Store

_PIECE_BYTES = 1 << 20
_TAIL_PIECE_BYTES = 1 << 16
_TAIL_BYTES = 16 << 20  # in which the beginning of a tail is looked for, and as much again as the lines may have
_LONGEST_LINE_BYTES = 1 << 16


class LogReader:
    """Reads one log; each ``read`` goes on where the one before ended."""

    def __init__(self, store: Store, key: str) -> None:
        self.stream = open_stream(store, key)
        self._position = 0

    def skip_to_tail(self, lines: int) -> None:
        """Go on with the last ``lines`` lines."""
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

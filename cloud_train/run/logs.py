"""Logs as they lie in a run directory: bytes, read forwards in pieces or backwards from the end, in constant memory."""

from collections.abc import Iterator

from cloud_train.storage.base import ObjectMissingError, Store

_PIECE_BYTES = 1 << 20
_TAIL_PIECE_BYTES = 1 << 16


class LogReader:
    """Reads one log object; each ``read`` goes on where the one before ended."""

    def __init__(self, store: Store, key: str, position: int = 0) -> None:
        self._store = store
        self._key = key
        self._position = position

    def read(self) -> Iterator[bytes]:
        """What was added since the last call, in pieces of at most 1 MiB; nothing if the log does not exist yet."""
        while piece := self._piece():
            self._position += len(piece)
            yield piece

    def _piece(self) -> bytes:
        try:
            return self._store.get(self._key, self._position, self._position + _PIECE_BYTES)
        except ObjectMissingError:
            return b""


def start_of_tail(store: Store, key: str, lines: int) -> int:
    """Where the last ``lines`` lines of a log begin, in bytes; a last line without a line feed counts as a line."""
    try:
        end = store.stat(key).size
    except ObjectMissingError:
        return 0
    if lines <= 0:
        return end
    wanted = lines
    position = end
    while position > 0:
        start = max(0, position - _TAIL_PIECE_BYTES)
        piece = store.get(key, start, position)
        if position == end and piece.endswith(b"\n"):
            wanted += 1
        feeds = piece.count(b"\n")
        if feeds >= wanted:
            return start + _end_of_nth_feed_from_right(piece, wanted)
        wanted -= feeds
        position = start
    return 0


def _end_of_nth_feed_from_right(piece: bytes, count: int) -> int:
    place = len(piece)
    for _ in range(count):
        place = piece.rindex(b"\n", 0, place)
    return place + 1

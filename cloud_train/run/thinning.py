"""The lines of a large metrics file that a table or a plot needs, found without parsing the others.

A piece of the file is reduced to the first, the last, the lowest and the highest value of each metric in it, and the last value of each
epoch that ends in it. This works on lines in the form in which ``worker.metrics`` writes them, by searching for bytes, several times faster
than a parser. A piece with any other line has to be parsed whole, and is reduced in the same way after that.
"""

import math
import re
from collections import Counter
from collections.abc import Iterator, Sequence
from itertools import pairwise

WRITTEN = re.compile(rb'"split": "[^"\\\n]*", "name": "[^"\\\n]*"')
"""The part of a line that names its metric, as ``worker.metrics`` writes it."""

_FEW = 16
"""Up to this many lines of a metric in a piece, all are kept."""
_MOST_DENSE = 16
"""If more metrics than this have many lines in a piece, parsing the whole piece is cheaper."""
_MOST_EPOCHS = 32
"""Limit of the epochs that may end in a piece; with more, it has few lines of each."""
_EPOCH = re.compile(rb'"epoch": ([0-9.e+-]{1,30}),')


def telling_lines(piece: bytes, usual: set[bytes]) -> list[bytes] | None:
    """The lines to keep of a piece of complete lines, in order; None if the whole piece has to be parsed.

    ``usual`` contains the metrics' names as earlier pieces spell them; this piece's are added. Counting known names is fastest.
    """
    lines = piece.count(b"\n")
    counts = Counter({name: piece.count(name) for name in usual} if len(usual) <= _MOST_DENSE else ())
    if counts.total() != lines:
        counts = Counter(WRITTEN.findall(piece))
        usual.update(counts)
    dense = [name for name, count in counts.items() if count > _FEW]
    if counts.total() != lines or len(dense) > _MOST_DENSE:
        return None
    kept: set[int] = set()
    for name, count in counts.items():
        if count <= _FEW:
            kept.update(_places(piece, name))
        elif (places := _telling_places(piece, name, count)) is not None:
            kept |= places
        else:
            return None
    return [_line(piece, place) for place in sorted(kept)]


def telling_places(values: Sequence[float | None], epochs: Sequence[float | None]) -> set[int]:
    """Places of the first, last, lowest and highest of a metric's values in a piece, and of those that end epochs; of few values, all.

    ``epochs`` has one for each value. Values and epochs are finite or None.
    """
    if len(values) <= _FEW:
        return set(range(len(values)))
    finite = [value for value in values if value is not None]
    extremes = {values.index(extreme) for extreme in (min(finite), max(finite))} if finite else set()
    numbers = [None if epoch is None else max(1, math.ceil(epoch)) for epoch in epochs]
    return {0, len(values) - 1} | extremes | {place for place, (one, next_one) in enumerate(pairwise(numbers)) if one != next_one}


def _telling_places(piece: bytes, name: bytes, count: int) -> set[int] | None:
    """Offsets of the metric's first, last, lowest and highest values and of those that end epochs; None for lines of another form."""
    texts = [text.partition(b"}")[0] for text in piece.split(name + b', "value": ')[1:]]
    if len(texts) != count:
        return None
    finite = [text for text in texts if text != b"null"]
    try:
        values = list(map(float, finite))
    except ValueError:
        return None
    if not all(map(math.isfinite, values)):
        return None
    first, last = piece.find(name), piece.rfind(name)
    places = {first, last}
    if values:
        places |= {piece.find(b'%b, "value": %b}' % (name, finite[values.index(extreme)])) for extreme in (min(values), max(values))}
    begin, end = _epoch(piece, first), _epoch(piece, last)
    if begin == end:
        return places
    if begin is None or end is None or not begin < end <= begin + _MOST_EPOCHS:
        return None
    return places | {_end_of_epoch(piece, name, epoch, first, last) for epoch in range(begin, end)}


def _end_of_epoch(piece: bytes, name: bytes, epoch: int, first: int, last: int) -> int:
    """Offset of the metric's last line of ``epoch``, by bisection: ``first`` is not after that line, ``last`` is of a later epoch."""
    across = len(name) - 1  # so that a name that crosses an offset is found
    while piece.find(name, first + 1, last + across) >= 0:
        half = (first + last) // 2
        middle = piece.find(name, half, last + across)
        if middle < 0:
            last = half
        elif (number := _epoch(piece, middle)) is not None and number <= epoch:
            first = middle
        else:
            last = middle
    return first


def _epoch(piece: bytes, place: int) -> int | None:
    """The number of the epoch, from 1, of the line around ``place``."""
    match = _EPOCH.search(_line(piece, place))
    try:
        return max(1, math.ceil(float(match[1]))) if match else None
    except (ValueError, OverflowError):
        return None


def _places(piece: bytes, name: bytes) -> Iterator[int]:
    place = piece.find(name)
    while place >= 0:
        yield place
        place = piece.find(name, place + 1)


def _line(piece: bytes, place: int) -> bytes:
    """The line around ``place``, with its line feed."""
    return piece[piece.rfind(b"\n", 0, place) + 1 : piece.find(b"\n", place) + 1]

"""Reading the metrics of a run directory: JSON lines, each read continuing where the previous one ended.

A line is ``{"step": 12, "epoch": 0.5, "time": 1795435200.1, "split": "train", "name": "loss", "value": 0.31}``; epoch, time and split may
be missing, and a value that is not finite is null. Other lines are skipped, because a program may write anything.
"""

import json
import re
import sys
from collections.abc import Iterable, Iterator
from contextlib import suppress
from dataclasses import dataclass
from functools import lru_cache, partial
from operator import itemgetter
from typing import Any

from cloud_train.run import layout
from cloud_train.run.documents import LARGEST_LINE, LARGEST_STEP, LATEST
from cloud_train.run.streams import open_stream
from cloud_train.run.thinning import WRITTEN, telling_lines, telling_places
from cloud_train.storage.base import Store

MOST_BYTES = 256 << 20
"""Limit of the bytes that one read returns, the newest ones: about two million values, an hour of training at 200 steps per second."""
GLANCE_BYTES = 1 << 20
"""The same limit if only the newest values are needed: about 8,000 values."""
MOST_NAMES = 1_000
"""Limit of the different metrics that are kept; further ones are ignored."""
MOST_POINTS = 500_000
"""Limit of the values that are kept of all metrics of a run."""
MOST_THINNED_BYTES = 1 << 30
"""Limit of the bytes that a thinned read covers, the newest ones."""
MOST_THINNED_POINTS = 100_000
"""Limit of the values that are kept of a thinned read."""

_PIECE_BYTES = 1 << 20
_FURTHER_BYTES = 16 << 20
"""How far back to search for metrics that are measured rarely, such as those of validation."""
_UNTHINNED_BYTES = 16 << 20
"""Up to this size, a thinned read keeps everything."""
_PARTS, _SMALLEST_PART_BYTES = 1024, 2 * LARGEST_LINE
"""A thinned read divides the file into this many parts, and keeps a few values of each metric from each part."""
_PARSED_TOGETHER = 1_000
"""Lines."""
_UNTHINNED_PIECES = 2
"""At the end of the file, everything is kept, so that the newest steps are complete."""
_LONGEST_NAME = 200
_LARGEST_VALUE = sys.float_info.max
_LINE = re.compile(rb"\n[ \t\r]*\{[^\n]*")  # skips empty lines, of which there may be a million
_SURROGATE = re.compile("[\ud800-\udfff]")

Fields = dict[str, Any]
"""A line of metrics, parsed but not checked."""


@dataclass(frozen=True, slots=True)
class MetricPoint:
    """One value of one metric at one step."""

    attempt: int
    step: int
    epoch: float | None
    time: float | None
    """Seconds since the epoch."""
    split: str
    name: str
    value: float | None
    """None if it is not finite."""

    @property
    def key(self) -> str:
        """Split and name, such as ``validation/accuracy``."""
        return f"{self.split}/{self.name}"

    def to_json(self) -> dict[str, Any]:
        """The fields by name; ``dataclasses.asdict`` takes ten times as long."""
        return {name: getattr(self, name) for name in self.__slots__}


class MetricsReader:
    """Reads one attempt's metrics; each ``read`` yields what was added since the previous one, and holds one piece of it in memory."""

    def __init__(self, store: Store, run_id: str, attempt: int, node_rank: int = 0, most_bytes: int = MOST_BYTES) -> None:
        """``most_bytes``: limit of the bytes that each read covers, the newest ones."""
        self._most_bytes = most_bytes
        self._open = partial(open_stream, store, f"{run_id}/{layout.metrics(attempt, node_rank)}")
        self._stream = self._open()
        self._attempt = attempt
        self._piece_bytes = _PIECE_BYTES
        self._thins = False
        self._usual: set[bytes] = set()
        self._position = 0
        self._skipped = 0
        self._is_inside_a_line = False
        """Whether the position is inside a line to skip, because it is too long or its beginning was skipped."""
        self.has_skipped = False
        """Whether earlier metrics were not read, because there were more than ``most_bytes``."""

    def read(self) -> Iterator[MetricPoint]:
        """The points added since the last call; of more than ``most_bytes``, the newest.

        A line that is still being written is left for the next call.
        """
        size = self._stream.size()
        if size - self._position > self._most_bytes:
            self._position = self._skipped = size - self._most_bytes
            self._is_inside_a_line = self.has_skipped = True
        while self._position < size and (fields := self._next_fields(size)) is not None:
            for each in fields:
                if (point := _point(each, self._attempt)) is not None:
                    yield point

    def read_thinned(self) -> Iterator[MetricPoint]:
        """As the first ``read``, but a large file yields only the points that a table of epochs or a plot needs: see ``thinning``."""
        size = min(self._stream.size(), self._most_bytes)
        self._thins, self._piece_bytes = size > _UNTHINNED_BYTES, min(_PIECE_BYTES, max(_SMALLEST_PART_BYTES, size // _PARTS))
        return self.read()

    def read_skipped(self) -> Iterator[MetricPoint]:
        """The newest point of each metric in the 16 MiB before the part that was read, from lines in the form that the worker writes.

        Call it after all points of a ``read`` have been taken.
        """
        if not self._skipped:
            return
        stream = self._open()  # the other stream may have forgotten what was skipped
        size = stream.size()
        seen: set[bytes] = set()
        end, last = self._skipped, max(0, self._skipped - _FURTHER_BYTES)
        while end > last:
            piece = stream.read(max(last, end - _PIECE_BYTES - LARGEST_LINE), min(size, end + LARGEST_LINE))  # and lines across its ends
            for name in set(WRITTEN.findall(piece)) - seen:
                seen.add(name)
                at = piece.rfind(name)
                line = piece[piece.rfind(b"\n", 0, at) + 1 : piece.find(b"\n", at) + 1]
                for fields in _parsed(line):
                    if (point := _point(fields, self._attempt)) is not None:
                        yield point
            end -= _PIECE_BYTES

    def _next_fields(self, size: int) -> Iterable[Fields] | None:
        """The objects in the complete lines of the next piece; None if there is no complete line before ``size``."""
        data = self._stream.read(self._position, min(size, self._position + self._piece_bytes))
        whole = data[: data.rfind(b"\n") + 1]
        begin = whole.find(b"\n") if self._is_inside_a_line else -1
        thins = self._thins and self._position + _UNTHINNED_PIECES * self._piece_bytes < size
        lines = telling_lines(whole[begin + 1 :], self._usual) if thins else None
        parsed = _parsed(whole[begin + 1 :] if lines is None else b"".join(lines))
        if whole:
            self._is_inside_a_line = False
        elif self._is_inside_a_line or len(data) > LARGEST_LINE:
            self._is_inside_a_line, whole = True, data
        self._position += len(whole)
        self._stream.forget(self._position)
        if not whole:
            return None
        return self._thinned(parsed) if thins and lines is None else parsed

    def _thinned(self, parsed: Iterable[Fields]) -> list[Fields]:
        """Those of the objects of a piece that a table or a plot needs, in order."""
        by_name: dict[tuple[str, str], list[tuple[int, Fields]]] = {}
        for place, fields in enumerate(parsed):
            split, name = fields.get("split", "train"), fields.get("name")
            if type(split) is str and type(name) is str:
                by_name.setdefault((split, name), []).append((place, fields))
        kept: list[tuple[int, Fields]] = []
        for found in by_name.values():
            is_plain = _are_plain([fields for _, fields in found])
            points = found if is_plain else [each for each in found if _point(each[1], self._attempt) is not None]
            values, epochs = ([_number(fields.get(key)) for _, fields in points] for key in ("value", "epoch"))
            kept += [points[index] for index in telling_places(values, epochs)]
        return [fields for _, fields in sorted(kept, key=itemgetter(0))]


class MergedMetrics:
    """One point for each metric and step; if a later attempt repeated a step, its point counts.

    At most ``MOST_NAMES`` metrics are kept, and at most ``most_points`` values: beyond that, every second value of the metric with the most
    values is dropped. So a metric that is measured once per epoch keeps all its values beside one that is measured at every step.
    """

    def __init__(self, most_points: int = MOST_POINTS) -> None:
        self._most = most_points
        self._by_step: dict[tuple[str, str], dict[int, MetricPoint]] = {}
        self._count = 0
        self.has_left_out_names = False
        self.is_thinned = False

    def add(self, point: MetricPoint) -> None:
        """Add a point. The points of an attempt may come in any order."""
        key = (point.split, point.name)
        if (points := self._by_step.get(key)) is None:
            if len(self._by_step) == MOST_NAMES:
                self.has_left_out_names = True
                return
            points = self._by_step[key] = {}
        before = points.get(point.step)
        if before is None or before.attempt <= point.attempt:
            points[point.step] = point
            self._count += before is None
        if self._count > self._most:
            self._thin()

    def points(self) -> list[MetricPoint]:
        """The points, sorted by step."""
        return sorted((point for points in self._by_step.values() for point in points.values()), key=lambda point: point.step)

    def _thin(self) -> None:
        self.is_thinned = True
        key, points = max(self._by_step.items(), key=lambda item: len(item[1]))
        steps = sorted(points)
        kept = {*steps[-1::-2], steps[0]}  # the first, the newest, and every second one between
        self._by_step[key] = {step: point for step, point in points.items() if step in kept}
        self._count -= len(points) - len(kept)


def tells_pace(name: str) -> bool:
    """Whether a metric describes the training's pace (rates, the learning rate, the gradient's norm) rather than its quality."""
    return name.endswith(("_per_second", "learning_rate", "gradient_norm", "data_wait", "eta_seconds"))


def _parsed(data: bytes) -> Iterator[Fields]:
    """The objects in complete lines. Other lines, and those that are too long, are skipped."""
    lines = [line for line in _LINE.findall(b"\n" + data) if len(line) <= LARGEST_LINE]
    for start in range(0, len(lines), _PARSED_TOGETHER):
        yield from _parsed_together(lines[start : start + _PARSED_TOGETHER])


def _parsed_together(lines: list[bytes]) -> list[Fields]:
    """The objects in ``lines``, each of which begins with a line feed and a brace."""
    text = b",".join(lines)
    if text.count(b"{") == len(lines) == text.count(b"},\n") + text.endswith(b"}"):  # so no object reaches into the next line
        with suppress(ValueError, RecursionError):
            together: list[Fields] = json.loads(b"[%b]" % text)  # several times faster than one by one
            if len(together) == len(lines):
                return together
    fields = []
    for line in lines:
        with suppress(ValueError, RecursionError):
            fields.append(json.loads(line))
    return fields


def _are_plain(points: list[Fields]) -> bool:
    """Whether each of these objects is known to be a point, from a look at all of them."""
    steps, values = [each.get("step", "") for each in points], [each.get("value", "") for each in points]
    has_numbers = set(map(type, steps)) == {int} and set(map(type, values)) <= {int, float}
    return has_numbers and 0 <= min(steps) <= max(steps) <= LARGEST_STEP


def _point(fields: Fields, attempt: int) -> MetricPoint | None:
    step, split, name = fields.get("step"), fields.get("split", "train"), fields.get("name")
    if isinstance(step, float) and step.is_integer():
        step = int(step)
    if type(step) is not int or not 0 <= step <= LARGEST_STEP or not _is_name(split) or not _is_name(name):
        return None
    if (value := fields.get("value", _MISSING)) is not None and type(value) not in (int, float):
        return None
    epoch, time = _number(fields.get("epoch")), _number(fields.get("time"))
    return MetricPoint(
        attempt=attempt,
        step=step,
        epoch=epoch if epoch is not None and epoch >= 0 else None,
        time=time if time is not None and 0 <= time <= LATEST else None,
        split=_text(split),
        name=_text(name),
        value=_number(value),
    )


_MISSING = object()


def _is_name(text: object) -> bool:
    return isinstance(text, str) and 0 < len(text) <= _LONGEST_NAME


@lru_cache(maxsize=1024)
def _text(name: str) -> str:
    return _SURROGATE.sub("\ufffd", name)  # the same few names a million times: one object each


def _number(value: object) -> float | None:
    """A finite number, or None for everything else."""
    return float(value) if isinstance(value, (int, float)) and abs(value) <= _LARGEST_VALUE else None

"""Metrics of a run directory: JSON lines, read from where the last look ended.

A line is ``{"step": 12, "epoch": 0.5, "time": 1795435200.1, "split": "train", "name": "loss", "value": 0.31}``; epoch, time and split may
be missing, and a value that is not finite is null. Any other line is skipped: a program may write anything.
"""

import json
import re
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from functools import lru_cache, partial
from typing import Any

from cloud_train.run import layout
from cloud_train.run.documents import LARGEST_LINE, LARGEST_STEP, LATEST
from cloud_train.run.streams import open_stream
from cloud_train.run.thinning import WRITTEN, telling_lines
from cloud_train.storage.base import Store

MOST_BYTES = 256 << 20
"""Bytes of metrics that one look reads, the newest: about two million values, which a training of 200 steps a second writes in an hour."""
GLANCE_BYTES = 1 << 20
"""Bytes of metrics that a look reads which needs the newest values only: some 8,000 of them."""
MOST_NAMES = 1_000
"""Different metrics that a look remembers; of further ones nothing is kept."""
MOST_POINTS = 500_000
"""Values that a look at all metrics of a run keeps."""
MOST_THINNED_BYTES = 1 << 30
"""Bytes of metrics that a look reads which thins them, the newest."""
MOST_THINNED_POINTS = 100_000
"""Values that such a look keeps."""

_PIECE_BYTES = 1 << 20
_FURTHER_BYTES = 16 << 20
"""How far back a look searches for metrics that are measured seldom, such as those of validation."""
_UNTHINNED_BYTES = 16 << 20
"""So much is read whole by a look that thins."""
_PARTS, _SMALLEST_PART_BYTES = 1024, 2 * LARGEST_LINE
"""A look that thins keeps a few values of each metric in each of so many parts."""
_LONGEST_NAME = 200
_LARGEST_VALUE = sys.float_info.max
_LINE = re.compile(rb"\n[ \t\r]*\{[^\n]*")  # and so not a million empty lines, one by one
_SURROGATE = re.compile("[\ud800-\udfff]")


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
    """None where the program measured something that is not finite."""

    @property
    def key(self) -> str:
        """Split and name, such as ``validation/accuracy``."""
        return f"{self.split}/{self.name}"

    def to_json(self) -> dict[str, Any]:
        """The fields by name; ``dataclasses.asdict`` takes ten times as long."""
        return {name: getattr(self, name) for name in self.__slots__}


class MetricsReader:
    """Reads one attempt's metrics; each ``read`` yields what was added since the one before, and holds no more of it than a piece."""

    def __init__(self, store: Store, run_id: str, attempt: int, node_rank: int = 0, most_bytes: int = MOST_BYTES) -> None:
        """``most_bytes``: how much each look reads at most, the newest."""
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
        """Whether the position is inside a line that is not read: it is too long, or its beginning was skipped."""
        self.has_passed_over = False
        """Whether earlier metrics were not read, because there were more than ``most_bytes``."""

    def read(self) -> Iterator[MetricPoint]:
        """The points added since the last call, of more than ``most_bytes`` the newest; a line that is still being written waits for the
        next one.
        """
        size = self._stream.size()
        if size - self._position > self._most_bytes:
            self._position = self._skipped = size - self._most_bytes
            self._is_inside_a_line = self.has_passed_over = True
        while self._position < size and (lines := self._next_lines(size)) is not None:
            for line in lines:
                if (point := _point(line, self._attempt)) is not None:
                    yield point

    def read_thinned(self) -> Iterator[MetricPoint]:
        """As the first ``read``, but of much data only the points that a table of epochs or a plot needs: see ``thinning``."""
        size = min(self._stream.size(), self._most_bytes)
        self._thins, self._piece_bytes = size > _UNTHINNED_BYTES, min(_PIECE_BYTES, max(_SMALLEST_PART_BYTES, size // _PARTS))
        return self.read()

    def read_skipped(self) -> Iterator[MetricPoint]:
        """The newest point of each metric in the last 16 MiB before those that were read, as far as its line has the worker's own form.

        To be called when all points of a ``read`` have been taken.
        """
        if not self._skipped:
            return
        stream = self._open()  # the other one may have forgotten what was skipped
        size = stream.size()
        seen: set[bytes] = set()
        end, last = self._skipped, max(0, self._skipped - _FURTHER_BYTES)
        while end > last:
            piece = stream.read(max(last, end - _PIECE_BYTES - LARGEST_LINE), min(size, end + LARGEST_LINE))  # lines across its ends too
            for name in set(WRITTEN.findall(piece)) - seen:
                seen.add(name)
                at = piece.rfind(name)
                line = piece[piece.rfind(b"\n", 0, at) + 1 : piece.find(b"\n", at) + 1]
                if (point := _point(line, self._attempt)) is not None:
                    yield point
            end -= _PIECE_BYTES

    def _next_lines(self, size: int) -> list[bytes] | None:
        """The whole lines of the next piece; None where there is none before ``size``."""
        data = self._stream.read(self._position, min(size, self._position + self._piece_bytes))
        whole = data[: data.rfind(b"\n") + 1]
        begin = whole.find(b"\n") if self._is_inside_a_line else -1
        if not self._thins or (lines := telling_lines(whole[begin + 1 :], self._usual)) is None:
            lines = _LINE.findall(b"\n" + whole[begin + 1 :])
        if whole:
            self._is_inside_a_line = False
        elif self._is_inside_a_line or len(data) > LARGEST_LINE:
            self._is_inside_a_line, whole = True, data
        self._position += len(whole)
        self._stream.forget(self._position)
        return lines if whole else None


class MergedMetrics:
    """One point for each metric and step: where an attempt repeated a step, the later attempt counts.

    Whatever is added, at most ``MOST_NAMES`` metrics are kept, and at most ``most_points`` of their values: of the metric that has most of
    them every second one is dropped then. So a metric that is measured once an epoch keeps every value beside one of every step.
    """

    def __init__(self, most_points: int = MOST_POINTS) -> None:
        self._most = most_points
        self._by_step: dict[tuple[str, str], dict[int, MetricPoint]] = {}
        self._count = 0
        self.has_left_out_names = False
        self.is_thinned = False

    def add(self, point: MetricPoint) -> None:
        """Add a point, those of an attempt in any order."""
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
        """The points in the order of their steps."""
        return sorted((point for points in self._by_step.values() for point in points.values()), key=lambda point: point.step)

    def _thin(self) -> None:
        self.is_thinned = True
        key, points = max(self._by_step.items(), key=lambda item: len(item[1]))
        steps = sorted(points)
        kept = {*steps[-1::-2], steps[0]}  # the first, the newest, and every second one between
        self._by_step[key] = {step: point for step, point in points.items() if step in kept}
        self._count -= len(points) - len(kept)


def tells_pace(name: str) -> bool:
    """Whether a metric says how the training goes (rates, the learning rate, the gradient's norm) and not how well."""
    return name.endswith(("_per_second", "learning_rate", "gradient_norm", "data_wait", "eta_seconds"))


def _point(line: bytes, attempt: int) -> MetricPoint | None:
    if len(line) > LARGEST_LINE:
        return None
    try:
        fields = json.loads(line)
    except (ValueError, RecursionError):
        return None
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
    return _SURROGATE.sub("\ufffd", name)  # the same few names, a million times: one object each


def _number(value: object) -> float | None:
    """A finite number, or None for everything else."""
    return float(value) if isinstance(value, (int, float)) and abs(value) <= _LARGEST_VALUE else None

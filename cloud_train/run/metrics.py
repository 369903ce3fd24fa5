"""Reading the metrics of a run directory: JSON lines, each read continuing where the previous one ended.

A line is ``{"step": 12, "loss": 0.31, "val_loss": 0.4}``, with any number of metrics, or, as the built-in trainers write it, one metric:
``{"step": 12, "epoch": 0.5, "time": 1795435200.1, "split": "train", "name": "loss", "value": 0.31}``. Epoch, time and split may be missing,
and a value that is not finite is null. Other lines are counted and skipped, because a program may write anything.
"""

import json
import re
import sys
from collections.abc import Iterable, Iterator
from contextlib import suppress
from dataclasses import dataclass
from functools import lru_cache, partial
from itertools import chain
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
_LONGEST_SHOWN = 200
_EXAMPLE = '{"step": 15, "loss": 0.3}'
_NOT_METRICS = ("step", "epoch", "time", "split")
_SPLITS = {"train": "train", "val": "validation", "valid": "validation", "validation": "validation", "eval": "validation", "test": "test"}
"""What a metric's name may begin with, before ``_`` or ``/``, in place of a field ``split``."""
_BEGINNING = re.compile("([a-z]+)[_/](?=.)")
_OTHER_LINE = re.compile(rb"(?m)^[ \t\r]*[^\s{][^\n]*")
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
        self._piece = b""
        """The complete lines that were read last."""
        self._skipped = 0
        self._is_inside_a_line = False
        """Whether the position is inside a line to skip, because it is too long or its beginning was skipped."""
        self.rejected = Rejected()
        """The lines that are no metrics."""
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
            had_rejected = self.rejected.count > 0
            for each in fields:
                if (point := _point(each, self._attempt)) is not None:
                    yield point
                else:
                    self.rejected.add(each)
            if self.rejected.count and not had_rejected:
                self.rejected.look_for_first(self._piece)

    def read_thinned(self) -> Iterator[MetricPoint]:
        """As the first ``read``, but a large file yields only the points that a table of epochs or a plot needs: see ``thinning``."""
        size = min(self._stream.size(), self._most_bytes)
        self._thins, self._piece_bytes = size > _UNTHINNED_BYTES, min(_PIECE_BYTES, max(_SMALLEST_PART_BYTES, size // _PARTS))
        return self.read()

    def read_skipped(self, most_bytes: int = _FURTHER_BYTES) -> Iterator[MetricPoint]:
        """The newest point of each metric in the 16 MiB, or ``most_bytes``, before the part that was read, from lines in the form that the
        worker writes.

        Call it after all points of a ``read`` have been taken.
        """
        if not self._skipped:
            return
        stream = self._open()  # the other stream may have forgotten what was skipped
        size = stream.size()
        seen: set[bytes] = set()
        end, last = self._skipped, max(0, self._skipped - most_bytes)
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
        self._piece = whole[begin + 1 :]
        lines = telling_lines(self._piece, self._usual) if thins else None
        parsed = _parsed(self._piece if lines is None else b"".join(lines), self.rejected)
        if whole:
            self._is_inside_a_line = False
        elif self._is_inside_a_line or len(data) > LARGEST_LINE:
            if not self._is_inside_a_line:
                self.rejected.add(data[:_LONGEST_SHOWN])
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


class Rejected:
    """The lines of a metrics file that are not metrics: how many, and the first of them."""

    def __init__(self) -> None:
        self.count = 0
        self.first = ""
        """The first line, or its beginning."""

    def add(self, line: bytes | Fields) -> None:
        """One more line, as it was read or as it was parsed."""
        if not self.count:
            text = line.decode(errors="replace") if isinstance(line, bytes) else json.dumps(line, ensure_ascii=False)
            self.first = text.strip()[:_LONGEST_SHOWN]
        self.count += 1

    def look_for_first(self, data: bytes) -> None:
        """Set ``first`` from the piece with the first rejected lines, which are not found in the order of the file."""
        for line in data.split(b"\n"):
            if line.strip() and not _is_metric(line):
                self.first = line[:_LONGEST_SHOWN].decode(errors="replace").strip()
                return

    def __str__(self) -> str:
        """Words for the user; empty if there is none."""
        if not self.count:
            return ""
        several = "1 line of the metrics was" if self.count == 1 else f"{self.count:,} lines of the metrics were"
        return f"{several} not understood; write lines such as {_EXAMPLE}. The first: {self.first}"


def rejected_in(data: bytes) -> Rejected:
    """The lines in ``data``, which are complete, that are not metrics."""
    rejected = Rejected()
    for fields in _parsed(data, rejected):
        if _point(fields, 1) is None:
            rejected.add(fields)
    if rejected.count:
        rejected.look_for_first(data)
    return rejected


def _is_metric(line: bytes) -> bool:
    """Whether a single line holds at least one metric, and nothing that would be rejected."""
    if len(line) > LARGEST_LINE:
        return False
    rejected = Rejected()
    found = [_point(fields, 1) for fields in _parsed(line + b"\n", rejected)]
    return bool(found) and None not in found and not rejected.count


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
    """Whether a metric describes the training's steps (rates, the learning rate, one batch's gradient or loss) rather than its quality."""
    return name.endswith(("_per_second", "learning_rate", "gradient_norm", "batch_loss", "data_wait", "eta_seconds"))


def _parsed(data: bytes, rejected: Rejected | None = None) -> Iterator[Fields]:
    """The metrics in complete lines, each with its name and value. Other lines, and those that are too long, are ``rejected``."""
    found = _LINE.findall(b"\n" + data)
    lines = [line for line in found if len(line) <= LARGEST_LINE]
    if rejected is not None:
        for other in chain(
            _OTHER_LINE.findall(data) if len(found) < data.count(b"\n") else (), (line for line in found if len(line) > LARGEST_LINE)
        ):
            rejected.add(other)
    for start in range(0, len(lines), _PARSED_TOGETHER):
        parsed = _parsed_together(lines[start : start + _PARSED_TOGETHER], rejected)
        if all("name" in each for each in parsed):
            yield from parsed
        else:
            yield from chain.from_iterable(map(_spread, parsed))


def _spread(line: Fields) -> list[Fields]:
    """A line's metrics, one by one; the line itself if it already has a name, or has no step or no number."""
    if "name" in line or "value" in line or type(line.get("step")) not in (int, float):
        return [line]
    shared = {name: line[name] for name in _NOT_METRICS if name in line}
    values = {name: value for name, value in line.items() if name not in _NOT_METRICS and (value is None or type(value) in (int, float))}
    return [{**shared, **_named(name, shared), "value": value} for name, value in values.items()] or [line]


def _named(name: str, shared: Fields) -> Fields:
    """The name of a metric without its split, and its split, which ``val_loss`` and ``validation/loss`` begin with."""
    begin = _BEGINNING.match(name)
    if begin is None or "split" in shared or (split := _SPLITS.get(begin[1])) is None:
        return {"name": name}
    return {"name": name[begin.end() :], "split": split}


def _parsed_together(lines: list[bytes], rejected: Rejected | None) -> list[Fields]:
    """The objects in ``lines``, each of which begins with a line feed and a brace."""
    text = b",".join(lines)
    if text.count(b"{") == len(lines) == text.count(b"},\n") + text.endswith(b"}"):  # so no object reaches into the next line
        with suppress(ValueError, RecursionError):
            together: list[Fields] = json.loads(b"[%b]" % text)  # several times faster than one by one
            if len(together) == len(lines):
                return together
    fields = []
    for line in lines:
        try:
            fields.append(json.loads(line))
        except (ValueError, RecursionError):
            if rejected is not None:
                rejected.add(line)
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

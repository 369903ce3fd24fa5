"""Metrics as they lie in a run directory: JSON lines, read from where the last look ended.

A line is ``{"step": 12, "epoch": 0.5, "time": 1795435200.1, "split": "train", "name": "loss", "value": 0.31}``; epoch, time and split may
be missing, and a value that is not finite is null. A line that is no such object is skipped: a program may write anything.
"""

import json
from collections.abc import Iterable
from dataclasses import dataclass

from cloud_train.run import layout
from cloud_train.run.streams import open_stream
from cloud_train.storage.base import Store


@dataclass(frozen=True)
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


class MetricsReader:
    """Reads one attempt's metrics; each ``read`` returns what was added since the one before."""

    def __init__(self, store: Store, run_id: str, attempt: int, node_rank: int = 0) -> None:
        self._stream = open_stream(store, f"{run_id}/{layout.metrics(attempt, node_rank)}")
        self._attempt = attempt
        self._position = 0

    def read(self) -> list[MetricPoint]:
        """The points added since the last call; a line that is still being written waits for the next one."""
        data = self._stream.read(self._position)
        whole = data[: data.rfind(b"\n") + 1]
        self._position += len(whole)
        self._stream.forget(self._position)
        points = (_point(line, self._attempt) for line in whole.splitlines())
        return [point for point in points if point is not None]


def merged(points: Iterable[MetricPoint]) -> list[MetricPoint]:
    """One point for each metric and step, in the order of the steps: where an attempt repeated a step, the later attempt counts."""
    newest: dict[tuple[str, int], MetricPoint] = {}
    for point in points:
        before = newest.get((point.key, point.step))
        if before is None or before.attempt <= point.attempt:
            newest[point.key, point.step] = point
    return sorted(newest.values(), key=lambda point: point.step)


def tells_pace(name: str) -> bool:
    """Whether a metric says how the training goes (rates, the learning rate, the gradient's norm) and not how well."""
    return name.endswith(("_per_second", "learning_rate", "gradient_norm", "data_wait", "eta_seconds"))


def _point(line: bytes, attempt: int) -> MetricPoint | None:
    try:
        fields = json.loads(line)
        value, epoch, time = fields["value"], fields.get("epoch"), fields.get("time")
        return MetricPoint(
            attempt=attempt,
            step=int(fields["step"]),
            epoch=None if epoch is None else float(epoch),
            time=None if time is None else float(time),
            split=str(fields.get("split", "train")),
            name=str(fields["name"]),
            value=None if value is None else float(value),
        )
    except (ValueError, TypeError, KeyError, AttributeError, OverflowError, RecursionError):
        return None

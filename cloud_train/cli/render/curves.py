"""Metrics as a table: one row for each epoch, or for each step where the program knows of no epochs."""

import math
from collections.abc import Sequence

from cloud_train.cli.render import words
from cloud_train.cli.render.table import table
from cloud_train.cli.terminal import Painter, clean
from cloud_train.run.metrics import MetricPoint

_STEPS_SHOWN = 20


def metrics_table(points: Sequence[MetricPoint], paint: Painter) -> tuple[str, int]:
    """The table, and how many rows at its beginning were left out; ``points`` are in the order of their steps."""
    by_epoch = any(point.epoch is not None for point in points)
    keys = sorted({point.key for point in points}, key=_order)
    last: dict[int, dict[str, float | None]] = {}
    steps: dict[int, int] = {}
    for point in points:
        # Without an epoch beside epochs elsewhere, a point belongs to the epoch of the one before it.
        row = _row(point, by_epoch, previous=next(reversed(last), 1))
        last.setdefault(row, {})[point.key] = point.value
        steps[row] = point.step
    shown = sorted(last) if by_epoch else sorted(last)[-_STEPS_SHOWN:]
    head = (*(["EPOCH"] if by_epoch else []), "STEP", *(clean(key) for key in keys))
    rows = [
        (
            *([str(row)] if by_epoch else []),
            f"{steps[row]:,}",
            *(words.number(last[row][key]) if key in last[row] else "" for key in keys),
        )
        for row in shown
    ]
    return table(head, rows, paint, right=range(len(head))), len(last) - len(shown)


def _row(point: MetricPoint, by_epoch: bool, previous: int) -> int:
    if not by_epoch:
        return point.step
    return previous if point.epoch is None else max(1, math.ceil(point.epoch))


def _order(key: str) -> tuple[int, str]:
    return (0 if key.startswith("train/") else 1 if key.startswith("validation/") else 2), key

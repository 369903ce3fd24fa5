"""Metrics as a table with one row per epoch or step, and as text plots, one per metric."""

import math
import shutil
from collections.abc import Sequence
from dataclasses import dataclass
from fractions import Fraction
from itertools import groupby
from typing import Any

from cloud_train.cli.output import words
from cloud_train.cli.output.terminal import Painter, clean
from cloud_train.cli.output.words import GAP, table
from cloud_train.run.metrics import MetricPoint

_STEPS_SHOWN = 20
_COLUMNS = 100
_CHARACTERS = 4_000_000
"""Approximate limit on a table of epochs, in characters: about 40,000 rows of the usual metrics."""
_COLUMNS_IN_A_PIPE, _ROWS = 80, 18
_COLUMNS_OF_A_TICK, _ROWS_OF_A_TICK = 12, 3
"""Room for each tick of an axis, in characters and lines."""
_SLICES = 4
"""Slices of a line in each column of a plot, in which a few of its points are drawn."""
_LOOKS = (("hd", "▞", "blue"), ("•", "•", "yellow"), ("x", "x", "green"), ("o", "o", "red"))
"""For each split: marker, its symbol in the legend, and colour. With ``hd``, plotext fills quarters of a cell."""

Curve = list[tuple[int, float]]
"""Steps and values."""


@dataclass(frozen=True)
class MetricsTable:
    """A table, and how much was left out to keep it readable."""

    text: str
    rows_left_out: int
    """Omitted rows at the beginning."""
    metrics_left_out: int


def metrics_table(points: Sequence[MetricPoint], paint: Painter) -> MetricsTable:
    """The table of ``points``, which are in order of their steps."""
    by_epoch = any(point.epoch is not None for point in points)
    every = sorted({point.key for point in points}, key=_order)
    keys = every[:_COLUMNS]
    last: dict[int, dict[str, float | None]] = {}
    steps: dict[int, int] = {}
    for point in points:
        # A point without an epoch belongs to the epoch of the point before it, if other points have one.
        row = _row(point, by_epoch, previous=next(reversed(last), 1))
        last.setdefault(row, {})[point.key] = point.value
        steps[row] = point.step
    head = (*(["EPOCH"] if by_epoch else []), "STEP", *(clean(key) for key in keys))
    width = sum(len(name) + len(GAP) for name in head)
    shown = sorted(last)[-max(_STEPS_SHOWN, _CHARACTERS // width) if by_epoch else -_STEPS_SHOWN :]
    rows = [
        (
            *([str(row)] if by_epoch else []),
            f"{steps[row]:,}",
            *(words.number(last[row][key]) if key in last[row] else "" for key in keys),
        )
        for row in shown
    ]
    return MetricsTable(table(head, rows, paint, right=range(len(head))), len(last) - len(shown), len(every) - len(keys))


def _row(point: MetricPoint, by_epoch: bool, previous: int) -> int:
    if not by_epoch:
        return point.step
    return previous if point.epoch is None else max(1, math.ceil(point.epoch))


def _order(key: str) -> tuple[int, str]:
    return (0 if key.startswith("train/") else 1 if key.startswith("validation/") else 2), key


def plots(points: Sequence[MetricPoint], shown: bool, paint: Painter, terminal: bool) -> str:
    """The plots, one below the other: only ``loss``, or with ``shown`` every metric in ``points``."""
    names = list(dict.fromkeys(point.name for point in points))
    if not shown:
        names = ["loss"] if "loss" in names else names[:1]
    size = shutil.get_terminal_size((_COLUMNS_IN_A_PIPE, _ROWS + 2))
    columns = size.columns if terminal else _COLUMNS_IN_A_PIPE
    rows = min(_ROWS, max(8, size.lines - 2)) if terminal else _ROWS
    return "\n\n".join(_plot(name, [point for point in points if point.name == name], columns, rows, paint) for name in names)


def _plot(name: str, points: Sequence[MetricPoint], columns: int, rows: int, paint: Painter) -> str:
    import plotext

    figure = plotext.figure
    figure.clear()
    figure.theme("default" if paint.enabled else "colorless")
    figure.canvas("default")
    figure.plot_size(max(columns, 30), rows)
    legend = []
    drawn_steps: list[int] = []
    drawn_values: list[float] = []
    splits = list(dict.fromkeys(point.split for point in points))
    for split, (marker, look, colour) in zip(splits, _LOOKS, strict=False):
        curve = [(point.step, point.value) for point in points if point.split == split and point.value is not None]
        if not curve:
            continue
        steps, values = zip(*_visible(curve, columns, rows, is_line=marker == "hd"), strict=True)
        drawn_steps += (min(steps), max(steps))
        drawn_values += (min(values), max(values))
        # plotext cannot colorize "hd", which stands for many characters; it gets the theme's first colour.
        coloured = paint.enabled and marker != "hd"
        signal = figure.signal(list(steps), list(values), marker=plotext.colorize(marker, colour) if coloured else marker)
        if len(curve) > 1 and marker == "hd":
            signal.lines()
        figure.draw(signal)
        legend.append(f"{look} {split}")
    if not legend:
        return f"{clean(name)}: no finite value"
    _round_axes(figure, drawn_steps, drawn_values, columns, rows)
    figure.title(f"{clean(name)}   {'   '.join(clean(part) for part in legend)}")
    figure.label("step", "x")
    drawn: str = figure.build().string()
    lines = paint.drawing(drawn).rstrip("\n").split("\n")
    return "\n".join(line.rstrip() for line in lines)


def _round_axes(figure: Any, steps: Sequence[int], values: Sequence[float], columns: int, rows: int) -> None:
    """Put the ticks at round numbers: plotext divides the range into equal parts, wherever they fall."""
    for axis, drawn, most in (("x", steps, columns // _COLUMNS_OF_A_TICK), ("y", values, rows // _ROWS_OF_A_TICK)):
        low, high = min(drawn), max(drawn)
        if ticks := round_ticks(low, high, most, whole=axis == "x"):
            # The limits too: plotext would take those of the ticks, and cut off the rest.
            figure.ruler(axis).ticks(ticks, tick_labels(ticks)).lim(low, high)


def round_ticks(low: float, high: float, most: int, *, whole: bool = False) -> list[float]:
    """The round numbers from ``low`` to ``high``, at most ``most`` and at least two: multiples of 1, 2, 2.5 or 5 times a power of ten.

    Their distance is the smallest such number that is wide enough, as in matplotlib's ``MaxNLocator``. With ``whole``, all are whole
    numbers. Empty if there are no two of them, as in a range without extent.
    """
    width = high / 2 - low / 2  # halves, because the difference may be too large for a float
    if not 0 < width < math.inf:
        return []
    power = math.floor(math.log10(width)) - math.ceil(math.log10(max(2, most)))
    for exponent in range(power - 1, power + 5):
        for digits in (10, 20, 25, 50):
            ticks = _multiples(low, high, Fraction(digits, 10) * Fraction(10) ** exponent, most, whole)
            if ticks:
                return ticks if len(ticks) > 1 else []
    return []


def _multiples(low: float, high: float, step: Fraction, most: int, whole: bool) -> list[float]:
    """The multiples of ``step`` in the range; empty if there are more than ``most``, or if they should be whole and are not."""
    first, last = math.ceil(Fraction(repr(low)) / step), math.floor(Fraction(repr(high)) / step)  # 0.3 as written
    if last - first >= most or (whole and step.denominator > 1):
        return []
    return [float(number * step) for number in range(first, last + 1)]


def tick_labels(ticks: Sequence[float]) -> list[str]:
    """The ticks as text, with as many decimals as the longest needs: ``0.00``, ``0.25``, ``0.50``; very small or large as ``2e-05``."""
    largest = max(map(abs, ticks))
    if not 1e-4 <= largest < 1e7:
        return [f"{tick:.6g}" for tick in ticks]
    decimals = max(len(f"{tick:.10f}".rstrip("0").partition(".")[2]) for tick in ticks)
    return [f"{tick:,.{decimals}f}" for tick in ticks]


def _visible(curve: Curve, columns: int, rows: int, *, is_line: bool) -> Curve:
    """The points that make the same picture as ``curve``, which is in order of its steps: plotext takes 6 kB for each point of a line.

    Of a line, these are the first, the last, the lowest and the highest in each slice of the steps. Slices are a quarter of a column wide.
    Of single points, it is the last in each half of a cell.
    """
    slices = _SLICES * columns
    if len(curve) <= 4 * slices:
        return curve
    begin, length = curve[0][0], curve[-1][0] - curve[0][0] + 1
    if is_line:
        parts = [list(part) for _, part in groupby(curve, key=lambda point: (point[0] - begin) * slices // length)]
        return [point for part in parts for point in sorted({part[0], part[-1], min(part, key=_value), max(part, key=_value)})]
    low, high = min(map(_value, curve)), max(map(_value, curve))
    height = (high / 2 - low / 2) or 1.0  # halves, because the difference may be too large for a float
    last: dict[tuple[int, int], tuple[int, float]] = {}
    for step, value in curve:
        last[(step - begin) * 2 * columns // length, int((value / 2 - low / 2) / height * 2 * rows)] = step, value
    return sorted({curve[0], curve[-1], min(curve, key=_value), max(curve, key=_value), *last.values()})


def _value(point: tuple[int, float]) -> float:
    return point[1]

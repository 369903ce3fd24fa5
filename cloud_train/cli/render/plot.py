"""Metrics as curves in plain characters, one plot for each metric, the splits together in it."""

import shutil
from collections.abc import Sequence

from cloud_train.cli.terminal import Painter, clean
from cloud_train.run.metrics import MetricPoint

_COLUMNS_ELSEWHERE, _ROWS = 80, 18
_LOOKS = (("hd", "▞", "blue"), ("•", "•", "yellow"), ("x", "x", "green"), ("o", "o", "red"))
"""Marker, how it looks in the title, colour: one for each split. plotext fills a cell by quarters with ``hd``."""


def plots(points: Sequence[MetricPoint], shown: bool, paint: Painter, terminal: bool) -> str:
    """The plots under each other: of ``loss`` alone, or of every metric in ``points`` where they were chosen (``shown``)."""
    names = list(dict.fromkeys(point.name for point in points))
    if not shown:
        names = ["loss"] if "loss" in names else names[:1]
    size = shutil.get_terminal_size((_COLUMNS_ELSEWHERE, _ROWS + 2))
    columns = size.columns if terminal else _COLUMNS_ELSEWHERE
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
    splits = list(dict.fromkeys(point.split for point in points))
    for split, (marker, look, colour) in zip(splits, _LOOKS, strict=False):
        curve = [(point.step, point.value) for point in points if point.split == split and point.value is not None]
        if not curve:
            continue
        steps, values = zip(*curve, strict=True)
        # Few points are joined by lines; thousands of them are a line already.
        # The name "hd" stands for many characters and takes no colour of ours: it gets the theme's first one.
        coloured = paint.enabled and marker != "hd"
        signal = figure.signal(list(steps), list(values), marker=plotext.colorize(marker, colour) if coloured else marker)
        if len(curve) > 1 and marker == "hd":
            signal.lines()
        figure.draw(signal)
        legend.append(f"{look} {split}")
    if not legend:
        return f"{clean(name)}: no finite value"
    figure.title(f"{clean(name)}   {'   '.join(clean(part) for part in legend)}")
    figure.label("step", "x")
    drawn: str = figure.build().string()
    lines = paint.drawing(drawn).rstrip("\n").split("\n")
    return "\n".join(line.rstrip() for line in lines)

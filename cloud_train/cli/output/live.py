"""The line at the bottom of a terminal that shows a run's progress, below the output of its program."""

import shutil
import sys
from typing import TYPE_CHECKING

from cloud_train.cli.output import words
from cloud_train.cli.output.program_output import ProgramOutput
from cloud_train.cli.output.runs import epoch_shown
from cloud_train.cli.output.terminal import Painter, redraw, say_bare

if TYPE_CHECKING:
    from cloud_train import Progress

_TRAIN = ("train/loss", "train/accuracy")
_ALL = (*_TRAIN, "validation/loss", "validation/accuracy")
_LAYOUTS = ((24, _ALL), (12, _ALL), (24, _TRAIN), (12, _TRAIN), (0, _TRAIN), (0, _TRAIN[:1]), (0, ()))
"""Columns of the bar and the metrics shown: the first that fits the terminal is taken."""


class LiveLine:
    """Draws that line on standard output, and steps aside for the program's output; only the output where a line cannot be redrawn."""

    def __init__(self, paint: Painter, draws: bool) -> None:
        self._paint = paint
        self._draws = draws
        self._output = ProgramOutput()
        self._drawn = False
        self._line_open = False

    def show(self, progress: "Progress") -> None:
        """Print the new output, then redraw the line."""
        if progress.output:
            self.erase()
            self._output.write(progress.output)
            self._line_open = not progress.output.endswith(b"\n")
        # A program's unfinished line, a prompt or a bar of its own, is not written over.
        if self._draws and not self._line_open and not progress.view.state.is_end:
            self._output.plain()
            redraw(live_line(progress, shutil.get_terminal_size().columns - 1, self._paint))
            self._drawn = True
        else:
            self.erase()

    def erase(self) -> None:
        """Take the line away."""
        if self._drawn:
            redraw("")
            self._drawn = False

    def close(self) -> None:
        """Take the line away, and end an unfinished one of the program's."""
        self.erase()
        self._output.close()
        if self._line_open:
            say_bare("\n")
            self._line_open = False


def live_line(progress: "Progress", columns: int, paint: Painter) -> str:
    """The line, in at most ``columns`` columns: epoch, bar, steps, metrics, rate and time to go, as far as they are known and fit."""
    head = _head(progress)
    known = progress.step is not None and bool(progress.total_steps)
    for bar_columns, shown in _LAYOUTS:
        parts = _parts(progress, shown)
        bar = bar_columns if known else 0
        if len("  ".join([head, "-" * bar, *parts] if bar else [head, *parts])) <= columns:
            drawn = [_bar((progress.step or 0) / (progress.total_steps or 1), bar, paint)] if bar else []
            return "  ".join([paint(head, "bold"), *drawn, *parts])
    return "  ".join([head, *parts])[: max(0, columns)]


def _head(progress: "Progress") -> str:
    if progress.epochs is not None and progress.epoch is not None:
        return f"epoch {epoch_shown(progress.epoch, progress.epochs)}/{progress.epochs}"
    run = progress.view
    return run.state.value if run.attempt == 1 else f"{run.state.value}, attempt {run.attempt}"


def _parts(progress: "Progress", metrics: tuple[str, ...]) -> list[str]:
    parts = []
    if progress.step is not None:
        parts.append(f"step {progress.step:,}" + (f"/{progress.total_steps:,}" if progress.total_steps else ""))
    parts += [f"{_short(name)} {words.number(progress.latest[name])}" for name in metrics if name in progress.latest]
    if progress.steps_per_second:
        parts.append(words.rate(progress.steps_per_second, "steps"))
    if progress.eta_seconds is not None:
        parts.append(f"{words.duration(progress.eta_seconds)} to go")
    return parts


def _bar(fraction: float, columns: int, paint: Painter) -> str:
    done = round(columns * min(1.0, max(0.0, fraction)))
    # An ASCII bar where the terminal cannot show lines: a replacement character for each column would be noise.
    full, rest = ("━", "─") if (sys.stdout.encoding or "").lower().replace("-", "") == "utf8" else ("#", "-")
    return paint(full * done, "green") + paint(rest * (columns - done), "dim")


def _short(name: str) -> str:
    return name.removeprefix("train/").replace("validation/", "val. ")

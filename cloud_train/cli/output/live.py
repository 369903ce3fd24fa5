"""Progress on a terminal: the live line of a run, below the output of its program, and the progress bar of a copy."""

import shutil
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING

from cloud_train.cli.output import words
from cloud_train.cli.output.program_output import ProgramOutput
from cloud_train.cli.output.runs import epoch_shown
from cloud_train.cli.output.terminal import Painter, moves_its_cursor, redraw, say_aside, say_bare

if TYPE_CHECKING:
    from cloud_train import Progress
    from cloud_train.storage.transfer.progress import Progress as Transfer

_TRAIN = ("train/loss", "train/accuracy")
_ALL = (*_TRAIN, "validation/loss", "validation/accuracy")
_LAYOUTS = ((24, _ALL), (12, _ALL), (24, _TRAIN), (12, _TRAIN), (0, _TRAIN), (0, _TRAIN[:1]), (0, ()))
"""Columns of the bar and the metrics shown; the first layout that fits the terminal is used."""
RERUN = "interrupted; rerun the same command to resume"
"""Message after Ctrl-C, for a copy that can be resumed."""


class LiveLine:
    """Draws the live line on standard output, below the program's output; without ``draws`` it prints only the output."""

    def __init__(self, paint: Painter, draws: bool) -> None:
        self._paint = paint
        self._draws = draws
        self._output = ProgramOutput()
        self._drawn = False
        self._line_open = False

    def show(self, progress: "Progress") -> None:
        """Print the new output, then redraw the line."""
        if output := progress.earlier_output + progress.output:
            self.erase()
            self._output.write(output)
            self._line_open = not output.endswith(b"\n")
        # An unfinished line of the program, such as a prompt or its own progress bar, is not overwritten.
        if self._draws and not self._line_open and not progress.view.state.is_end:
            self._output.plain()
            redraw(live_line(progress, shutil.get_terminal_size().columns - 1, self._paint))
            self._drawn = True
        else:
            self.erase()

    def erase(self) -> None:
        """Erase the line."""
        if self._drawn:
            redraw("")
            self._drawn = False

    def close(self) -> None:
        """Erase the line, and end an unfinished line of the program."""
        self.erase()
        self._output.close()
        if self._line_open:
            say_bare("\n")
            self._line_open = False


def live_line(progress: "Progress", columns: int, paint: Painter) -> str:
    """The line, at most ``columns`` wide: epoch, bar, steps, metrics, rate and remaining time, as far as they are known and fit."""
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
    # An ASCII bar if the encoding has no box-drawing characters, which would all become replacement characters.
    full, rest = ("━", "─") if (sys.stdout.encoding or "").lower().replace("-", "") == "utf8" else ("#", "-")
    return paint(full * done, "green") + paint(rest * (columns - done), "dim")


def _short(name: str) -> str:
    return name.removeprefix("train/").replace("validation/", "val. ")


@contextmanager
def copy_progress(quiet: bool, interrupted: str = "interrupted") -> Iterator["Callable[[Transfer], None] | None"]:
    """A callback that updates a progress bar on standard error, or None without a terminal; the bar disappears after the block.

    Ctrl-C prints ``interrupted``.
    """
    try:
        with _transfer_bar(quiet) as report:
            yield report
    except KeyboardInterrupt:
        if not quiet:
            say_aside(f"\n{interrupted}")
        raise


@contextmanager
def _transfer_bar(quiet: bool) -> Iterator["Callable[[Transfer], None] | None"]:
    if quiet or not moves_its_cursor(sys.stderr):
        yield None
        return
    # 50 ms, only when a user waits for a copy
    from rich.console import Console
    from rich.progress import BarColumn, DownloadColumn, Progress, TextColumn, TimeRemainingColumn, TransferSpeedColumn

    columns = (BarColumn(), DownloadColumn(), TransferSpeedColumn(), TimeRemainingColumn(), TextColumn("{task.description}", markup=False))
    with Progress(*columns, console=Console(stderr=True), transient=True) as progress:
        task = progress.add_task("", total=None)

        def report(now: "Transfer") -> None:
            progress.update(task, completed=now.bytes_done, total=now.bytes, description=f"{now.files_done}/{now.files} files")

        yield report

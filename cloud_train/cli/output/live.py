"""Progress on a terminal: the live line of a run, below the output of its program, and the progress bar of a copy.

``submit`` and ``resume`` show the attempt that they started; with ``--follow`` its progress and result too.
"""

import shlex
import shutil
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING

from cloud_train.cli.errors import Failure, show
from cloud_train.cli.output import words
from cloud_train.cli.output.runs import command_list, epoch_shown, metrics_line, next_steps, saved_by, saved_nothing
from cloud_train.cli.output.terminal import (
    Painter,
    ProgramOutput,
    clean,
    clean_lines,
    is_terminal,
    moves_its_cursor,
    redraw,
    say,
    say_aside,
    say_bare,
    say_json,
)
from cloud_train.cli.output.words import state
from cloud_train.client import Run
from cloud_train.exit_status import INTERRUPTED
from cloud_train.run.states import Cause

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
        # Do not overwrite an unfinished line of the program, such as a prompt or its own progress bar.
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
    """The line, at most ``columns`` wide: epoch, bar, steps, metrics, rate and remaining time, as far as known and as space allows."""
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
    # ASCII if the encoding has no box-drawing characters.
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
    # takes 50 ms, and is needed only while a user waits for a copy
    from rich.console import Console
    from rich.progress import BarColumn, DownloadColumn, Progress, TextColumn, TimeRemainingColumn, TransferSpeedColumn

    columns = (BarColumn(), DownloadColumn(), TransferSpeedColumn(), TimeRemainingColumn(), TextColumn("{task.description}", markup=False))
    with Progress(*columns, console=Console(stderr=True), transient=True) as progress:
        task = progress.add_task("", total=None)

        def report(now: "Transfer") -> None:
            progress.update(task, completed=now.bytes_done, total=now.bytes, description=f"{now.files_done}/{now.files} files")

        yield report


def show_started(run: Run, *, follow: bool, as_json: bool) -> int:
    """Show the run's id and useful commands, or watch the run until it ends; returns the exit status."""
    view = run.view
    if follow:
        if not as_json:
            say(run.id)
        return watch(run, as_json)
    if as_json:
        say_json(view.to_json())
        return 0
    say(run.id)
    if is_terminal(sys.stderr) and is_terminal(sys.stdout):
        if console := run.console_url:
            say_aside(clean(console))
        if view.attempt > 1:
            say_aside(f"attempt {view.attempt} is {view.state}")
        say_aside(command_list(next_steps(view), Painter.of(sys.stderr)))
    return 0


def watch(run: Run, as_json: bool) -> int:
    """Watch the run, show its result, and return the exit status for its cause; 130 if Ctrl-C stopped the watching."""
    paint = Painter.of(sys.stdout)
    live = None if as_json else LiveLine(paint, draws=moves_its_cursor(sys.stdout))
    try:
        last = _follow(run, live)
    except KeyboardInterrupt:
        if live:
            live.close()
        follow_again = f"cloud-train logs {shlex.quote(run.id)} --follow"
        if as_json:
            show(Failure("interrupted", f"{run.id} is still running", f"follow it again with: {follow_again}", INTERRUPTED), as_json)
        else:
            say_aside(f"\nthe run continues; follow it again with: {follow_again}")
        return INTERRUPTED
    finally:
        if live:
            live.close()
    if as_json:
        say_json({**last.view.to_json(), "metrics": last.latest})
    else:
        _show_result(run, last, paint)
    return (last.view.cause or Cause.UNKNOWN).exit_code


def _follow(run: Run, live: LiveLine | None) -> "Progress":
    attempt, last = None, None
    for last in run.watch():
        if live:
            if attempt is not None and last.view.attempt != attempt:
                live.close()
                say_aside(f"attempt {last.view.attempt} begins")
            live.show(last)
        attempt = last.view.attempt
    if last is None:
        raise AssertionError("watching a run yields at least one update")
    return last


def _show_result(followed: Run, last: "Progress", paint: Painter) -> None:
    run, artifacts = last.view, saved_by(followed)
    took = run.duration(time.time())
    say(f"{paint(run.run_id, 'bold')} {state(run.state.value, paint)}" + (f" in {words.duration(took)}" if took is not None else ""))
    if run.cause is not None and run.cause is not Cause.SUCCEEDED:
        say(run.cause.text)
        if run.message:
            say(clean_lines(run.message))
    if line := metrics_line(last.latest):
        say(line)
    for hint in filter(None, (last.rejected, saved_nothing(run, artifacts))):
        say(clean(hint))
    say(command_list(next_steps(run, bool(last.latest), artifacts=artifacts), paint))

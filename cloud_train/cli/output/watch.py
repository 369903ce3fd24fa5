"""The output of ``submit`` and ``resume`` for the attempt that they started; with ``--follow`` its progress and result too."""

import shlex
import sys
import time
from typing import TYPE_CHECKING

from cloud_train.cli.errors import Failure, show
from cloud_train.cli.output import words
from cloud_train.cli.output.live import LiveLine
from cloud_train.cli.output.runs import command_list, metrics_line, next_steps
from cloud_train.cli.output.table import state
from cloud_train.cli.output.terminal import Painter, clean_lines, is_terminal, moves_its_cursor, say, say_aside, say_json
from cloud_train.client import Run
from cloud_train.exit_status import INTERRUPTED
from cloud_train.run.states import Cause

if TYPE_CHECKING:
    from cloud_train import Progress


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
        _show_result(last, paint)
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


def _show_result(last: "Progress", paint: Painter) -> None:
    run = last.view
    took = run.duration(time.time())
    say(f"{paint(run.run_id, 'bold')} {state(run.state.value, paint)}" + (f" in {words.duration(took)}" if took is not None else ""))
    if run.cause is not None and run.cause is not Cause.SUCCEEDED:
        say(run.cause.text)
        if run.message:
            say(clean_lines(run.message))
    if line := metrics_line(last.latest):
        say(line)
    say(command_list(next_steps(run, bool(last.latest)), paint))

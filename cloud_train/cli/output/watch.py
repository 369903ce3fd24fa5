"""Watching a run until it ends, for ``submit --follow`` and ``resume --follow``: its program's output, how it goes on, the result."""

import shlex
import sys
import time
from typing import TYPE_CHECKING

from cloud_train.cli.errors import INTERRUPTED, Failure, show
from cloud_train.cli.output import words
from cloud_train.cli.output.live import LiveLine
from cloud_train.cli.output.runs import command_list, metrics_line, next_steps
from cloud_train.cli.output.table import state
from cloud_train.cli.output.terminal import Painter, clean_lines, is_terminal, moves_its_cursor, say, say_aside, say_json
from cloud_train.run.states import Cause

if TYPE_CHECKING:
    from cloud_train.orchestrator.following import Progress
    from cloud_train.orchestrator.home import Home
    from cloud_train.run.view import RunView


def show_started(home: "Home", run: "RunView", *, follow: bool, as_json: bool) -> int:
    """Show the run's id and what to do next, or watch it to its end; returns the exit status."""
    if follow:
        if not as_json:
            say(run.run_id)
        return watch(home, run.run_id, as_json)

    if as_json:
        say_json(run.to_json())
        return 0
    say(run.run_id)
    if is_terminal(sys.stderr) and is_terminal(sys.stdout):
        if run.attempt > 1:
            say_aside(f"attempt {run.attempt} is {run.state}")
        say_aside(command_list(next_steps(run), Painter.of(sys.stderr)))
    return 0


def watch(home: "Home", run_id: str, as_json: bool) -> int:
    """Watch the run, show its end, and return the exit status that says why it ended; 130 if Ctrl-C stopped the watching."""
    paint = Painter.of(sys.stdout)
    live = None if as_json else LiveLine(paint, draws=moves_its_cursor(sys.stdout))
    try:
        last = _follow(home, run_id, live)
    except KeyboardInterrupt:
        if live:
            live.close()
        come_back = f"cloud-train logs {shlex.quote(run_id)} --follow"
        if as_json:
            show(Failure("interrupted", f"{run_id} goes on", f"come back with: {come_back}", INTERRUPTED), as_json)
        else:
            say_aside(f"\nthe run goes on; come back with: {come_back}")
        return INTERRUPTED
    finally:
        if live:
            live.close()
    if as_json:
        say_json({**last.view.to_json(), "metrics": last.latest})
    else:
        _show_result(last, paint)
    return (last.view.cause or Cause.UNKNOWN).exit_code


def _follow(home: "Home", run_id: str, live: LiveLine | None) -> "Progress":
    from cloud_train.orchestrator.following import follow

    attempt, last = None, None
    for last in follow(home, run_id, note=say_aside):
        if live:
            if attempt is not None and last.view.attempt != attempt:
                live.close()
                say_aside(f"attempt {last.view.attempt} begins")
            live.show(last)
        attempt = last.view.attempt
    if last is None:
        raise AssertionError("following a run shows it at least once")
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

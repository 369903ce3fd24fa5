"""``cloud-train status``: one run in full."""

import sys
import time
from typing import TYPE_CHECKING, Any

from cloud_train.cli.options import JsonOption, RunArgument
from cloud_train.cli.output.terminal import Painter, clean, is_terminal, say, say_aside, say_json
from cloud_train.run.states import State

if TYPE_CHECKING:
    from cloud_train.orchestrator.following import Progress
    from cloud_train.orchestrator.home import Home

_LOG_LINES = 10
_LOG_BYTES = 16_384
_LINE_CHARACTERS = 400


def status(run: RunArgument = None, as_json: JsonOption = False) -> int:
    """Show one run: where it stands, why it ended, what to do next.

    A run that did not end well is shown with the last lines that its program printed.

    Examples:
      cloud-train status
      cloud-train status digits-cnn --json
    """
    from cloud_train.cli.output.runs import command_list, next_steps, run_details
    from cloud_train.orchestrator.following import glance
    from cloud_train.orchestrator.home import Home
    from cloud_train.orchestrator.state import select

    home = Home.from_environment()
    progress = glance(home, select(home, run), note=say_aside, record=not as_json)
    log = _last_lines(home, progress)
    if as_json:
        say_json(_status_json(progress, log))
        return 0
    paint = Painter.of(sys.stdout)
    say(run_details(progress, time.time(), is_terminal(sys.stdout), paint))
    if log:
        say("\n" + paint("the last lines of its log", "dim") + "\n" + "\n".join(f"  {line}" for line in log))
    say("\n" + command_list(next_steps(progress.view, bool(progress.latest)), paint))
    return 0


def _status_json(progress: "Progress", log: list[str]) -> dict[str, Any]:
    from cloud_train.cli.output.runs import next_steps

    return {
        **progress.view.to_json(),
        "step": progress.step,
        "total_steps": progress.total_steps,
        "epoch": progress.epoch,
        "epochs": progress.epochs,
        "steps_per_second": progress.steps_per_second,
        "eta_seconds": progress.eta_seconds,
        "metrics": progress.latest,
        "log": log,
        "next": [command for command, _ in next_steps(progress.view, bool(progress.latest))],
    }


def _last_lines(home: "Home", progress: "Progress") -> list[str]:
    """What the program of a run that did not end well printed last, made safe for a terminal."""
    run = progress.view
    if not run.state.is_end or run.state in {State.SUCCEEDED, State.CANCELLED}:
        return []
    from cloud_train.errors import CloudTrainError
    from cloud_train.orchestrator.reading import read_logs

    end = b""
    try:
        for piece in read_logs(home, run.run_id, tail=_LOG_LINES):
            end = (end + piece)[-_LOG_BYTES:]
    except CloudTrainError:
        return []  # no log is no news here; `logs` says why there is none
    lines = end.decode(errors="replace").rstrip().split("\n")[-_LOG_LINES:] if end.strip() else []
    # A program that draws a progress bar writes it over and over with carriage returns: only the last one was left standing.
    return [clean(line.rstrip("\r").rpartition("\r")[2])[:_LINE_CHARACTERS] for line in lines]

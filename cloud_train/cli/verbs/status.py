"""``cloud-train status``: show one run."""

import sys
import time
from typing import TYPE_CHECKING, Any

from cloud_train.cli.options import JsonOption, RunArgument, open_client
from cloud_train.cli.output.runs import command_list, next_steps, run_details, saved_by, saved_nothing
from cloud_train.cli.output.terminal import Painter, clean, is_terminal, say, say_json
from cloud_train.client import Run
from cloud_train.errors import CloudTrainError
from cloud_train.run.states import State

if TYPE_CHECKING:
    from cloud_train import GivenValues, Progress

_LOG_LINES = 10
_LOG_BYTES = 16_384
_LINE_CHARACTERS = 400


def status(run: RunArgument = None, as_json: JsonOption = False) -> int:
    """Show one run: its state, why it ended, and what to do next.

    The values of its job that differ from the defaults are shown, and separately those of `submit --set` and of `resume --set`.

    For a run that did not succeed, the last lines of its output are shown. If the run has ended since the last check, that is recorded, and
    whatever it left at its provider is cleaned up; with --json nothing is changed.

    Examples:
      cloud-train status
      cloud-train status digits-cnn --json
    """
    chosen = open_client(as_json).run(run, latest=True)
    progress = chosen.progress(record=not as_json)
    log = _last_lines(chosen)
    artifacts = saved_by(chosen)
    steps = next_steps(progress.view, bool(progress.latest), chosen.url, artifacts)
    given = _given(chosen)
    if as_json:
        of_job = {"values": given.values, "set": given.set} if given else {"values": None, "set": None}
        say_json(_status_json(progress, log, steps, chosen.console_url) | of_job | {"artifacts": artifacts and vars(artifacts)})
        return 0
    paint = Painter.of(sys.stdout)
    say(run_details(progress, time.time(), is_terminal(sys.stdout), paint, console=chosen.console_url, given=given, saved=artifacts))
    if log:
        say("\n" + paint("the last lines of its log", "dim") + "\n" + "\n".join(f"  {line}" for line in log))
    if hint := saved_nothing(progress.view, artifacts):
        say("\n" + hint)
    say("\n" + command_list(steps, paint))
    return 0


def _status_json(progress: "Progress", log: list[str], steps: list[tuple[str, str]], console: str | None) -> dict[str, Any]:
    return {
        **progress.view.to_json(),
        "step": progress.step,
        "total_steps": progress.total_steps,
        "epoch": progress.epoch,
        "epochs": progress.epochs,
        "steps_per_second": progress.steps_per_second,
        "eta_seconds": progress.eta_seconds,
        "metrics": progress.latest,
        "changes": list(progress.changes),
        "starts_from": progress.starts_from,
        "rejected_metrics": progress.rejected or None,
        "log": log,
        "console": console,
        "next": [command for command, _ in steps],
    }


def _given(run: Run) -> "GivenValues | None":
    """The values that the run was given; None if its store cannot be read now."""
    try:
        return run.given()
    except CloudTrainError:
        return None


def _last_lines(run: Run) -> list[str]:
    """The last lines of an unsuccessful run's output, made safe for a terminal."""
    if not run.view.state.is_end or run.view.state in {State.SUCCEEDED, State.CANCELLED}:
        return []
    end = b""
    try:
        for piece in run.log_bytes(tail=_LOG_LINES):
            end = (end + piece)[-_LOG_BYTES:]
    except CloudTrainError:
        return []  # `logs` explains why there is no log
    lines = end.decode(errors="replace").rstrip().split("\n")[-_LOG_LINES:] if end.strip() else []
    # A progress bar is redrawn after carriage returns: show only its last state.
    return [clean(line.rstrip("\r").rpartition("\r")[2])[:_LINE_CHARACTERS] for line in lines]

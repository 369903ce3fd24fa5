"""``cloud-train cancel``: end a run."""

import sys
from typing import Annotated

import typer

from cloud_train.cli.options import JsonOption, NamedRunArgument
from cloud_train.cli.output.terminal import is_terminal, say, say_aside, say_json


def cancel(
    run: NamedRunArgument,
    no_wait: Annotated[bool, typer.Option("--no-wait", help="Return at once instead of waiting for the end.")] = False,
    force: Annotated[bool, typer.Option("--force", help="End every process of it at once, without a last checkpoint.")] = False,
    as_json: JsonOption = False,
) -> int:
    """End a run, with time for a last checkpoint.

    The program is told to stop and has the job's limits.grace to do so; then its whole process tree is ended. The run is shown as
    cancelled, not as failed, and can be resumed.

    Examples:
      cloud-train cancel digits-cnn
      cloud-train cancel 7k3f --force
    """
    from cloud_train.orchestrator.home import Home
    from cloud_train.orchestrator.state import select
    from cloud_train.orchestrator.stopping import cancel as stop

    home = Home.from_environment()
    run_id = select(home, run)
    if not no_wait and not force and not as_json and is_terminal(sys.stderr):
        say_aside(f"waiting for {run_id} to save its last checkpoint; Ctrl-C stops the waiting, not the cancelling")
    view = stop(home, run_id, wait=not no_wait, force=force)
    if as_json:
        say_json(view.to_json())
    else:
        say(f"{view.run_id} {view.state}")
    return 0

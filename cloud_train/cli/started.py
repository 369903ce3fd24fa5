"""What ``submit`` and ``resume`` show of an attempt that they have started."""

import sys
from typing import TYPE_CHECKING

from cloud_train.cli.terminal import Painter, is_terminal, say, say_aside, say_json

if TYPE_CHECKING:
    from cloud_train.orchestrator.home import Home
    from cloud_train.run.view import RunView


def show_started(home: "Home", run: "RunView", *, follow: bool, as_json: bool) -> int:
    """Show the run's id and what to do next, or watch it to its end; returns the exit status."""
    if follow:
        from cloud_train.cli.watch import watch

        if not as_json:
            say(run.run_id)
        return watch(home, run.run_id, as_json)
    from cloud_train.cli.render.runs import command_list, next_steps

    if as_json:
        say_json(run.to_json())
        return 0
    say(run.run_id)
    if is_terminal(sys.stderr) and is_terminal(sys.stdout):
        if run.attempt > 1:
            say_aside(f"attempt {run.attempt} is {run.state}")
        say_aside(command_list(next_steps(run), Painter.of(sys.stderr)))
    return 0

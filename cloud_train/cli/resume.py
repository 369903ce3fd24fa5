"""``cloud-train resume``: a run's next attempt."""

import sys

from cloud_train.cli.options import FollowOption, JsonOption, NamedRunArgument
from cloud_train.cli.terminal import Painter, is_terminal, say, say_aside, say_json


def resume(run: NamedRunArgument, follow: FollowOption = False, as_json: JsonOption = False) -> int:
    """Start a run's next attempt, from its newest valid checkpoint.

    For a run that failed, was interrupted or was cancelled. It keeps its id and its directory; a checkpoint that is incomplete or damaged
    is passed over for the one before it, and the worker's log says so.

    Examples:
      cloud-train resume digits-cnn
      cloud-train resume 7k3f --follow
    """
    from cloud_train.cli.render.runs import command_list, next_steps, run_json
    from cloud_train.orchestrator.home import Home
    from cloud_train.orchestrator.observing import select
    from cloud_train.orchestrator.resuming import resume as start

    home = Home.from_environment()
    view = start(home, select(home, run), note=say_aside)
    if follow:
        from cloud_train.cli.watch import watch

        if not as_json:
            say(view.run_id)
        return watch(home, view.run_id, as_json)
    if as_json:
        say_json(run_json(view))
        return 0
    say(view.run_id)
    if is_terminal(sys.stderr) and is_terminal(sys.stdout):
        say_aside(f"attempt {view.attempt} is {view.state}")
        say_aside(command_list(next_steps(view), Painter.of(sys.stderr)))
    return 0

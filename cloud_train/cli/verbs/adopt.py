"""``cloud-train adopt``: track a run from another machine."""

import sys
from typing import Annotated

import typer

from cloud_train.cli.options import ConfigOption, JsonOption, open_client
from cloud_train.cli.output.runs import command_list, next_steps
from cloud_train.cli.output.terminal import Painter, is_terminal, say, say_aside, say_json


def adopt(
    url: Annotated[str, typer.Argument(help="The run directory: STORE/RUN, as `cloud-train list --store STORE` shows it.", metavar="URL")],
    config: ConfigOption = None,
    as_json: JsonOption = False,
) -> int:
    """Track a run that was submitted from another machine.

    All verbs then work on it: logs, metrics, fetch-model, cancel, and resume, which shows what it would start and asks first. Nothing in
    the run directory is changed or executed, and the provider's settings come from this machine's own config file. Prints the run's id.

    Examples:
      cloud-train adopt s3://my-bucket/runs/digits-cnn-261124-133246-7403
    """
    view = open_client(as_json).adopt(url, config=config).view
    if as_json:
        say_json(view.to_json())
        return 0
    say(view.run_id)
    if is_terminal(sys.stderr) and is_terminal(sys.stdout):
        say_aside(f"attempt {view.attempt} is {view.state_text}")
        say_aside(command_list(next_steps(view), Painter.of(sys.stderr)))
    return 0

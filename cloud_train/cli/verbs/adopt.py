"""``cloud-train adopt``: a run of another machine, taken into this one's ledger."""

import sys
from typing import Annotated

import typer

from cloud_train.cli.consent import asking
from cloud_train.cli.options import ConfigOption, JsonOption
from cloud_train.cli.output.terminal import Painter, is_terminal, say, say_aside, say_json


def adopt(
    url: Annotated[str, typer.Argument(help="The run directory: STORE/RUN, as `cloud-train list --store STORE` shows it.", metavar="URL")],
    config: ConfigOption = None,
    as_json: JsonOption = False,
) -> int:
    """Take a run that was submitted elsewhere into this machine's ledger.

    From then on every verb knows it: logs, metrics, fetch-model, cancel, and resume, which shows what it would start and asks first.
    Nothing in the run directory changes, and nothing in it is acted on: the provider is asked with the settings of this machine's own
    config file. Prints the run's id.

    Examples:
      cloud-train adopt s3://my-bucket/runs/digits-cnn-261124-133246-7403
    """
    from cloud_train.cli.output.runs import command_list, next_steps
    from cloud_train.orchestrator.adopting import adopt as take
    from cloud_train.orchestrator.configs import Configs
    from cloud_train.orchestrator.home import Home

    home = Home.from_environment()
    view = take(home, url, config, Configs(home, asking(as_json)), note=say_aside)
    if as_json:
        say_json(view.to_json())
        return 0
    say(view.run_id)
    if is_terminal(sys.stderr) and is_terminal(sys.stdout):
        say_aside(f"attempt {view.attempt} is {view.state}")
        say_aside(command_list(next_steps(view), Painter.of(sys.stderr)))
    return 0

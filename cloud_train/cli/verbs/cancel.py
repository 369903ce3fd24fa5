"""``cloud-train cancel``: stop a run."""

import sys
from typing import Annotated

import typer

from cloud_train.cli.options import ConfigOption, JsonOption, NamedRunArgument, open_client
from cloud_train.cli.output.terminal import is_terminal, say, say_aside, say_json


def cancel(
    run: NamedRunArgument,
    no_wait: Annotated[bool, typer.Option("--no-wait", help="Return at once instead of waiting for the end.")] = False,
    force: Annotated[bool, typer.Option("--force", help="Kill all its processes immediately, without a last checkpoint.")] = False,
    config: ConfigOption = None,
    as_json: JsonOption = False,
) -> int:
    """Stop a run after giving it time for a last checkpoint.

    The program is told to stop and gets the time in the job's limits.grace; then its whole process tree is killed. The run is shown as
    cancelled, not as failed, and can be resumed. Records the end of the run and cleans up at the provider.

    The URL of a run directory works without a ledger: the provider is asked with the settings in --config, by default those in the config
    file with the provider's name, and nothing is recorded on this machine.

    Examples:
      cloud-train cancel digits-cnn
      cloud-train cancel 7k3f --force
      cloud-train cancel s3://my-bucket/runs/digits-cnn-261124-133246-7403
    """
    chosen = open_client(as_json).run(run, config=config)
    if not no_wait and not force and not as_json and is_terminal(sys.stderr):
        say_aside(f"waiting for {chosen.id} to save its last checkpoint; Ctrl-C only stops waiting")
    view = chosen.cancel(wait=not no_wait, force=force)
    if as_json:
        say_json(view.to_json())
    else:
        say(f"{view.run_id} {view.state}")
    return 0

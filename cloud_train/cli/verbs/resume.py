"""``cloud-train resume``: a run's next attempt."""

from typing import Annotated

import typer

from cloud_train.cli.consent import accepting, asking
from cloud_train.cli.options import ConfigOption, FollowOption, JsonOption, NamedRunArgument, complete_provider
from cloud_train.cli.output.terminal import say_aside
from cloud_train.cli.output.watch import show_started


def resume(
    run: NamedRunArgument,
    *,
    provider: Annotated[
        str | None,
        typer.Option(metavar="NAME", help="Go on with this provider instead.", autocompletion=complete_provider, show_default=False),
    ] = None,
    store: Annotated[
        str | None,
        typer.Option(metavar="URL", help="Move the run directory into this store, and go on there.", show_default=False),
    ] = None,
    config: ConfigOption = None,
    data: Annotated[
        str | None,
        typer.Option(metavar="PATH", help="Where the job's data is now: a folder of this machine, or a URL.", show_default=False),
    ] = None,
    trust: Annotated[bool, typer.Option("--trust", help="Accept what a run of another machine would start, without being asked.")] = False,
    follow: FollowOption = False,
    as_json: JsonOption = False,
) -> int:
    """Start a run's next attempt, from its newest valid checkpoint.

    For a run that failed, was interrupted or was cancelled. It keeps its id and its directory; a checkpoint that is incomplete or damaged
    is passed over for the one before it, and the worker's log says so.

    A run can move: with another provider, and with --store in another store, to which its newest checkpoint is copied, verified.

    Before a run that another machine submitted is first resumed here, its command, image, code, data and secrets are shown, and you are
    asked. The provider's settings are always those of this machine. A run of your own is never asked about; if its run.json was changed by
    someone else, it is refused.

    Examples:
      cloud-train resume digits-cnn
      cloud-train resume 7k3f --follow
      cloud-train resume digits-cnn --provider gcp --store gs://my-bucket/runs
    """
    from cloud_train.orchestrator.home import Home
    from cloud_train.orchestrator.resuming import Elsewhere
    from cloud_train.orchestrator.resuming import resume as start
    from cloud_train.orchestrator.state import select

    home = Home.from_environment()
    elsewhere = Elsewhere(provider, store, config, data) if provider or store or config or data else None
    ask = asking(as_json)
    view = start(home, select(home, run), note=say_aside, elsewhere=elsewhere, ask=accepting if trust else ask, ask_of_configs=ask)
    return show_started(home, view, follow=follow, as_json=as_json)

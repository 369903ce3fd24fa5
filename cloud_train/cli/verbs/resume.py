"""``cloud-train resume``: start a run's next attempt."""

from dataclasses import asdict
from typing import TYPE_CHECKING, Annotated

import typer

from cloud_train.cli.options import ConfigOption, FollowOption, JsonOption, NamedRunArgument, accepting, complete_provider, open_client
from cloud_train.cli.output.live import show_started
from cloud_train.cli.output.terminal import say_event

if TYPE_CHECKING:
    from cloud_train import Waiting


def resume(
    run: NamedRunArgument,
    *,
    provider: Annotated[
        str | None,
        typer.Option(metavar="NAME", help="Continue with this provider.", autocompletion=complete_provider, show_default=False),
    ] = None,
    store: Annotated[
        str | None,
        typer.Option(metavar="URL", help="Move the run to this store and continue there.", show_default=False),
    ] = None,
    config: ConfigOption = None,
    data: Annotated[
        str | None,
        typer.Option(metavar="PATH", help="The new location of the job's data: a folder on this machine, or a URL.", show_default=False),
    ] = None,
    trust: Annotated[bool, typer.Option("--trust", help="Start a run from another machine without asking.")] = False,
    follow: FollowOption = False,
    as_json: JsonOption = False,
) -> int:
    """Start a run's next attempt from its newest valid checkpoint.

    For a run that failed, was interrupted or was cancelled; an end that is not recorded yet is recorded first. The run keeps its id and its
    directory. An incomplete or damaged checkpoint is skipped in favour of the one before it, and the worker's log says so.

    An attempt that was started from another machine, and may be alive, is given 45 seconds for a heartbeat. With --json, one line of JSON
    on standard error says so at once: {"event": "waiting", "run_id", "attempt", "host", "seconds"}.

    A run that is named by the URL of its run directory is adopted first, if it is not tracked here.

    A run can move to another provider, and with --store to another store; its newest checkpoint is copied there and verified.

    The first time that you resume a run from another machine, you are shown its command, image, code, data and secrets, and asked to accept
    them. The provider's settings always come from this machine. You are never asked about your own runs; one whose run.json was changed by
    someone else is refused.

    Examples:
      cloud-train resume digits-cnn
      cloud-train resume 7k3f --follow
      cloud-train resume digits-cnn --provider gcp --store gs://my-bucket/runs
    """
    chosen = open_client(as_json).run(run)
    chosen.resume(
        provider=provider,
        store=store,
        config=config,
        data=data,
        trust=accepting if trust else False,
        on_wait=_say_waiting if as_json else None,
    )
    return show_started(chosen, follow=follow, as_json=as_json)


def _say_waiting(waiting: "Waiting") -> None:
    say_event("waiting", asdict(waiting))

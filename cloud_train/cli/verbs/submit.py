"""``cloud-train submit``: start a run of a job."""

import sys
from typing import TYPE_CHECKING, Annotated

import typer

from cloud_train.cli.options import ConfigOption, FollowOption, JobArgument, JsonOption, OverridesOption, complete_provider, open_client
from cloud_train.cli.output.live import show_started
from cloud_train.cli.output.terminal import Painter, say, say_aside, say_json
from cloud_train.client import Client
from cloud_train.errors import ProviderError, UsageError
from cloud_train.exit_status import INTERRUPTED

if TYPE_CHECKING:
    from cloud_train import Plan


_StoreOption = Annotated[
    str | None, typer.Option(metavar="URL", help="The store for the run directory; overrides the files.", show_default=False)
]


def submit(
    job: JobArgument,
    *,
    provider: Annotated[
        str | None,
        typer.Option(
            metavar="NAME", help="The provider to run on; overrides the files.", autocompletion=complete_provider, show_default=False
        ),
    ] = None,
    store: _StoreOption = None,
    overrides: OverridesOption = None,
    config: ConfigOption = None,
    dry_run: Annotated[
        bool,
        typer.Option("--dry-run", help="Show the whole plan without starting or writing anything. Exits with 7 if it would be refused."),
    ] = False,
    follow: FollowOption = False,
    as_json: JsonOption = False,
) -> int:
    """Start a run of a job; with --dry-run, only show what would start.

    Prints the run's id and returns; the run continues in the background. With --follow, shows the training's progress until the run ends,
    records the end, and exits with a status that says why the run ended.

    Examples:
      cloud-train submit job.yaml --follow
      cloud-train submit job.yaml --set train.epochs=3 --dry-run
      cloud-train submit job.yaml --provider aws --store s3://my-bucket/runs
      RUN=$(cloud-train submit job.yaml)
    """
    if dry_run and follow:
        raise UsageError("--dry-run and --follow cannot be combined: a dry run starts nothing")
    client = open_client(as_json)
    if dry_run:
        return _show(client, client.plan(job, set=overrides or (), config=config, provider=provider, store=store), as_json)
    try:
        run = client.submit(job, set=overrides or (), config=config, provider=provider, store=store)
    except KeyboardInterrupt:
        say_aside("\ninterrupted; check whether the run was started with: cloud-train list")
        return INTERRUPTED
    return show_started(run, follow=follow, as_json=as_json)


def _show(client: Client, plan: "Plan", as_json: bool) -> int:
    """Show the plan, the request to the provider, and why it would be refused; returns the exit status."""
    from cloud_train.cli.output.plan import plan_text  # imports pydantic, which a real submission loads later

    request, refused = client.request(plan)
    console = client.console_url(plan, request)
    if as_json:
        say_json({**plan.to_dict(), "request": request, "refused": refused, "console": console})
    else:
        say(plan_text(plan, request, refused, Painter.of(sys.stdout), console))
    return ProviderError.exit_code if refused else 0

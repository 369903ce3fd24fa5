"""``cloud-train submit``: start a run of a job, or show what it would be."""

import sys
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from cloud_train.cli.consent import asking
from cloud_train.cli.errors import INTERRUPTED
from cloud_train.cli.options import ConfigOption, FollowOption, JsonOption, complete_provider
from cloud_train.cli.output.terminal import Painter, say, say_aside, say_json
from cloud_train.cli.output.watch import show_started
from cloud_train.errors import ProviderError, UsageError

if TYPE_CHECKING:
    from cloud_train.orchestrator.home import Home
    from cloud_train.run.plan import Plan


def submit(
    job: Annotated[Path, typer.Argument(metavar="JOB.yaml", help="The job file.", show_default=False)],
    *,
    provider: Annotated[
        str | None,
        typer.Option(metavar="NAME", help="Where to run it; outranks the files.", autocompletion=complete_provider, show_default=False),
    ] = None,
    store: Annotated[
        str | None,
        typer.Option(metavar="URL", help="Where the run directory goes; outranks the files.", show_default=False),
    ] = None,
    overrides: Annotated[
        list[str] | None,
        typer.Option("--set", metavar="KEY=VALUE", help="Override a value, such as train.epochs=3. Repeatable.", show_default=False),
    ] = None,
    config: ConfigOption = None,
    dry_run: Annotated[
        bool,
        typer.Option("--dry-run", help="Show the whole plan; start and write nothing. Exits with 7 if it would be refused."),
    ] = False,
    follow: FollowOption = False,
    as_json: JsonOption = False,
) -> int:
    """Start a run of a job, or show with --dry-run what it would be.

    Prints the run's id and returns at once; the run goes on by itself. With --follow it shows how the training goes on, and ends with
    an exit status that says why the run ended.

    Examples:
      cloud-train submit job.yaml --follow
      cloud-train submit job.yaml --set train.epochs=3 --dry-run
      cloud-train submit job.yaml --provider aws --store s3://my-bucket/runs
      RUN=$(cloud-train submit job.yaml)
    """
    if dry_run and follow:
        raise UsageError("--dry-run starts nothing that --follow could watch; leave one of them out")
    from cloud_train.orchestrator.configs import Configs
    from cloud_train.orchestrator.home import Home
    from cloud_train.orchestrator.planning import make_plan

    home = Home.from_environment()
    configs = None if dry_run else Configs(home, asking(as_json), say_aside)
    plan = make_plan(home, job, overrides or (), config, provider, store=store, dry_run=dry_run, configs=configs)
    if dry_run:
        return _show(home, plan, as_json)
    from cloud_train.orchestrator.submitting import submit as start

    try:
        run = start(home, plan, say_aside)
    except KeyboardInterrupt:
        say_aside("\ninterrupted; see whether the run was started with: cloud-train list")
        return INTERRUPTED
    return show_started(home, run, follow=follow, as_json=as_json)


def _show(home: "Home", plan: "Plan", as_json: bool) -> int:
    """Show the plan, the request that the provider would get, and what would be refused in it; returns the exit code."""
    from cloud_train.cli.output.plan import plan_text
    from cloud_train.orchestrator.planning import request_of

    request, refused = request_of(home, plan)
    if as_json:
        say_json({**plan.to_dict(), "request": request, "refused": refused})
    else:
        say(plan_text(plan, request, refused, Painter.of(sys.stdout)))
    return ProviderError.exit_code if refused else 0

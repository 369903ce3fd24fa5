"""``cloud-train package``: make a job's container image, and nothing else."""

from pathlib import Path
from typing import Annotated

import typer

from cloud_train.cli.consent import asking
from cloud_train.cli.options import ConfigOption, JsonOption, complete_provider
from cloud_train.cli.output.terminal import say, say_aside, say_json
from cloud_train.errors import UsageError


def package(
    job: Annotated[Path, typer.Argument(metavar="JOB.yaml", help="The job file.", show_default=False)],
    *,
    push: Annotated[bool, typer.Option("--push", help="Into a registry; from there any machine can pull it. Needs no Docker.")] = False,
    repository: Annotated[
        str | None,
        typer.Option(
            metavar="HOST/NAME", help="Where --push puts it; outranks `repository` of the provider's settings.", show_default=False
        ),
    ] = None,
    provider: Annotated[str, typer.Option(metavar="NAME", help="Whose settings count.", autocompletion=complete_provider)] = "docker",
    overrides: Annotated[
        list[str] | None, typer.Option("--set", metavar="KEY=VALUE", help="Override a value. Repeatable.", show_default=False)
    ] = None,
    config: ConfigOption = None,
    as_json: JsonOption = False,
) -> int:
    """Make the container image of a job, or find it made.

    Prints the image's name by digest. The same inputs make the same image on any machine, so an unchanged job builds and sends nothing.

    Examples:
      cloud-train package job.yaml
      cloud-train package job.yaml --push --repository registry.example.com/me/digits
    """
    from cloud_train.orchestrator.configs import Configs
    from cloud_train.orchestrator.connections import provider_at
    from cloud_train.orchestrator.home import Home
    from cloud_train.orchestrator.packaging import build_image, push_image
    from cloud_train.orchestrator.planning import make_plan

    if repository and not push:
        raise UsageError("--repository says where --push puts the image; add --push, or leave it out")
    home = Home.from_environment()
    plan = make_plan(home, job, overrides or (), config, provider, dry_run=True, configs=Configs(home, asking(as_json), say_aside))
    if push:
        repository = repository or plan.provider_settings.get("repository")
        if not repository:
            raise UsageError(
                "nothing says which repository the image is pushed to",
                hint=f"add --repository HOST/NAME, or `repository` to the settings of {provider!r} in configs/NAME.yaml",
            )
    place = provider_at(home, plan.provider)
    built = push_image(home, place, plan, repository, say_aside) if repository else build_image(plan, say_aside)
    if as_json:
        say_json({"image": built.reference, "sent_bytes": built.sent_bytes, "reused": built.reused})
        return 0
    say_aside("unchanged: nothing was built or sent" if built.reused else f"{built.sent_bytes:,} bytes sent")
    say(built.reference)
    return 0

"""``cloud-train package``: build or push a job's container image without starting a run."""

from typing import Annotated

import typer

from cloud_train.cli.options import ConfigOption, JobArgument, JsonOption, OverridesOption, complete_provider, open_client
from cloud_train.cli.output.terminal import say, say_aside, say_json
from cloud_train.errors import UsageError


def package(
    job: JobArgument,
    *,
    push: Annotated[bool, typer.Option("--push", help="Push the image to a registry; needs no Docker.")] = False,
    repository: Annotated[
        str | None,
        typer.Option(
            metavar="HOST/NAME", help="The repository to push to; overrides `repository` in the provider's settings.", show_default=False
        ),
    ] = None,
    provider: Annotated[
        str, typer.Option(metavar="NAME", help="Use this provider's settings.", autocompletion=complete_provider)
    ] = "docker",
    overrides: OverridesOption = None,
    config: ConfigOption = None,
    as_json: JsonOption = False,
) -> int:
    """Build a job's container image, or reuse it.

    Prints the image's name with its digest. The same inputs give the same image on any machine, so an unchanged job needs no build and no
    upload.

    Examples:
      cloud-train package job.yaml
      cloud-train package job.yaml --push --repository registry.example.com/me/digits
    """
    if repository and not push:
        raise UsageError("--repository has no effect without --push; add --push, or remove --repository")
    built = open_client(as_json).package(job, set=overrides or (), config=config, provider=provider, push=push, repository=repository)
    if as_json:
        say_json({"image": built.reference, "sent_bytes": built.sent_bytes, "reused": built.reused})
        return 0
    say_aside("unchanged: nothing was built or uploaded" if built.reused else f"{built.sent_bytes:,} bytes uploaded")
    say(built.reference)
    return 0

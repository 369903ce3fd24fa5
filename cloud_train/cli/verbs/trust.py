"""``cloud-train trust``: a config file that came with a job may be used from now on."""

from pathlib import Path
from typing import Annotated

import typer

from cloud_train.cli.options import JsonOption
from cloud_train.cli.output.terminal import say, say_json


def trust(
    file: Annotated[Path, typer.Argument(metavar="FILE", help="The config file, such as configs/gcp.yaml.", show_default=False)],
    as_json: JsonOption = False,
) -> int:
    """Trust a config file that came with a job, as it is now.

    A config file that is found beside a job comes with the job. If it sets where credentials, secrets or images go, or what runs them, it
    is used only after it was trusted; once it changes, it has to be trusted again. A file that you name by its path, or keep in
    ~/.cloud-train/configs, needs no trust.

    Examples:
      cloud-train trust configs/gcp.yaml
    """
    from cloud_train.job.config import load_config
    from cloud_train.orchestrator.configs import decisive_settings
    from cloud_train.orchestrator.configs import trust as mark
    from cloud_train.orchestrator.home import Home

    config = load_config(file)
    settings = dict(decisive_settings(config))
    mark(Home.from_environment(), config)
    if as_json:
        say_json({"file": str(file.absolute()), "settings": settings})
        return 0
    for name, value in settings.items():
        say(f"{name}: {value}")
    say(f"{file} is trusted as it is now")
    return 0

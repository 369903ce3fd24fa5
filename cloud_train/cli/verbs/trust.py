"""``cloud-train trust``: trust a config file that came with a job."""

from pathlib import Path
from typing import Annotated

import typer

from cloud_train.cli.options import JsonOption, open_client
from cloud_train.cli.output.terminal import say, say_json


def trust(
    file: Annotated[Path, typer.Argument(metavar="FILE", help="The config file, such as configs/gcp.yaml.", show_default=False)],
    as_json: JsonOption = False,
) -> int:
    """Trust a config file that came with a job, as it is now.

    A config file that is found beside a job comes with the job. If it sets where data, code, credentials or secrets go, or what runs them
    (a store, an account, a project, a network, an image), it is used only after you have trusted it; once it changes, it must be trusted
    again. Everything that the file sets is shown. A file that you name by its path, or keep in ~/.cloud-train/configs, needs no trust.

    Examples:
      cloud-train trust configs/gcp.yaml
    """
    settings = open_client(as_json).trust(file)
    if as_json:
        say_json({"file": str(file.absolute()), "settings": settings})
        return 0
    for name, value in settings.items():
        say(f"{name}: {value}")
    say(f"{file} is trusted as it is now")
    return 0

"""``cloud-train schema``: the job file's JSON Schema."""

from typing import Annotated

import typer

from cloud_train.cli.options import JsonOption
from cloud_train.cli.output.terminal import say_json
from cloud_train.job.schema import config_schema, job_schema
from cloud_train.plugins import provider_plugins, settings_models


def schema(
    config: Annotated[bool, typer.Option("--config", help="Print the schema of a config file instead.")] = False,
    as_json: JsonOption = False,
) -> int:
    """Print the JSON Schema of the job file, for editors.

    An editor with a YAML language server completes and checks a job whose first line names the schema's file, as in the files written by
    "cloud-train init". The output is JSON with and without --json.

    Examples:
      cloud-train schema > job.schema.json
      cloud-train schema --config > config.schema.json
    """
    del as_json
    say_json(config_schema(settings_models(set(provider_plugins()))) if config else job_schema(), indented=True)
    return 0

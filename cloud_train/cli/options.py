"""Arguments and options that several verbs take, and what a shell completes for them."""

from pathlib import Path
from typing import Annotated

import typer

_RUNS_OFFERED = 50


def complete_run(incomplete: str) -> list[tuple[str, str]]:
    """The newest runs whose id begins with what was typed, each with its state. Changes nothing, and makes no ledger."""
    from cloud_train.client import Client
    from cloud_train.errors import CloudTrainError

    try:
        runs = [run.view for run in Client().runs(None if incomplete else _RUNS_OFFERED)]
    except (CloudTrainError, OSError):
        return []  # a shell that completes cannot show a message
    return [(run.run_id, run.state_text) for run in runs if run.run_id.startswith(incomplete)][:_RUNS_OFFERED]


def complete_provider(incomplete: str) -> list[str]:
    """The names of the installed providers."""
    from cloud_train.client import Client

    return [name for name in Client().providers() if name.startswith(incomplete)]


RunArgument = Annotated[
    str | None,
    typer.Argument(
        metavar="RUN",
        help="The beginning of a run's id, or its last four characters. The newest run by default.",
        autocompletion=complete_run,
        show_default=False,
    ),
]
NamedRunArgument = Annotated[
    str,
    typer.Argument(
        metavar="RUN", help="The beginning of a run's id, or its last four characters.", autocompletion=complete_run, show_default=False
    ),
]
JsonOption = Annotated[bool, typer.Option("--json", help="Print JSON, and nothing else, to standard output.")]
FollowOption = Annotated[
    bool, typer.Option("--follow", "-f", help="Watch until the run ends, and record the end; Ctrl-C stops watching only.")
]
ConfigOption = Annotated[
    str | None, typer.Option(metavar="NAME", help="Provider settings: configs/NAME.yaml, or the path of a file.", show_default=False)
]
ToOption = Annotated[
    Path | None, typer.Option("--to", metavar="FOLDER", help="The folder to copy to; named after the run by default.", show_default=False)
]
CheckpointOption = Annotated[
    str | None,
    typer.Option(metavar="best|last|STEP", help="A checkpoint instead of the final model.", show_default=False),
]

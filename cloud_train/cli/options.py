"""What several verbs take: the run, ``--json`` and their likes; and what a shell completes for them."""

from pathlib import Path
from typing import Annotated

import typer

_RUNS_OFFERED = 50


def complete_run(incomplete: str) -> list[tuple[str, str]]:
    """The newest runs whose id begins with what was typed, each with its state. Says nothing where there is no ledger, and makes none."""
    from cloud_train.errors import CloudTrainError
    from cloud_train.orchestrator.home import Home

    home = Home.from_environment()
    try:
        if not home.ledger_path.is_file():
            return []
        from cloud_train.orchestrator.state import read_runs

        runs = read_runs(home, None if incomplete else _RUNS_OFFERED)
    except (CloudTrainError, OSError):
        return []  # a shell that completes is no place for a message
    return [(run.run_id, run.state_text) for run in runs if run.run_id.startswith(incomplete)][:_RUNS_OFFERED]


def complete_provider(incomplete: str) -> list[str]:
    """The names of the installed providers."""
    from cloud_train.orchestrator.home import Home
    from cloud_train.providers.registry import known_providers

    return [known.name for known in known_providers(Home.from_environment().folder) if known.name.startswith(incomplete)]


RunArgument = Annotated[
    str | None,
    typer.Argument(
        metavar="RUN",
        help="The beginning of a run's id, or its last four characters. The newest run if left out.",
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
FollowOption = Annotated[bool, typer.Option("--follow", "-f", help="Watch until the run ends; Ctrl-C stops watching, not the run.")]
ConfigOption = Annotated[
    str | None, typer.Option(metavar="NAME", help="Provider settings: configs/NAME.yaml, or the path of a file.", show_default=False)
]
ToOption = Annotated[
    Path | None, typer.Option("--to", metavar="FOLDER", help="Where to put it; named after the run if left out.", show_default=False)
]
CheckpointOption = Annotated[
    str | None,
    typer.Option(metavar="best|last|STEP", help="A checkpoint instead of the final model.", show_default=False),
]

"""Shared by the verbs: arguments and options with their shell completion, and the client.

The client's notes go to standard error; its questions are asked at the terminal.
"""

import sys
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from cloud_train.cli.output.terminal import Painter, clean, is_terminal, say_aside
from cloud_train.client import Client
from cloud_train.errors import CloudTrainError
from cloud_train.run.states import State

if TYPE_CHECKING:
    from cloud_train import Question


_RUNS_OFFERED = 50
_RUN = "The beginning of a run's id, or its last four characters; or the URL of a run directory"
JsonOption = Annotated[bool, typer.Option("--json", help="Print JSON, and nothing else, to standard output.")]
JobArgument = Annotated[Path, typer.Argument(metavar="JOB.yaml", help="The job file.", show_default=False)]
OverridesOption = Annotated[
    list[str] | None,
    typer.Option("--set", metavar="KEY=VALUE", help="Override a value, such as train.epochs=3. Repeatable.", show_default=False),
]
FollowOption = Annotated[
    bool, typer.Option("--follow", "-f", help="Follow the run until it ends, and record the end; Ctrl-C only stops following.")
]
ConfigOption = Annotated[
    str | None, typer.Option(metavar="NAME", help="Provider settings: configs/NAME.yaml, or the path of a file.", show_default=False)
]
ToOption = Annotated[
    Path | None, typer.Option("--to", metavar="FOLDER", help="The folder to copy to; named after the run by default.", show_default=False)
]
CheckpointOption = Annotated[
    str | None,
    typer.Option(metavar="best|last|STEP", help="Use this checkpoint instead of the final model.", show_default=False),
]


def open_client(as_json: bool = False) -> Client:
    """The client for one command."""
    return Client(note=say_aside, ask=asking(as_json))


def asking(as_json: bool = False) -> Callable[["Question"], bool]:
    """A function that asks the user at the terminal. Without a terminal, or with ``--json``, the answer is no."""

    def ask(question: "Question") -> bool:
        if as_json or not (is_terminal(sys.stdin) and is_terminal(sys.stderr)):
            return False
        show(question)
        try:
            return typer.confirm(question.question, default=False, err=True)
        except typer.Abort:  # Ctrl-C, or the end of the input
            say_aside("")
            raise KeyboardInterrupt from None

    return ask


def accepting(question: "Question") -> bool:
    """Show the question and accept it: the user did so on the command line."""
    show(question)
    return True


def show(question: "Question") -> None:
    """Print the question's subject and facts to standard error, one per line."""
    paint = Painter.of(sys.stderr)
    say_aside(f"{clean(question.subject)}:")
    width = max((len(name) for name, _ in question.facts), default=0)
    for name, value in question.facts:
        say_aside(f"  {paint(clean(name).ljust(width), 'bold')}  {clean(value)}")


def complete_run(incomplete: str) -> list[tuple[str, str]]:
    """The newest runs whose id begins with ``incomplete``, each with its state. Changes nothing and creates no ledger."""
    try:
        runs = [run.view for run in Client().runs(None if incomplete else _RUNS_OFFERED, check_ended=False)]
    except (CloudTrainError, OSError):
        return []  # completion cannot show a message
    return [(run.run_id, run.state_text) for run in runs if run.run_id.startswith(incomplete)][:_RUNS_OFFERED]


def complete_name(incomplete: str) -> list[str]:
    """The names of the newest runs' jobs. Changes nothing and creates no ledger."""
    try:
        names = [run.view.name for run in Client().runs(_RUNS_OFFERED, check_ended=False)]
    except (CloudTrainError, OSError):
        return []  # completion cannot show a message
    return [name for name in dict.fromkeys(names) if name.startswith(incomplete)]


def complete_state(incomplete: str) -> list[str]:
    """The states of runs."""
    return [state.value for state in State if state.value.startswith(incomplete)]


def complete_provider(incomplete: str) -> list[str]:
    """The names of the installed providers."""
    return [name for name in Client().providers() if name.startswith(incomplete)]


RunArgument = Annotated[
    str | None,
    typer.Argument(
        metavar="RUN",
        help=f"{_RUN}; or a job's name, for its newest run. The newest run of all by default.",
        autocompletion=complete_run,
        show_default=False,
    ),
]
NamedRunArgument = Annotated[
    str,
    typer.Argument(metavar="RUN", help=f"{_RUN}.", autocompletion=complete_run, show_default=False),
]

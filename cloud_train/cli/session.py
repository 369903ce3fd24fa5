"""The client as the verbs use it: notes go to standard error, questions to the user at the terminal."""

import sys
from collections.abc import Callable
from typing import TYPE_CHECKING

import typer

from cloud_train.cli.output.terminal import Painter, clean, is_terminal, say_aside
from cloud_train.client import Client

if TYPE_CHECKING:
    from cloud_train import Question


def open_client(as_json: bool = False) -> Client:
    """The client of one command."""
    return Client(note=say_aside, ask=asking(as_json))


def asking(as_json: bool = False) -> Callable[["Question"], bool]:
    """A function that asks the user at a terminal. Without a terminal, or with ``--json``, it accepts nothing."""

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
    """Print the subject and one line per fact to standard error."""
    paint = Painter.of(sys.stderr)
    say_aside(f"{clean(question.subject)}:")
    width = max((len(name) for name, _ in question.facts), default=0)
    for name, value in question.facts:
        say_aside(f"  {paint(clean(name).ljust(width), 'bold')}  {clean(value)}")

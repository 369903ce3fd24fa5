"""``cloud-train init``: write a job file to start from."""

import shlex
import sys
from enum import StrEnum
from pathlib import Path
from typing import Annotated

import typer

from cloud_train.cli.output.runs import command_list
from cloud_train.cli.output.terminal import Painter, is_terminal, say, say_aside
from cloud_train.errors import ConflictError, StoreError
from cloud_train.job.starter import starter


class Kind(StrEnum):
    """The kinds of job that ``init`` can write."""

    CNN = "cnn"
    RNN = "rnn"
    SCRIPT = "script"


def init(
    path: Annotated[Path, typer.Argument(metavar="PATH", help="The file to write.")] = Path("job.yaml"),
    kind: Annotated[Kind, typer.Option(help="An image classifier, a language model over characters, or your own program.")] = Kind.CNN,
    name: Annotated[str | None, typer.Option(metavar="NAME", help="The job's name; my-KIND by default.", show_default=False)] = None,
    force: Annotated[bool, typer.Option("--force", help="Overwrite an existing file.")] = False,
) -> int:
    """Write a job file to start from, with comments.

    Examples:
      cloud-train init
      cloud-train init text.yaml --kind rnn --name my-text
    """
    text = starter(kind.value, name or f"my-{kind.value}")
    try:
        with path.open("w" if force else "x", encoding="utf-8") as file:
            file.write(text)
    except FileExistsError as error:
        raise ConflictError(f"{path} already exists", hint="choose another file name, or overwrite it with --force") from error
    except OSError as error:
        raise StoreError(f"cannot write {path}: {error.strerror}", hint="choose a folder with write permission") from error
    say(str(path))
    if is_terminal(sys.stderr) and is_terminal(sys.stdout):
        name = shlex.quote(str(path))
        steps = [(f"cloud-train submit {name} --dry-run", "see what it would do"), (f"cloud-train submit {name} --follow", "train it")]
        say_aside(command_list(steps, Painter.of(sys.stderr)))
    return 0

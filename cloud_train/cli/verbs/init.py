"""``cloud-train init``: write a job file to start from."""

import re
import shlex
import sys
from enum import StrEnum
from importlib.resources import files
from pathlib import Path
from typing import Annotated

import typer

from cloud_train.cli.output.runs import command_list
from cloud_train.cli.output.terminal import Painter, is_terminal, say, say_aside
from cloud_train.errors import ConflictError, StoreError, UsageError

_WORDS = frozenset({"null", "true", "false"})


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
    text = starter(kind, name or f"my-{kind.value}")
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


def starter(kind: Kind, name: str) -> str:
    """The text of a commented job file for a model of ``kind``, called ``name``. Raises UsageError for a name that a job cannot have."""
    _check(name)
    text = (files("cloud_train.job") / "starters" / f"{kind.value}.yaml").read_text(encoding="utf-8")
    # Quoted if YAML would read it as a number, such as the name 2024.
    return text.replace(f"name: my-{kind.value}", f"name: {name if name[:1].isalpha() and name not in _WORDS else repr(name)}", 1)


def _check(name: str) -> None:
    from cloud_train.spec.types import NAME_PATTERN, PATTERNS

    if not re.fullmatch(NAME_PATTERN, name):
        raise UsageError(f"invalid job name {name!r}", hint=f"expected: {PATTERNS[NAME_PATTERN]}")

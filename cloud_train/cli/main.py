"""The command ``cloud-train``: its entry point, and its verbs, which are imported when they are used."""

import fcntl
import importlib
import inspect
import io
import os
import sys
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, NoReturn

import typer
from typer.core import TyperGroup

from cloud_train.cli.errors import guarded
from cloud_train.environment import set_for_this_process
from cloud_train.errors import StoreError
from cloud_train.exit_status import OUTPUT_CLOSED
from cloud_train.version import __version__

if TYPE_CHECKING:
    from typer.core import TyperCommand

PROGRAM = "cloud-train"

VERBS: dict[str, tuple[str, str]] = {
    "submit": ("submit", "Start a run of a job; with --dry-run, only show what would start."),
    "list": ("list_runs", "List the runs and their states, newest first."),
    "status": ("status", "Show one run: its state, why it ended, and what to do next."),
    "logs": ("logs", "Print the output of a run's program, byte for byte."),
    "metrics": ("metrics", "Show a run's metrics as a table or a plot."),
    "cancel": ("cancel", "Stop a run after giving it time for a last checkpoint."),
    "resume": ("resume", "Start a run's next attempt from its newest valid checkpoint."),
    "adopt": ("adopt", "Track a run that was submitted from another machine."),
    "fetch-model": ("fetch_model", "Copy a run's model into a folder and verify it."),
    "sync": ("sync", "Copy a run's whole directory into a folder; repeat to copy only what changed."),
    "evaluate": ("evaluate", "Measure how good a trained model is on new data."),
    "predict": ("predict", "Run a trained model: classify images or text, continue a prompt, or forecast time series."),
    "package": ("package", "Build a job's container image, or reuse it."),
    "upload": ("upload", "Copy data from this machine to a store."),
    "pack": ("pack", "Pack a folder of images into tar shards with an index."),
    "validate": ("validate", "Check job files and report every mistake with its position."),
    "trust": ("trust", "Trust a config file that came with a job, as it is now."),
    "schema": ("schema", "Print the JSON Schema of the job file, for editors."),
    "init": ("init", "Write a job file to start from, with comments."),
    "doctor": ("doctor", "Check what is installed and what is missing, and how to fix it."),
}
"""Verb → (module and function in ``cli.verbs``, first line of its help).

The help lines are repeated here so that ``--help`` imports no verb; a test compares them with the verbs' docstrings.
"""


class _LazyVerbs(Mapping[str, "TyperCommand"]):
    """The verbs as commands, each created on first use."""

    def __init__(self) -> None:
        self._made: dict[str, TyperCommand] = {}

    def __getitem__(self, name: str) -> "TyperCommand":
        if name not in self._made:
            self._made[name] = _make(name, VERBS[name][0])
        return self._made[name]

    def __iter__(self) -> Iterator[str]:
        return iter(VERBS)

    def __len__(self) -> int:
        return len(VERBS)


class VerbGroup(TyperGroup):
    """The group of verbs. It lists them from the table above, and imports a verb's module only when the verb is used."""

    def __init__(self, **attributes: Any) -> None:
        super().__init__(**attributes)
        self.commands = _LazyVerbs()  # type: ignore[assignment] # Typer only reads it, and a mutable mapping could not be lazy

    def list_commands(self, ctx: typer.Context) -> list[str]:  # type: ignore[override] # typer.Context is the public name of its base
        """The verbs, in the order of the table."""
        return list(VERBS)

    def format_commands(self, ctx: typer.Context, formatter: Any) -> None:  # type: ignore[override] # as above
        """The list of verbs in the help, from the table."""
        with formatter.section("Commands"):
            formatter.write_dl([(name, line) for name, (_, line) in VERBS.items()])


_HELP = """Train a CNN, an RNN or your own script from one YAML file.

  cloud-train init job.yaml                 write a job file to start from
  cloud-train submit job.yaml --follow      train, and watch the progress
  cloud-train fetch-model                   copy the newest run's model to this folder

RUN is the beginning of a run's id, or its last four characters. Where it may be left out, the newest run is used.
"""
_CONTEXT = {"help_option_names": ["-h", "--help"], "max_content_width": 110}


def _laid_out(help_text: str) -> str:
    r"""The help, with ``\b`` before indented paragraphs, which are commands: Click then leaves their line breaks alone."""
    paragraphs = help_text.strip().split("\n\n")
    return "\n\n".join(f"\b\n{paragraph}" if "\n " in f"\n{paragraph}" else paragraph for paragraph in paragraphs)


app = typer.Typer(
    cls=VerbGroup,
    name=PROGRAM,
    help=_laid_out(_HELP),
    rich_markup_mode=None,  # plain help looks the same in a pipe and takes half the time, without importing rich
    context_settings=_CONTEXT,
)


def _show_version(wanted: bool) -> None:
    if wanted:
        typer.echo(f"{PROGRAM} {__version__}")
        raise typer.Exit


@app.callback(invoke_without_command=True)
def _root(
    context: typer.Context,
    version: Annotated[bool, typer.Option("--version", callback=_show_version, is_eager=True, help="Print the version and exit.")] = False,
) -> None:
    # No docstring, because the app above has the help.
    if context.invoked_subcommand is None:
        typer.echo(context.get_help())
        raise typer.Exit(2)


def entry_point() -> NoReturn:
    """The program ``cloud-train``: runs ``main`` and exits immediately, because the interpreter's shutdown would add 40 ms.

    All cleanup is done before ``main`` returns.
    """
    status = main()
    for stream in (sys.stdout, sys.stderr):
        try:
            stream.flush()
        except OSError:  # the reader has exited, or the disk is full
            status = status or OUTPUT_CLOSED
    os._exit(status)


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command line and return its exit status (docs/exit-codes.md)."""
    arguments = list(sys.argv[1:] if arguments is None else arguments)
    unwritable = _unwritable_output()
    _prepare_output()
    # Looking for pydantic plugins reads the metadata of every installed package, which takes 20 ms or more; none is needed.
    set_for_this_process("PYDANTIC_DISABLE_PLUGINS", "__all__")
    own = arguments[: arguments.index("--")] if "--" in arguments else arguments
    if unwritable:
        return guarded(lambda: _refuse(unwritable), as_json=False)
    return guarded(lambda: _run(arguments), as_json="--json" in own)


def _unwritable_output() -> str:
    """Why nothing can be written to standard output; empty if something may."""
    if sys.stdout is None:
        return "it is closed"
    try:
        flags = fcntl.fcntl(sys.stdout.fileno(), fcntl.F_GETFL)
    except (OSError, ValueError):  # a stream without a file, such as a test's
        return ""
    return "it is open for reading only" if flags & os.O_ACCMODE == os.O_RDONLY else ""


def _refuse(reason: str) -> NoReturn:
    """Raise before anything is done: a run's id that cannot be shown would be lost."""
    hint = "nothing was done; to discard the output, redirect it: >/dev/null"
    raise StoreError(f"cannot write to standard output: {reason}", hint=hint)


def _prepare_output() -> None:
    # What the caller closed (``<&-``) is replaced, so that no opened file gets its descriptor.
    if sys.stdin is None:
        sys.stdin = Path(os.devnull).open(encoding="utf-8")  # noqa: SIM115 - open until the process ends
    for name in ("stdout", "stderr"):
        stream = getattr(sys, name)
        if stream is None:
            setattr(sys, name, Path(os.devnull).open("w", encoding="utf-8"))  # noqa: SIM115 - open until the process ends
        elif isinstance(stream, io.TextIOWrapper):
            stream.reconfigure(errors="backslashreplace")  # a name that the terminal cannot show must not end the command


def _run(arguments: list[str]) -> int:
    result = typer.main.get_command(app).main(args=arguments, prog_name=PROGRAM, standalone_mode=False)
    return result if isinstance(result, int) else 0


def _make(name: str, module: str) -> "TyperCommand":
    function = getattr(importlib.import_module(f"cloud_train.cli.verbs.{module}"), module)
    single = typer.Typer(add_completion=False, rich_markup_mode=None)
    single.command(name, help=_laid_out(inspect.getdoc(function) or ""), context_settings=_CONTEXT)(function)
    return typer.main.get_command(single)  # type: ignore[return-value] # one command in the app: it is a command, not a group

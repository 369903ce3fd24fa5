"""Generates docs/cli.md from the verbs: ``python -m tests.cli.reference > docs/cli.md``. A test compares the result."""

import inspect
import re
from importlib import import_module
from typing import Any

import typer

from cloud_train.cli.main import VERBS, app

_HEAD = """# The command line

This page is generated from the verbs (`python -m tests.cli.reference > docs/cli.md`), and a test keeps it up to date.

`RUN` is the beginning of a run's id, or its last four characters. Where it is optional, it defaults to the newest run.
It may also be the URL or the path of a run directory (with a `/` in it): if the ledger does not have that run, or cannot be read, nothing
is recorded on this machine.

Every verb that prints data takes `--json`: standard output is then a single JSON document, also for errors:
`{"error": {"code", "message", "hint", "exit_code"}}`. Times are ISO 8601 in UTC, and a number that is not finite is `null`.

Colour, relative times and the live line appear only on terminals; `NO_COLOR` and `TERM=dumb` are respected. `CLOUD_TRAIN_HOME` sets the
folder of the ledger, by default `~/.cloud-train`. Exit statuses are listed in [exit-codes.md](exit-codes.md); 141 means that the reader of
the output went away, as in `cloud-train logs | head`.

`cloud-train --install-completion` installs shell completion for verbs, options and the ids of runs.
"""


def reference() -> str:
    """The whole page."""
    commands: Any = getattr(typer.main.get_command(app), "commands")  # noqa: B009 - the group's type in the stubs has no commands
    verbs = "\n".join(f"| [`{verb}`](#{verb}) | {line} |" for verb, (_, line) in VERBS.items())
    sections = "\n".join(_section(verb, commands[verb]) for verb in VERBS)
    return f"{_HEAD}\n| verb | |\n|---|---|\n{verbs}\n\n{sections}"


def _section(verb: str, command: Any) -> str:
    module = VERBS[verb][0]
    help_text = inspect.getdoc(getattr(import_module(f"cloud_train.cli.verbs.{module}"), module)) or ""
    prose, _, examples = help_text.partition("\n\nExamples:\n")
    example_lines = "\n".join(line.strip() for line in examples.split("\n"))
    arguments = [parameter for parameter in command.params if parameter.param_type_name == "argument"]
    shown = " ".join(str(a.metavar) if a.required else f"[{a.metavar}]" for a in arguments)
    usage = " ".join(part for part in (verb, "[OPTIONS]", shown) if part)
    rows = "\n".join(_row(parameter) for parameter in command.params)
    return f"## {verb}\n\n`{usage}`\n\n{_unwrapped(prose)}\n\n| | |\n|---|---|\n{rows}\n\n```sh\n{example_lines}\n```\n"


def _row(parameter: Any) -> str:
    if parameter.param_type_name == "argument":
        name = str(parameter.metavar)
    else:
        takes_value = not getattr(parameter, "is_flag", False)
        name = ", ".join(sorted(parameter.opts, key=len)) + (f" {_value(parameter)}" if takes_value else "")
    default = parameter.default
    hidden = default is None or isinstance(default, bool) or not getattr(parameter, "show_default", True)
    shown = f" Default: `{getattr(default, 'value', default)}`." if not hidden else ""
    return f"| `{name}` | {parameter.help}{shown} |".replace("best|last|STEP", "best\\|last\\|STEP")


def _value(parameter: Any) -> str:
    if parameter.metavar:
        return str(parameter.metavar)
    choices = parameter.type_descriptor.annotation
    return "\\|".join(choice.value for choice in choices)


def _unwrapped(prose: str) -> str:
    return re.sub(r"(?<!\n)\n(?!\n)", " ", prose)


if __name__ == "__main__":
    print(reference(), end="")

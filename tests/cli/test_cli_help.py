import inspect
import json
import re
import shlex
import subprocess
import sys
from importlib import import_module

import pytest
import typer
from typer.testing import CliRunner

from cloud_train.cli.main import PROGRAM, VERBS, app

runner = CliRunner()


def helped(*arguments: str) -> str:
    result = runner.invoke(app, [*arguments, "--help"], prog_name=PROGRAM)
    assert result.exit_code == 0, result.output
    return result.output


def test_the_help_lists_every_verb_with_the_first_line_of_its_own_help() -> None:
    listed = re.sub(r"\s+", " ", helped())
    for verb, (module, line) in VERBS.items():
        function = getattr(import_module(f"cloud_train.cli.verbs.{module}"), module)
        assert (inspect.getdoc(function) or "").split("\n")[0] == line
        assert f"{verb} {line}" in listed


def test_help_imports_no_verb_and_nothing_heavy() -> None:
    script = "import sys; from cloud_train.cli.main import main; main(['--help']); import json; print(json.dumps(sorted(sys.modules)))"
    ended = subprocess.run([sys.executable, "-c", script], check=True, capture_output=True, text=True)
    loaded = set(json.loads(ended.stdout.splitlines()[-1]))
    heavy = {"pydantic", "pydantic_core", "rich", "plotext", "ruamel", "sqlite3", "psutil", "torch", "numpy", "subprocess.run"}
    verbs = {f"cloud_train.cli.verbs.{module}" for module, _ in VERBS.values()}
    assert not loaded & (heavy | verbs | {"cloud_train.orchestrator", "cloud_train.run", "cloud_train.job"})


@pytest.mark.parametrize("verb", VERBS)
def test_every_verbs_help_has_an_example_that_its_parser_accepts(verb: str) -> None:
    lines = helped(verb).split("\n")
    examples = [line.strip() for line in lines[lines.index("  Examples:") + 1 :] if line.strip().startswith((PROGRAM, "RUN=$("))]
    assert examples
    for example in examples:
        command = example.removeprefix("RUN=$(").removesuffix(")").partition(" > ")[0]
        words = shlex.split(command)
        assert words[:2] == [PROGRAM, verb]
        parse(verb, words[2:])


def parse(verb: str, arguments: list[str]) -> None:
    """Parse without running: make_context raises for an unknown option or argument."""
    group = typer.main.get_command(app)
    command = getattr(group, "commands")[verb]  # noqa: B009 - the group's type in the stubs has no commands
    command.make_context(verb, list(arguments))


@pytest.mark.parametrize("verb", VERBS)
def test_every_option_of_every_verb_has_a_help_text(verb: str) -> None:
    group = typer.main.get_command(app)
    command = getattr(group, "commands")[verb]  # noqa: B009 - the group's type in the stubs has no commands
    for parameter in command.params:
        assert parameter.help, parameter.name


def test_every_verb_that_prints_data_takes_json() -> None:
    for verb in set(VERBS) - {"init"}:
        assert "--json" in helped(verb), verb


def test_without_a_verb_the_help_is_shown_as_a_usage_error() -> None:
    result = runner.invoke(app, [], prog_name=PROGRAM)
    assert result.exit_code == 2
    assert "Commands:" in result.output

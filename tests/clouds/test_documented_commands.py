"""The commands that docs/clouds tells people to type are those of the clouds' own tools, as far as a description of them is at hand."""

import re
import shlex
from collections.abc import Iterator
from pathlib import Path

import botocore.session
from botocore import xform_name

AWS = Path(__file__).parents[2] / "docs" / "clouds" / "aws.md"
_BLOCK = re.compile(r"^```sh\n(.*?)^```", re.MULTILINE | re.DOTALL)
_SERVICES = {"s3api": "s3"}
"""What the AWS CLI calls otherwise than botocore."""
_OF_THE_CLI = {"query", "output", "region"}
"""Options of every command."""


def test_every_command_of_the_aws_cli_is_one_of_aws_s_own_description_with_all_that_it_needs() -> None:
    commands = list(commands_in(AWS.read_text(encoding="utf-8")))
    assert len(commands) >= 9
    loader = botocore.session.get_session()
    for service, operation, options in commands:
        model = loader.get_service_model(_SERVICES.get(service, service))
        names = {xform_name(name, "-"): name for name in model.operation_names}
        assert operation in names, f"aws {service} has no {operation}"
        shape = model.operation_model(names[operation]).input_shape
        members = {xform_name(name, "-") for name in shape.members} if shape else set[str]()
        assert options - _OF_THE_CLI <= members, f"aws {service} {operation} has no {options - _OF_THE_CLI - members}"
        needed = {xform_name(name, "-") for name in shape.required_members} if shape else set[str]()
        assert needed <= options, f"aws {service} {operation} lacks {needed - options}"


def commands_in(text: str) -> Iterator[tuple[str, str, set[str]]]:
    """Service, operation and the names of the options of each command of the AWS CLI."""
    for block in _BLOCK.findall(text):
        lines = block.replace("\\\n", "")
        for line in re.findall(r"^aws (.*)", lines, re.MULTILINE) + re.findall(r"\$\(aws ([^)]*)\)", lines):
            service, operation, *words = shlex.split(line)
            if service not in ("sso", "configure"):  # logins of the CLI's own
                yield service, operation, {word[2:] for word in words if word.startswith("--")}

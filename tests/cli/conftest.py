"""A command line with a separate home."""

from pathlib import Path

import pytest

from tests.cli.command import CommandLine, command_line_of


@pytest.fixture
def cloud_train(tmp_path: Path) -> CommandLine:
    return command_line_of(tmp_path)

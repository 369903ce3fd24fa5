"""A command line with a home of its own."""

import os
from pathlib import Path

import pytest

from tests.cli.command import CommandLine


@pytest.fixture
def cloud_train(tmp_path: Path) -> CommandLine:
    environment = {name: value for name, value in os.environ.items() if not name.startswith("CLOUD_TRAIN")}
    for name in ("NO_COLOR", "COLUMNS", "LINES", "FORCE_COLOR"):
        environment.pop(name, None)
    home, folder = tmp_path / "home", tmp_path / "work"
    folder.mkdir()
    return CommandLine(home, folder, {**environment, "HOME": str(tmp_path), "CLOUD_TRAIN_HOME": str(home)})

"""The commands of docs/tutorial.md run as they are written, one after the other."""

import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent
RUN_HERE = ("Train on this machine", "Change the job", "Stop it and resume it", "Look at a cloud's request")
"""The sections whose commands need neither an installation nor Docker."""


@pytest.mark.slow
def test_the_tutorials_commands_run_one_after_the_other(tmp_path: Path) -> None:
    pytest.importorskip("torch")
    (tmp_path / "configs").symlink_to(ROOT / "configs")
    (tmp_path / "jobs").mkdir()
    for job in (ROOT / "jobs").glob("*.yaml"):  # on smaller images, which is quicker; test_picture.py trains the job as it is
        (tmp_path / "jobs" / job.name).write_text(job.read_text().replace("size: 28", "size: 14"))
    *sections, dry_run = RUN_HERE
    script = "set -euxo pipefail\n" + "".join(commands_of(section) for section in sections)
    script += f"set +e\n{commands_of(dry_run)}exit $?\n"
    environment = {**os.environ, "CLOUD_TRAIN_HOME": str(tmp_path / "home"), "HOME": str(tmp_path)}
    environment["PATH"] = f"{Path(sys.executable).parent}{os.pathsep}{environment['PATH']}"
    ended = subprocess.run(
        ["bash", "-c", script], cwd=tmp_path, env=environment, capture_output=True, text=True, check=False, stdin=subprocess.DEVNULL
    )
    assert ended.returncode == 7, ended.stdout + ended.stderr  # what the sample settings of AWS hold is a placeholder
    refused = ended.stdout.rpartition("WOULD BE REFUSED")[2].partition("NOTES")[0]
    assert refused.count("placeholder") == len(re.findall(r"^  aws\.", refused, re.MULTILINE)) == 2
    assert ended.stdout.count(" succeeded in ") == 3
    assert list(tmp_path.glob("digits-cnn-*-model"))


def test_every_section_of_the_tutorial_has_commands() -> None:
    for section in RUN_HERE:
        assert "cloud-train " in commands_of(section)


def commands_of(section: str) -> str:
    """The shell blocks of a section."""
    (text,) = re.findall(
        rf"^## {re.escape(section)}\n(.*?)(?=^## |\Z)", (ROOT / "docs" / "tutorial.md").read_text(), re.MULTILINE | re.DOTALL
    )
    return "".join(re.findall(r"^```sh\n(.*?)^```", text, re.MULTILINE | re.DOTALL))

"""``python -m cloud_train.training`` as tests start it: a run directory, real processes, real signals."""

import json
import os
import subprocess
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from cloud_train.run.checkpoints import newest_valid
from cloud_train.worker import contract
from tests.training.trainer import LINES, TEXT

ROOT = Path(__file__).parents[2]

# The program gets its signal in the middle of an epoch, just after it has logged a step: a place that no clock can promise.
SIGNALLED = """
import os, runpy, signal
from cloud_train.worker.api import Run
log = Run.log
def log_and_be_signalled(self, *, step, **values):
    log(self, step=step, **values)
    if step == {step}:
        os.kill(os.getpid(), signal.{name})
Run.log = log_and_be_signalled
runpy.run_module("cloud_train.training", run_name="__main__", alter_sys=True)
"""


class Program:
    """A run directory for the training program, and its folders."""

    def __init__(self, folder: Path, job: Mapping[str, Any]) -> None:
        self.folder = folder
        self.model, self.checkpoints, self.failure = folder / "model", folder / "checkpoints", folder / "failure.json"
        self.data = folder / job["data"].get("path", "cache")
        folder.mkdir(exist_ok=True)
        (folder / "run.json").write_text(json.dumps({"job": {"name": "test", **job}}))
        (folder / "text.txt").write_text(TEXT)
        (folder / "lines.tsv").write_text(LINES)

    def run(self, *python: str, **environment: str) -> subprocess.CompletedProcess[str]:
        """Start it, with the newest checkpoint if there is one, and wait for its end."""
        resume = newest_valid(self.checkpoints, print)
        variables = {
            contract.RUN_ID: "test-run",
            contract.ATTEMPT: "1",
            contract.JOB: str(self.folder / "run.json"),
            contract.CHECKPOINTS: str(self.checkpoints),
            contract.MODEL: str(self.model),
            contract.DATA: str(self.data),
            contract.METRICS: str(self.folder / "metrics.jsonl"),
            contract.FAILURE: str(self.failure),
            contract.RESUME: str(resume or ""),
            "PYTHONPATH": str(ROOT),
        }
        return subprocess.run(
            [sys.executable, *(python or ("-m", "cloud_train.training"))],
            cwd=self.folder,
            env={**os.environ, **variables, **environment},
            capture_output=True,
            text=True,
            check=False,
            timeout=120,
        )

    def said(self) -> dict[str, str]:
        """What the program said about its failure."""
        failure: dict[str, str] = json.loads(self.failure.read_text())
        return failure

"""The built-in trainer without a worker, started with the environment that the worker would set (``worker.contract``)."""

import json
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from benchmarks._mnist import VALIDATION
from benchmarks._turns import Contender
from cloud_train.worker import contract

NEVER = "1000000 steps"
"""An interval that is never reached."""


def classic_cnn(data: Path, **sections: Any) -> dict[str, Any]:
    """The job of the classic CNN on the MNIST files in ``data``: batches of 128, Adam, endless; ``sections`` are added to it.

    It validates only at its end, and saves a checkpoint only when it is told to stop.
    """
    train = {"steps": 10**6, "batch_size": 128, "evaluate": NEVER, **sections.pop("train", {})}
    return {
        "name": "classic-cnn",
        "model": {"kind": "cnn"},
        "data": {"dataset": "mnist", "path": str(data), "validation": VALIDATION},
        "train": train,
        "checkpoint": {"every": NEVER},
        **sections,
    }


def trainer(name: str, job: Mapping[str, Any], folder: Path) -> Contender:
    """The trainer of ``job`` as a program whose steps can be counted; its run directory is ``folder``, created if missing."""
    folder.mkdir(parents=True, exist_ok=True)
    record, metrics = folder / "run.json", folder / "metrics.jsonl"
    record.write_text(json.dumps({"job": job}))
    environment = {
        contract.RUN_ID: "benchmark",
        contract.ATTEMPT: "1",
        contract.JOB: str(record),
        contract.CHECKPOINTS: str(folder / "checkpoints"),
        contract.MODEL: str(folder / "model"),
        contract.METRICS: str(metrics),
        **({contract.DATA: job["data"]["path"]} if "path" in job["data"] else {}),
        "PYTHONUNBUFFERED": "1",
    }
    command = [sys.executable, "-m", "cloud_train.training"]
    return Contender(name, command, folder, environment, lambda: step_times(metrics))


def step_times(metrics: Path) -> list[float]:
    """The end of each training step in a metrics file, in seconds since 1970."""
    if not metrics.exists():
        return []
    whole_lines = metrics.read_text().rpartition("\n")[0].splitlines()
    points = [json.loads(line) for line in whole_lines if '"name": "loss"' in line]
    return [point["time"] for point in points if point["split"] == "train"]

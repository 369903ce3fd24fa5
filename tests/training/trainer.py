"""Trainings inside the test's own process: tiny jobs, and a run that can be told to stop after a certain step."""

import json
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch

from cloud_train.job.models import JobSpec
from cloud_train.run.checkpoints import newest_valid
from cloud_train.run.ranking import Ranking
from cloud_train.training.data.dataset import load
from cloud_train.training.description import ModelDescription
from cloud_train.training.distributed import ALONE
from cloud_train.training.loop import train
from cloud_train.training.starting import Start
from cloud_train.worker.api import Run

TEXT = "the quick brown fox jumps over the lazy dog. " * 40
LINES = "".join(f"{('good', 'bad')[n % 2]}\tit was {('fine', 'poor')[n % 2]} {'really ' * (n % 7)}{n}\n" for n in range(60))
CPU = torch.device("cpu")


@dataclass
class TestRun(Run):
    """A run that is told to stop as soon as it has logged the training of step ``stop_after``."""

    __test__ = False  # no test class, for pytest
    stop_after: int | None = None
    logged: list[dict[str, Any]] = field(default_factory=list)

    @property
    def stop_requested(self) -> bool:
        return self.stop_after is not None and any(line["step"] >= self.stop_after for line in self.logged)

    def log(self, *, step: int, epoch: float | None = None, split: str = "train", **values: float) -> None:
        self.logged.append({"step": step, "epoch": epoch, "split": split, **values})
        super().log(step=step, epoch=epoch, split=split, **values)


def make_run(folder: Path, *, resume: bool = False, stop_after: int | None = None) -> TestRun:
    """A run in ``folder``, as the worker would start it: with the newest valid checkpoint if it is to resume."""
    checkpoints, model = folder / "checkpoints", folder / "model"
    for place in (checkpoints, model):
        place.mkdir(parents=True, exist_ok=True)
    return TestRun(
        run_id="test",
        attempt=1,
        checkpoints=checkpoints,
        model=model,
        metrics=folder / "metrics.jsonl",
        data=None,
        resume_from=newest_valid(checkpoints, print) if resume else None,
        keep_checkpoints=100,
        stop_after=stop_after,
    )


def make_job(model: dict[str, Any], **sections: Any) -> JobSpec:
    """A tiny job; ``sections`` replace the defaults. Text is read from text.txt in the folder in which the training works."""
    data = {"dataset": "digits", "size": 8} if model["kind"] == "cnn" else {"dataset": "text", "path": "text.txt", "sequence_length": 16}
    defaults = {"data": data, "train": {"epochs": 2, "batch_size": 32 if model["kind"] == "rnn" else 512}}
    return JobSpec.model_validate_json(json.dumps({"name": "test", "model": model, **defaults, **sections}))


def train_here(job: JobSpec, run: TestRun, start: Start | None = None) -> dict[str, float]:
    """Train ``job`` in this process, from the weights ``start``; ends with SystemExit if the run is told to stop."""
    folder = run.metrics.parent
    (folder / "text.txt").write_text(TEXT)
    (folder / "lines.tsv").write_text(LINES)
    data = load(job, folder / str(getattr(job.data, "path", "") or "cache"))
    run.ranking = Ranking(job.best.metric, job.best.goal, job.best.keep)
    return train(job, data, ModelDescription.of(job, data), run, ALONE, start=start)

"""The values that make a job differ from one that leaves everything out, and those of ``--set``."""

from pathlib import Path

import pytest

from cloud_train.job.loading import load_job
from cloud_train.job.own_values import OwnValues, own_values

JOB = """\
name: test
model: {kind: cnn, blocks: [{filters: 32}, {filters: 64}]}
data: {dataset: digits}
train:
  epochs: 5
  seed: 0
  optimizer: {name: adam, lr: 4e-3}
checkpoint: {every: 1 epoch}
store: runs
"""


@pytest.fixture
def job(tmp_path: Path) -> Path:
    path = tmp_path / "job.yaml"
    path.write_text(JOB)
    return path


def values_of(job: Path, *overrides: str) -> OwnValues:
    loaded = load_job(job, overrides)
    return own_values(loaded.spec, loaded.origins)


def test_values_that_are_written_and_equal_the_default_do_not_differ(job: Path) -> None:
    own = values_of(job)
    assert own.values == {"model.kind": "cnn", "data.dataset": "digits", "train.epochs": 5, "train.optimizer.lr": 0.004}
    assert own.set == {}


def test_values_of_set_are_apart_whether_or_not_they_differ(job: Path) -> None:
    own = values_of(job, "train.epochs=7", "train.seed=0", "model.blocks.1.filters=128")
    assert own.set == {"train.epochs": 7, "train.seed": 0, "model.blocks.1.filters": 128}
    assert own.values["model.blocks.0.filters"] == 32, "a list that differs is given whole"
    assert "train.epochs" not in own.values


def test_of_a_section_that_was_set_only_what_differs_counts(job: Path) -> None:
    assert values_of(job, "train.optimizer={name: sgd, lr: 0.1}").set == {"train.optimizer.name": "sgd", "train.optimizer.lr": 0.1}

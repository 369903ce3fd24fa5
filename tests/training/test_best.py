"""The best model: where it is saved, and when it is the one that a run delivers."""

import math
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn

from cloud_train.run.manifest import read_manifest
from cloud_train.run.ranking import Ranking
from cloud_train.training.modelfile import read_weights
from cloud_train.training.standing import Best
from tests.training.trainer import TestRun, make_job, make_run, train_here

CNN = {"kind": "cnn", "blocks": [{"filters": 4}]}
LOSSES = [0.5, 0.3, 0.2, 0.4, 0.35, 0.6, 0.7]
"""The best is the third validation."""


def job_of(**train: Any) -> Any:
    return make_job(
        CNN, train={"epochs": 7, "batch_size": 1438, **train}, checkpoint={"every": "10 epochs", "best": {"metric": "validation/loss"}}
    )


@pytest.fixture
def scripted(monkeypatch: pytest.MonkeyPatch) -> None:
    """The n-th validation of a step's network has the n-th loss."""

    def evaluation(self: Any, to_the_end: bool = False) -> dict[str, float]:
        step = max((line["step"] for line in self._run.logged if line["split"] == "train"), default=0)
        return {"loss": LOSSES[step - 1], "accuracy": 0.5}

    monkeypatch.setattr("cloud_train.training.loop._Evaluation.__call__", evaluation)


def saved_steps(run: TestRun) -> list[int | None]:
    return [read_manifest(folder).step for folder in sorted(run.checkpoints.iterdir())]


@pytest.mark.usefixtures("scripted")
def test_a_checkpoint_is_saved_after_each_validation_that_is_the_best_so_far(tmp_path: Path) -> None:
    run = make_run(tmp_path)
    train_here(job_of(), run)
    assert saved_steps(run) == [1, 2, 3, 7]


@pytest.mark.usefixtures("scripted")
def test_the_last_model_is_delivered_without_early_stopping_and_the_best_one_if_the_job_says_so(tmp_path: Path) -> None:
    last, best = make_run(tmp_path / "last"), make_run(tmp_path / "best")
    assert train_here(job_of(), last)["loss"] == 0.7
    assert train_here(job_of(deliver="best"), best)["loss"] == 0.2
    assert weights(last.model) == weights(last.checkpoints / "step-00000007")
    assert weights(best.model) == weights(best.checkpoints / "step-00000003")
    assert (read_manifest(last.model).step, read_manifest(best.model).step) == (7, 3)
    assert dict(read_manifest(best.model).metrics) == {"validation/loss": 0.2, "validation/accuracy": 0.5}


@pytest.mark.usefixtures("scripted")
def test_early_stopping_delivers_the_best_model_and_says_so(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    run = make_run(tmp_path)
    train_here(job_of(early_stopping={"patience": 3}), run)
    assert weights(run.model) == weights(run.checkpoints / "step-00000003")
    assert capsys.readouterr().out.splitlines()[-2:] == [
        "stopped early: no improvement in 3 consecutive validations",
        "the model is that of step 3, which was the best: validation/loss 0.2000, 0.6000 at the end",
    ]


@pytest.mark.usefixtures("scripted")
@pytest.mark.parametrize("stop_after", [2, 3, 4, 6])
def test_a_resumed_training_delivers_the_same_model(tmp_path: Path, stop_after: int) -> None:
    job = job_of(deliver="best", optimizer={"lr": 1e-2})
    through = make_run(tmp_path / "through")
    train_here(job, through)
    stopped = make_run(tmp_path / "stopped", stop_after=stop_after)
    with pytest.raises(SystemExit):
        train_here(job, stopped)
    resumed = make_run(tmp_path / "stopped", resume=True)
    train_here(job, resumed)
    assert weights(resumed.model) == weights(through.model)
    assert (resumed.model / "model.safetensors").read_bytes() == (through.model / "model.safetensors").read_bytes()


def test_the_average_of_the_weights_is_delivered_where_it_was_the_best(tmp_path: Path) -> None:
    run = make_run(tmp_path)
    job = job_of(epochs=3, ema=0.5, deliver="best", optimizer={"lr": 1e-2})
    metrics = train_here(job, run)
    step = read_manifest(run.model).step
    assert weights(run.model) == weights(run.checkpoints / f"step-{step:08}")
    assert metrics["loss"] == min(line["loss"] for line in run.logged if line["split"] == "validation")


def test_a_validation_without_a_number_is_never_the_best() -> None:
    best, network = Best(Ranking("validation/loss"), keeps_weights=True), nn.Linear(1, 1)
    assert not best.validated(1, {"validation/loss": math.nan}, network)
    assert best.validated(2, {"validation/loss": 0.5}, network)
    assert not best.validated(3, {"validation/loss": math.nan}, network)
    assert not best.validated(4, {}, network)
    assert best.validated(5, {"validation/loss": 0.4}, network)


def test_the_kept_weights_do_not_change_with_the_network_and_a_checkpoint_has_no_copy_of_its_own_model() -> None:
    best, network = Best(Ranking("validation/loss"), keeps_weights=True), nn.Linear(1, 1)
    best.validated(1, {"validation/loss": 0.5}, network)
    before = network.weight.detach().clone()
    with torch.no_grad():
        network.weight += 1
    assert best.weights is not None
    assert torch.equal(best.weights["weight"], before)
    assert best.state(1)["weights"] is None
    assert best.state(2)["weights"] is best.weights


def test_weights_that_an_earlier_attempt_did_not_keep_are_not_delivered() -> None:
    before, after = Best(Ranking(), keeps_weights=False), Best(Ranking(), keeps_weights=True)
    before.validated(1, {"validation/accuracy": 0.5}, nn.Linear(1, 1))
    after.load_state(before.state(3), 3, {})
    assert after.step is None


def weights(folder: Path) -> dict[str, list[float]]:
    return {name: tensor.flatten().tolist() for name, tensor in read_weights(folder / "model.safetensors").items()}

"""Checkpoints that are written while the training goes on."""

import errno
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from threading import Event
from typing import Any

import pytest
import torch

from cloud_train.job.training import EarlyStopping, TrainSpec
from cloud_train.run.manifest import verify
from cloud_train.run.ranking import USUAL
from cloud_train.training import checkpointing
from cloud_train.training.checkpointing import CheckpointWriter, Snapshot, restore_checkpoint
from cloud_train.training.data.dataset import Batch, DataSet
from cloud_train.training.data.memory import TensorSamples
from cloud_train.training.description import ModelDescription
from cloud_train.training.distributed import ALONE
from cloud_train.training.learner import Learner
from cloud_train.training.modelfile import load_network
from cloud_train.training.ordering import Position
from cloud_train.training.standing import Best, Patience, Standing
from tests.training.trainer import TestRun, make_job, make_run

DATA = TensorSamples(torch.ones(5, 1, 8, 8), torch.tensor([0, 1, 0, 1, 0]))
DATA_SET = DataSet(DATA, DATA, ("no", "yes"), (1, 8, 8))
JOB = make_job({"kind": "cnn", "blocks": [{"filters": 2}]}, train={"epochs": 1, "batch_size": 5, "ema": 0.5})
DESCRIPTION = ModelDescription.of(JOB, DATA_SET)


class SlowDisk:
    """A run whose checkpoints are published only after ``release`` is set."""

    def __init__(self, run: TestRun, monkeypatch: pytest.MonkeyPatch) -> None:
        self.release = Event()
        checkpoint = run.checkpoint

        @contextmanager
        def slowly(*arguments: Any) -> Iterator[Path]:
            with checkpoint(*arguments) as folder:
                yield folder
                assert self.release.wait(30)

        monkeypatch.setattr(run, "checkpoint", slowly)


def test_a_checkpoint_holds_what_was_there_when_it_was_saved_however_long_it_takes(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    run = make_run(tmp_path)
    disk = SlowDisk(run, monkeypatch)
    learner = trained()
    before = {name: tensor.clone() for name, tensor in learner.network.state_dict().items()}
    averaged = {name: tensor.clone() for name, tensor in learner.delivered.state_dict().items()}
    mean = learner.optimizer.state()["mean"][0].clone()
    with CheckpointWriter(run, DESCRIPTION, {}) as checkpoints:
        checkpoints.save(snapshot(learner, 1, 0, 5), {})
        take_a_step(learner)
        assert not list(run.checkpoints.glob("step-*"))
        disk.release.set()
    restored = make_learner(seed=9)
    assert restore_checkpoint(run.checkpoints / "step-00000001", restored, Standing.of(TrainSpec(), USUAL)) == Position(1, 0, 5)
    assert all(torch.equal(tensor, before[name]) for name, tensor in restored.network.state_dict().items())
    assert all(torch.equal(tensor, averaged[name]) for name, tensor in restored.delivered.state_dict().items())
    assert torch.equal(restored.optimizer.state()["mean"][0], mean)


def test_the_model_of_a_checkpoint_is_what_would_be_delivered(tmp_path: Path) -> None:
    run = make_run(tmp_path)
    learner = trained()
    with CheckpointWriter(run, DESCRIPTION, {}) as checkpoints:
        checkpoints.save(snapshot(learner, 1), {})
    network, description = load_network(run.checkpoints / "step-00000001")
    assert description == DESCRIPTION
    assert all(torch.equal(tensor, network.state_dict()[name]) for name, tensor in learner.delivered.state_dict().items())


def test_a_process_that_does_not_save_writes_nothing(tmp_path: Path) -> None:
    run = make_run(tmp_path)
    with CheckpointWriter(run, DESCRIPTION, {}, saves=False) as checkpoints:
        checkpoints.save(snapshot(trained(), 1), {})
    assert not list(run.checkpoints.iterdir())


def test_how_early_stopping_stands_is_saved_and_put_back(tmp_path: Path) -> None:
    run = make_run(tmp_path)
    patience = Patience(EarlyStopping(), USUAL, best=0.75, since=2)
    learner = trained()
    with CheckpointWriter(run, DESCRIPTION, {}) as checkpoints:
        checkpoints.save(
            Snapshot(Position(1), learner.state(), learner.delivered, Standing(patience, Best(USUAL, keeps_weights=False))), {}
        )
    restored = Patience(EarlyStopping(), USUAL)
    restore_checkpoint(run.checkpoints / "step-00000001", make_learner(), Standing(restored, Best(USUAL, keeps_weights=False)))
    assert (restored.best, restored.since) == (0.75, 2)


def test_the_end_of_the_block_waits_for_the_checkpoint_also_after_an_error(tmp_path: Path) -> None:
    run = make_run(tmp_path)
    with suppress(KeyError), CheckpointWriter(run, DESCRIPTION, {}) as checkpoints:
        checkpoints.save(snapshot(trained(), 1), {})
        raise KeyError
    assert verify(run.checkpoints / "step-00000001").step == 1


def test_a_disk_that_is_full_is_found_out_by_the_next_checkpoint_or_the_end(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    run = make_run(tmp_path)

    def full(_path: Path, _root: Path, _content: bytes) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(checkpointing, "write_file", full)
    with CheckpointWriter(run, DESCRIPTION, {}) as checkpoints:
        checkpoints.save(snapshot(trained(), 1), {})
        with pytest.raises(OSError, match="No space left"):
            checkpoints.save(snapshot(trained(), 2), {})
    with pytest.raises(OSError, match="No space left"), CheckpointWriter(run, DESCRIPTION, {}) as checkpoints:
        checkpoints.save(snapshot(trained(), 3), {})
    assert not list(run.checkpoints.iterdir())


def make_learner(seed: int = 0) -> Learner:
    job = JOB.model_copy(update={"train": JOB.train.model_copy(update={"seed": seed})})
    return Learner(job, DATA_SET, DESCRIPTION, ALONE)


def trained() -> Learner:
    learner = make_learner()
    take_a_step(learner)
    return learner


def take_a_step(learner: Learner) -> None:
    learner.step(Batch(DATA.inputs, DATA.targets), Position(), of=5, learning_rate=0.1)


def snapshot(learner: Learner, *position: int) -> Snapshot:
    return Snapshot(Position(*position), learner.state(), learner.delivered, Standing.of(TrainSpec(), USUAL))

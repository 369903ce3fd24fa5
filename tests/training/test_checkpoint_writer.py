"""Checkpoints that are written while the training goes on."""

import errno
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from threading import Event
from typing import Any

import pytest
import torch
from torch import nn

from cloud_train.job.models import CnnModel, ConvBlock
from cloud_train.run.manifest import verify
from cloud_train.training.checkpointing import CheckpointWriter, Position, restore_checkpoint
from cloud_train.training.modelfile import ModelDescription
from cloud_train.training.optimizers import Adam, Optimizer
from tests.training.trainer import TestRun, make_run

DESCRIPTION = ModelDescription(CnnModel(kind="cnn", blocks=(ConvBlock(filters=2),)), ("no", "yes"), (1, 8, 8))


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
    network, optimizer = trained()
    before = {name: tensor.clone() for name, tensor in network.state_dict().items()}
    mean = optimizer.state()["mean"][0].clone()
    with CheckpointWriter(run, DESCRIPTION) as checkpoints:
        checkpoints.save(Position(1, 0, 5), network, optimizer, {})
        take_a_step(network, optimizer)
        assert not list(run.checkpoints.glob("step-*"))
        disk.release.set()
    restored = DESCRIPTION.build(seed=9)
    other = Adam(restored.parameters(), 0.1)
    assert restore_checkpoint(run.checkpoints / "step-00000001", restored, other) == Position(1, 0, 5)
    assert all(torch.equal(tensor, before[name]) for name, tensor in restored.state_dict().items())
    assert torch.equal(other.state()["mean"][0], mean)


def test_the_end_of_the_block_waits_for_the_checkpoint_also_after_an_error(tmp_path: Path) -> None:
    run = make_run(tmp_path)
    with suppress(KeyError), CheckpointWriter(run, DESCRIPTION) as checkpoints:
        checkpoints.save(Position(1), *trained(), {})
        raise KeyError
    assert verify(run.checkpoints / "step-00000001").step == 1


def test_a_disk_that_is_full_is_found_out_by_the_next_checkpoint_or_the_end(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    run = make_run(tmp_path)

    def full(_path: Path, _content: bytes) -> int:
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(Path, "write_bytes", full)
    with CheckpointWriter(run, DESCRIPTION) as checkpoints:
        checkpoints.save(Position(1), *trained(), {})
        with pytest.raises(OSError, match="No space left"):
            checkpoints.save(Position(2), *trained(), {})
    with pytest.raises(OSError, match="No space left"), CheckpointWriter(run, DESCRIPTION) as checkpoints:
        checkpoints.save(Position(3), *trained(), {})
    assert not list(run.checkpoints.iterdir())


def trained() -> tuple[nn.Module, Optimizer]:
    network = DESCRIPTION.build()
    optimizer = Adam(network.parameters(), 0.1)
    take_a_step(network, optimizer)
    return network, optimizer


def take_a_step(network: nn.Module, optimizer: Optimizer) -> None:
    optimizer.clear_gradients()
    network(torch.ones(1, 1, 8, 8)).square().sum().backward()
    optimizer.step()

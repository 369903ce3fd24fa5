"""Saving and restoring a training run: the model's files, and ``state.pt`` with what else is needed to go on exactly where it was.

``state.pt`` holds tensors and plain values, and is read with ``weights_only=True``: nothing in it is executed. Saved at the end of a step
only, when nothing is half done.
"""

import pickle
import platform
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from io import BytesIO
from pathlib import Path
from typing import Any, Self

import torch
from torch import nn

from cloud_train.errors import CorruptError
from cloud_train.run.manifest import read_manifest
from cloud_train.training.modelfile import WEIGHTS, ModelDescription, read_weights, save_model
from cloud_train.training.optimizers import Optimizer
from cloud_train.worker.api import Run

STATE = "state.pt"
FORMAT = 1


@dataclass(frozen=True)
class Position:
    """How far the training is: with the seed, all that decides what comes next."""

    step: int = 0
    """Steps taken."""
    epoch: int = 0
    """Passes over the training data that are complete."""
    consumed: int = 0
    """Samples of the pass after those that the weights have learnt from."""

    def after(self, samples: int, of: int) -> Self:
        """The position one step on, which learnt from ``samples`` of an epoch ``of`` so many."""
        consumed = self.consumed + samples
        return type(self)(self.step + 1, self.epoch + consumed // of, consumed % of)


def save_checkpoint(
    run: Run,
    position: Position,
    *,
    network: nn.Module,
    optimizer: Optimizer,
    description: ModelDescription,
    metrics: Mapping[str, float],
) -> None:
    """Publish the checkpoint of this position: weights, optimizer state, position. ``metrics`` decide which checkpoint is the best.

    Raises StoreError or OSError (disk full, say); the older checkpoints then stay as they are.
    """
    state = BytesIO()  # written by Python below, so that a full disk is the usual OSError and no error of torch's own
    torch.save({"format": FORMAT, "position": asdict(position), "optimizer": optimizer.state()}, state)
    with run.checkpoint(position.step, metrics, fingerprint(next(network.parameters()).device)) as folder:
        save_model(folder, network, description)
        (folder / STATE).write_bytes(state.getbuffer())


def restore_checkpoint(folder: Path, network: nn.Module, optimizer: Optimizer) -> Position:
    """Put everything back as it was. Raises CorruptError if the files are not those of this network and this optimizer."""
    weights = read_weights(folder / WEIGHTS)
    try:
        network.load_state_dict(weights)
        state = torch.load(folder / STATE, map_location="cpu", weights_only=True)
        if state["format"] != FORMAT:
            raise ValueError(f"{STATE} has format {state['format']}, and this version knows {FORMAT}")
        optimizer.load_state(state["optimizer"])
        return Position(**state["position"])
    except (OSError, RuntimeError, ValueError, KeyError, TypeError, AttributeError, EOFError, pickle.UnpicklingError) as error:
        reason = " ".join(str(error).split())[:300] or type(error).__name__
        raise CorruptError(
            f"the checkpoint {folder} is not one of this model: {reason}",
            hint="the job's model or optimizer may have changed: submit a new run instead",
        ) from error


def fingerprint(device: torch.device) -> dict[str, Any]:
    """What the bits of a result depend on, beside the job: the same fingerprint promises the same bits."""
    if device.type == "cuda":
        kind = torch.cuda.get_device_name(device)
    else:
        kind = f"{platform.machine()} {torch.backends.cpu.get_cpu_capability()}"
    return {"torch": torch.__version__, "device": device.type, "kind": kind, "threads": torch.get_num_threads()}


def fingerprint_differences(folder: Path, device: torch.device) -> list[str]:
    """In what this machine differs from the one that wrote the checkpoint, each as ``threads: 8, now 2``."""
    before, now = read_manifest(folder).fingerprint, fingerprint(device)
    return [f"{name}: {before.get(name)}, now {value}" for name, value in now.items() if before.get(name) != value]

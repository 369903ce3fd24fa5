"""Saving and restoring a training run: the model's files, and ``state.pt`` with what else is needed to go on exactly where it was.

``state.pt`` holds tensors and plain values, and is read with ``weights_only=True``: nothing in it is executed. Saved at the end of a step
only, when nothing is half done.
"""

import pickle
import platform
from collections.abc import Mapping
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import ExitStack
from dataclasses import asdict, dataclass
from io import BytesIO
from pathlib import Path
from types import TracebackType
from typing import Any, Self

import torch
from torch import nn

from cloud_train.errors import CorruptError
from cloud_train.run.manifest import read_manifest
from cloud_train.training.modelfile import WEIGHTS, ModelDescription, model_files, read_weights
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


class CheckpointWriter:
    """Saves checkpoints while the training goes on: their bytes are copied at once, then written and published on a thread.

    Writing waits for the disk half a dozen times, 25 to 40 ms in all where it was measured, in which the classic net takes ten steps.
    One checkpoint is written at a time. Use it in a ``with`` block, which ends when the last one is published.
    """

    def __init__(self, run: Run, description: ModelDescription) -> None:
        self._run, self._description = run, description
        self._thread = ThreadPoolExecutor(max_workers=1)
        self._writing: Future[None] | None = None

    def save(self, position: Position, network: nn.Module, optimizer: Optimizer, metrics: Mapping[str, float]) -> None:
        """Save weights, optimizer state and position; ``metrics`` decide which checkpoint is the best. Raises what ``finish`` raises."""
        self.finish()
        state = BytesIO()
        torch.save({"format": FORMAT, "position": asdict(position), "optimizer": optimizer.state()}, state)
        contents = {**model_files(network, self._description), STATE: state.getvalue()}
        with ExitStack() as opened:
            # Opened here and closed by the thread: opening writes the metrics so far, which only this thread may do.
            found = fingerprint(next(network.parameters()).device)
            folder = opened.enter_context(self._run.checkpoint(position.step, metrics, found))
            self._writing = self._thread.submit(_write, opened.pop_all(), folder, contents)

    def finish(self) -> None:
        """Wait for the checkpoint that is being written; raises StoreError or OSError if that failed (disk full, say)."""
        writing, self._writing = self._writing, None
        if writing is not None:
            writing.result()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        self._thread.shutdown()
        if error is None:
            self.finish()


def _write(opened: ExitStack, folder: Path, contents: Mapping[str, bytes]) -> None:
    with opened:
        for name, content in contents.items():
            (folder / name).write_bytes(content)  # by Python, so that a full disk is the usual OSError and no error of torch's own


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

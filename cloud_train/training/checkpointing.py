"""Saving and restoring a training run: the model's files, and ``state.pt`` with everything else that is needed to continue exactly there.

``state.pt`` contains tensors and plain values, and is read with ``weights_only=True``: nothing in it is executed. Checkpoints are saved
only at the end of a step.
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
from torch import Tensor, nn

from cloud_train.beneath import write_file
from cloud_train.errors import CorruptError
from cloud_train.training.description import ModelDescription
from cloud_train.training.distributed import World
from cloud_train.training.learner import Learner
from cloud_train.training.modelfile import WEIGHTS, model_files, read_weights
from cloud_train.training.ordering import Position
from cloud_train.training.standing import Standing
from cloud_train.worker.api import Run

STATE = "state.pt"
FORMAT = 2


@dataclass(frozen=True)
class Snapshot:
    """A training at the end of a step."""

    position: Position
    state: Mapping[str, Any]
    """The learner's state (``Learner.state``)."""
    delivered: nn.Module
    """The network that would be saved as the model now."""
    standing: Standing
    """How the validations so far stand."""


class CheckpointWriter:
    """Saves checkpoints while training continues: their contents are copied immediately, then written and published in a thread.

    One checkpoint is written at a time. Use it in a ``with`` block, which ends when the last one is published. In a process that does not
    save (``saves`` is false), it does nothing.
    """

    def __init__(self, run: Run, description: ModelDescription, fingerprint: Mapping[str, Any], saves: bool = True) -> None:
        self._run, self._description, self._fingerprint, self._saves = run, description, fingerprint, saves
        self._thread = ThreadPoolExecutor(max_workers=1)
        self._writing: Future[None] | None = None

    def save(self, snapshot: Snapshot, metrics: Mapping[str, float]) -> None:
        """Save a checkpoint, ranked by ``metrics``. Raises what ``finish`` raises."""
        if not self._saves:
            return
        self.finish()
        delivered = _copied(dict(snapshot.delivered.state_dict()))
        state = {**snapshot.state, "weights": None if _is_delivered(snapshot) else snapshot.state["weights"]}
        contents = _copied(
            {
                "format": FORMAT,
                "position": asdict(snapshot.position),
                **snapshot.standing.state(snapshot.position.step),
                **state,
            }
        )
        with ExitStack() as opened:
            # Opened here and closed in the writer's thread: opening writes the metrics so far, which only this thread may do.
            folder = opened.enter_context(self._run.checkpoint(snapshot.position.step, metrics, self._fingerprint))
            self._writing = self._thread.submit(self._write, opened.pop_all(), folder, delivered, contents)

    def finish(self) -> None:
        """Wait for the checkpoint that is being written; raises StoreError or OSError if that failed, as on a full disk."""
        writing, self._writing = self._writing, None
        if writing is not None:
            writing.result()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        self._thread.shutdown()
        if error is None:
            self.finish()

    def _write(self, opened: ExitStack, folder: Path, delivered: Mapping[str, Tensor], contents: Mapping[str, Any]) -> None:
        state = BytesIO()
        with opened:
            torch.save(contents, state)
            for name, content in {**model_files(delivered, self._description), STATE: state.getvalue()}.items():
                write_file(
                    folder / name, self._run.root_of(folder), content
                )  # by Python, so that a full disk is the usual OSError and no error of torch's own


def restore_checkpoint(folder: Path, learner: Learner, standing: Standing) -> Position:
    """Restore everything from a checkpoint. Raises CorruptError if the files are not those of this training."""
    delivered = read_weights(folder / WEIGHTS)
    try:
        state = torch.load(folder / STATE, map_location="cpu", weights_only=True)
        if state["format"] != FORMAT:
            raise ValueError(f"{STATE} has format {state['format']}; this version reads format {FORMAT}")
        learner.load_state({**state, "weights": delivered if state["weights"] is None else state["weights"]})
        position = Position(**state["position"])
        standing.load_state(state, position.step, delivered)
        return position
    except (OSError, RuntimeError, ValueError, KeyError, TypeError, AttributeError, EOFError, pickle.UnpicklingError) as error:
        reason = " ".join(str(error).split())[:300] or type(error).__name__
        raise CorruptError(
            f"the checkpoint {folder} does not fit this training: {reason}",
            hint="the job's model or optimizer may have changed: submit a new run instead",
        ) from error


def fingerprint(world: World) -> dict[str, Any]:
    """What the bits of a result depend on besides the job: with the same fingerprint, results are bit-identical."""
    device = world.device
    if device.type == "cuda":
        kind = f"{torch.cuda.get_device_name(device)}, CUDA {torch.version.cuda}, cuDNN {torch.backends.cudnn.version()}"  # type: ignore[no-untyped-call]  # torch declares no types for it
    else:
        kind = f"{platform.machine()} {torch.backends.cpu.get_cpu_capability()}"
    return {"torch": torch.__version__, "device": device.type, "kind": kind, "threads": torch.get_num_threads(), "processes": world.size}


def fingerprint_differences(before: Mapping[str, Any], now: Mapping[str, Any]) -> list[str]:
    """How this machine differs from the one that wrote the checkpoint, each as ``threads: 8, now 2``."""
    return [f"{name}: {before.get(name)}, now {value}" for name, value in now.items() if name != "data" and before.get(name) != value]


def _is_delivered(snapshot: Snapshot) -> bool:
    """Whether the weights being trained are those of the model, so that they need not be saved twice."""
    return snapshot.state["average"] is None


def _copied(value: Any) -> Any:
    """A copy of the data on the CPU."""
    if isinstance(value, Tensor):
        return value.detach().to("cpu", copy=True, memory_format=torch.contiguous_format)
    if isinstance(value, Mapping):
        return {key: _copied(inner) for key, inner in value.items()}
    return type(value)(_copied(inner) for inner in value) if isinstance(value, list | tuple) else value

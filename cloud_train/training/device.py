"""The device and number format of the arithmetic, and what makes it reproducible.

The weights stay in fp32; with bf16 and fp16, expensive operations (products, convolutions) are computed in the short format. The range of
fp16 is too small for many gradients, so the loss is scaled up before they are computed, and the gradients are scaled down afterwards
(Micikevicius et al., 2018). A step whose scaled gradients overflow is skipped, and the scale is halved.
"""

import ctypes
import os
from collections.abc import Mapping
from contextlib import AbstractContextManager, nullcontext
from typing import Any

import torch
from torch import Tensor

from cloud_train.errors import CloudTrainError
from cloud_train.training.optimizers import Optimizer

_M_TRIM_THRESHOLD, _M_MMAP_THRESHOLD = -1, -3  # of glibc's malloc.h
_KEPT_BYTES = 1 << 30


_FORMATS = {"bf16": torch.bfloat16, "fp16": torch.float16}
_SMALLEST_SCALE = 1.0


class AcceleratorMissingError(CloudTrainError):
    """Torch cannot use the GPUs that the job asks for."""

    code = "accelerator-missing"


def check_accelerators(kind: str, count: int, torch_version: str = torch.__version__, cuda: Any = torch.cuda) -> None:
    """Raise AcceleratorMissingError if torch can use fewer than ``count`` GPUs.

    The worker has found them before; what is left are torch's own reasons: it was built for the CPU, or for a newer driver or other GPUs.
    ``cuda`` is ``torch.cuda``, which also stands for AMD's GPUs.
    """
    try:
        cuda.init()
        found, reason = cuda.device_count(), "it finds no more"
    except (RuntimeError, AssertionError) as error:  # the latter from a build for the CPU
        found, reason = 0, " ".join(str(error).split())
    if found >= count:
        return
    can_use = f"can use only {found}" if found else "cannot use any"
    raise AcceleratorMissingError(
        f"the job asks for {count} × {kind} on each machine (resources.accelerator), but torch {torch_version} {can_use}: {reason}",
        hint="install a build of torch for these GPUs and their driver, in the image with image.base or image.requirements; to train on the"
        " CPU, submit the job with --set resources.accelerator=null",
    )


def prepare_device(cpus: int | None, environment: Mapping[str, str] = os.environ) -> torch.device:
    """The GPU if there is one, otherwise the CPU with ``cpus`` threads: by default OMP_NUM_THREADS, or as many as this process may use.

    Several processes on one machine share its threads and have one GPU each. The number of threads is fixed because sums over images are
    split by it: a different number changes the last bits (measured).
    """
    processes = int(environment.get("LOCAL_WORLD_SIZE") or 1)
    # Some versions of torch's launcher set OMP_NUM_THREADS to 1 themselves, so the variable is ignored there.
    given = cpus or (_threads_of(environment) if processes == 1 else None) or usable_cpus()
    torch.set_num_threads(max(1, given // processes))
    if not torch.cuda.is_available():
        keep_memory()
        return torch.device("cpu")
    # Only for CUDA: on a CPU the operations used here are reproducible anyway, and this call imports modules for 0.3 s.
    torch.use_deterministic_algorithms(True)
    torch.backends.cudnn.benchmark = False
    device = torch.device("cuda", int(environment.get("LOCAL_RANK") or 0) % torch.cuda.device_count())
    torch.cuda.set_device(device)
    return device


def keep_memory() -> bool:
    """Make the C library keep the memory that a step frees for the next step; returns False if it is not glibc.

    By default glibc returns large blocks to the system and gets them back with every page zeroed: a quarter of the time of a step of the
    classic net (measured).
    """
    try:
        mallopt = ctypes.CDLL(None).mallopt
    except (OSError, AttributeError):
        return False
    taken = [mallopt(option, _KEPT_BYTES) for option in (_M_MMAP_THRESHOLD, _M_TRIM_THRESHOLD)]
    return all(taken)


def usable_cpus() -> int:
    """CPU cores that this process may use."""
    if hasattr(os, "sched_getaffinity"):  # not on macOS
        return len(os.sched_getaffinity(0))
    return os.cpu_count() or 1


def _threads_of(environment: Mapping[str, str]) -> int | None:
    text = environment.get("OMP_NUM_THREADS", "")
    return int(text) if text.isdigit() and int(text) > 0 else None


class Precision:
    """The number format of one training's arithmetic, with fp16's loss scaling."""

    def __init__(self, name: str, device: torch.device) -> None:
        self._format, self._device = _FORMATS.get(name), device
        self._scaler = torch.amp.GradScaler(device.type, enabled=name == "fp16")

    def arithmetic(self) -> AbstractContextManager[Any]:
        """The context for the forward pass and the loss."""
        return nullcontext() if self._format is None else torch.autocast(self._device.type, self._format)

    def backward(self, loss: Tensor) -> None:
        """Add the scaled gradients of ``loss`` to those of the weights."""
        self._scaler.scale(loss).backward()  # type: ignore[no-untyped-call]  # torch declares no types for it

    def unscale(self, optimizer: Optimizer) -> bool:
        """Undo the scaling of the gradients; False if they overflowed only because of the scale: then skip this step."""
        if not self._scaler.is_enabled():
            return True
        self._scaler.unscale_(optimizer)  # type: ignore[arg-type]  # ours has the param_groups that it looks at
        overflowed = any(bool(found) for found in self._scaler._found_inf_per_device(optimizer).values())  # type: ignore[arg-type]  # as above
        scale = self._scaler.get_scale()
        self._scaler.update()
        return not overflowed or scale <= _SMALLEST_SCALE

    def state(self) -> dict[str, Any]:
        """The state that ``backward`` keeps between steps."""
        return self._scaler.state_dict()

    def load_state(self, state: dict[str, Any]) -> None:
        """Restore what ``state`` returned."""
        self._scaler.load_state_dict(state)

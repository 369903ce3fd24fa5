"""Where the arithmetic happens, and what makes it repeatable there."""

import ctypes
import os
from collections.abc import Mapping

import torch

_M_TRIM_THRESHOLD, _M_MMAP_THRESHOLD = -1, -3  # of glibc's malloc.h
_KEPT_BYTES = 1 << 30


def prepare_device(cpus: int | None, environment: Mapping[str, str] = os.environ) -> torch.device:
    """The GPU if there is one, otherwise the CPU with ``cpus`` threads: by default OMP_NUM_THREADS, or as many as this process may use.

    Several processes on one machine share its threads and have a GPU each. The number of threads is fixed because sums over images are
    split by it: another number gives other last bits (measured).
    """
    processes = int(environment.get("LOCAL_WORLD_SIZE") or 1)
    # torch's launcher sets OMP_NUM_THREADS to 1 by itself in some versions, so the variable means nothing there.
    given = cpus or (_threads_of(environment) if processes == 1 else None) or usable_cpus()
    torch.set_num_threads(max(1, given // processes))
    if not torch.cuda.is_available():
        keep_memory()
        return torch.device("cpu")
    # Only for CUDA: on a CPU the operations used here are repeatable as they are, and this call takes 0.3 s to import what it needs.
    torch.use_deterministic_algorithms(True)
    torch.backends.cudnn.benchmark = False
    device = torch.device("cuda", int(environment.get("LOCAL_RANK") or 0) % torch.cuda.device_count())
    torch.cuda.set_device(device)
    return device


def keep_memory() -> bool:
    """Have the C library keep what a step lets go of for the next step; False where it is not glibc.

    It gives large pieces back to the system otherwise, and gets them again with every page cleared: a quarter of the time of the classic
    net's step (measured).
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

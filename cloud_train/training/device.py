"""Where the arithmetic happens, and what makes it repeatable there."""

import os

import torch


def prepare_device(cpus: int | None) -> torch.device:
    """The GPU if there is one, otherwise the CPU with ``cpus`` threads: by default OMP_NUM_THREADS, or as many as this process may use.

    The number of threads is fixed because sums over images are split by it: another number gives other last bits (measured).
    """
    torch.set_num_threads(cpus or _threads_of_environment() or _usable_cpus())
    if not torch.cuda.is_available():
        return torch.device("cpu")
    # Only for CUDA: on a CPU the operations used here are repeatable as they are, and this call takes 0.3 s to import what it needs.
    torch.use_deterministic_algorithms(True)
    torch.backends.cudnn.benchmark = False
    return torch.device("cuda")


def _threads_of_environment() -> int | None:
    text = os.environ.get("OMP_NUM_THREADS", "")
    return int(text) if text.isdigit() and int(text) > 0 else None


def _usable_cpus() -> int:
    if hasattr(os, "sched_getaffinity"):  # not on macOS
        return len(os.sched_getaffinity(0))
    return os.cpu_count() or 1

"""The environment of the programs that cloud-train starts on this machine and in containers.

Three rules: programs do not inherit what a command set only for itself, no Python process of cloud-train imports modules from its current
folder, and a job sets only harmless variables for a built-in trainer. Standard library only: the worker runs on Python 3.10 too.
"""

from __future__ import annotations

import os
from collections.abc import Mapping

TRAINER_VARIABLES = frozenset(
    {
        *(
            "OMP_NUM_THREADS",
            "OMP_WAIT_POLICY",
            "OMP_PROC_BIND",
            "OMP_PLACES",
            "OMP_SCHEDULE",
            "OMP_DYNAMIC",
            "GOMP_CPU_AFFINITY",
            "GOMP_SPINCOUNT",
        ),
        *("KMP_AFFINITY", "KMP_BLOCKTIME", "MKL_NUM_THREADS", "MKL_DYNAMIC", "OPENBLAS_NUM_THREADS", "ONEDNN_MAX_CPU_ISA"),
        *("CUDA_VISIBLE_DEVICES", "CUDA_DEVICE_ORDER", "CUDA_LAUNCH_BLOCKING", "CUBLAS_WORKSPACE_CONFIG", "NVIDIA_TF32_OVERRIDE"),
        *("NCCL_DEBUG", "NCCL_SOCKET_IFNAME", "NCCL_IB_DISABLE", "NCCL_P2P_DISABLE", "NCCL_SHM_DISABLE", "GLOO_SOCKET_IFNAME"),
        *("PYTORCH_ALLOC_CONF", "PYTORCH_CUDA_ALLOC_CONF", "TORCH_CPP_LOG_LEVEL", "TORCH_DISTRIBUTED_DEBUG", "TORCH_LOGS"),
        *("LANG", "LC_ALL", "TZ", "NO_COLOR"),
    }
)
"""The environment variables that a job may set for a built-in trainer.

A job may come from someone who is not trusted, and many variables cause code to run: PYTHONPATH and LD_PRELOAD, but also
CUDA_INJECTION64_PATH, NCCL_NET_PLUGIN, OMP_TOOL_LIBRARIES and CXX. So only variables that are known to tune a library and do nothing else
are accepted. The user's own environment is not restricted, and neither is a script job, which runs the job's own code anyway.
"""

QUIET_THREADS = {"GOMP_SPINCOUNT": "2500"}
"""How often libgomp's threads look for more work before they sleep, on a machine that other programs use too.

The default is 300,000 (https://gcc.gnu.org/onlinedocs/libgomp/GOMP_005fSPINCOUNT.html): two trainings on two cores then take ten times as
long as one. This number was chosen by measurement: docs/benchmarks.md.
"""
_SPIN_VARIABLES = ("GOMP_SPINCOUNT", "OMP_WAIT_POLICY", "KMP_BLOCKTIME")

_PYTHON_PATH = "PYTHONPATH"
_GIVEN = "_CLOUD_TRAIN_PYTHONPATH"
_own: set[str] = set()


def set_for_this_process(name: str, value: str) -> None:
    """Set an environment variable that programs do not inherit, unless the caller has set it."""
    if name not in os.environ:
        os.environ[name] = value
        _own.add(name)


def inherited() -> dict[str, str]:
    """The environment for a program on this machine: the caller's, without the variables of ``set_for_this_process``."""
    return {name: value for name, value in os.environ.items() if name not in _own}


def with_quiet_threads(environment: Mapping[str, str]) -> dict[str, str]:
    """``environment`` with ``QUIET_THREADS``, unless it already says how threads wait."""
    return {**waiting_threads(environment), **environment}


def waiting_threads(environment: Mapping[str, str]) -> dict[str, str]:
    """The variables that say how the threads of a program with this environment wait: its own, or else ``QUIET_THREADS``."""
    return {name: environment[name] for name in _SPIN_VARIABLES if name in environment} or dict(QUIET_THREADS)


def with_safe_python_path(environment: Mapping[str, str]) -> dict[str, str]:
    """The environment for a worker or a built-in trainer, with only the absolute entries of PYTHONPATH.

    Empty and relative entries depend on the current folder, so a ``json.py`` there would be imported instead of the standard library's.
    The original value is kept in another variable for ``with_original_python_path``.
    """
    given = environment.get(_PYTHON_PATH)
    entries = [entry for entry in (given or "").split(os.pathsep) if os.path.isabs(entry)]  # noqa: PTH117 -- pathlib makes "" the current folder
    absolute = os.pathsep.join(entries)
    if given is None or given == absolute:
        return dict(environment)
    others = {name: value for name, value in environment.items() if name != _PYTHON_PATH}
    return {**others, **({_PYTHON_PATH: absolute} if absolute else {}), _GIVEN: given}


def with_original_python_path(environment: Mapping[str, str]) -> dict[str, str]:
    """The environment for a user's own program, with the PYTHONPATH from before ``with_safe_python_path``."""
    if _GIVEN not in environment:
        return dict(environment)
    return {**{name: value for name, value in environment.items() if name != _GIVEN}, _PYTHON_PATH: environment[_GIVEN]}

"""The GPUs that a program can use on this machine, and why there are fewer than its job asks for.

NVIDIA's driver is asked through its library, as torch and every other program do: its answer follows CUDA_VISIBLE_DEVICES, counts the parts
of a divided GPU, and is right in every kind of container. The device files only show why the library is missing or finds no GPU. AMD's GPUs
are those in the kernel's topology. Sources: https://docs.nvidia.com/cuda/cuda-driver-api/group__CUDA__TYPES.html (error numbers),
https://docs.kernel.org/gpu/amdgpu (amdkfd).

The library is loaded by a process of its own with the program's environment, because the job chooses that environment and the worker holds
credentials that the job does not get. That process runs this file, so everything here is standard library, for Python 3.10 too.
"""

from __future__ import annotations

import ctypes
import json
import re
import signal
import subprocess
import sys
from collections.abc import Mapping
from contextlib import suppress
from itertools import takewhile
from pathlib import Path
from typing import Any

NVIDIA_FOLDERS = ("usr/local/nvidia/lib64", "usr/local/nvidia/lib")
"""Where Google's machines mount the driver's libraries, below the root folder (huggingface/Google-Cloud-Containers#167)."""

_PATH = "LD_LIBRARY_PATH"
_VISIBLE = ("CUDA_VISIBLE_DEVICES", "NVIDIA_VISIBLE_DEVICES")
_AMD_VISIBLE = ("ROCR_VISIBLE_DEVICES", "HIP_VISIBLE_DEVICES", "CUDA_VISIBLE_DEVICES")
"""Each lists the GPUs that a program may use, the last two among those of the first; unset for all of them
(https://rocm.docs.amd.com/projects/HIP/en/latest/reference/env_variables.html).
"""
_PATIENCE_SECONDS = 60
"""How long the driver may take: the first program on a machine with eight GPUs may wait 20 s for them."""
_OTHER_KINDS = re.compile(r"TPU|TRAINIUM|TRN|INFERENTIA|INF\d|GAUDI|HABANA", re.IGNORECASE)
"""Accelerators that are not GPUs, which are not counted here."""
_ASKED = re.compile(r"([^:]{1,100})(?::(\d{1,6}))?")
_NO_DEVICE = 100
_REASONS = {
    34: "libcuda.so.1 is a stub of the CUDA toolkit, not the driver's library; remove the folder 'stubs' from LD_LIBRARY_PATH in the image",
    802: "the GPUs are not initialized, as NVIDIA's fabric manager must do on machines with NVSwitch; use another machine",
    803: "the driver's library and its kernel module have different versions; remove NVIDIA's driver packages from the image",
    804: "the image's package cuda-compat does not support this GPU or its driver; remove it from the image, or use a newer driver",
}
"""Errors of ``cuInit`` with an explanation of their own."""


def library_path(environment: Mapping[str, str], root: Path = Path("/")) -> dict[str, str]:
    """LD_LIBRARY_PATH with the folders where Google's machines mount the driver's libraries, after those that it has; empty if it has them
    already, or if this machine has no such folders below ``root``.
    """
    given = environment.get(_PATH, "")
    known = given.split(":") if given else []
    added = [str(root / name) for name in NVIDIA_FOLDERS if (root / name).is_dir() and str(root / name) not in known]
    return {_PATH: ":".join([*known, *added])} if added else {}


def lacking(job: Mapping[str, Any], environment: Mapping[str, str], root: Path = Path("/")) -> str:
    """The message for the user if a program with this ``environment`` can use fewer GPUs than ``job`` asks for; empty if it has enough.

    Takes a moment, and up to a minute for a driver that does not answer.
    """
    kind, count = asked(job)
    if not count:
        return ""
    found, reason = _nvidia(environment, root)
    if found < count and (amd := _amd(root)) > found:
        found, reason = _shown(amd, environment)
    if found >= count:
        return ""
    can_use = f"can use only {found}" if found else "cannot use any"
    return (
        f"the job asks for {count} × {kind} on each machine (resources.accelerator), but its program {can_use}: {reason}."
        " To run without, submit the job with --set resources.accelerator=null"
    )


def asked(job: Mapping[str, Any]) -> tuple[str, int]:
    """The kind and the number of GPUs that a job asks for on each machine; 0 if it asks for none, or for another kind of accelerator."""
    wanted = (job.get("resources") or {}).get("accelerator")
    match = _ASKED.fullmatch(wanted) if isinstance(wanted, str) else None
    if match is None or _OTHER_KINDS.match(match[1]):
        return "", 0
    return match[1], int(match[2] or 1)


def visible_variable(environment: Mapping[str, str]) -> str:
    """The variable that lists the GPUs for a program: AMD's own where it is set, otherwise the one that both makers' libraries read."""
    return "HIP_VISIBLE_DEVICES" if "HIP_VISIBLE_DEVICES" in environment else "CUDA_VISIBLE_DEVICES"


def usable(environment: Mapping[str, str], root: Path = Path("/")) -> list[str]:
    """The GPUs that a program with this ``environment`` can use, by the numbers or UUIDs that CUDA_VISIBLE_DEVICES takes.

    Takes a moment, and up to a minute for a driver that does not answer.
    """
    count, _ = _nvidia(environment, root)
    if not count and (amd := _amd(root)):
        count, _ = _shown(amd, environment)
    listed = environment.get(visible_variable(environment))
    names = [str(number) for number in range(count)] if listed is None else [entry.strip() for entry in listed.split(",")]
    return names[:count]


def _nvidia(environment: Mapping[str, str], root: Path) -> tuple[int, str]:
    """The number of NVIDIA GPUs that the program can use, and why there are no more."""
    answer = _driver_says(environment)
    count, error = answer.get("count"), answer.get("error")
    hidden = "".join(f"; {name} is {environment[name]!r}" for name in _VISIBLE if environment.get(name) not in (None, "all"))
    if isinstance(count, int) and count > 0:
        return count, f"NVIDIA's driver shows no more{hidden}"
    if error in _REASONS:
        return 0, _REASONS[error]
    if isinstance(error, int) and error != _NO_DEVICE:
        return 0, f"NVIDIA's driver cannot be used (cuInit failed with {error}); run nvidia-smi there, or use another machine"
    if error is not None or isinstance(count, int):
        return 0, f"NVIDIA's driver finds no GPU{hidden}; use a machine that has one"
    if answer:
        return 0, str(answer.get("failure"))
    return 0, _without_library(root)


def _without_library(root: Path) -> str:
    """Why the driver's library was not found."""
    devices = sum(1 for _ in root.glob("dev/nvidia[0-9]*"))
    if devices:
        return (
            f"/dev has {devices} NVIDIA devices, but the driver's library libcuda.so.1 was not found; in a container, set"
            " NVIDIA_DRIVER_CAPABILITIES=compute,utility, and LD_LIBRARY_PATH to its folder"
        )
    if (root / "proc/driver/nvidia").is_dir():
        return (
            "the machine has NVIDIA's driver, but its devices are not in the container; set NVIDIA_VISIBLE_DEVICES=all in the image, or"
            " give the container the GPUs (docker run --gpus all)"
        )
    return "there is no NVIDIA driver (libcuda.so.1) and no NVIDIA device; use a machine with GPUs and their driver"


def _amd(root: Path) -> int:
    """The number of AMD's GPUs. The topology also lists processors, which have no vector units of a GPU (``simd_count 0``)."""
    if not (root / "dev/kfd").exists():
        return 0
    counted = 0
    for file in root.glob("sys/class/kfd/kfd/topology/nodes/*/properties"):
        with suppress(OSError, ValueError):  # a container may read only those of its own GPUs
            counted += any(re.fullmatch(r"simd_count [1-9]\d*", line) for line in file.read_text().splitlines())
    return counted


def _shown(amd: int, environment: Mapping[str, str]) -> tuple[int, str]:
    """The number of AMD's GPUs that the program can use, and why there are no more: ROCm hides those that its variables do not list."""
    listed = {name: list(takewhile(_names_gpu, environment[name].split(","))) for name in _AMD_VISIBLE if name in environment}
    if not listed:
        return amd, "the kernel (amdkfd) has no more"
    fewest = min(listed, key=lambda name: len(listed[name]))
    return min(amd, len(listed[fewest])), f"the kernel (amdkfd) has {amd}; {fewest} is {environment[fewest]!r}"


def _names_gpu(entry: str) -> bool:
    """Whether an entry of such a variable is a GPU's number or UUID. Anything else, such as -1, hides it and all GPUs after it."""
    return bool(entry.strip()) and not entry.strip().startswith("-")


def _driver_says(environment: Mapping[str, str]) -> dict[str, Any]:
    """What ``_ask_driver`` returns in a process with this environment; empty without the library."""
    command = [sys.executable, "-I", __file__]
    try:
        ended = subprocess.run(
            command,
            env=dict(environment),
            cwd="/",
            stdin=subprocess.DEVNULL,
            capture_output=True,
            timeout=2 * _PATIENCE_SECONDS,
            check=False,
        )
    except (OSError, ValueError, subprocess.TimeoutExpired) as error:
        return {"failure": f"NVIDIA's driver could not be asked: {error}"}
    if ended.returncode == -signal.SIGALRM:
        return {"failure": f"NVIDIA's driver did not answer within {_PATIENCE_SECONDS} s; use another machine"}
    with suppress(ValueError):
        answer = json.loads(ended.stdout)
        if isinstance(answer, dict):
            return answer
    last = ended.stderr.decode(errors="replace").strip().rpartition("\n")[2]
    return {"failure": f"NVIDIA's driver could not be asked (exit status {ended.returncode}): {last[:300]}"}


def _ask_driver() -> dict[str, int]:
    """``{"count": n}``, or ``{"error": n}`` of the CUDA driver API; empty if there is no such library."""
    try:
        driver = ctypes.CDLL("libcuda.so.1")
    except OSError:
        return {}
    if error := driver.cuInit(0):
        return {"error": int(error)}
    count = ctypes.c_int()
    if error := driver.cuDeviceGetCount(ctypes.byref(count)):
        return {"error": int(error)}
    return {"count": count.value}


if __name__ == "__main__":
    signal.alarm(_PATIENCE_SECONDS)
    sys.stdout.write(json.dumps(_ask_driver()))

"""Vertex AI's machines: the specification of a job's machine, and of its boot disk, by the rules of each machine family. Pure.

Sizes are in ``data/gcp.machines.json``. Sources: https://cloud.google.com/vertex-ai/docs/training/configure-compute,
https://cloud.google.com/compute/docs/disks (which disks each family takes), and the descriptions of ``MachineSpec`` and ``DiskSpec`` in
Google's discovery document.
"""

import re
from collections.abc import Iterable, Iterator, Mapping
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from cloud_train.run.plan import Plan

CLOUD = "gcp"

_ACCELERATORS = {
    "P4": "NVIDIA_TESLA_P4",
    "T4": "NVIDIA_TESLA_T4",
    "P100": "NVIDIA_TESLA_P100",
    "V100": "NVIDIA_TESLA_V100",
    "L4": "NVIDIA_L4",
    "A100": "NVIDIA_TESLA_A100",
    "A100-80GB": "NVIDIA_A100_80GB",
    "RTX-PRO-6000": "NVIDIA_RTX_PRO_6000",
    "H100": "NVIDIA_H100_80GB",
    "H100-MEGA": "NVIDIA_H100_MEGA_80GB",
    "H200": "NVIDIA_H200_141GB",
    "B200": "NVIDIA_B200",
    "GB200": "NVIDIA_GB200",
}
_ATTACHED = {
    **dict.fromkeys(("NVIDIA_TESLA_P4", "NVIDIA_TESLA_T4", "NVIDIA_TESLA_P100"), (1, 2, 4)),
    "NVIDIA_TESLA_V100": (1, 2, 4, 8),
}
"""Accelerators that are attached to N1 machines, each with its possible numbers (https://cloud.google.com/compute/docs/gpus)."""
_SIZES = "standard|highmem|highcpu|highgpu|megagpu|ultragpu|edgegpu|megamem|ultramem"
_MACHINE = re.compile(rf"(?P<kind>(?P<family>[a-z]+[0-9]+[a-z]*)-(?:{_SIZES}))-[0-9]+[a-z]*(?:-lssd)?")
_TPU = re.compile(r"ct[0-9]+[a-z]*-.*|tpu.*|cloud-tpu")
_ONLY_SPOT = re.compile(r"a3-highgpu-[124]g")
_ARM = re.compile(r"(?:a4x|c4a|n4a|t2a)-.*")

_PERSISTENT = ("pd-ssd", "pd-standard")
_SSD = ("pd-ssd",)
_HYPERDISK = ("hyperdisk-balanced",)
DISK_TYPES = (*_PERSISTENT, *_HYPERDISK)
"""The disks that Vertex AI has."""
_DISKS = {
    **dict.fromkeys(("e2", "n1", "n2", "c2", "a2-highgpu", "a2-megagpu", "a2-ultragpu"), _PERSISTENT),
    "g2": _SSD,
    **dict.fromkeys(("a3-highgpu", "a3-megagpu", "c3"), (*_SSD, *_HYPERDISK)),
    **dict.fromkeys(("a3-ultragpu", "a4", "a4x", "g4", "n4", "c4"), _HYPERDISK),
}
"""Machine family → its disks, the default first."""


def specification_of(plan: "Plan") -> tuple[dict[str, Any], list[str]]:
    """The machine's specification, and the problems if no machine fits or the configured one does not satisfy the job."""
    from cloud_train.providers.cloud.machines import NoMachineError, choose, known, mismatches  # imports pydantic, which only plans need

    resources, name = plan.job.resources, plan.provider_settings.get("machine")
    if name is None:
        try:
            chosen = choose(CLOUD, resources)
        except NoMachineError as error:
            return {}, [str(error)]
        return _specification(chosen.name, chosen.accelerator, chosen.accelerators), []
    machine = known(CLOUD, name, resources)
    if machine is None:
        wanted = resources.accelerator
        return _specification(name, wanted.kind if wanted else None, wanted.count if wanted else 0), list(name_problems(name))
    return _specification(machine.name, machine.accelerator, machine.accelerators), mismatches(CLOUD, name, resources)


def default_disk_type(machine: str) -> str | None:
    """The disk type to ask for if none is set: only for families that Vertex AI's own default, pd-ssd, does not fit."""
    allowed = _disks_of(machine)
    return allowed[0] if allowed and "pd-ssd" not in allowed else None


def machine_problems(machine: str, disk_type: str | None, strategy: str, platform: str) -> Iterator[str]:
    """The rules that a machine breaks with its boot disk, its strategy of provisioning, or the platform of the images."""
    if _ONLY_SPOT.fullmatch(machine) and strategy not in ("SPOT", "FLEX_START"):
        yield (
            f"gcp.machine: {machine} is available as spot capacity or with gcp.flex_start only; set resources.spot or gcp.flex_start"
            " to true, or gcp.machine to a3-highgpu-8g"
        )
    if strategy == "FLEX_START" and machine.startswith("n1-"):
        yield f"gcp.flex_start: {machine} is not available that way; it needs a machine of the families A2, A3, A4, G2 or newer"
    allowed = _disks_of(machine) or DISK_TYPES
    if disk_type is not None and disk_type not in allowed:
        only = f"{machine} takes {' or '.join(allowed)}" if disk_type in DISK_TYPES else f"use {', '.join(DISK_TYPES)}"
        yield f"gcp.disk_type: {disk_type!r} is not available: {only}"
    if _ARM.fullmatch(machine) and platform != "linux/arm64":
        yield f"gcp.platform: {machine} has Arm processors; set it to linux/arm64, with a base image for it"
    if _disks_of(machine) and not _ARM.fullmatch(machine) and platform == "linux/arm64":
        yield f"gcp.platform: {machine} has x86-64 processors; leave it out, or name a machine with Arm processors"


def accelerator_problem(machine: Mapping[str, Any]) -> str | None:
    """Why a machine specification cannot have these accelerators: its family attaches others, or none. None for an unknown machine."""
    from cloud_train.providers.cloud.machines import machines  # imports pydantic, which only plans need

    name, kind, count = str(machine.get("machineType", "")), machine.get("acceleratorType"), machine.get("acceleratorCount", 0)
    if name.startswith("n1-"):
        allowed = _ATTACHED.get(str(kind), ())
        if kind is not None and count not in allowed:
            return f"{count} × {kind} cannot be attached to {name}; use {_either(allowed) if allowed else f'one of {_either(_ATTACHED)}'}"
        return None
    own = {(_ACCELERATORS.get(each.accelerator or ""), each.accelerators) for each in machines(CLOUD) if each.name == name}
    if not own or (kind, count) in own:
        return None
    has = " or ".join(f"{number} × {accelerator}" if accelerator else "no accelerator" for accelerator, number in own)
    return f"{name} has {has}, not {f'{count} × {kind}' if kind else 'none'}"


def _either(names: Iterable[object]) -> str:
    return ", ".join(map(str, names))


def _specification(name: str, kind: str | None, count: int) -> dict[str, Any]:
    if kind is None:
        return {"machineType": name}
    plain = kind.upper().replace("_", "-")
    return {"machineType": name, "acceleratorType": _ACCELERATORS.get(plain, kind), "acceleratorCount": count}


def name_problems(name: str) -> Iterator[str]:
    """Why a machine that is not in the table cannot be one: its form, or a size that its family does not have."""
    from cloud_train.providers.cloud.machines import machines, similar

    if not name or any(machine.name == name for machine in machines(CLOUD)):
        return
    if _TPU.fullmatch(name):
        yield (
            f"gcp.machine: {name} has TPUs, which are not supported: the usual builds of PyTorch cannot use them;"
            " use a machine with NVIDIA GPUs"
        )
        return
    form = _MACHINE.fullmatch(name)
    if form is None or any(machine.name.startswith(f"{form['kind']}-") for machine in machines(CLOUD)):
        meant = " or ".join(similar(CLOUD, name))
        yield f"gcp.machine: unknown machine {name}" + (f"; did you mean {meant}?" if meant else "")


def _disks_of(machine: str) -> tuple[str, ...]:
    """The disks of a machine's family; empty if it is unknown."""
    form = _MACHINE.fullmatch(machine)
    return (_DISKS.get(form["kind"]) or _DISKS.get(form["family"], ())) if form else ()

"""Chooses a machine for a job, and compares a machine that was named with ``resources``.

The tables in ``data/<cloud>.machines.json`` come from the clouds' documentation. A machine in the config file need not be in the
table; then nothing about it is checked.
"""

import difflib
import json
from collections.abc import Mapping
from contextlib import suppress
from dataclasses import dataclass
from functools import lru_cache
from importlib.resources import files
from typing import Any

from cloud_train.job.models import Resources

_SHOWN = 3
_NOT_TORCH = "the usual builds of PyTorch cannot use it; cloud-train trains on NVIDIA GPUs and on CPUs"
_LIBRARIES = {"InfiniBand": "libibverbs (Debian's package ibverbs-providers)", "EFA": "libfabric and the plugin aws-ofi-nccl"}
"""Network → what NCCL needs in the image to use it
(https://docs.nvidia.com/deeplearning/nccl/user-guide/docs/troubleshooting.html, https://github.com/aws/aws-ofi-nccl).
"""
_UNSUPPORTED = dict.fromkeys(("TPU", "TRAINIUM", "TRN1", "TRN2", "INFERENTIA", "MI300X", "GAUDI"), _NOT_TORCH)


@dataclass(frozen=True)
class Machine:
    """A machine type."""

    name: str
    """The cloud's name for it."""
    cpus: int
    memory_bytes: int
    accelerator: str | None = None
    """The kind, as in job files: ``L4``, ``A100``."""
    accelerators: int = 0
    local_disk_bytes: int = 0
    """Its own disks, if they replace a volume; 0 if they do not, or are unknown."""
    fabric: str | None = None
    """The network between machines that NCCL can use instead of TCP: ``InfiniBand``, ``EFA``."""
    rank: int = 0
    """Among machines with the same number of processors and accelerators, those with a lower rank are preferred: they are cheaper."""

    @property
    def shown_accelerators(self) -> str:
        """``8 × A100``, or ``no accelerator``."""
        return f"{self.accelerators} × {self.accelerator}" if self.accelerator else "no accelerator"

    def fits(self, resources: Resources) -> bool:
        """Whether it satisfies these resources. A machine with accelerators does not fit a job without them."""
        return (resources.accelerator is None) == (self.accelerator is None) and not self.lacks(resources)

    def lacks(self, resources: Resources) -> list[str]:
        """The resources that the machine does not have, in words."""
        wanted, lacking = resources.accelerator, []
        if wanted is not None and (_plain(wanted.kind) != _plain(self.accelerator or "") or wanted.count > self.accelerators):
            lacking.append(f"it has {self.shown_accelerators}, but resources.accelerator asks for {wanted.count} × {wanted.kind}")
        if resources.cpus is not None and resources.cpus > self.cpus:
            lacking.append(f"it has {self.cpus} cpus, but resources.cpus asks for {resources.cpus}")
        if resources.memory is not None and resources.memory.bytes > self.memory_bytes:
            lacking.append(f"it has {self.memory_bytes / 2**30:,.0f}GiB of memory, but resources.memory asks for {resources.memory}")
        return lacking


class NoMachineError(ValueError):
    """No machine in the table satisfies the job's resources; the message suggests alternatives."""


def choose(cloud: str, resources: Resources) -> Machine:
    """The smallest machine that fits; raises NoMachineError."""
    table = machines(cloud)
    fitting = [machine for machine in table if machine.fits(resources)]
    if fitting:
        return min(fitting, key=lambda machine: (machine.accelerators, machine.cpus, machine.rank, machine.memory_bytes, machine.name))
    raise NoMachineError(_explained(cloud, table, resources))


def known(cloud: str, name: str, resources: Resources) -> Machine | None:
    """The machine ``name`` of the table; of several with other accelerators, the one that fits best. None if it is not in the table."""
    same = [machine for machine in machines(cloud) if machine.name.casefold() == name.casefold()]
    return min(same, key=lambda machine: (len(machine.lacks(resources)), machine.accelerators), default=None)


def mismatches(cloud: str, name: str, resources: Resources) -> list[str]:
    """Why a named machine does not satisfy the job, each reason with the setting and an alternative; empty if it does, or is unknown."""
    machine = known(cloud, name, resources)
    if machine is None:
        return []
    try:
        instead = f"; use {choose(cloud, resources).name}, or leave out {cloud}.machine"
    except NoMachineError:
        instead = ""
    return [f"{cloud}.machine: {name}: {lack}{instead}" for lack in machine.lacks(resources)]


def machine_of(cloud: str, settings: Mapping[str, Any], resources: Resources) -> Machine | None:
    """The machine that a job will get: the named one, or the smallest that fits. None if it is unknown, or if no machine fits."""
    if name := settings.get("machine"):
        return known(cloud, str(name), resources)
    if settings.get("compute"):  # a cluster has machines of its own
        return None
    with suppress(NoMachineError):
        return choose(cloud, resources)
    return None


def unused(machine: Machine, resources: Resources, *, trains: bool) -> str | None:
    """What will be paid for but not used: accelerators that the job does not ask for, or for which a built-in trainer (``trains``) has
    no process. None if everything is used.
    """
    wanted = resources.accelerator.count if resources.accelerator else 0
    idle = machine.accelerators - resources.processes if trains else 0
    if machine.accelerators <= wanted and idle <= 0:
        return None
    said = f"{machine.name}: {machine.shown_accelerators}" + (f" on each of {resources.nodes} machines" if resources.nodes > 1 else "")
    if machine.accelerators > wanted:
        said += f"; you asked for {wanted or 'none'}"
    if idle > 0:
        said += f"; resources.processes is {resources.processes}, so {idle} will be idle: set it to {machine.accelerators} to use all"
    return said


def between_nodes(cloud: str, machine: Machine, resources: Resources) -> str | None:
    """A remark on the network between several machines with accelerators; None if there is nothing to say."""
    if resources.nodes == 1 or machine.accelerator is None:
        return None
    if machine.fabric:
        return (
            f"{machine.name}: the machines are connected by {machine.fabric}, which NCCL uses only if the image has"
            f" {_LIBRARIES[machine.fabric]}; otherwise it uses TCP"
        )
    better = next((each for each in machines(cloud) if each.fabric and _plain(each.accelerator or "") == _plain(machine.accelerator)), None)
    return f"{machine.name}: NCCL uses TCP between the machines; {better.name} has {better.fabric}" if better else None


@lru_cache(maxsize=4)
def machines(cloud: str) -> tuple[Machine, ...]:
    """The table of a cloud."""
    text = files("cloud_train.providers").joinpath("data", f"{cloud}.machines.json").read_text(encoding="utf-8")
    return tuple(Machine(**entry) for entry in json.loads(text)["machines"])


def similar(cloud: str, name: str) -> list[str]:
    """Names in the table that are similar to ``name``, the most similar first."""
    names = list(dict.fromkeys(machine.name for machine in machines(cloud)))  # a machine may be listed with several accelerators
    return difflib.get_close_matches(name, names, _SHOWN, cutoff=0.5)


def _explained(cloud: str, table: tuple[Machine, ...], resources: Resources) -> str:
    wanted = resources.accelerator
    kinds = sorted({machine.accelerator for machine in table if machine.accelerator})
    if wanted is not None and (family := _UNSUPPORTED.get(_plain(wanted.kind).partition("-")[0])):
        return f"resources.accelerator: {wanted.kind} is not supported: {family}; {cloud} has {', '.join(kinds)}"
    if wanted is not None and _plain(wanted.kind) not in map(_plain, kinds):
        close = difflib.get_close_matches(_plain(wanted.kind), kinds, 1)
        meant = f"; did you mean {close[0]}?" if close else ""
        return f"resources.accelerator: {cloud} has no known machine with {wanted.kind}; it has {', '.join(kinds)}{meant}"
    same = [machine for machine in table if _plain(machine.accelerator or "") == _plain(wanted.kind if wanted else "")]
    largest = max(same, key=lambda machine: (machine.accelerators, machine.cpus, machine.memory_bytes))
    accelerators = f", {largest.accelerators} {largest.accelerator}" if largest.accelerator else ""
    return (
        f"resources: no known {cloud} machine is large enough; the largest is {largest.name} with {largest.cpus} cpus,"
        f" {largest.memory_bytes / 2**30:,.0f}GiB{accelerators}. Set {cloud}.machine to use another one"
    )


def _plain(kind: str) -> str:
    """An accelerator's name, normalized for comparison: clouds write ``RTX_PRO_6000`` or ``rtx-pro-6000``, and put NVIDIA before it."""
    return kind.upper().replace("_", "-").removeprefix("NVIDIA-").removeprefix("TESLA-")

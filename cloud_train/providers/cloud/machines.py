"""Chooses a machine for a job: the smallest in the cloud's table that satisfies ``resources``.

The tables in ``data/<cloud>.machines.json`` come from the clouds' documentation. A machine in the config file need not be in the table.
"""

import difflib
import json
from dataclasses import dataclass
from functools import lru_cache
from importlib.resources import files

from cloud_train.job.models import Resources

_SHOWN = 3


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

    def fits(self, resources: Resources) -> bool:
        """Whether it satisfies these resources. A machine with accelerators does not fit a job without them."""
        wanted = resources.accelerator
        if (wanted is None) != (self.accelerator is None):
            return False
        if wanted is not None and (wanted.kind.upper() != (self.accelerator or "").upper() or wanted.count > self.accelerators):
            return False
        return (resources.cpus or 1) <= self.cpus and (resources.memory is None or resources.memory.bytes <= self.memory_bytes)


class NoMachineError(ValueError):
    """No machine in the table satisfies the job's resources; the message suggests alternatives."""


def choose(cloud: str, resources: Resources) -> Machine:
    """The smallest machine that fits; raises NoMachineError."""
    table = machines(cloud)
    fitting = [machine for machine in table if machine.fits(resources)]
    if fitting:
        return min(fitting, key=lambda machine: (machine.accelerators, machine.cpus, machine.memory_bytes, machine.name))
    raise NoMachineError(_explained(cloud, table, resources))


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
    if wanted is not None and wanted.kind.upper() not in (kind.upper() for kind in kinds):
        close = difflib.get_close_matches(wanted.kind.upper(), kinds, 1)
        meant = f"; did you mean {close[0]}?" if close else ""
        return f"resources.accelerator: {cloud} has no known machine with {wanted.kind}; it has {', '.join(kinds)}{meant}"
    same = [machine for machine in table if (machine.accelerator or "").upper() == (wanted.kind.upper() if wanted else "")]
    largest = max(same, key=lambda machine: (machine.accelerators, machine.cpus, machine.memory_bytes))
    accelerators = f", {largest.accelerators} {largest.accelerator}" if largest.accelerator else ""
    return (
        f"resources: no known {cloud} machine is large enough; the largest is {largest.name} with {largest.cpus} cpus,"
        f" {largest.memory_bytes / 2**30:,.0f}GiB{accelerators}. Set {cloud}.machine to use another one"
    )

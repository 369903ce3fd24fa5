"""A whole place for runs on the simulated Azure: the simulator, machines, a registry and a blob store."""

from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from tests.clouds import kit
from tests.clouds.azure_jobs import Pace
from tests.clouds.azure_simulator import AzureSimulator
from tests.clouds.clock import Clock
from tests.clouds.machine import Machines


@dataclass
class AzureCloud:
    """A whole place: settings, environment and store are what a submission needs, ``simulator`` and ``registry`` what a test looks at."""

    simulator: AzureSimulator
    registry: kit.Registry
    settings: dict[str, Any]
    """The key ``azure`` of a config file."""
    environment: dict[str, str]
    """Variables of the submitter."""
    new_store: Callable[[], str]
    """Makes a container, and says its URL."""
    machines: Machines = field(repr=False)


@contextmanager
def azure_cloud(shared: Path, folder: Path, *, clock: Clock | None = None, pace: Pace | None = None) -> Iterator[AzureCloud]:
    """Start everything; ``shared`` is the session's folder (``kit.shared_folder``), ``folder`` one of this cloud's own."""
    store = kit.store("azure")
    with ExitStack() as running:
        registry = running.enter_context(kit.registry(shared, folder / "registry"))
        machines = running.enter_context(Machines("azure"))
        simulator = running.enter_context(AzureSimulator(machines, clock=clock, pace=pace))
        simulator.machine_environment = store.environment
        settings = {**simulator.settings, "repository": registry.repository}
        yield AzureCloud(simulator, registry, settings, {**simulator.environment, **store.environment}, store.new_url, machines)

"""A simulated Google Cloud for tests of the provider, on a clock that the tests move; its jobs run on paper."""

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from cloud_train.providers.base import Request
from cloud_train.providers.gcp.client import POLICY
from cloud_train.providers.gcp.provider import VertexProvider
from tests.clouds.clock import VirtualClock
from tests.clouds.gcp_jobs import Timing
from tests.clouds.gcp_simulator import GcpSimulator
from tests.providers.gcp_plans import plan_of

TIMEOUTS = (2.0, 2.0)


class Bench:
    """The simulator, a provider that uses it, and what both share."""

    def __init__(self, google: GcpSimulator, clock: VirtualClock, folder: Path) -> None:
        self.google, self.clock, self._folder = google, clock, folder
        self.pauses: list[float] = []
        self.provider = self.another()

    def another(self, timeouts: tuple[float, float] = TIMEOUTS) -> VertexProvider:
        """A provider that has seen nothing before; its pauses take no time."""
        return VertexProvider(self._folder, timeouts=timeouts, policy=replace(POLICY, sleep=self.pauses.append))

    def request(self, *, settings: dict[str, Any] | None = None, **fields: Any) -> Request:
        """The request for a job, with the simulator's settings."""
        return self.provider.render(plan_of(settings={**self.google.settings, **(settings or {})}, **fields))


@contextmanager
def bench(folder: Path, monkeypatch: pytest.MonkeyPatch, timing: Timing | None = None) -> Iterator[Bench]:
    """One simulator, whose credentials are those of this process."""
    clock = VirtualClock()
    with GcpSimulator(folder, clock=clock, timing=timing) as google:
        for name, value in google.environment.items():
            monkeypatch.setenv(name, value)
        yield Bench(google, clock, folder)

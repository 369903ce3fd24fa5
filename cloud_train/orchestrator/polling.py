"""How often providers are asked: those of this machine at every look, a cloud less and less often, because its requests are limited."""

import time
from collections.abc import Callable, Iterable
from typing import Protocol

from cloud_train.providers.base import Handle, ManyObserved, Observation, Provider

_SHORTEST_SECONDS = 2.0
_LONGEST_SECONDS = 60.0


class Observer(Protocol):
    """Asks a provider about a launch, or knows already."""

    is_listing: bool
    """Whether many launches were observed at once, so that a look at each run directory would cost more than the observation."""

    def observe(self, provider: Provider, launch: Handle) -> Observation:
        """What the provider says of the launch."""


class Poller:
    """Asks about one attempt that is looked at again and again; a cloud every ``min(60, max(2, age / 2))`` seconds."""

    is_listing = False

    def __init__(self, clock: Callable[[], float] = time.monotonic) -> None:
        self._clock = clock
        self._began = self._due = clock()
        self._launch: Handle | None = None
        self._newest: Observation | None = None

    def observe(self, provider: Provider, launch: Handle) -> Observation:
        """What the provider says of the attempt, or what it said when it was last asked."""
        now = self._clock()
        if launch != self._launch:
            self._launch, self._newest, self._began = launch, None, now
        if self._newest is None or now >= self._due or not provider.capabilities.polling_costs:
            self._newest = provider.observe(launch)
            self._due = now + min(_LONGEST_SECONDS, max(_SHORTEST_SECONDS, (now - self._began) / 2))
        return self._newest


class Listing:
    """What providers said of many launches at once."""

    is_listing = True

    def __init__(self, observations: dict[tuple[str, int], Observation]) -> None:
        self._observations = observations

    def observe(self, provider: Provider, launch: Handle) -> Observation:
        """What the provider said of the launch; one that the listing leaves out is asked about."""
        return self._observations.get((launch.run_id, launch.attempt)) or provider.observe(launch)


def observe_all(provider: Provider, launches: Iterable[Handle]) -> dict[tuple[str, int], Observation]:
    """What a provider that can list launches says of them, by run and attempt; empty for another one. Raises ProviderError."""
    if not isinstance(provider, ManyObserved):
        return {}
    launches = list(launches)
    return {(launch.run_id, launch.attempt): seen for launch, seen in zip(launches, provider.observe_all(launches), strict=True)}

"""How often providers are polled: local ones every time, a cloud less and less often, because it limits requests."""

import time
from collections.abc import Callable, Iterable
from typing import Protocol

from cloud_train.providers.base import Handle, ManyObserved, Observation, Provider

_SHORTEST_SECONDS = 2.0
_LONGEST_SECONDS = 60.0


class Observer(Protocol):
    """Observes a launch, by asking its provider or from an earlier observation."""

    is_listing: bool
    """Whether many launches were observed at once, so that reading each run directory would cost more than the observation."""

    def observe(self, provider: Provider, launch: Handle) -> Observation:
        """The provider's observation of the launch."""


class Poller:
    """Polls one attempt; a cloud every ``min(60, max(2, age / 2))`` seconds."""

    is_listing = False

    def __init__(self, clock: Callable[[], float] = time.monotonic) -> None:
        self._clock = clock
        self._began = self._due = clock()
        self._launch: Handle | None = None
        self._newest: Observation | None = None

    def observe(self, provider: Provider, launch: Handle) -> Observation:
        """The provider's observation of the attempt, or the previous one if the next poll is not due yet."""
        now = self._clock()
        if launch != self._launch:
            self._launch, self._newest, self._began = launch, None, now
        if self._newest is None or now >= self._due or not provider.capabilities.polling_costs:
            self._newest = provider.observe(launch)
            self._due = now + min(_LONGEST_SECONDS, max(_SHORTEST_SECONDS, (now - self._began) / 2))
        return self._newest


class Listing:
    """Observations of many launches, made at once."""

    is_listing = True

    def __init__(self, observations: dict[tuple[str, int], Observation]) -> None:
        self._observations = observations

    def observe(self, provider: Provider, launch: Handle) -> Observation:
        """The observation of the launch; the provider is asked about one that is not listed."""
        return self._observations.get((launch.run_id, launch.attempt)) or provider.observe(launch)


def observe_all(provider: Provider, launches: Iterable[Handle]) -> dict[tuple[str, int], Observation]:
    """A provider's observations of these launches, by run and attempt; empty if it cannot list launches. Raises ProviderError."""
    if not isinstance(provider, ManyObserved):
        return {}
    launches = list(launches)
    return {(launch.run_id, launch.attempt): seen for launch, seen in zip(launches, provider.observe_all(launches), strict=True)}

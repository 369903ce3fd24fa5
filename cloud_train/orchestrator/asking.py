"""How often providers are asked: those of this machine whenever somebody looks, a cloud less and less often, because it counts."""

import time
from collections.abc import Callable, Iterable

from cloud_train.providers.base import Handle, ManyObserved, Observation, Provider

_SHORTEST_SECONDS = 2.0
_LONGEST_SECONDS = 60.0


class Asker:
    """Asks a provider about one attempt that is looked at again and again; a cloud every ``min(60, max(2, age / 2))`` seconds."""

    def __init__(self, clock: Callable[[], float] = time.monotonic) -> None:
        self._clock = clock
        self._began = self._due = clock()
        self._about: Handle | None = None
        self._answer: Observation | None = None

    def observe(self, provider: Provider, handle: Handle) -> Observation:
        """What the provider says of the attempt, or what it said when it was last asked."""
        now = self._clock()
        if handle != self._about:
            self._about, self._answer, self._began = handle, None, now
        if self._answer is None or now >= self._due or not provider.capabilities.polling_costs:
            self._answer = provider.observe(handle)
            self._due = now + min(_LONGEST_SECONDS, max(_SHORTEST_SECONDS, (now - self._began) / 2))
        return self._answer


class Answered:
    """As ``Asker``, with what was asked about many attempts at once."""

    def __init__(self, answers: dict[tuple[str, int], Observation]) -> None:
        self._answers = answers

    def observe(self, provider: Provider, handle: Handle) -> Observation:
        """What the provider said, and for an attempt that was left out what it says."""
        return self._answers.get((handle.run_id, handle.attempt)) or provider.observe(handle)


def ask_about_all(provider: Provider, handles: Iterable[Handle]) -> dict[tuple[str, int], Observation]:
    """The answers by run and attempt, for a provider that can list them; nothing for one that cannot. Raises ProviderError."""
    if not isinstance(provider, ManyObserved):
        return {}
    handles = list(handles)
    return {(handle.run_id, handle.attempt): answer for handle, answer in zip(handles, provider.observe_all(handles), strict=True)}

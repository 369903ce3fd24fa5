"""The providers and stores that commands speak to: each is opened once a process, because it keeps credentials and connections."""

from collections.abc import Callable
from functools import lru_cache
from pathlib import Path
from typing import TypeVar

from cloud_train.errors import StoreError
from cloud_train.orchestrator.home import Home
from cloud_train.providers.base import Provider
from cloud_train.providers.registry import known_providers, load_provider
from cloud_train.retry import RetryPolicy
from cloud_train.storage.base import NotPlainError, ObjectMissingError, Store
from cloud_train.storage.registry import open_store

Result = TypeVar("Result")

CLOUD_PAUSE_SECONDS = 2.0
"""Between two looks at a cloud's store, where each look is paid for."""
_PATIENCE_SECONDS = 30.0
"""How long an unreachable store is retried: a person is waiting at a terminal."""
_MOST_LOOKS = 20
"""For a follower: each takes ``_PATIENCE_SECONDS`` where nothing answers, so ten minutes together."""


def provider_at(home: Home, name: str) -> Provider:
    """The provider ``name``. Raises UsageError for a name that is not known, ProviderError for a plugin that does not import."""
    return _loaded(name, home.folder)


def provider_names(home: Home) -> list[str]:
    """The names of the installed providers."""
    return [known.name for known in known_providers(home.folder)]


@lru_cache(maxsize=16)
def _loaded(name: str, folder: Path) -> Provider:
    return load_provider(name, folder)


@lru_cache(maxsize=16)
def store_at(url: str) -> Store:
    """The store behind ``url``. Opening one reads credentials and makes connections, which a command that looks again and again keeps."""
    return open_store(url, RetryPolicy(time_limit=_PATIENCE_SECONDS))


def patiently(look: Callable[[], Result], note: Callable[[str], None], sleep: Callable[[float], None]) -> Result:
    """What ``look`` returns, once a store that could not be reached for a while answers again; ``note`` is told once.

    For followers of a run, which continues meanwhile. Raises the last StoreError after some minutes without an answer.
    """
    for number in range(_MOST_LOOKS):
        try:
            return look()
        except StoreError as error:
            if isinstance(error, ObjectMissingError | NotPlainError) or number == _MOST_LOOKS - 1:
                raise
            if number == 0:
                note(f"{error.message}: waiting for it; the run continues meanwhile")
            sleep(CLOUD_PAUSE_SECONDS)
    raise AssertionError("the last look returns or raises")


def pause_of(store: Store, local: float) -> float:
    """Seconds between two looks: ``local`` for a folder of this machine."""
    return local if store.local_path("run") is not None else CLOUD_PAUSE_SECONDS

"""The providers and stores that commands use. Each is opened once per process, because it holds credentials and connections."""

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
"""Pause between two reads of a cloud's store, where every request costs money."""
_PATIENCE_SECONDS = 30.0
"""How long an unreachable store is retried while a user waits at a terminal."""
PATIENCE_WITH_MANY_SECONDS = 3.0
"""The same for what a list of runs can do without."""
_MOST_LOOKS = 20
"""Attempts of a follower. Each takes ``_PATIENCE_SECONDS`` while the store is unreachable, ten minutes in total."""


def provider_at(home: Home, name: str) -> Provider:
    """The provider ``name``. Raises UsageError for an unknown name, ProviderError for a plugin that cannot be imported."""
    return _loaded(name, home.folder)


def provider_names(home: Home) -> list[str]:
    """The names of the installed providers."""
    return [known.name for known in known_providers(home.folder)]


@lru_cache(maxsize=16)
def _loaded(name: str, folder: Path) -> Provider:
    return load_provider(name, folder)


@lru_cache(maxsize=16)
def store_at(url: str, patience_seconds: float | None = None) -> Store:
    """The store at ``url``, opened once: a command that polls reuses its credentials and connections.

    ``patience_seconds``: how long a request is repeated while the store cannot be reached, by default half a minute.
    """
    return open_store(url, RetryPolicy(time_limit=_PATIENCE_SECONDS if patience_seconds is None else patience_seconds))


def patiently(look: Callable[[], Result], note: Callable[[str], None], sleep: Callable[[float], None]) -> Result:
    """The result of ``look``, retried for some minutes while the store is unreachable; ``note`` is called once.

    For followers of a run, which continues meanwhile. Raises the last StoreError if the store stays unreachable.
    """
    for number in range(_MOST_LOOKS):
        try:
            return look()
        except StoreError as error:
            if isinstance(error, ObjectMissingError | NotPlainError) or number == _MOST_LOOKS - 1:
                raise
            if number == 0:
                note(f"{error.message}; retrying while the run continues")
            sleep(CLOUD_PAUSE_SECONDS)
    raise AssertionError("the last attempt returns or raises")


def pause_of(store: Store, local: float) -> float:
    """Seconds between two reads of the store: ``local`` for a folder on this machine."""
    return local if store.local_path("run") is not None else CLOUD_PAUSE_SECONDS

"""The providers that commands speak to: each is made once a process, because a cloud's keeps its clients and their logins."""

from functools import lru_cache
from pathlib import Path

from cloud_train.orchestrator.home import Home
from cloud_train.providers.base import Provider
from cloud_train.providers.registry import load_provider


def provider_at(home: Home, name: str) -> Provider:
    """The provider ``name``. Raises UsageError for a name that is not known, ProviderError for a plugin that does not import."""
    return _loaded(name, home.folder)


@lru_cache(maxsize=16)
def _loaded(name: str, folder: Path) -> Provider:
    return load_provider(name, folder)

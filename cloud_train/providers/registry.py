"""The registry of providers: the built-in ones, and those of installed plugins (``cloud_train.plugins``).

A plugin that fails to import is reported and does not affect the others.
"""

import difflib
from collections.abc import Callable
from dataclasses import dataclass
from importlib import import_module
from pathlib import Path
from typing import cast

from cloud_train.errors import ProviderError, UsageError
from cloud_train.plugins import load_error, provider_plugins
from cloud_train.providers.base import Provider

Make = Callable[[Path], Provider]
"""Creates a provider that may keep files under the given folder."""

_BUILT_IN = {
    "local": "cloud_train.providers.local:LocalProvider",
    "docker": "cloud_train.providers.docker.provider:DockerProvider",
    "aws": "cloud_train.providers.aws.provider:SageMakerProvider",
    "gcp": "cloud_train.providers.gcp.provider:VertexProvider",
    "azure": "cloud_train.providers.azure.provider:AzureMlProvider",
}


class UnknownProviderError(UsageError):
    """There is no provider of this name."""


@dataclass(frozen=True)
class Known:
    """A provider: its name, its origin, and an error if it cannot be used."""

    name: str
    source: str
    error: str | None = None


def load_provider(name: str, home: Path) -> Provider:
    """The provider ``name``, which may keep files under ``home``.

    Raises UnknownProviderError, which suggests the nearest name, and ProviderError for a plugin that cannot be loaded.
    """
    if target := _BUILT_IN.get(name):
        module, _, attribute = target.partition(":")
        return cast(Make, getattr(import_module(module), attribute))(home)
    plugins = _plugins()
    if name not in plugins:
        names = sorted({*_BUILT_IN, *plugins})
        close = difflib.get_close_matches(name, names, 1)
        raise UnknownProviderError(
            f"unknown provider {name!r}; available: {', '.join(names)}",
            hint=f"did you mean {close[0]!r}?" if close else "check the spelling, or install its plugin: see docs/providers.md",
        )
    return plugins[name](home)


def known_providers(home: Path) -> list[Known]:
    """All providers; those of plugins that cannot be loaded with the error."""
    known = [Known(name, "built in") for name in sorted(_BUILT_IN)]
    for name, make in sorted(_plugins().items()):
        try:
            make(home)
            known.append(Known(name, "plugin"))
        except ProviderError as error:
            known.append(Known(name, "plugin", error.message))
    return known


def _plugins() -> dict[str, Make]:
    def maker(name: str, load: Callable[[], Make]) -> Make:
        def make(home: Path) -> Provider:
            plugin = load()
            try:
                return plugin(home)
            except Exception as error:  # a plugin may raise anything
                raise load_error(name, getattr(plugin, "__qualname__", repr(plugin)), error) from error

        return make

    return {name: maker(name, load) for name, load in provider_plugins().items() if name not in _BUILT_IN}

"""Which providers there are: the built-in ones, and those that installed packages declare under the entry point ``cloud_train.providers``.

An entry point names a callable ``(home: Path) -> Provider``. A plugin that fails to import is reported, and hides no other.
"""

import difflib
import importlib
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import cast

from cloud_train.errors import ProviderError, UsageError
from cloud_train.providers.base import Provider

ENTRY_POINT_GROUP = "cloud_train.providers"
_BUILT_IN = {
    "local": "cloud_train.providers.local:LocalProvider",
    "docker": "cloud_train.providers.docker.provider:DockerProvider",
    "gcp": "cloud_train.providers.gcp.provider:VertexProvider",
    "azure": "cloud_train.providers.azure.provider:AzureMlProvider",
    "aws": "cloud_train.providers.aws.provider:SageMakerProvider",
}


@dataclass(frozen=True)
class Known:
    """One provider by name: where it comes from, and why it cannot be used, if so."""

    name: str
    source: str
    error: str | None = None


def load_provider(name: str, home: Path) -> Provider:
    """The provider ``name``, which may keep what it needs under ``home``.

    Raises UsageError for a name that is not known, ProviderError for a plugin that does not import.
    """
    target = _BUILT_IN.get(name)
    if target is not None:
        module, _, attribute = target.partition(":")
        return cast(Callable[[Path], Provider], getattr(importlib.import_module(module), attribute))(home)
    plugins = _plugins()
    if name not in plugins:
        names = sorted({*_BUILT_IN, *plugins})
        close = difflib.get_close_matches(name, names, 1)
        raise UsageError(
            f"no provider is called {name!r}; installed here: {', '.join(names)}",
            hint=f"did you mean {close[0]!r}?" if close else "a plugin for it may have to be installed: see docs/providers.md",
        )
    return plugins[name](home)


def known_providers(home: Path) -> list[Known]:
    """Every provider, with the error of each plugin that cannot be loaded."""
    known = [Known(name, "built in") for name in sorted(_BUILT_IN)]
    for name, load in sorted(_plugins().items()):
        try:
            load(home)
            known.append(Known(name, "plugin"))
        except ProviderError as error:
            known.append(Known(name, "plugin", error.message))
    return known


def _plugins() -> dict[str, Callable[[Path], Provider]]:
    from importlib.metadata import EntryPoint, entry_points  # 30 ms, and only plugins need it

    def loader(entry: EntryPoint) -> Callable[[Path], Provider]:
        def load(home: Path) -> Provider:
            try:
                return cast(Callable[[Path], Provider], entry.load())(home)
            except Exception as error:  # a plugin is somebody else's code: whatever it raises is its report
                raise ProviderError(
                    f"the provider plugin {entry.name!r} ({entry.value}) cannot be loaded: {type(error).__name__}: {error}",
                    hint="reinstall or remove the package that it comes from",
                ) from error

        return load

    return {entry.name: loader(entry) for entry in entry_points(group=ENTRY_POINT_GROUP) if entry.name not in _BUILT_IN}

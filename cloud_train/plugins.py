"""What installed packages add: providers, each declared by an entry point in the group ``cloud_train.providers``.

An entry point names a callable, usually a class, ``(home: Path) -> Provider``. Its attribute ``settings``, if it has one, is the pydantic
model of the provider's section in config files.
"""

from collections.abc import Callable
from typing import Any

from cloud_train.errors import ProviderError

PROVIDERS = "cloud_train.providers"

Load = Callable[[], Any]
"""Imports what an entry point names; raises ProviderError if that fails."""


def provider_plugins() -> dict[str, Load]:
    """The installed providers by name. Looking them up costs 30 ms, so it is done only for a name that is not built in."""
    from importlib.metadata import EntryPoint, entry_points

    def loader(entry: EntryPoint) -> Load:
        def load() -> Any:
            try:
                return entry.load()
            except Exception as error:  # a plugin is foreign code: whatever it raises is reported
                raise load_error(entry.name, entry.value, error) from error

        return load

    return {entry.name: loader(entry) for entry in entry_points(group=PROVIDERS)}


def load_error(name: str, value: str, error: Exception) -> ProviderError:
    """The error for a plugin that cannot be used; ``value`` is what its entry point names."""
    return ProviderError(
        f"the provider plugin {name!r} ({value}) cannot be loaded: {type(error).__name__}: {error}",
        hint="reinstall or remove the package that provides it",
    )


def settings_models(names: set[str]) -> dict[str, type[Any]]:
    """The models of those of these providers that bring one. A plugin that cannot be loaded is left out."""
    if not names:
        return {}
    found = {}
    for name, load in provider_plugins().items():
        if name not in names:
            continue
        try:
            model = getattr(load(), "settings", None)
        except ProviderError:
            continue
        if model is not None:
            found[name] = model
    return found

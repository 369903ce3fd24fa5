"""Providers from installed packages, each declared by an entry point in the group ``cloud_train.providers``.

An entry point refers to a callable, usually a class, ``(home: Path) -> Provider``. Its optional attribute ``settings`` is the pydantic
model of the provider's section in config files.
"""

from collections.abc import Callable
from typing import Any

from cloud_train.errors import ProviderError

PROVIDERS = "cloud_train.providers"

Load = Callable[[], Any]
"""Imports an entry point's object; raises ProviderError if that fails."""


def provider_plugins() -> dict[str, Load]:
    """The installed providers by name. The lookup takes 30 ms, so it is done only for names that are not built in."""
    from importlib.metadata import EntryPoint, entry_points

    def loader(entry: EntryPoint) -> Load:
        def load() -> Any:
            try:
                return entry.load()
            except Exception as error:  # a plugin may raise anything
                raise load_error(entry.name, entry.value, error) from error

        return load

    return {entry.name: loader(entry) for entry in entry_points(group=PROVIDERS)}


def load_error(name: str, value: str, error: Exception) -> ProviderError:
    """The error for a plugin that cannot be loaded; ``value`` is the value of its entry point."""
    return ProviderError(
        f"cannot load the provider plugin {name!r} ({value}): {type(error).__name__}: {error}",
        hint="update or uninstall the package that contains it",
    )


def settings_models(names: set[str]) -> dict[str, type[Any]]:
    """The settings models of these providers, as far as they have one. Plugins that cannot be loaded are left out."""
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

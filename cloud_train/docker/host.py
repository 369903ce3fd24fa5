"""Finding the Docker Engine to use, by the same rules as Docker's own command line."""

import json
import os
from pathlib import Path
from typing import Any

from cloud_train.errors import ProviderError
from cloud_train.job.cloud_names import DOCKER_HOST, EXPECTED, has_form

_DEFAULT_ADDRESS = "unix:///var/run/docker.sock"


def address_of(host: str | None) -> str:
    """The engine's URL: ``host``, DOCKER_HOST, that of the Docker CLI's current context, or the default socket, in this order.

    Raises ProviderError for a ``host`` that is not the URL of an engine.
    """
    if host and not has_form(DOCKER_HOST, host):
        raise ProviderError(f"docker.host: {host!r} is not {EXPECTED[DOCKER_HOST]}", hint="correct docker.host in the config file")
    if chosen := host or os.environ.get("DOCKER_HOST"):
        return chosen
    context = current_context()
    return str(context.Host) if context is not None and context.Host else _DEFAULT_ADDRESS


def context_of(address: str) -> Any:
    """The Docker CLI's current context if it is for the engine at ``address`` and DOCKER_HOST is not set; otherwise None."""
    context = None if os.environ.get("DOCKER_HOST") else current_context()
    return context if context is not None and address == context.Host else None


def client_environment(address: str) -> dict[str, str]:
    """The environment in which Docker's own command line uses the engine at ``address``."""
    return {**os.environ, **({} if context_of(address) is not None else {"DOCKER_HOST": address})}


def current_context() -> Any:
    """The Docker CLI's current context, as the Docker SDK reads it; None for the default one, or if it cannot be read."""
    if not _names_a_context():
        return None
    try:
        from docker.context import ContextAPI

        return ContextAPI.get_context(os.environ.get("DOCKER_CONTEXT"))
    except Exception:  # noqa: BLE001 -- the SDK raises a bare Exception for an unreadable file; connecting reports a missing SDK
        return None


def _names_a_context() -> bool:
    """Whether the SDK is worth importing, which takes longer than all requests of most commands."""
    if os.environ.get("DOCKER_CONTEXT"):
        return True
    try:
        folder = Path(os.environ.get("DOCKER_CONFIG") or Path.home() / ".docker")
        return bool(json.loads((folder / "config.json").read_bytes()).get("currentContext"))
    except (OSError, ValueError, AttributeError, RuntimeError):  # RuntimeError for a user without a home folder
        return False

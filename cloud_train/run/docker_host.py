"""Which Docker Engine is meant: the rules of Docker's own command line, for everything here that speaks to one."""

import os

_DEFAULT_ADDRESS = "unix:///var/run/docker.sock"


def address_of(host: str | None) -> str:
    """The engine's URL: ``host``, otherwise that of DOCKER_HOST, of the Docker CLI's current context, or the usual socket."""
    if chosen := host or os.environ.get("DOCKER_HOST"):
        return chosen
    try:
        from docker.context import ContextAPI

        context = ContextAPI.get_context(os.environ.get("DOCKER_CONTEXT"))
    except Exception:  # noqa: BLE001 -- without the SDK, which connecting reports; and for a file that it cannot read, it raises a bare Exception
        return _DEFAULT_ADDRESS
    return str(context.Host) if context is not None and context.Host else _DEFAULT_ADDRESS

"""The Docker Engine to use, by the same rules as Docker's own command line, and the reason and next step if it cannot be reached."""

import errno
import json
import os
import socket
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from cloud_train.errors import ProviderError
from cloud_train.job.cloud_names import DOCKER_HOST, EXPECTED, has_form

_DEFAULT_ADDRESS = "unix:///var/run/docker.sock"


_CERTIFICATES = "DOCKER_TLS_VERIFY=1 asks for TLS, and DOCKER_CERT_PATH names the folder with ca.pem, cert.pem and key.pem"
_WITHOUT_CERTIFICATES = ("TLSParameterError", "HTTP request to an HTTPS server")


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


class EngineUnavailableError(ProviderError):
    """The Docker Engine cannot be reached, or went away: whether anything runs there is unknown."""

    code = "engine-absent"


@contextmanager
def unavailable_explained(address: str) -> Iterator[None]:
    """Turn the errors of a connection to the engine at ``address`` into EngineUnavailableError."""
    try:
        yield
    except (OSError, ValueError) as error:
        raise EngineUnavailableError(*explain(error, address)) from error


def explain(error: BaseException, address: str) -> tuple[str, str]:
    """What is wrong with the connection to the engine at ``address``, and what to do about it."""
    causes = list(_causes(error))
    number = next((inner.errno for inner in causes if isinstance(inner, OSError) and isinstance(inner.errno, int)), None)
    mistrust = [inner for inner in causes if "SSLError" in {kind.__name__ for kind in type(inner).__mro__}]
    is_far = address.startswith("ssh://")
    known = (
        (
            bool(mistrust),
            f"the Docker Engine at {address} and this machine do not trust each other's certificates: {_reason([error, *mistrust][-1])}",
            _CERTIFICATES,
        ),
        (
            any(sign in f"{type(inner).__name__}: {inner}" for inner in causes for sign in _WITHOUT_CERTIFICATES),
            f"the Docker Engine at {address} requires TLS certificates",
            _CERTIFICATES,
        ),
        (
            number in (errno.EACCES, errno.EPERM),
            f"this user may not use the Docker Engine at {address}: permission denied",
            "join the group and log in again: sudo usermod -aG docker $USER (its members are as good as root); or use rootless Docker",
        ),
        (is_timeout(error), f"the Docker Engine at {address} does not respond", "check it with: docker info"),
        (
            any(isinstance(inner, socket.gaierror) for inner in causes),
            f"the Docker Engine at {address} cannot be reached: unknown host",
            "correct DOCKER_HOST, or docker.host in a config file",
        ),
        (
            number in (errno.ENOENT, errno.ECONNREFUSED) and not is_far,
            f"no Docker Engine runs at {address}",
            "start it (sudo systemctl start docker, or Docker Desktop), or name another one with DOCKER_HOST",
        ),
        (
            is_far,
            f"the Docker Engine at {address} cannot be reached: {error}",
            f"this command has to work without a prompt: ssh {address} docker info",
        ),
    )
    tls = f"; if it requires certificates, {_CERTIFICATES}" if address.startswith("tcp://") else ""
    otherwise = f"the Docker Engine at {address} cannot be reached: {_reason(causes[-1])}", f"check it with: docker info{tls}"
    return next(((message, hint) for holds, message, hint in known if holds), otherwise)


def is_timeout(error: BaseException | None) -> bool:
    """Whether the reason is a timeout."""
    return error is not None and any(isinstance(inner, TimeoutError) for inner in _causes(error))


def _causes(error: BaseException) -> Iterator[BaseException]:
    """The error and its causes, which the Docker SDK's HTTP library passes on as causes and as arguments."""
    waiting, seen = [error], set[int]()
    while waiting:
        inner = waiting.pop(0)
        if id(inner) not in seen:
            seen.add(id(inner))
            yield inner
            more = (inner.__cause__, inner.__context__, *inner.args)
            waiting += [each for each in more if isinstance(each, BaseException)]


def _reason(error: BaseException) -> str:
    """The error's message, without the source location that ssl appends."""
    words = getattr(error, "verify_message", "") or getattr(error, "strerror", "") or str(error) or type(error).__name__
    return str(words).split(" (_ssl.c")[0]

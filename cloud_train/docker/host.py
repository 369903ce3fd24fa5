"""Selects the Docker Engine by the same rules as Docker's command line, and explains why it cannot be reached."""

import errno
import json
import os
import socket
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from cloud_train.errors import ProviderError
from cloud_train.job.cloud_names import DOCKER_HOST, EXPECTED, has_form

_DEFAULT_ADDRESS = "unix:///var/run/docker.sock"

_CERTIFICATES = "set DOCKER_TLS_VERIFY=1, and DOCKER_CERT_PATH to the folder with ca.pem, cert.pem and key.pem"
_WITHOUT_CERTIFICATES = ("TLSParameterError", "HTTP request to an HTTPS server")
_INVALID = "Invalid bind address"
"""The Docker SDK's message for an address that it cannot parse."""


def address_of(host: str | None) -> str:
    """The engine's URL: the first of ``host``, DOCKER_HOST, the Docker CLI's current context, and the default socket.

    Raises ProviderError for an invalid ``host``.
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
    """The environment that makes Docker's command line use the engine at ``address``."""
    return {**os.environ, **({} if context_of(address) is not None else {"DOCKER_HOST": address})}


def current_context() -> Any:
    """The Docker CLI's current context, as the Docker SDK reads it; None for the default context, or if it cannot be read."""
    if not _names_a_context():
        return None
    try:
        from docker.context import ContextAPI

        return ContextAPI.get_context(os.environ.get("DOCKER_CONTEXT"))
    except Exception:  # noqa: BLE001 -- the SDK raises a bare Exception for an unreadable file; connecting reports a missing SDK
        return None


def _names_a_context() -> bool:
    """Whether a context is set. The SDK is imported only then, because that takes longer than all requests of most commands."""
    if os.environ.get("DOCKER_CONTEXT"):
        return True
    try:
        folder = Path(os.environ.get("DOCKER_CONFIG") or Path.home() / ".docker")
        return bool(json.loads((folder / "config.json").read_bytes()).get("currentContext"))
    except (OSError, ValueError, AttributeError, RuntimeError):  # RuntimeError for a user without a home folder
        return False


class EngineUnavailableError(ProviderError):
    """The Docker Engine cannot be reached, so it is unknown what runs there."""

    code = "engine-absent"


@contextmanager
def unavailable_explained(address: str) -> Iterator[None]:
    """Turn connection errors of the engine at ``address`` into EngineUnavailableError."""
    try:
        yield
    except (OSError, ValueError) as error:
        raise EngineUnavailableError(*explain(error, address)) from error


def explain(error: BaseException, address: str) -> tuple[str, str]:
    """The message and the next step for a failed connection to the engine at ``address``."""
    causes = list(_causes(error))
    number = next((inner.errno for inner in causes if isinstance(inner, OSError) and isinstance(inner.errno, int)), None)
    if any(_INVALID in str(inner) for inner in causes):
        return f"{address!r} is not {EXPECTED[DOCKER_HOST]}", "correct DOCKER_HOST, or docker.host in the config file"
    if (of_certificates := _certificate_problem(causes, address)) is not None:
        return of_certificates
    if number in (errno.EACCES, errno.EPERM):
        return (
            f"this user may not use the Docker Engine at {address}: permission denied",
            "join its group and log in again: sudo usermod -aG docker $USER (this is equivalent to root access); or use rootless Docker",
        )
    if is_timeout(error):
        return f"the Docker Engine at {address} does not respond", "check it with: docker info"
    return _unreachable(error, causes, number, address)


def _certificate_problem(causes: Sequence[BaseException], address: str) -> tuple[str, str] | None:
    untrusted = [inner for inner in causes if "SSLError" in {kind.__name__ for kind in type(inner).__mro__}]
    if untrusted:
        reason = _reason(untrusted[-1])
        return f"the Docker Engine at {address} and this machine do not trust each other's certificates: {reason}", _CERTIFICATES
    if any(sign in f"{type(inner).__name__}: {inner}" for inner in causes for sign in _WITHOUT_CERTIFICATES):
        return f"the Docker Engine at {address} requires TLS certificates", _CERTIFICATES
    return None


def _unreachable(error: BaseException, causes: Sequence[BaseException], number: int | None, address: str) -> tuple[str, str]:
    if any(isinstance(inner, socket.gaierror) for inner in causes):
        return f"the Docker Engine at {address} cannot be reached: unknown host", "correct DOCKER_HOST, or docker.host in the config file"
    if address.startswith("ssh://"):
        return (
            f"the Docker Engine at {address} cannot be reached: {error}",
            f"check that this command works without a prompt: ssh {address} docker info",
        )
    if number in (errno.ENOENT, errno.ECONNREFUSED):
        return (
            f"no Docker Engine is running at {address}",
            "start it (sudo systemctl start docker, or Docker Desktop), or set DOCKER_HOST to another one",
        )
    tls = f"; if it requires certificates, {_CERTIFICATES}" if address.startswith("tcp://") else ""
    return f"the Docker Engine at {address} cannot be reached: {_reason(causes[-1])}", f"check it with: docker info{tls}"


def is_timeout(error: BaseException | None) -> bool:
    """Whether a timeout caused the error."""
    return error is not None and any(isinstance(inner, TimeoutError) for inner in _causes(error))


def _causes(error: BaseException) -> Iterator[BaseException]:
    """The error and its causes. The Docker SDK's HTTP library passes them on as arguments too."""
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

"""The error for a Docker Engine that cannot be reached, with the reason and the next step."""

import errno
import socket
from collections.abc import Iterator
from contextlib import contextmanager

from cloud_train.errors import ProviderError

_CERTIFICATES = "DOCKER_TLS_VERIFY=1 asks for TLS, and DOCKER_CERT_PATH names the folder with ca.pem, cert.pem and key.pem"
_WITHOUT_CERTIFICATES = ("TLSParameterError", "HTTP request to an HTTPS server")


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

"""The Docker SDK's client for an engine, and words for what goes wrong with an engine. The SDK is imported when a client is made."""

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from cloud_train.errors import MissingDependencyError
from cloud_train.image.errors import ImageError

_TIMEOUT_SECONDS = 600  # loading an image says nothing until it is done


class EngineAbsentError(ImageError):
    """No engine answers, or it went away."""


def client_of(address: str) -> Any:
    """A ``docker.DockerClient`` for the engine at this address; raises EngineAbsentError if no engine answers."""
    try:
        import docker
        from docker.utils import kwargs_from_env
    except ImportError as error:
        raise MissingDependencyError(
            f"the Docker SDK for Python is not installed ({error})", hint="install it with: pip install 'cloud-train[docker]'"
        ) from error
    with explained(f"be reached at {address}"):
        tls = kwargs_from_env().get("tls", False)
        return docker.DockerClient(address, version="auto", timeout=_TIMEOUT_SECONDS, tls=tls, use_ssh_client=address.startswith("ssh://"))


@contextmanager
def looking(address: str) -> Iterator[None]:
    """Turn what keeps an engine's answer from coming into EngineAbsentError."""
    try:
        yield
    except PermissionError as error:
        raise EngineAbsentError(
            f"this user may not use the Docker Engine at {address}",
            hint="add yourself to the group docker and log in again, or use rootless Docker",
        ) from error
    except (OSError, ValueError) as error:
        raise EngineAbsentError(
            f"no Docker Engine answers at {address}: {getattr(error, 'strerror', None) or error}",
            hint="start Docker, or set DOCKER_HOST; `cloud-train package --push` needs no engine",
        ) from error


@contextmanager
def explained(action: str, but: tuple[type[Exception], ...] = ()) -> Iterator[None]:
    """Turn the SDK's errors into ImageError, except those in ``but``, which the caller knows what to do about."""
    from docker.credentials import StoreError
    from docker.errors import APIError, DockerException

    try:
        yield
    except but:
        raise
    except APIError as error:
        words = str(error.explanation or error)
        hint = "see whether the name is right, and whether the engine reaches what it needs: `docker info`"
        if "no space left" in words:
            hint = "free some space: `docker system df` shows what takes it"
        raise ImageError(f"the Docker Engine cannot {action}: {words}", hint=hint) from error
    except StoreError:
        # What a helper says may hold what it keeps.
        raise ImageError(f"the Docker Engine cannot {action}: a credential helper fails", hint="see credsStore in config.json") from None
    except (DockerException, OSError, ValueError) as error:  # the errors of requests, which the SDK lets through, are OSErrors
        raise EngineAbsentError(f"the Docker Engine went away, or cannot {action}: {error}", hint="start Docker, and try again") from error

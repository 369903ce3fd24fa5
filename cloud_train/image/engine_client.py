"""The Docker SDK's client for an engine, and words for what goes wrong with an engine. The SDK is imported when a client is made."""

from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from typing import Any

from cloud_train.errors import MissingDependencyError
from cloud_train.image.errors import ImageError
from cloud_train.run.docker_absence import absence
from cloud_train.run.docker_http import sdk_client

_TIMEOUT_SECONDS = 600  # loading an image says nothing until it is done


FREE_SPACE = "see what takes room with `docker system df`, and free it with `docker system prune`"


class EngineAbsentError(ImageError):
    """No engine answers, or it went away."""


@contextmanager
def client_of(address: str) -> Iterator[Any]:
    """A ``docker.APIClient`` for the engine at this address; raises EngineAbsentError if no engine answers."""
    with ExitStack() as closing:
        with looking(address):
            client = closing.enter_context(sdk_client(address, _TIMEOUT_SECONDS))
        yield client


def is_full(words: str) -> bool:
    """Whether an engine, or what a build ran, says so that its disk is full."""
    return "no space left on device" in words.lower()


@contextmanager
def looking(address: str) -> Iterator[None]:
    """Turn what keeps an engine's answer from coming into EngineAbsentError."""
    try:
        yield
    except (OSError, ValueError) as error:
        message, hint = absence(error, address)
        raise EngineAbsentError(message, hint=f"{hint}; `cloud-train package --push` needs no engine") from error


def needs_sdk() -> None:
    """Raise MissingDependencyError where there is no Docker SDK: looking at an engine does without, changing something in it does not."""
    try:
        import docker.errors  # noqa: F401 -- only whether there is one
    except ImportError as error:
        words = f"images are brought into a Docker Engine, and out of it, with the Docker SDK, which cannot be imported: {error}"
        raise MissingDependencyError(words, hint="pip install 'cloud-train[docker]'") from error


@contextmanager
def explained(action: str, but: tuple[type[Exception], ...] = ()) -> Iterator[None]:
    """Turn the SDK's errors into ImageError, except those in ``but``, which the caller knows what to do about."""
    needs_sdk()
    from docker.credentials import StoreError
    from docker.errors import APIError, DockerException

    try:
        yield
    except but:
        raise
    except APIError as error:
        words = str(error.explanation or error)
        if is_full(words):
            raise ImageError(f"the Docker Engine's disk is full: it cannot {action} ({words})", hint=FREE_SPACE) from error
        hint = "see whether the name is right, and whether the engine reaches what it needs: `docker info`"
        raise ImageError(f"the Docker Engine cannot {action}: {words}", hint=hint) from error
    except StoreError:
        # What a helper says may hold what it keeps.
        raise ImageError(f"the Docker Engine cannot {action}: a credential helper fails", hint="see credsStore in config.json") from None
    except (DockerException, OSError, ValueError) as error:  # the errors of requests, which the SDK lets through, are OSErrors
        raise EngineAbsentError(f"the Docker Engine went away, or cannot {action}: {error}", hint="start Docker, and try again") from error

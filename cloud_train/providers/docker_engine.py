"""The connection to a Docker Engine: the few calls of its API that the provider makes, and words for what can go wrong with each.

Reference: https://docs.docker.com/reference/api/engine/version/v1.41/. The Docker SDK is imported when a connection is made, and none of
its exceptions leaves this module.
"""

import errno
import os
import re
import socket
from collections.abc import Iterator, Mapping
from contextlib import closing, contextmanager, suppress
from typing import Any

from cloud_train.errors import MissingDependencyError, ProviderError
from cloud_train.providers.base import AlreadyLaunchedError

Labels = Mapping[str, str]

_VERSIONS: dict[str, str] = {}
"""The version of the API that each engine speaks, as this process has found out, by address."""
_QUICK_SECONDS = 10
_SLOW_SECONDS = 60
"""For creating and starting, which read and write the disk."""


class EngineAbsentError(ProviderError):
    """The engine cannot be reached: whether anything runs there is not known."""

    code = "engine-absent"


class _MissingError(ProviderError):
    """There is no such container, network or image."""


class _StateError(ProviderError):
    """The container is not in a state in which this can be done: not running, or being removed already."""


@contextmanager
def connected(address: str) -> Iterator["Engine"]:
    """A connection to the engine at ``address``; raises EngineAbsentError, or MissingDependencyError where the Docker SDK is missing."""
    try:
        import docker.errors  # noqa: F401 -- 0.15 s, and only where an engine is spoken to; what says why it is missing is this import
    except ImportError as error:
        raise MissingDependencyError(
            f"the Docker SDK for Python is not installed ({error})", hint="install it with: pip install 'cloud-train[docker]'"
        ) from error
    with _explaining(address):
        client = _client(address)
    try:
        yield Engine(address, client)
    finally:
        client.close()


class Engine:
    """One open connection. Every method raises ProviderError, or EngineAbsentError when the engine is gone."""

    def __init__(self, address: str, client: Any) -> None:
        self.address = address
        self._client = client

    def version(self) -> str:
        """Its version, such as ``28.2.2``."""
        with _explaining(self.address):
            return str(self._client.version()["Version"])

    def has_image(self, name: str) -> bool:
        """Whether it has an image of this name."""
        with suppress(_MissingError), _explaining(self.address):
            self._client.inspect_image(name)
            return True
        return False

    def create_container(self, name: str, body: Mapping[str, Any]) -> str:
        """Create it, and return its id; raises AlreadyLaunchedError if there is one of this name."""
        with _explaining(self.address), self._slowly():
            return str(self._client.create_container_from_config(body, name)["Id"])

    def create_network(self, body: Mapping[str, Any]) -> str:
        """Create it, and return its id; raises AlreadyLaunchedError if there is one of this name."""
        with _explaining(self.address), self._slowly():
            return str(self._client.create_network(body["Name"], body["Driver"], check_duplicate=True, labels=body["Labels"])["Id"])

    def start(self, container: str) -> None:
        """Start a container that was created."""
        with _explaining(self.address), self._slowly():
            self._client.start(container)

    def inspect(self, container: str) -> dict[str, Any] | None:
        """Everything that the engine knows of a container; None if there is none of this id or name."""
        with suppress(_MissingError), _explaining(self.address):
            return dict(self._client.inspect_container(container))
        return None

    def containers(self, labels: Labels) -> list[dict[str, Any]]:
        """Those with all these labels, whatever their state, each with ``Id``, ``Names`` and ``Labels``."""
        with _explaining(self.address):
            return list(self._client.containers(all=True, filters=_having(labels)))

    def networks(self, labels: Labels) -> list[dict[str, Any]]:
        """Those with all these labels, each with ``Id`` and ``Name``."""
        with _explaining(self.address):
            return list(self._client.networks(filters=_having(labels)))

    def terminate(self, container: str) -> None:
        """SIGTERM for its first process, which wakes a paused one; nothing happens if it does not run."""
        with suppress(_MissingError, _StateError), _explaining(self.address):
            self._client.kill(container, "SIGTERM")

    def has_stopped(self, container: str, within_seconds: float) -> bool:
        """Wait until it does not run; False if that takes longer. One that is missing has stopped."""
        try:
            with suppress(_MissingError), _explaining(self.address):
                self._client.wait(container, timeout=within_seconds)
        except EngineAbsentError as error:
            if not _is_timeout(error.__cause__):
                raise
            return False
        return True

    def remove(self, container: str) -> None:
        """Kill it if it runs, and take it away with its anonymous volumes; nothing happens if it is missing or goes already."""
        with suppress(_MissingError, _StateError), _explaining(self.address), self._slowly():
            self._client.remove_container(container, v=True, force=True)

    def remove_network(self, network: str) -> None:
        """Take a network away; nothing happens if it is missing."""
        with suppress(_MissingError), _explaining(self.address):
            self._client.remove_network(network)

    def output(self, container: str, lines: int | None = None) -> bytes:
        """What it printed, stdout and stderr together: all, or the last ``lines``; nothing if it is missing."""
        with suppress(_MissingError), _explaining(self.address):
            return bytes(self._client.logs(container, stdout=True, stderr=True, tail=lines or "all"))
        return b""

    @contextmanager
    def _slowly(self) -> Iterator[None]:
        self._client.timeout = _SLOW_SECONDS
        try:
            yield
        finally:
            self._client.timeout = _QUICK_SECONDS


def _client(address: str) -> Any:
    from docker.api import APIClient
    from docker.utils import kwargs_from_env

    if address.startswith("unix://"):
        _knock(address.removeprefix("unix://"))
    options = kwargs_from_env()
    tls = options.get("tls", False) if options.get("base_url") == address else _context_tls(address)
    version = _VERSIONS.get(address, "auto")  # asking costs a call, and a command that follows a run connects again and again
    client = APIClient(address, version=version, timeout=_QUICK_SECONDS, tls=tls, use_ssh_client=address.startswith("ssh://"))
    _VERSIONS[address] = client.api_version
    return client


def _knock(path: str) -> None:
    """Raise OSError if nobody listens at this socket. The SDK would too, but wrapped five times, and leaving its own socket open."""
    with closing(socket.socket(socket.AF_UNIX)) as knocking:
        knocking.settimeout(_QUICK_SECONDS)
        knocking.connect(path)


def _context_tls(address: str) -> Any:
    """The certificates of the Docker CLI's current context, if that is the engine in question."""
    context = _context() if address.startswith(("tcp://", "https://")) else None
    return (context.TLSConfig if context is not None and context.Host == address else None) or False


def _context() -> Any:
    """The Docker CLI's current context; None where there is no SDK (which connecting reports), or no context that can be read."""
    try:
        from docker.context import ContextAPI

        return ContextAPI.get_context(os.environ.get("DOCKER_CONTEXT"))
    except Exception:  # noqa: BLE001 -- the SDK raises a bare Exception for a file of the CLI that it cannot read
        return None


def _having(labels: Labels) -> dict[str, list[str]]:
    return {"label": [f"{name}={value}" for name, value in labels.items()]}


@contextmanager
def _explaining(address: str) -> Iterator[None]:
    from docker.errors import APIError, DockerException

    try:
        yield
    except APIError as error:
        raise refusal(error.status_code, str(error.explanation or error)) from error
    except (DockerException, OSError, ValueError) as error:  # the errors of `requests`, which the SDK lets through, are OSErrors
        raise absence(error, address) from error


def absence(error: BaseException, address: str) -> EngineAbsentError:
    """What to say of an engine that cannot be reached, from whatever the SDK made of it."""
    number = next((inner.errno for inner in _causes(error) if isinstance(inner, OSError) and isinstance(inner.errno, int)), None)
    if number in (errno.EACCES, errno.EPERM):
        return EngineAbsentError(
            f"this user may not use the Docker Engine at {address}: permission denied",
            hint="join the group and log in again: sudo usermod -aG docker $USER (its members are as good as root); or use rootless Docker",
        )
    if _is_timeout(error):
        return EngineAbsentError(f"the Docker Engine at {address} does not answer", hint="see whether it is well with: docker info")
    if number in (errno.ENOENT, errno.ECONNREFUSED):
        return EngineAbsentError(
            f"no Docker Engine runs at {address}",
            hint="start it (sudo systemctl start docker, or Docker Desktop), or name another one with DOCKER_HOST",
        )
    return EngineAbsentError(f"the Docker Engine at {address} cannot be reached: {error}", hint="see whether it is well with: docker info")


def _is_timeout(error: BaseException | None) -> bool:
    from requests.exceptions import Timeout

    return error is not None and any(isinstance(inner, Timeout | TimeoutError) for inner in _causes(error))


def _causes(error: BaseException) -> Iterator[BaseException]:
    """The error, and those that it was made from: the SDK and its HTTP library hand them on as causes and as arguments."""
    waiting, seen = [error], set[int]()
    while waiting:
        inner = waiting.pop(0)
        if id(inner) not in seen:
            seen.add(id(inner))
            yield inner
            more = (inner.__cause__, inner.__context__, *inner.args)
            waiting += [each for each in more if isinstance(each, BaseException)]


_REFUSALS = (
    (
        r"[Nn]o such image: (?P<what>\S+)|(?P<other>\S+): image not known",
        "the engine has no image {what}",
        "it was removed after it was built: submit the job again, which builds it anew",
    ),
    (
        r'exec: "(?P<what>[^"]*)".*(not found|no such file)',
        "the image has no {what}",
        "choose a base with Python 3.11 or later as python3 on its PATH: image.base in the job file",
    ),
    (
        r"bind source path does not exist: (?P<what>.*)",
        "the engine sees no folder {what}",
        "the engine has to run on this machine, and share this folder with its containers (Docker Desktop: Settings, File sharing)",
    ),
    (
        r"no space left on device",
        "the engine's disk is full",
        "see what takes room with: docker system df; free it with: docker system prune",
    ),
    (
        r"address pool|predefined address",
        "the engine has no addresses left for another network",
        "remove the networks that nobody uses with: docker network prune",
    ),
    (
        r"could not select device driver|nvidia-container-cli",
        "the engine cannot give a container GPUs",
        "install the NVIDIA Container Toolkit on its machine, or take resources.accelerator out of the job",
    ),
    (r"Range of CPUs is (?P<what>.*?available)", "resources.cpus: the range is {what}", "ask for fewer with resources.cpus"),
    (r"network (?P<what>\S+) not found", "the engine has no network {what}", "see which there are with: docker network ls"),
)
"""The engine's words for what a user can put right, what is said instead, and the next step."""


def refusal(status: int | None, said: str) -> ProviderError:
    """What to say of a call that the engine refused with this HTTP ``status`` and these words."""
    if status == 409 and re.search(r"name .*(already in use|already exists)", said):
        return AlreadyLaunchedError("this attempt was launched before", hint="see where it stands with: cloud-train status")
    kind = {404: _MissingError, 409: _StateError}.get(status or 0, ProviderError)
    for pattern, message, hint in _REFUSALS:
        if match := re.search(pattern, said):
            what = next((text for text in match.groupdict().values() if text), "")
            return kind(f"{message.format(what=what)} (it said: {said})", hint)
    return kind(f"the Docker Engine refused: {said}", hint="its own log says more: journalctl -u docker")

"""A connection to a Docker Engine: the API calls that cloud-train needs, and the engine's errors with a next step.

Reference: https://docs.docker.com/reference/api/engine/version/v1.41/.
"""

import json
import re
import tarfile
from collections.abc import Iterator, Mapping
from contextlib import ExitStack, contextmanager, suppress
from io import BytesIO
from pathlib import Path
from typing import Any

from cloud_train.docker.host import EngineUnavailableError, is_timeout, unavailable_explained
from cloud_train.docker.transport import QUICK_SECONDS, Answer, DockerHttp, opened
from cloud_train.errors import ProviderError

Labels = Mapping[str, str]

_SLOW_SECONDS = 60.0
"""Timeout for creating, starting and removing, which use the disk, in seconds."""

_WITH_A_DOCUMENT = (200, 201)
"""The statuses of responses with a JSON body. Those without one have 204 or 304, except for the response to an upload."""

FREE_SPACE = "see what uses the space with `docker system df`; free some with `docker system prune`"


class NameTakenError(ProviderError):
    """A container or network of this name already exists in the engine; nothing was created."""


class FolderUnseenError(ProviderError):
    """The engine cannot see a folder: it does not exist, or the engine runs on another machine or in a virtual machine."""


class _MissingError(ProviderError):
    """The container, network or image does not exist."""


class _StateError(ProviderError):
    """The container is in the wrong state for this call: it is not running, or is being removed."""


@contextmanager
def connected(address: str) -> Iterator["Engine"]:
    """A connection to the engine at ``address``; raises EngineUnavailableError."""
    with ExitStack() as closing:
        with unavailable_explained(address):
            http = closing.enter_context(opened(address))
        yield Engine(address, http)


class Engine:
    """One open connection. All methods raise ProviderError, and EngineUnavailableError if the engine does not respond."""

    def __init__(self, address: str, http: DockerHttp) -> None:
        self.address = address
        self._http = http

    def version(self) -> str:
        """The engine's version, such as ``28.2.2``."""
        return str(self._ask("GET", "/version")["Version"])

    def is_rootless_of(self, user: int) -> bool:
        """Whether this is a rootless engine of this user, so that root in a container is that user.

        Asks the engine only if its socket belongs to the user, because the call is slow.
        """
        if not user or not self.address.startswith("unix://"):
            return False
        with suppress(OSError):
            if Path(self.address.removeprefix("unix://")).stat().st_uid == user:
                return any("rootless" in option for option in self._ask("GET", "/info").get("SecurityOptions") or ())
        return False

    def image(self, name: str) -> dict[str, Any] | None:
        """The engine's description of the image with this id or name; None if it does not exist."""
        with suppress(_MissingError):
            return dict(self._ask("GET", f"/images/{name}/json"))
        return None

    def create_container(self, name: str, body: Mapping[str, Any]) -> str:
        """Create a container, and return its id. Raises NameTakenError if the name is in use."""
        return str(self._ask("POST", "/containers/create", {"name": name}, body, _SLOW_SECONDS)["Id"])

    def create_network(self, body: Mapping[str, Any]) -> str:
        """Create a network, and return its id. Raises NameTakenError if the name is in use."""
        return str(self._ask("POST", "/networks/create", body=body, timeout_seconds=_SLOW_SECONDS)["Id"])

    def put_files(self, container: str, files: Mapping[str, Path]) -> None:
        """Copy files from this machine into a new container (path in one of its volumes → file), readable by all its users."""
        for path, source in files.items():
            folder, _, name = path.rpartition("/")
            with BytesIO() as archive:
                with tarfile.open(fileobj=archive, mode="w") as tar:
                    member = tarfile.TarInfo(name)
                    content = source.read_bytes()
                    member.size, member.mode = len(content), 0o444
                    tar.addfile(member, BytesIO(content))
                self._ask("PUT", f"/containers/{container}/archive", {"path": folder}, archive.getvalue(), _SLOW_SECONDS)

    def start(self, container: str) -> None:
        """Start a created container."""
        self._ask("POST", f"/containers/{container}/start", timeout_seconds=_SLOW_SECONDS)

    def inspect(self, container: str) -> dict[str, Any] | None:
        """The engine's description of the container with this id or name; None if it does not exist."""
        with suppress(_MissingError):
            return dict(self._ask("GET", f"/containers/{container}/json"))
        return None

    def containers(self, labels: Labels) -> list[dict[str, Any]]:
        """The containers with all these labels, in any state, each with ``Id``, ``Names`` and ``Labels``."""
        return list(self._ask("GET", "/containers/json", {"all": "1", "filters": _having(labels)}))

    def networks(self, labels: Labels) -> list[dict[str, Any]]:
        """The networks with all these labels, each with ``Id`` and ``Name``."""
        return list(self._ask("GET", "/networks", {"filters": _having(labels)}))

    def terminate(self, container: str) -> None:
        """Send SIGTERM to the container's first process, even if it is paused; does nothing if it is not running."""
        with suppress(_MissingError, _StateError):
            self._ask("POST", f"/containers/{container}/kill", {"signal": "SIGTERM"})

    def has_stopped(self, container: str, within_seconds: float) -> bool:
        """Wait until the container has stopped; False if it has not in time. A missing container counts as stopped."""
        try:
            with suppress(_MissingError):
                self._ask("POST", f"/containers/{container}/wait", timeout_seconds=within_seconds)
        except EngineUnavailableError as error:
            if not is_timeout(error.__cause__):
                raise
            return False
        return True

    def remove(self, container: str) -> None:
        """Kill and remove the container and its anonymous volumes; does nothing if it is missing or being removed."""
        with suppress(_MissingError, _StateError):
            self._ask("DELETE", f"/containers/{container}", {"v": "1", "force": "1"}, timeout_seconds=_SLOW_SECONDS)

    def remove_network(self, network: str) -> None:
        """Remove the network, if it exists."""
        with suppress(_MissingError):
            self._ask("DELETE", f"/networks/{network}")

    def output(self, container: str) -> bytes:
        """The container's stdout and stderr combined; empty for a missing container."""
        return self._printed(container, {"stdout": "1", "stderr": "1", "tail": "all"})

    def errors(self, container: str, lines: int) -> bytes:
        """The last ``lines`` of the container's stderr, which does not contain the program's output; empty for a missing container."""
        return self._printed(container, {"stdout": "0", "stderr": "1", "tail": str(lines)})

    def _printed(self, container: str, query: Mapping[str, str]) -> bytes:
        with suppress(_MissingError):
            return _joined(self._answer("GET", f"/containers/{container}/logs", query).body)
        return b""

    def _ask(
        self,
        method: str,
        path: str,
        query: Mapping[str, str] | None = None,
        body: Mapping[str, Any] | bytes | None = None,
        timeout_seconds: float = QUICK_SECONDS,
    ) -> Any:
        answer = self._answer(method, path, query, body, timeout_seconds)
        with unavailable_explained(self.address):
            if not answer.body and answer.status in _WITH_A_DOCUMENT and method != "PUT":
                raise ConnectionError("the connection broke in the middle of a response's headers")  # which lack the body's length then
            return answer.document

    def _answer(
        self,
        method: str,
        path: str,
        query: Mapping[str, str] | None = None,
        body: Mapping[str, Any] | bytes | None = None,
        timeout_seconds: float = QUICK_SECONDS,
    ) -> Answer:
        with unavailable_explained(self.address):
            answer = self._http.ask(method, path, query, body, timeout_seconds)
        if answer.status >= 400:
            raise refusal(answer.status, answer.words)
        return answer


def is_full(words: str) -> bool:
    """Whether a message of an engine or of a build reports a full disk."""
    return "no space left on device" in words.lower()


def _joined(stream: bytes) -> bytes:
    """The output without the engine's framing: each frame has four bytes for stdout or stderr, four for its length, and the data."""
    parts, position = [], 0
    while position + 8 <= len(stream):
        length = int.from_bytes(stream[position + 4 : position + 8], "big")
        parts.append(stream[position + 8 : position + 8 + length])
        position += 8 + length
    return b"".join(parts)


def _having(labels: Labels) -> str:
    return json.dumps({"label": [f"{name}={value}" for name, value in labels.items()]})


_UNSEEN = re.compile(r"bind source path does not exist|[Mm]ounts denied")
"""Messages of an engine and of Docker Desktop."""
_REFUSALS = (
    (
        r"[Nn]o such image: (?P<what>\S+)|(?<![^\s'\"])(?P<other>[^\s'\"]{1,300}): image not known",
        "the engine has no image {what}",
        "rebuild it with `cloud-train package JOB.yaml`; if the job's files are unchanged, the result is the same image",
    ),
    (
        r'exec: "(?P<what>[^"]*)".{0,300}(not found|no such file)',
        "the image has no {what}",
        "set image.base in the job file to an image with Python 3.10 or later as python3 on its PATH",
    ),
    (
        r"no space left on device",
        "the engine's disk is full",
        FREE_SPACE,
    ),
    (
        r"address pool|predefined address",
        "the engine has no addresses left for another network",
        "remove unused networks with: docker network prune",
    ),
    (
        r"could not select device driver|nvidia-container-cli",
        "the engine cannot give GPUs to containers",
        "install the NVIDIA Container Toolkit on its machine, or remove resources.accelerator from the job",
    ),
    (r"Range of CPUs is (?P<what>.{0,300}?available)", "resources.cpus: the allowed range is {what}", "reduce resources.cpus"),
    (r"network (?P<what>\S+) not found", "the engine has no network {what}", "list the networks with: docker network ls"),
)
"""Patterns in the engine's messages that a user can act on, each with our message and the next step."""


def refusal(status: int | None, said: str) -> ProviderError:
    """The error for a call that the engine refused with this HTTP status and message."""
    if status == 409 and re.search(r"name .{0,300}(already in use|already exists)", said):
        return NameTakenError(f"the name is already in use in the Docker Engine (it said: {said})")
    if _UNSEEN.search(said):
        return FolderUnseenError(f"the Docker Engine cannot see a folder of this machine (it said: {said})", hint="check that it exists")
    kind = {404: _MissingError, 409: _StateError}.get(status or 0, ProviderError)
    for pattern, message, hint in _REFUSALS:
        if match := re.search(pattern, said):
            what = next((text for text in match.groupdict().values() if text), "")
            return kind(f"{message.format(what=what)} (it said: {said})", hint)
    return kind(f"the Docker Engine refused the request: {said}", hint="see its log with: journalctl -u docker")

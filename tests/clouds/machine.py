"""The machines of a cloud simulator: real containers on the real Docker Engine, of images that it really pulls::

    with Machines("sagemaker") as machines:
        machine = machines.start(image, command=[...], environment={...}, files={"/opt/ml/input/config/resourceconfig.json": b"{}"})
        machine.terminate()
        assert machine.wait(10) == 143

An interruption is ``machine.kill()`` and later another ``machines.start(...)``: when, and with what warning, is each cloud's own. Machines
share the network of this machine, so that they reach servers on loopback; that is what they differ in most from a cloud's.
"""

import io
import itertools
import posixpath
import tarfile
import threading
import uuid
from collections.abc import Iterable, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from types import TracebackType
from typing import TYPE_CHECKING, Any, Self

if TYPE_CHECKING:
    from docker import DockerClient

from tests.docker_engine import engine_or_skip

LABEL = "cloud-train-test.machines"
"""The label of all containers of one ``Machines``; its value is different for each."""
KILL_SECONDS = 60.0
"""How long a machine that was killed may take to end."""

_OF_ANY_IMAGE = frozenset({"/", "/etc", "/home", "/mnt", "/opt", "/root", "/run", "/srv", "/tmp", "/usr", "/var", "/var/lib", "/var/run"})
"""Folders which are there already, with an owner and a mode of their own."""


class ImagePullError(Exception):
    """The engine could not pull an image; the text is what the engine says."""


class ContainerStartError(Exception):
    """A container was made and does not start, such as for a command that its image does not have; the text is what the engine says."""


@dataclass(frozen=True)
class Login:
    """A user of the registry that an image is pulled from."""

    user: str
    password: str = field(repr=False)


class Machine:
    """One container that was started. Its methods may be called from any thread, also after its end, until it is removed."""

    def __init__(self, client: "DockerClient", identifier: str, name: str) -> None:
        self.identifier = identifier
        """The container's id."""
        self.name = name
        """The container's name."""
        self._client = client

    def is_running(self) -> bool:
        """Whether its process still runs."""
        return bool(self._state()["Running"])

    def exit_code(self) -> int | None:
        """The exit status of its process, 128 + N after signal N; None while it runs."""
        state = self._state()
        return None if state["Running"] else int(state["ExitCode"])

    def out_of_memory(self) -> bool:
        """Whether a process in it was killed because of ``memory_bytes``."""
        return bool(self._state()["OOMKilled"])

    def output(self) -> bytes:
        """What its process has printed so far, to standard output and standard error."""
        printed: bytes = self._client.api.logs(self.identifier, stdout=True, stderr=True)
        return printed

    def read(self, path: str) -> bytes | None:
        """The content of a file in it, also after its end; None if there is none."""
        from docker.errors import NotFound

        try:
            stream, _ = self._client.api.get_archive(self.identifier, path)
        except NotFound:
            return None
        with tarfile.open(fileobj=io.BytesIO(b"".join(stream))) as archive:
            file = archive.extractfile(archive.getmembers()[0])
            return file.read() if file else None

    def terminate(self) -> None:
        """Send SIGTERM to its process; nothing if it has ended. The grace, and the kill after it, are each cloud's own."""
        self._signal("SIGTERM")

    def kill(self) -> None:
        """End it with SIGKILL, all processes in it; nothing if it has ended. Returns when it has."""
        from docker.errors import NotFound

        with suppress(NotFound):  # the simulator has seen its end, and removed it
            self._signal("SIGKILL")
            self.wait(KILL_SECONDS)

    def wait(self, seconds: float) -> int | None:
        """Wait for its end, in real time; the exit status, or None if it still runs after so many seconds."""
        from requests.exceptions import ConnectionError as ConnectionLostError
        from requests.exceptions import ReadTimeout

        if seconds > 0:
            with suppress(ReadTimeout, ConnectionLostError):  # a time-out is either, by the transport
                self._client.api.wait(self.identifier, timeout=seconds)
        return self.exit_code()

    def remove(self) -> None:
        """Remove it, running or not; nothing if that was done."""
        from docker.errors import NotFound

        with suppress(NotFound):
            self._client.api.remove_container(self.identifier, v=True, force=True)

    def _signal(self, name: str) -> None:
        from docker.errors import APIError

        try:
            self._client.api.kill(self.identifier, name)
        except APIError as error:
            if error.status_code != 409:  # it does not run any more
                raise

    def _state(self) -> Mapping[str, Any]:
        state: Mapping[str, Any] = self._client.api.inspect_container(self.identifier)["State"]
        return state


class Machines:
    """All machines of one simulator; leaving the context removes them, and the images that were pulled for them."""

    memory_bytes: int | None = None
    """What each machine has, whatever is asked for, where a test says so."""

    def __init__(self, label: str) -> None:
        self.label = f"{label}-{uuid.uuid4().hex[:12]}"
        self._client: DockerClient | None = None
        self._numbers = itertools.count(1)
        self.started: list[Machine] = []
        """All machines, in the order in which they started."""
        self._pulled: set[str] = set()
        self._lock = threading.Lock()

    def __enter__(self) -> Self:
        self._client = engine_or_skip()
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        from docker.errors import APIError

        client = self.client
        try:
            for container in client.api.containers(all=True, filters={"label": f"{LABEL}={self.label}"}):
                Machine(client, container["Id"], "").remove()
            for reference in self._pulled:
                with suppress(APIError):  # another simulator's container runs it
                    client.api.remove_image(reference)
        finally:
            client.close()

    def kill_all(self) -> None:
        """End every machine that runs, so that no thread of the simulator waits for one any longer. Leaving the context does not do that
        for you: end your threads before.
        """
        from docker.errors import NotFound

        for machine in list(self.started):
            with suppress(NotFound):  # removed
                machine.kill()

    @property
    def client(self) -> "DockerClient":
        """The engine's client, inside the context."""
        assert self._client is not None, "not entered"
        return self._client

    def pull(self, image: str, login: Login | None = None) -> None:
        """Pull an image, as every start does; layers that the engine has are not moved. Raises ImagePullError with the engine's words.

        The registry is asked in any case, as by a machine that is new: the engine by itself pulls nothing that it has.
        """
        from docker.errors import APIError

        repository, _, digest = image.partition("@")
        credentials = {"username": login.user, "password": login.password} if login else {}  # None would mean: this user's own
        try:
            self.client.api.inspect_distribution(image, auth_config=credentials)
            said = self.client.api.pull(repository, tag=digest, auth_config=credentials, stream=True, decode=True)
            failures = [event["error"] for event in said if "error" in event]
        except APIError as error:
            raise ImagePullError(str(error.explanation or error)) from error
        if failures:
            raise ImagePullError(failures[0])
        with self._lock:
            self._pulled.add(image)

    def start(
        self,
        image: str,
        *,
        command: Sequence[str],
        environment: Mapping[str, str] | None = None,
        files: Mapping[str, bytes] | None = None,
        hostname: str | None = None,
        hosts: Mapping[str, str] | None = None,
        labels: Mapping[str, str] | None = None,
        memory_bytes: int | None = None,
        login: Login | None = None,
    ) -> Machine:
        """Pull the image and start a container of it, as its own user.

        ``image`` is ``repository@sha256:…``; ``command`` replaces entrypoint and command, and is the image's own where it is empty.
        ``files`` are put into it before it starts, owned by root, 0644, in folders that are root's, 0755; a path that ends in '/' is an
        empty folder, and one that the image has becomes root's too.
        ``hosts`` are further names, each with its address. Raises ImagePullError, or ContainerStartError.
        """
        from docker.errors import APIError

        self.pull(image, login)
        client = self.client
        name = f"{self.label}-{next(self._numbers)}"
        memory_bytes = self.memory_bytes or memory_bytes
        settings = client.api.create_host_config(
            network_mode="host",
            extra_hosts=dict(hosts or {}),
            mem_limit=memory_bytes,
            memswap_limit=memory_bytes,
        )
        made = client.api.create_container(
            image,
            name=name,
            entrypoint=list(command[:1]) or None,
            command=list(command[1:]) or None,
            environment=dict(environment or {}),
            hostname=hostname,
            labels={**(labels or {}), LABEL: self.label},
            host_config=settings,
        )
        if files:
            client.api.put_archive(made["Id"], "/", _archive(files))
        machine = Machine(client, made["Id"], name)
        try:
            client.api.start(machine.identifier)
        except APIError as error:
            machine.remove()
            raise ContainerStartError(str(error.explanation or error)) from error
        self.started.append(machine)
        return machine


def _archive(files: Mapping[str, bytes]) -> bytes:
    """A tar of these files and of the folders that they lie in."""
    packed = io.BytesIO()
    with tarfile.open(fileobj=packed, mode="w") as archive:
        for folder in sorted(_folders(files)):
            member = tarfile.TarInfo(folder.lstrip("/"))
            member.type, member.mode = tarfile.DIRTYPE, 0o755
            archive.addfile(member)
        for path, content in files.items():
            if not path.endswith("/"):
                member = tarfile.TarInfo(path.lstrip("/"))
                member.size, member.mode = len(content), 0o644
                archive.addfile(member, io.BytesIO(content))
    return packed.getvalue()


def _folders(paths: Iterable[str]) -> set[str]:
    found = set()
    for path in paths:
        folder = posixpath.dirname(path)
        if path.endswith("/"):
            found.add(folder)
        while folder not in _OF_ANY_IMAGE:
            found.add(folder)
            folder = posixpath.dirname(folder)
    return found

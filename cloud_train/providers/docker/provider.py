"""The ``docker`` provider: the worker as process 1 of a container, one container per node.

A container's name prevents a second launch, and its labels identify it. Containers are kept until their end has been recorded; then
``clean_up`` removes them.
"""

import json
import os
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack, suppress
from dataclasses import replace
from functools import partial
from pathlib import Path
from time import monotonic
from typing import TYPE_CHECKING, Any

from cloud_train import private
from cloud_train.docker import container_paths
from cloud_train.docker.engine import Engine, FolderUnseenError, NameTakenError, connected
from cloud_train.docker.host import EngineUnavailableError, address_of
from cloud_train.docker.transport import is_private
from cloud_train.errors import CloudTrainError, ProviderError
from cloud_train.providers.base import AlreadyLaunchedError, Capabilities, Handle, Observation, Request
from cloud_train.providers.docker.request import NODE, labels_of, problems_of, request_of, without_our_folders, workspace_of
from cloud_train.providers.docker.state import Seen, verdict
from cloud_train.run.states import Cause, State
from cloud_train.storage.credential_forwarding import FILES, FORWARDABLE, FORWARDED, loopback_endpoint

if TYPE_CHECKING:
    from cloud_train.run.plan import Plan

_LEAVING_SECONDS = 5.0
"""How long a worker may take to exit after it has recorded its end."""
_LAST_LINES = 50


class DockerProvider:
    """Runs in containers of a Docker Engine. Under ``home`` it remembers the engines used, and containers that it could not remove."""

    name = "docker"
    capabilities = Capabilities(
        stores=("file", "s3", "gs", "az"),
        max_nodes=16,
        spot=False,
        enforces=("cpus", "memory", "accelerator"),
        containers=True,
        mounts_folders=True,
        forwards_credentials=True,
    )

    def __init__(self, home: Path) -> None:
        self._engines = home / "docker" / "engines"
        self._caches = home / "docker" / "caches"  # not shared with runs of the provider ``local``
        self._left = home / "docker" / "left"
        self._workspaces = home / "work"
        self._user = f"{os.getuid()}:{os.getgid()}"  # files in the run directory belong to the caller

    def interpreter(self, settings: Mapping[str, Any]) -> str:
        """The Python on the image's PATH."""
        return container_paths.PYTHON

    def render(self, plan: "Plan") -> Request:
        """The bodies of the engine's create calls: one container per node, and a network for several nodes.

        Settings (the key ``docker`` of a config file): ``host``, the engine's URL; ``network``, for a single container (by default
        ``bridge``); ``user``, ``uid:gid`` instead of the caller's.
        """
        return request_of(plan, str(plan.provider_settings.get("user") or self._user), self._caches, self._workspaces)

    def check(self, request: Request) -> list[str]:
        """Problems with image, names and memory, or with data that a container must not see. The engine is not contacted."""
        return list(problems_of(request))

    def launch(self, request: Request, secrets: dict[str, str]) -> Handle:
        """Create everything, then start it. If anything fails, remove whatever was created.

        Only the engine knows whether it sees this machine's folders and whether it is rootless, so that is handled here.
        """
        secrets, credentials = _brought_along(secrets)
        _refuse_loopback(secrets, request["containers"])
        address = address_of(request["engine"])
        _refuse_unencrypted(address, secrets)
        with connected(address) as engine:
            self._remember(engine.address)
            self._sweep(engine)
            try:
                reference = self._started(engine, request, secrets, credentials)
            except NameTakenError as error:
                raise AlreadyLaunchedError("this attempt was already launched", hint="see its state with: cloud-train status") from error
        return Handle(request["run_id"], request["attempt"], self.name, request["store"], reference)

    def find(self, run_id: str, attempt: int, store: str, settings: Mapping[str, Any]) -> Handle | None:
        """The attempt's containers, by their labels, in any engine used from here. Raises if an engine that may have them is down."""
        absent = None
        for address in self._addresses():
            try:
                with connected(address) as engine:
                    reference = _labelled(engine, labels_of(run_id, attempt, store))
            except EngineUnavailableError as error:
                absent = absent or error
                continue
            if reference is not None:
                return Handle(run_id, attempt, self.name, store, reference)
        if absent is not None:
            raise absent
        return None

    def observe(self, handle: Handle) -> Observation:
        """The containers' state. While the engine cannot be reached, the attempt counts as running, with the cause *unknown*."""
        names = handle.reference["containers"]
        try:
            with connected(handle.reference["engine"]) as engine:
                found = verdict([Seen.of(rank, each["name"], engine.inspect(each["id"])) for rank, each in enumerate(names)])
                if found.rank is None or not found.observation.state.is_end:
                    return found.observation
                words = _last_line(engine.errors(names[found.rank]["id"], _LAST_LINES))
        except CloudTrainError as error:
            return Observation(State.RUNNING, Cause.UNKNOWN, error.message)
        return replace(found.observation, message=f"{found.observation.message}: {words}") if words else found.observation

    def cancel(self, handle: Handle, force: bool = False) -> None:
        """Send SIGTERM to every worker; ``force`` kills and removes the containers."""
        with connected(handle.reference["engine"]) as engine:
            if force:
                _remove_all(engine, handle.reference)
                return
            for each in handle.reference["containers"]:
                engine.terminate(each["id"])

    def clean_up(self, handle: Handle) -> None:
        """Remove the containers, with their anonymous volumes, and the network.

        A worker that has just recorded its end gets a moment to exit. If node 0 keeps running, the attempt is left alone. The next launch
        removes whatever could not be removed now.
        """
        note = self._left / f"{handle.run_id}.{handle.attempt}.json"
        with suppress(CloudTrainError), connected(handle.reference["engine"]) as engine:
            if _take_away(engine, handle.reference, _LEAVING_SECONDS):
                note.unlink(missing_ok=True)
                for rank in range(len(handle.reference["containers"])):
                    with suppress(OSError):  # not empty if something could not be uploaded
                        workspace_of(self._workspaces, handle.run_id, rank).rmdir()
                return
        with suppress(OSError):
            private.make_folder(self._left)
            private.write_text(note, json.dumps(handle.reference))

    def logs(self, handle: Handle, cursor: str | None) -> tuple[bytes, str | None]:
        """The output of node 0's container, from before its worker could write its log. The cursor counts bytes."""
        start = int(cursor or 0)
        with connected(handle.reference["engine"]) as engine:
            said = b"".join(engine.output(each["id"]) for each in handle.reference["containers"][:1])[start:]
        return said, str(start + len(said))

    def _started(
        self, engine: Engine, request: Request, secrets: Mapping[str, str], credentials: Sequence[dict[str, Any]]
    ) -> dict[str, Any]:
        """Create and start network and containers, and return the attempt's reference. If one fails, remove them all."""
        network, made = request["network"], []
        root = {"User": "0:0"} if engine.is_rootless_of(os.getuid()) else {}
        with ExitStack() as undoing:
            if network is not None:
                undoing.callback(_quietly, engine.remove_network, engine.create_network(network))
            for container in request["containers"]:
                host = container["body"]["HostConfig"]
                for mount in host["Mounts"]:
                    if mount["Target"] in (container_paths.CACHE, container_paths.WORK):
                        self._make(Path(mount["Source"]))
                    if mount["Target"] == container_paths.WORK:
                        undoing.push(partial(_remove_workspace, mount["Source"]))
                body = {
                    **container["body"],
                    **(root if container["body"]["User"] == self._user else {}),
                    "Env": [*container["body"]["Env"], *(f"{name}={value}" for name, value in secrets.items())],
                    "HostConfig": {**host, "Mounts": [*host["Mounts"], *credentials]},
                }
                identifier, sees_our_folders = _created(engine, container["name"], body)
                undoing.callback(_quietly, engine.remove, identifier)
                if credentials and not sees_our_folders:
                    engine.put_files(identifier, {mount["Target"]: Path(mount["Source"]) for mount in credentials})
                made.append({"name": container["name"], "id": identifier})
            _side_by_side(engine, Engine.start, made)
            undoing.pop_all()
        return {"engine": engine.address, "containers": made, "network": network and network["Name"]}

    def _remember(self, address: str) -> None:
        """Remember the engine, so that ``find`` looks there as well."""
        if address in self._addresses():
            return
        self._make(self._engines.parent)
        try:
            with self._engines.open("a", encoding="utf-8") as file:
                file.write(f"{address}\n")
        except OSError as error:
            raise ProviderError(
                f"cannot write {self._engines}: {error.strerror}",
                hint="make that folder writable, or choose another one with CLOUD_TRAIN_HOME",
            ) from error

    def _sweep(self, engine: Engine) -> None:
        """Remove whatever could not be removed earlier, for instance because the engine was unavailable."""
        for note in self._left.glob("*.json"):
            # Another process may do the same at the same time; an unreadable note is left for the next launch.
            with suppress(CloudTrainError, FileNotFoundError, ValueError):
                reference = json.loads(note.read_text(encoding="utf-8"))
                if reference["engine"] == engine.address and _take_away(engine, reference, 0.1):
                    note.unlink()

    def _make(self, folder: Path) -> None:
        try:
            folder.mkdir(parents=True, exist_ok=True)
        except OSError as error:
            raise ProviderError(
                f"cannot create {folder}: {error.strerror}", hint="make its parent writable, or choose another one with CLOUD_TRAIN_HOME"
            ) from error

    def _addresses(self) -> Sequence[str]:
        used = self._engines.read_text(encoding="utf-8").splitlines() if self._engines.exists() else []
        return list(dict.fromkeys([address_of(None), *used]))


def _created(engine: Engine, name: str, body: dict[str, Any]) -> tuple[str, bool]:
    """The new container's id, and whether it sees this machine's folders, which only the engine knows."""
    try:
        return engine.create_container(name, body), True
    except FolderUnseenError:
        if not all(Path(mount["Source"]).exists() for mount in body["HostConfig"]["Mounts"]):
            raise
        return engine.create_container(name, without_our_folders(body, engine.address)), False


def _brought_along(secrets: Mapping[str, str]) -> tuple[dict[str, str], list[dict[str, Any]]]:
    """The environment variables inside the container, and mounts for the files to which some of them point."""
    files = {name: value for name, value in secrets.items() if name in FILES and Path(value).is_file()}
    inside = {name: f"{container_paths.CREDENTIALS}/{name}" for name in files}
    mounts = [
        {"Type": "bind", "Source": str(Path(value).resolve()), "Target": inside[name], "ReadOnly": True} for name, value in files.items()
    ]
    forwarded = ",".join(sorted(FORWARDABLE & secrets.keys()))
    return {**secrets, **inside, **({FORWARDED: forwarded} if forwarded else {})}, mounts


def _refuse_loopback(secrets: Mapping[str, str], containers: Sequence[Mapping[str, Any]]) -> None:
    endpoint = loopback_endpoint(secrets)
    if endpoint is not None and any(each["body"]["HostConfig"]["NetworkMode"] != "host" for each in containers):
        raise ProviderError(
            f"the store's endpoint {endpoint} is on this machine's loopback, which a container cannot reach through its own network",
            hint="set docker.network: host in the config file, or use an address that containers can reach",
        )


def _refuse_unencrypted(address: str, secrets: Mapping[str, str]) -> None:
    if secrets and not is_private(address):
        names = ", ".join(sorted(secrets))
        raise ProviderError(
            f"the connection to the Docker Engine at {address} is not encrypted, so the run's secrets were not sent: {names}",
            hint="use TLS (DOCKER_TLS_VERIFY=1, with certificates in DOCKER_CERT_PATH), or ssh://user@host",
        )


def _labelled(engine: Engine, labels: Mapping[str, str]) -> dict[str, Any] | None:
    """The reference of the attempt with these labels, or None."""
    containers = sorted(engine.containers(labels), key=lambda each: int(each["Labels"][NODE]))
    networks = [each["Name"] for each in engine.networks(labels)]
    if not containers and not networks:
        return None
    made = [{"name": each["Names"][0].removeprefix("/"), "id": each["Id"]} for each in containers]
    return {"engine": engine.address, "containers": made, "network": networks[0] if networks else None}


def _take_away(engine: Engine, reference: Mapping[str, Any], within_seconds: float) -> bool:
    """Remove an attempt that has ended, or does in time; False if node 0 is still running. Nodes that outlive node 0 are killed."""
    deadline = monotonic() + within_seconds
    for rank, each in enumerate(reference["containers"]):
        if not engine.has_stopped(each["id"], max(deadline - monotonic(), 0.1)) and rank == 0:
            return False
    _remove_all(engine, reference)
    return True


def _remove_all(engine: Engine, reference: Mapping[str, Any]) -> None:
    _side_by_side(engine, Engine.remove, reference["containers"])
    if reference["network"] is not None:
        engine.remove_network(reference["network"])


def _side_by_side(engine: Engine, act: Callable[[Engine, str], None], containers: Sequence[Mapping[str, Any]]) -> None:
    """Call ``act`` for all containers in parallel, each over its own connection. Raises the first error once all are done."""
    if len(containers) < 2:
        for each in containers:
            act(engine, each["id"])
        return
    from concurrent.futures import ThreadPoolExecutor  # a single node needs no threads

    def do(each: Mapping[str, Any]) -> None:
        with connected(engine.address) as own:
            act(own, each["id"])

    with ThreadPoolExecutor(len(containers)) as threads:
        for done in [threads.submit(do, each) for each in containers]:
            done.result()


def _quietly(remove: Any, what: str) -> None:
    """Undo part of a failed launch; only the launch's own error is reported."""
    with suppress(CloudTrainError, OSError):
        remove(what)


def _remove_workspace(folder: str, error: type[BaseException] | None, *_: object) -> None:
    """Undo the creation of a workspace, unless another launch of the attempt has a container, which uses it."""
    if error is None or not issubclass(error, NameTakenError):
        _quietly(os.rmdir, folder)


def _last_line(output: bytes) -> str:
    lines: Iterator[str] = (line.strip() for line in reversed(output.decode(errors="replace").split("\n")))
    return next((line for line in lines if line), "")

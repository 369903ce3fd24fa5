"""The places of the built-in providers. The toy's lies in its own distribution, as a third party's does."""

from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import TYPE_CHECKING, Any

import psutil

from cloud_train.providers.base import Request
from tests.docker_engine import base_image, engine_or_skip

if TYPE_CHECKING:
    from docker import DockerClient
    from docker.models.containers import Container
    from docker.models.networks import Network


class LocalPlace:
    """This machine."""

    name = "local"
    trains = True
    job: Mapping[str, Any] = {}
    settings: Mapping[str, Any] = {}

    def require(self) -> None:
        """Nothing beside Python."""

    def store(self, folder: Path) -> str:
        """A folder of the test's own."""
        return str(folder / "runs")

    def spoil(self, request: Request) -> Request:
        """A Python that is not there."""
        return {**request, "command": ["/no/such/python", *request["command"][1:]]}

    def kill(self, home: Path, run_id: str) -> None:
        """SIGKILL for the worker; its guard ends the program."""
        for process in _processes(run_id):
            with suppress(psutil.Error):
                if "cloud_train.worker" in process.cmdline():
                    process.kill()

    def leftovers(self, home: Path, run_id: str) -> list[str]:
        """Processes; the lock file stays, and says that the attempt was launched."""
        return [" ".join(process.info["cmdline"] or ()) for process in _processes(run_id)]

    def clear(self, home: Path, run_id: str) -> None:
        """End its processes."""
        for process in _processes(run_id):
            with suppress(psutil.Error):
                process.kill()


class DockerPlace:
    """The Docker Engine of this machine, with an image that has Python and no torch."""

    name = "docker"
    trains = False
    job: Mapping[str, Any] = {"image": {"base": base_image()}}
    settings: Mapping[str, Any] = {}

    def require(self) -> None:
        """The engine and the base image."""
        engine_or_skip().close()

    def store(self, folder: Path) -> str:
        """A folder of the test's own."""
        return str(folder / "runs")

    def spoil(self, request: Request) -> Request:
        """No image."""
        first, *others = request["containers"]
        return {**request, "containers": [{**first, "body": {**first["body"], "Image": ""}}, *others]}

    def kill(self, home: Path, run_id: str) -> None:
        """SIGKILL for its containers, from outside."""
        from docker.errors import APIError

        with _remains(run_id) as (containers, _):
            for container in containers:
                with suppress(APIError):  # it has ended meanwhile
                    container.kill()

    def leftovers(self, home: Path, run_id: str) -> list[str]:
        """Containers and networks."""
        with _remains(run_id) as (containers, networks):
            return [f"{container.status} container {container.name}" for container in containers] + [
                f"network {network.name}" for network in networks
            ]

    def clear(self, home: Path, run_id: str) -> None:
        """Remove its containers and networks."""
        from docker.errors import NotFound

        with _remains(run_id) as (containers, networks):
            for container in containers:
                with suppress(NotFound):
                    container.remove(force=True)
            for network in networks:
                with suppress(NotFound):
                    network.remove()


def _processes(run_id: str) -> list[psutil.Process]:
    """A worker has the run's id in its command line, a program in its environment."""
    found = []
    for process in psutil.process_iter(["cmdline"]):
        with suppress(psutil.Error):
            if run_id in (process.info["cmdline"] or ()) or process.environ().get("CLOUD_TRAIN_RUN_ID") == run_id:
                found.append(process)
    return found


@contextmanager
def _remains(run_id: str) -> Iterator[tuple[list["Container"], list["Network"]]]:
    client: DockerClient = engine_or_skip()
    try:
        labelled = {"label": f"cloud-train.run={run_id}"}
        yield client.containers.list(all=True, filters=labelled, ignore_removed=True), client.networks.list(filters=labelled)
    finally:
        client.close()


LOCAL = LocalPlace()
DOCKER = DockerPlace()

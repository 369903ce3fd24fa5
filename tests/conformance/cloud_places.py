"""The places of the three clouds: each cloud's simulator, a store and a registry, started once for the session, and real containers."""

from collections.abc import Callable, Iterator, Mapping
from contextlib import AbstractContextManager, ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

from cloud_train.providers.base import Request
from cloud_train.providers.cloud.request import WORKSPACE
from tests.clouds import kit
from tests.clouds.aws_job import Timing
from tests.clouds.aws_platform import LOGIN
from tests.clouds.aws_simulator import aws_cloud
from tests.clouds.azure_cloud import azure_cloud
from tests.clouds.gcp_simulator import gcp_cloud
from tests.clouds.machine import LABEL, Machines
from tests.docker_engine import engine_or_skip
from tests.support import wait_until

if TYPE_CHECKING:
    from docker.models.containers import Container


@dataclass(frozen=True)
class Cloud:
    """What a simulated cloud is to a test of any cloud."""

    settings: Mapping[str, Any]
    """The cloud's part of the config file."""
    environment: Mapping[str, str]
    """What whoever submits has in the environment."""
    new_store: Callable[[], str]
    """Makes a store that nobody has used."""
    kill: Callable[[str], None]
    """A power cut for the machines of a run."""
    leftovers: Callable[[str], list[str]]
    """What costs money of a run, in words."""
    clear: Callable[[str], None]
    """Ends all of that."""


@contextmanager
def _aws(shared: Path, folder: Path) -> Iterator[Cloud]:
    with (
        kit.registry(shared, folder / "registry", LOGIN) as registry,
        Machines("sagemaker") as machines,
        aws_cloud(machines, registry.repository, timing=Timing(retrying=0.1, logs=0.0)) as cloud,
    ):

        def kill(run_id: str) -> None:
            for name in cloud.simulator.jobs(run_id):
                cloud.simulator.lose(name)

        yield Cloud(cloud.settings, cloud.environment, cloud.new_store, kill, cloud.leftovers, cloud.clear)


@contextmanager
def _gcp(shared: Path, folder: Path) -> Iterator[Cloud]:
    with gcp_cloud(shared, folder) as cloud:
        google = cloud.google

        def kill(run_id: str) -> None:
            for container in google.containers(run_id):
                container.kill()

        def clear(run_id: str) -> None:
            google.cancel(run_id)
            kill(run_id)

        yield Cloud(cloud.settings, cloud.environment, cloud.new_store, kill, google.leftovers, clear)


@contextmanager
def _azure(shared: Path, folder: Path) -> Iterator[Cloud]:
    with azure_cloud(shared, folder) as cloud:
        azure = cloud.simulator
        yield Cloud(cloud.settings, cloud.environment, cloud.new_store, azure.kill, azure.leftovers, azure.clear)


class CloudPlace:
    """One cloud. ``start`` it before its first use."""

    trains = False  # the machines' image has the SDKs of the stores, and no torch

    def __init__(self, name: str, start: Callable[[Path, Path], AbstractContextManager[Cloud]]) -> None:
        self.name = name
        self.job: Mapping[str, Any] = {"image": {"base": kit.SMALL_BASE}}
        self._start = start
        self._cloud: Cloud | None = None

    def start(self, running: ExitStack, factory: pytest.TempPathFactory) -> None:
        """Start all of it, unless it runs; it ends with ``running``."""
        if self._cloud is None:
            shared = kit.shared_folder(factory)
            kit.base_in_registry(shared, kit.small_base(shared))
            self._cloud = running.enter_context(self._start(shared, factory.mktemp(self.name)))
            running.callback(setattr, self, "_cloud", None)

    def require(self) -> None:
        """The engine, with the base image of the tests."""
        engine_or_skip().close()

    @property
    def cloud(self) -> Cloud:
        """What runs."""
        assert self._cloud is not None, "not started"
        return self._cloud

    @property
    def settings(self) -> Mapping[str, Any]:
        """Those of the simulator."""
        return self.cloud.settings

    @property
    def environment(self) -> Mapping[str, str]:
        """Credentials and endpoints."""
        return self.cloud.environment

    def store(self, folder: Path) -> str:
        """One of the test's own."""
        return self.cloud.new_store()

    def spoil(self, request: Request) -> Request:
        """Without what the job is made of, and with a field that no cloud knows."""
        if "body" in request:
            return {**request, "body": {**request["body"], "unheardOf": 1}}
        return {**request, "job": {**request["job"], "body": {}}}

    def kill(self, home: Path, run_id: str) -> None:
        """A power cut."""
        self.cloud.kill(run_id)

    def leftovers(self, home: Path, run_id: str) -> list[str]:
        """Jobs, containers and secrets."""
        return self.cloud.leftovers(run_id)

    def clear(self, home: Path, run_id: str) -> None:
        """End them."""
        self.cloud.clear(run_id)

    def touch(self, run_id: str, path: str) -> None:
        """Through the engine, into the container."""
        touch = ["sh", "-c", f"for run in {WORKSPACE}/{run_id}.*/{run_id}; do touch $run/{path} || exit 1; done"]
        wait_until(lambda: any(container.exec_run(touch)[0] == 0 for container in _containers(run_id)), f"there is {path}", pace=0.1)


def _containers(run_id: str) -> list["Container"]:
    client = engine_or_skip()
    try:
        every = client.containers.list(filters={"label": LABEL}, ignore_removed=True)
        return [container for container in every if any(run_id in word for word in container.attrs["Config"]["Cmd"] or ())]
    finally:
        client.close()


AWS = CloudPlace("aws", _aws)
GCP = CloudPlace("gcp", _gcp)
AZURE = CloudPlace("azure", _azure)

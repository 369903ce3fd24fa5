"""Limits that a cloud itself holds: the longest time of a job, and the memory of its machine. Real containers.

What is each cloud's own is said by tests without containers; here each behaviour is tried on one cloud, in turns, and on all of them with
CLOUD_TRAIN_EVERY_CLOUD=1.
"""

import json
import os
import zlib
from collections.abc import Callable, Iterator, Mapping
from contextlib import AbstractContextManager, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from cloud_train.orchestrator.home import Home
from cloud_train.orchestrator.reconcile import update_runs
from cloud_train.orchestrator.stopping import cancel
from cloud_train.run.states import Cause
from tests.clouds import kit
from tests.clouds.aws_platform import LOGIN
from tests.clouds.aws_simulator import aws_cloud
from tests.clouds.azure_cloud import azure_cloud
from tests.clouds.clock import MovedClock
from tests.clouds.gcp_simulator import gcp_cloud
from tests.clouds.machine import Machines
from tests.conformance.bench import READY, Bench, saving
from tests.conformance.places import DOCKER


@dataclass(frozen=True)
class Cloud:
    """What a submission needs of a cloud."""

    name: str
    settings: Mapping[str, Any]
    environment: Mapping[str, str]
    store: str


@contextmanager
def aws(shared: Path, folder: Path, clock: MovedClock) -> Iterator[Cloud]:
    with (
        kit.registry(shared, folder / "registry", LOGIN) as registry,
        Machines("sagemaker") as machines,
        aws_cloud(machines, registry.repository, clock) as cloud,
    ):
        yield Cloud("aws", cloud.settings, cloud.environment, cloud.new_store())


@contextmanager
def gcp(shared: Path, folder: Path, clock: MovedClock) -> Iterator[Cloud]:
    with gcp_cloud(shared, folder, clock=clock) as cloud:
        yield Cloud("gcp", cloud.settings, cloud.environment, cloud.new_store())


@contextmanager
def azure(shared: Path, folder: Path, clock: MovedClock) -> Iterator[Cloud]:
    with azure_cloud(shared, folder, clock=clock) as cloud:
        yield Cloud("azure", cloud.settings, cloud.environment, cloud.new_store())


CLOUDS: dict[str, Callable[[Path, Path, MovedClock], AbstractContextManager[Cloud]]] = {"aws": aws, "gcp": gcp, "azure": azure}


def pytest_generate_tests(metafunc: pytest.Metafunc) -> None:
    if "cloud" in metafunc.fixturenames:
        turn = zlib.crc32(metafunc.function.__name__.encode()) % len(CLOUDS)
        every = os.environ.get("CLOUD_TRAIN_EVERY_CLOUD") == "1"
        metafunc.parametrize("cloud", CLOUDS if every else list(CLOUDS)[turn : turn + 1], indirect=True)


@pytest.fixture
def clock() -> MovedClock:
    return MovedClock()


@pytest.fixture
def cloud(clock: MovedClock, shared_clouds: Path, tmp_path: Path, request: pytest.FixtureRequest) -> Iterator[Cloud]:
    with CLOUDS[request.param](shared_clouds, tmp_path / "cloud", clock) as running:
        yield running


@pytest.fixture
def bench(cloud: Cloud, small_base: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Bench]:
    for variable, value in {**cloud.environment, "CLOUD_TRAIN_HOME": str(tmp_path / "home"), "HOME": str(tmp_path)}.items():
        monkeypatch.setenv(variable, value)
    (tmp_path / "code").mkdir()
    config = tmp_path / "config.yaml"
    config.write_text(json.dumps({"provider": cloud.name, cloud.name: {**cloud.settings, "max_runtime": "1h"}}))
    place = type("CloudPlace", (type(DOCKER),), {"name": cloud.name, "job": {"image": {"base": small_base}}})()
    made = Bench(place, Home(tmp_path / "home"), tmp_path, cloud.store, config)
    yield made
    for run in update_runs(made.home):
        if not run.state.is_end:
            cancel(made.home, run.run_id)


def test_a_job_that_its_cloud_ends_at_the_longest_time_says_so_and_keeps_its_last_checkpoint(bench: Bench, clock: MovedClock) -> None:
    run = bench.start_until_ready(f"trap '{saving(7)}; exit 0' TERM; {READY}; while :; do sleep 0.05; done")
    clock.advance(3601)
    end = bench.end_of(run)
    assert (end.cause, end.cause and end.cause.exit_code) == (Cause.TIMED_OUT, 14), end
    assert "limits.duration" in end.message or "time" in end.message
    assert bench.is_sealed(run, 7)


def test_a_program_that_needs_more_memory_than_its_machine_has_is_out_of_memory(bench: Bench, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(Machines, "memory_bytes", 256_000_000)
    end = bench.run("head -c 600000000 /dev/zero | tail -c 600000000 > /dev/null; exit 137")
    assert (end.cause, end.cause and end.cause.exit_code) == (Cause.OUT_OF_MEMORY, 11), end

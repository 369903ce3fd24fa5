"""Several nodes that train together, each with a worker of its own, as processes of one machine: they learn what as many processes of one
node learn, resume exactly, and tell whose fault it was.
"""

import hashlib
import json
import os
import signal
import socket
import subprocess
import sys
from collections.abc import Iterator, Mapping
from dataclasses import asdict
from pathlib import Path
from typing import Any

import pytest

from cloud_train.run import layout
from cloud_train.run.checkpoints import newest_valid_of_run
from cloud_train.run.record import AttemptStatus, Program, RunRecord
from cloud_train.run.states import Cause
from cloud_train.training.launch import interface_towards
from cloud_train.worker.context import Timing
from tests.training.program import ROOT
from tests.training.test_training_processes import patched

pytestmark = pytest.mark.slow

RUN_ID = "nodes-261123-120000-abcd"
QUICK = Timing(heartbeat=0.1, look=0.1, join_look=0.02, leftover=0.3, silence=10, lost=2, retry=(0.05,))
JOB: dict[str, Any] = {
    "name": "nodes",
    "model": {"kind": "cnn", "blocks": [{"filters": 4, "norm": "batch", "dropout": 0.2}]},
    "data": {"dataset": "digits", "size": 8},
    "train": {"steps": 8, "batch_size": 90, "tensorboard": False},
    "checkpoint": {"every": "3 steps"},
}

WORKER = """
import json, sys
from cloud_train.worker.processes.subprocesses import Signals
signals = Signals()
from cloud_train.run.record import sha256_of
from cloud_train.storage.registry import open_store
from cloud_train.worker.nodes import from_variables
from cloud_train.worker.supervisor import run_attempts
from cloud_train.worker.context import Timing
store, run_id, attempt, timing = sys.argv[1:]
store = open_store(store)
record = sha256_of(store.get(f"{run_id}/run.json"))
sys.exit(run_attempts(store, run_id, int(attempt), record, node=from_variables(), signals=signals, timing=Timing(**json.loads(timing))))
"""

# Run first in every process. At the end of its fifth step one process does what is written here.
AT_STEP_5 = """
import os, signal
from cloud_train.errors import CorruptError
from cloud_train.training.ordering import Position
after = Position.after
def goes_on(self, samples, of):
    if os.environ.get("RANK") == "{rank}" and self.step == 4:
        {what}
    return after(self, samples, of)
Position.after = goes_on
"""
GRANDPARENT = "int(open('/proc/%d/stat' % os.getppid()).read().rpartition(')')[2].split()[1])"  # a process's launcher's worker


class Cluster:
    """A run directory, and the workers of its attempts."""

    def __init__(self, folder: Path, job: Mapping[str, Any] = JOB, *, nodes: int, processes: int = 1, **program: Any) -> None:
        self.folder, self.nodes = folder, nodes
        self.directory = folder / "store" / RUN_ID
        self.directory.mkdir(parents=True)
        resources = {"cpus": processes, "processes": processes, "nodes": nodes}
        start = Program((sys.executable, "-m", "cloud_train.training"), str(folder), grace_seconds=20, **program)
        record = RunRecord(RUN_ID, 0.0, {**job, "resources": resources}, start, {}, {})
        (self.directory / layout.RUN).write_bytes(record.to_json())
        self.workers: dict[int, subprocess.Popen[bytes]] = {}

    def start(self, attempt: int = 1, environment: Mapping[str, str] | None = None) -> None:
        port = _free_port()
        for rank in range(self.nodes):
            place = {"CLOUD_TRAIN_NODE_RANK": str(rank), "CLOUD_TRAIN_NODES": str(self.nodes), "CLOUD_TRAIN_MASTER_PORT": str(port)}
            own = {"CLOUD_TRAIN_HOME": str(self.folder / "home"), "PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1"}
            self.workers[rank] = subprocess.Popen(
                [sys.executable, "-c", WORKER, str(self.folder / "store"), RUN_ID, str(attempt), json.dumps(asdict(QUICK))],
                env={**os.environ, **own, **place, **(environment or {})},
                stdin=subprocess.DEVNULL,
                start_new_session=True,
            )

    def exit_codes(self) -> list[int]:
        return [self.workers[rank].wait(200) for rank in range(self.nodes)]

    def run(self, attempt: int = 1, environment: Mapping[str, str] | None = None) -> list[int]:
        self.start(attempt, environment)
        return self.exit_codes()

    def status(self, attempt: int = 1) -> AttemptStatus:
        path = self.directory / layout.status(attempt)
        return AttemptStatus.from_json(path.read_bytes(), str(path))

    def output(self, rank: int = 0, attempt: int = 1) -> str:
        path = self.directory / layout.output_log(attempt, rank)
        return path.read_text() if path.exists() else ""

    def model_sha256(self) -> str:
        return hashlib.sha256((self.directory / layout.MODEL / "model.safetensors").read_bytes()).hexdigest()

    def newest_step(self) -> int:
        newest = newest_valid_of_run(self.directory, print)
        assert newest is not None
        return layout.step_of(newest.name) or 0

    def end(self) -> None:
        for worker in self.workers.values():
            if worker.poll() is None:
                worker.kill()  # its guard ends what it started
            worker.wait()


@pytest.fixture
def clusters() -> Iterator[list[Cluster]]:
    made: list[Cluster] = []
    yield made
    for cluster in made:
        cluster.end()


@pytest.fixture(scope="module")
def two_nodes(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """The SHA-256 of the model that two nodes train which nobody disturbs."""
    cluster = Cluster(tmp_path_factory.mktemp("undisturbed"), nodes=2)
    try:
        assert cluster.run() == [0, 0]
        yield cluster.model_sha256()
    finally:
        cluster.end()


def _free_port() -> int:
    with socket.socket() as asking:
        asking.bind(("127.0.0.1", 0))
        return int(asking.getsockname()[1])


def _cluster(clusters: list[Cluster], folder: Path, **how: Any) -> Cluster:
    clusters.append(Cluster(folder, **how))
    return clusters[-1]


def test_three_nodes_learn_to_the_bit_what_three_processes_of_one_node_learn(tmp_path: Path, clusters: list[Cluster]) -> None:
    one = _cluster(clusters, tmp_path / "one", nodes=1, processes=3)
    assert one.run() == [0]
    three = _cluster(clusters, tmp_path / "three", nodes=3)
    assert three.run() == [0, 0, 0], three.status()
    assert " in 3 processes, each on cpu with 1 thread" in three.output(0)
    assert three.output(1) == three.output(2) == ""
    assert three.model_sha256() == one.model_sha256()


def test_a_node_that_is_killed_ends_the_others_and_the_resumption_ends_with_the_same_bits(
    tmp_path: Path, clusters: list[Cluster], two_nodes: str
) -> None:
    killed = _cluster(clusters, tmp_path / "killed", nodes=2)
    codes = killed.run(environment=patched(AT_STEP_5.format(rank=1, what=f"os.kill({GRANDPARENT}, signal.SIGKILL)"), tmp_path))
    assert codes == [Cause.INFRASTRUCTURE.exit_code, -signal.SIGKILL]
    assert killed.status().cause is Cause.INFRASTRUCTURE
    assert killed.status().message == "lost contact with node 1"
    assert killed.run(attempt=2) == [0, 0]
    assert "bit-identical to a run that never stopped" in killed.output(0, attempt=2)
    assert killed.model_sha256() == two_nodes


def test_a_process_that_is_killed_on_any_node_says_why_the_attempt_failed(tmp_path: Path, clusters: list[Cluster]) -> None:
    cluster = _cluster(clusters, tmp_path / "run", nodes=2)
    codes = cluster.run(environment=patched(AT_STEP_5.format(rank=1, what="os.kill(os.getpid(), signal.SIGKILL)"), tmp_path))
    assert cluster.status().message == "node 1: rank 1: killed by SIGKILL"
    assert codes == [Cause.FAILED.exit_code] * 2


@pytest.mark.parametrize("told", [0, 1])
def test_told_to_stop_on_one_node_all_nodes_save_once_after_the_same_step(tmp_path: Path, clusters: list[Cluster], told: int) -> None:
    cluster = _cluster(clusters, tmp_path / "run", nodes=2)
    codes = cluster.run(environment=patched(AT_STEP_5.format(rank=told, what=f"os.kill({GRANDPARENT}, signal.SIGTERM)"), tmp_path))
    assert codes == [Cause.PREEMPTED.exit_code] * 2, cluster.status()
    assert cluster.status().message == ("told to stop" if told == 0 else "node 1: told to stop")
    assert cluster.output(0).count("stop requested: saved at step") <= 1
    assert cluster.newest_step() >= 5
    assert [path.name for path in cluster.directory.glob("checkpoints*/*") if path.name.startswith(".")] == []


def test_all_nodes_follow_into_another_attempt_which_resumes_exactly(tmp_path: Path, clusters: list[Cluster], two_nodes: str) -> None:
    retried = _cluster(clusters, tmp_path / "retried", nodes=2, attempts=2, retry_on=(Cause.FAILED,))
    what = 'if os.environ["CLOUD_TRAIN_ATTEMPT"] == "1": raise CorruptError("torn")'
    assert retried.run(environment=patched(AT_STEP_5.format(rank=1, what=what), tmp_path)) == [0, 0]
    assert retried.status(1).message == "node 1: torn"
    assert retried.status(2).resumed_step == 3
    assert retried.model_sha256() == two_nodes


def test_a_port_that_is_taken_is_named(tmp_path: Path, clusters: list[Cluster]) -> None:
    cluster = _cluster(clusters, tmp_path / "run", nodes=2)
    with socket.socket() as taken:
        taken.bind(("0.0.0.0", 0))  # as torch does; a socket of the loopback interface alone would not be in its way
        taken.listen()
        port = taken.getsockname()[1]
        codes = cluster.run(environment={"CLOUD_TRAIN_MASTER_PORT": str(port)})
    assert codes == [Cause.INFRASTRUCTURE.exit_code] * 2
    assert cluster.status().message.startswith(f"cannot meet the other nodes at 127.0.0.1:{port}")


def test_the_interface_towards_this_machine_is_the_loopback_one() -> None:
    assert interface_towards("127.0.0.1", 29500) in ("lo", "lo0")
    assert interface_towards("no-such-host.invalid", 29500) is None

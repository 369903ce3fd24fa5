"""Training on shards in a store: it starts before all have arrived, and resuming is exact whichever had."""

import hashlib
import itertools
import json
import os
import signal
import threading
from collections.abc import Callable, Iterator
from contextlib import suppress
from pathlib import Path
from typing import Any

import psutil
import pytest

from cloud_train.data.shards import INDEX, read_index
from cloud_train.orchestrator.home import Home
from cloud_train.orchestrator.packing import pack
from cloud_train.orchestrator.planning import make_plan
from cloud_train.orchestrator.reconcile import update_run
from cloud_train.orchestrator.resuming import resume
from cloud_train.orchestrator.submitting import submit
from cloud_train.run.states import Cause, State
from cloud_train.run.view import RunView
from cloud_train.storage.registry import open_store
from tests.answers import Request
from tests.faults import FaultProxy
from tests.orchestrator.conftest import run_folder
from tests.stores import StoreServer, server_or_skip, use
from tests.support import wait_until

pytest.importorskip("torch")

from tests.training.images.pictures import write_folder

JOB: dict[str, Any] = {
    "name": "shards",
    "model": {"kind": "cnn", "blocks": [{"filters": 4, "norm": "batch", "dropout": 0.2}]},
    "data": {"dataset": "images", "size": 16, "workers": 1, "validation": 0.2},
    "train": {"epochs": 2, "batch_size": 4, "optimizer": {"name": "sgd", "lr": 0.05}},
    "checkpoint": {"every": "1 step", "keep": 2},
    "resources": {"cpus": 1},
    "limits": {"grace": "60 s"},
}
TOGETHER: dict[str, Any] = {"resources": {"cpus": 1, "processes": 2}, "train": {**JOB["train"], "epochs": 1}}
"""Two processes that share every batch, and therefore wait for the same shard."""
SHARD_BYTES = 12_000


class Gate:
    """A plan for the fault proxy that passes a limited number of shards until it is opened."""

    def __init__(self, most: int) -> None:
        self._most, self._seen = most, set[str]()
        self._opened, self._lock = threading.Event(), threading.Lock()

    def __call__(self, request: Request) -> None:
        if request.method == "GET" and request.path.endswith(".tar"):
            with self._lock:
                passes = request.path in self._seen or len(self._seen) < self._most
                if passes:
                    self._seen.add(request.path)
            if not passes:
                self._opened.wait(120)

    def open(self) -> None:
        self._opened.set()


class Bench:
    """A sharded set in a store behind a proxy, and a home to train it from."""

    def __init__(self, server: StoreServer, home: Home, folder: Path) -> None:
        self.server, self.home, self.folder = server, home, folder
        self.packed = folder / "packed"
        pack(write_folder(folder / "images", {"cat": 22, "dog": 20}), str(self.packed), SHARD_BYTES)
        self.shards = len(read_index(self.packed / INDEX).shards)
        self.url = f"{server.new_url()}/photos"
        pack(folder / "images", self.url, SHARD_BYTES)

    def start(self, path: str, **changes: Any) -> RunView:
        job = self.folder / "job.yaml"
        job.write_text(json.dumps({**JOB, "store": str(self.folder / "runs"), "data": {**JOB["data"], "path": path}, **changes}))
        return submit(self.home, make_plan(self.home, job))

    def finished(self, run: RunView) -> RunView:
        wait_until(lambda: update_run(self.home, run.run_id).state.is_end, f"{run.run_id} ends", 60)
        return update_run(self.home, run.run_id)

    def arrived(self) -> list[str]:
        return sorted(path.name for path in self.home.folder.glob("data/stores/*/*/*.tar"))

    def worker(self, run: RunView) -> psutil.Process:
        status = json.loads((run_folder(run) / f"attempts/{update_run(self.home, run.run_id).attempt}/status.json").read_text())
        return psutil.Process(status["pid"])

    def processes(self) -> list[psutil.Process]:
        found = []
        for process in psutil.process_iter():
            with suppress(psutil.Error):
                if process.environ().get("CLOUD_TRAIN_HOME") == str(self.home.folder) and process.pid != os.getpid():
                    found.append(process)
        return found


@pytest.fixture
def bench(home: Home, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Bench:
    server = server_or_skip("s3")
    use(server, monkeypatch)
    return Bench(server, home, tmp_path)


@pytest.fixture
def behind(bench: Bench, monkeypatch: pytest.MonkeyPatch) -> Iterator[Callable[[int], Gate]]:
    """Puts a gate between the store and all runs started later."""
    with FaultProxy(bench.server) as proxy:
        gates: list[Gate] = []

        def put(most: int) -> Gate:
            gates.append(Gate(most))
            proxy.plan = gates[-1]
            use(bench.server, monkeypatch, proxy.endpoint)
            return gates[-1]

        yield put
        for process in bench.processes():
            with suppress(psutil.Error):
                process.kill()
        for gate in gates:
            gate.open()


def weights(run: RunView) -> str:
    return hashlib.sha256((run_folder(run) / "model/model.safetensors").read_bytes()).hexdigest()


def has_step(run: RunView, step: int) -> bool:
    return any((path.parent.name >= f"step-{step:08}") for path in run_folder(run).glob("checkpoints*/step-*/manifest.json"))


def resume_at_once(home: Home, run_id: str) -> RunView:
    """As ``resume``, with a clock on which waiting for a heartbeat takes no time."""
    seconds = itertools.count(0, 20)
    return resume(home, run_id, sleep=lambda _: None, clock=lambda: float(next(seconds)))


def test_training_starts_with_the_first_shard_and_a_killed_run_ends_with_the_same_bytes(
    bench: Bench, behind: Callable[[int], Gate]
) -> None:
    gate = behind(1)
    run = bench.start(bench.url)
    wait_until(lambda: has_step(run, 1), "the first step is saved", 60)
    assert len(bench.arrived()) == 1 < bench.shards
    assert update_run(bench.home, run.run_id).state is State.RUNNING
    gone = bench.processes()
    for process in gone:
        process.suspend()
    for process in gone:
        process.kill()
    psutil.wait_procs(gone, 10)
    gate.open()

    gate = behind(2)
    resume_at_once(bench.home, run.run_id)
    wait_until(lambda: len(bench.arrived()) == 3, "more shards come, others than at first", 60)
    gate.open()
    ended = bench.finished(run)
    assert (ended.state, ended.attempt) == (State.SUCCEEDED, 2), ended.message
    assert ended.resumed_step
    assert len(bench.arrived()) == bench.shards

    untouched = bench.finished(bench.start(str(bench.packed)))
    assert untouched.state is State.SUCCEEDED, untouched.message
    assert weights(run) == weights(untouched)
    wait_until(lambda: not bench.processes(), "nothing of the attempts is left")


def test_a_run_stopped_while_waiting_for_a_shard_saves_its_state_and_resumes_exactly(bench: Bench, behind: Callable[[int], Gate]) -> None:
    behind(1)
    run = bench.start(bench.url, **TOGETHER)
    wait_until(lambda: has_step(run, 1), "the first step is saved", 60)
    wait_until(lambda: bool(list(bench.home.folder.glob("data/stores/*/*/.cloud-train-needed-*"))), "it waits for a shard", 60)
    bench.worker(run).send_signal(signal.SIGTERM)
    stopped = bench.finished(run)
    assert stopped.state is State.INTERRUPTED, stopped.message
    assert len(bench.arrived()) == 1
    wait_until(lambda: not bench.processes(), "nothing of the attempt is left")

    behind(100)
    resume_at_once(bench.home, run.run_id)
    ended = bench.finished(run)
    assert ended.state is State.SUCCEEDED, ended.message
    assert weights(run) == weights(bench.finished(bench.start(str(bench.packed), **TOGETHER)))


def test_a_shard_that_differs_from_the_index_ends_the_run_and_is_named(bench: Bench) -> None:
    name = read_index(bench.packed / INDEX).shards[-1].name
    open_store(bench.url).put(name, b"x" * (bench.packed / name).stat().st_size)
    ended = bench.finished(bench.start(bench.url))
    assert (ended.state, ended.cause) == (State.INTERRUPTED, Cause.INFRASTRUCTURE)
    assert name in ended.message
    assert "checksum mismatch" in ended.message
    assert name not in bench.arrived()

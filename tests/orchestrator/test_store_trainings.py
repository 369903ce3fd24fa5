"""Runs with their directory in a cloud's store: killed on one machine, resumed on another that shares nothing else with it."""

import hashlib
import itertools
import json
import os
from collections.abc import Callable, Iterator
from contextlib import suppress
from pathlib import Path
from typing import Any

import psutil
import pytest

from cloud_train.orchestrator.adopting import adopt, runs_in
from cloud_train.orchestrator.home import Home
from cloud_train.orchestrator.planning import make_plan
from cloud_train.orchestrator.reading import read_logs, read_metrics
from cloud_train.orchestrator.reconcile import update_run
from cloud_train.orchestrator.results import fetch_model
from cloud_train.orchestrator.resuming import Elsewhere, resume
from cloud_train.orchestrator.submitting import submit
from cloud_train.orchestrator.syncing import sync
from cloud_train.run.states import State
from cloud_train.run.view import RunView
from cloud_train.storage.registry import open_store
from tests.docker_engine import trainers_or_skip
from tests.stores import SCHEMES, server_or_skip, use
from tests.support import accepting, wait_until
from tests.training.test_training_processes import patched

pytest.importorskip("torch")

JOB: dict[str, Any] = {
    "name": "far",
    "model": {"kind": "cnn", "blocks": [{"filters": 4, "norm": "batch", "dropout": 0.2}], "dropout": 0.3},
    "data": {"dataset": "digits", "size": 8, "augment": {"crop": 1}},
    "train": {
        "steps": 400,
        "batch_size": 90,
        "evaluate": "200 steps",
    },  # some seconds, to kill a container while it trains
    "checkpoint": {"every": "5 steps", "keep": 2},
    "resources": {"cpus": 1},
}
SHORT = {"steps": 20, "batch_size": 90, "evaluate": "10 steps"}

# Runs first in every process. The training pauses after its twelfth step, so that it is killed long before its end.
STAYS = """
import signal
from cloud_train.training.ordering import Position
after = Position.after
def stays(self, samples, of):
    if self.step == 12:
        signal.pause()
    return after(self, samples, of)
Position.after = stays
"""
CONFIG = "docker: {network: host}\n"  # so that a container can reach the server on loopback

Start = Callable[..., RunView]


@pytest.fixture(params=SCHEMES)
def store(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> str:
    server = server_or_skip(request.param)
    use(server, monkeypatch)
    return f"{server.new_url()}/runs"


@pytest.fixture(scope="module")
def untouched(tmp_path_factory: pytest.TempPathFactory) -> str:
    """The SHA-256 of the weights of an undisturbed run in a folder; trained once for all stores."""
    home, run = train_here(tmp_path_factory.mktemp("untouched"))
    return weights(home, run.run_id, home.folder / "fetched")


@pytest.fixture(scope="module")
def near(tmp_path_factory: pytest.TempPathFactory) -> RunView:
    """A short run in a folder; trained once for all stores."""
    return train_here(tmp_path_factory.mktemp("near"), train=SHORT)[1]


def train_here(folder: Path, **sections: Any) -> tuple[Home, RunView]:
    """Train the job to its end on this machine, with the run directory in a folder."""
    home, path = Home(folder / "home"), folder / "job.yaml"
    path.write_text(json.dumps({**JOB, "provider": "local", "store": "runs", **sections}))
    with pytest.MonkeyPatch.context() as environment:
        environment.setenv("CLOUD_TRAIN_HOME", str(home.folder))
        try:
            run = finished(home, submit(home, make_plan(home, path)).run_id)
        finally:
            kill_everything(home.folder)
    assert run.state is State.SUCCEEDED, run.message
    return home, run


@pytest.fixture
def homes(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Callable[[str], Home]]:
    """Switches to a machine with this name and its own home, on which commands run from then on."""
    made: list[Path] = []

    def move_to(name: str) -> Home:
        folder = tmp_path / name / "home"
        made.append(folder)
        monkeypatch.setenv("CLOUD_TRAIN_HOME", str(folder))
        return Home(folder)

    yield move_to
    for folder in made:
        kill_everything(folder)


@pytest.fixture
def start(tmp_path: Path) -> Start:
    def start(home: Home, provider: str, store: str, **sections: Any) -> RunView:
        (tmp_path / "host.yaml").write_text(CONFIG)
        path = tmp_path / "job.yaml"
        path.write_text(json.dumps({**JOB, "provider": provider, "store": store, **sections}))
        return submit(home, make_plan(home, path, config=str(tmp_path / "host.yaml")))

    return start


def kill_everything(home: Path) -> None:
    """SIGKILL for every process of a machine at once, so that none has time to react."""
    found = []
    for process in psutil.process_iter():
        with suppress(psutil.Error):
            if process.environ().get("CLOUD_TRAIN_HOME") == str(home) and process.pid != os.getpid():
                found.append(process)
                process.suspend()
    for process in found:
        with suppress(psutil.Error):
            process.kill()
    psutil.wait_procs(found, 10)


def finished(home: Home, run_id: str) -> RunView:
    wait_until(lambda: update_run(home, run_id).state.is_end, f"{run_id} ends", 120, pace=0.1)
    return update_run(home, run_id)


def weights(home: Home, run_id: str, folder: Path) -> str:
    fetched = fetch_model(home, run_id, folder)
    return hashlib.sha256((fetched.folder / "model.safetensors").read_bytes()).hexdigest()


def has_checkpoint(run: RunView) -> bool:
    return any(info.key.endswith("/manifest.json") for info in open_store(run.store).list(f"{run.run_id}/checkpoints"))


def resume_at_once(home: Home, run_id: str) -> RunView:
    """As ``resume``, with a clock on which waiting for a heartbeat takes no time."""
    seconds = itertools.count(0, 20)
    return resume(home, run_id, ask=accepting, sleep=lambda _: None, clock=lambda: float(next(seconds)))


def test_a_killed_run_is_resumed_from_another_machine_to_the_same_bytes(
    untouched: str, store: str, homes: Callable[[str], Home], start: Start, tmp_path: Path
) -> None:
    home = homes("first")
    with pytest.MonkeyPatch.context() as environment:
        environment.setenv("PYTHONPATH", patched(STAYS, tmp_path)["PYTHONPATH"])
        run = start(home, "local", store)
    wait_until(lambda: has_checkpoint(run), "a checkpoint is in the store", 120, pace=0.05)
    kill_everything(home.folder)

    home = homes("second")
    assert [(each.run_id, each.state) for each in runs_in(store).runs] == [(run.run_id, State.RUNNING)]
    assert adopt(home, f"{store}/{run.run_id}").state is State.RUNNING
    resume_at_once(home, run.run_id)
    ended = finished(home, run.run_id)
    assert (ended.state, ended.attempt) == (State.SUCCEEDED, 2), ended.message
    assert ended.resumed_step in range(1, 13)
    assert weights(home, run.run_id, tmp_path / "far") == untouched
    wait_until(lambda: list((home.folder / "work").iterdir()) == [], "the worker has left, and taken its workspace away")


def test_a_killed_container_is_resumed_from_another_machine_to_the_same_bytes(
    untouched: str, store: str, homes: Callable[[str], Home], start: Start, tmp_path: Path
) -> None:
    engine = trainers_or_skip()
    home = homes("first")
    run = start(home, "docker", store)
    try:
        wait_until(lambda: has_checkpoint(run), "a checkpoint is in the store", 120, pace=0.05)
        (container,) = engine.containers.list(filters={"label": f"cloud-train.run={run.run_id}"})
        container.kill()
        home = homes("second")
        adopt(home, f"{store}/{run.run_id}")
        wait_until(lambda: update_run(home, run.run_id).state.is_end, "the engine tells that the container is gone")
        own = Elsewhere(config=str(tmp_path / "host.yaml"))  # on the second machine: the first one's settings are not used
        resume(home, run.run_id, elsewhere=own, ask=accepting)
        ended = finished(home, run.run_id)
        assert (ended.state, ended.attempt) == (State.SUCCEEDED, 2), ended.message
        assert ended.resumed_step in range(1, JOB["train"]["steps"])
        assert weights(home, run.run_id, tmp_path / "far") == untouched
    finally:
        for container in engine.containers.list(all=True, filters={"label": f"cloud-train.run={run.run_id}"}, ignore_removed=True):
            container.remove(force=True)
        engine.close()


def test_a_run_can_be_read_completely_from_the_store_without_a_ledger(
    near: RunView, store: str, homes: Callable[[str], Home], start: Start, tmp_path: Path
) -> None:
    home = homes("first")
    run = finished(home, start(home, "local", store, train=SHORT).run_id)
    assert run.state is State.SUCCEEDED, run.message

    home = homes("second")
    adopted = adopt(home, f"{store}/{run.run_id}")
    assert (adopted.state, adopted.ended, adopted.message) == (run.state, run.ended, run.message)
    log = b"".join(read_logs(home, run.run_id))
    assert log == (Path(near.run_directory) / "attempts/1/logs/node-0/output.log").read_bytes().replace(
        near.run_id.encode(), run.run_id.encode()
    )
    losses = [(point.key, point.step, point.value) for point in read_metrics(home, run.run_id) if "loss" in point.key]
    adopt(home, near.run_directory)
    assert losses == [(point.key, point.step, point.value) for point in read_metrics(home, near.run_id) if "loss" in point.key]
    copy = sync(home, run.run_id, tmp_path / "copy")
    assert (copy.folder / "attempts/1/logs/node-0/output.log").read_bytes() == log
    assert sync(home, run.run_id, tmp_path / "copy").copied == ()
    ours = {path.relative_to(copy.folder).as_posix() for path in copy.folder.rglob("[!.]*") if path.is_file()}
    theirs = {path.relative_to(near.run_directory).as_posix() for path in Path(near.run_directory).rglob("[!.]*") if path.is_file()}
    events = {name for name in ours | theirs if "tfevents" in name}
    assert ours - events == theirs - events

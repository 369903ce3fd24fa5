"""The built-in trainers in containers of a real Docker Engine: they give the same bytes as on this machine, killed or not."""

import hashlib
import json
import os
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

from cloud_train.errors import ConflictError
from cloud_train.orchestrator.home import Home
from cloud_train.orchestrator.planning import make_plan
from cloud_train.orchestrator.reconcile import update_run
from cloud_train.orchestrator.resuming import resume
from cloud_train.orchestrator.submitting import launch, submit
from cloud_train.run.record import AttemptStatus
from cloud_train.run.states import Cause, State
from cloud_train.run.view import RunView
from tests.docker_engine import trainers_or_skip
from tests.support import wait_until

pytest.importorskip("torch")

if TYPE_CHECKING:
    from docker import DockerClient

Submit = Callable[..., RunView]
JOB: dict[str, Any] = {
    "name": "contained",
    "model": {"kind": "cnn", "blocks": [{"filters": 4, "norm": "batch", "dropout": 0.2}], "dropout": 0.3},
    "data": {"dataset": "digits", "size": 8, "augment": {"crop": 1}},
    "train": {"steps": 60, "batch_size": 90, "evaluate": "30 steps"},
    "checkpoint": {"every": "2 steps", "keep": 2},
    "store": "runs",
    "resources": {"cpus": 1},
}


@pytest.fixture
def engine(home: Home) -> Iterator["DockerClient"]:
    client = trainers_or_skip()
    yield client
    for run in (home.folder.parent / "runs").glob("*"):
        for container in remains(client, run.name):
            container.remove(force=True)
        client.networks.prune({"label": [f"cloud-train.run={run.name}"]})
    client.close()


@pytest.fixture
def start(home: Home, tmp_path: Path) -> Submit:
    """Submit the job with some sections replaced."""

    def start(provider: str, **sections: Any) -> RunView:
        path = tmp_path / "job.yaml"
        path.write_text(json.dumps({**JOB, "provider": provider, **sections}))
        return submit(home, make_plan(home, path))

    return start


def remains(engine: "DockerClient", run_id: str) -> list[Any]:
    return list(engine.containers.list(all=True, filters={"label": f"cloud-train.run={run_id}"}, ignore_removed=True))


def finished(home: Home, run: RunView) -> RunView:
    wait_until(lambda: update_run(home, run.run_id).state.is_end, f"{run.run_id} ends", 120)
    return update_run(home, run.run_id)


def weights(run: RunView) -> str:
    return hashlib.sha256((Path(run.run_directory) / "model" / "model.safetensors").read_bytes()).hexdigest()


def has_checkpoint(run: RunView) -> bool:
    return any(Path(run.run_directory).glob("checkpoints*/step-*/manifest.json"))


def kill_one(engine: "DockerClient", run: RunView, node: int) -> None:
    """SIGKILL for a node's container after the first checkpoint, long before the run ends."""
    wait_until(lambda: has_checkpoint(run), f"{run.run_id} has a checkpoint", 120)
    (container,) = [each for each in remains(engine, run.run_id) if each.labels["cloud-train.node"] == str(node)]
    container.kill()


def test_a_container_trains_the_same_bytes_as_this_machine_and_leaves_nothing_behind(
    home: Home, engine: "DockerClient", start: Submit
) -> None:
    contained = finished(home, start("docker"))
    assert contained.state is State.SUCCEEDED, contained.message
    here = finished(home, start("local"))
    assert weights(contained) == weights(here)
    assert remains(engine, contained.run_id) == []
    for path in Path(contained.run_directory).rglob("*"):
        assert (path.stat().st_uid, path.stat().st_gid) == (os.getuid(), os.getgid()), path


def test_a_container_that_is_killed_is_resumed_to_the_same_bytes(home: Home, engine: "DockerClient", start: Submit) -> None:
    untouched = finished(home, start("local"))
    run = start("docker")
    kill_one(engine, run, 0)
    ended = finished(home, run)
    assert ended.cause is Cause.INFRASTRUCTURE, ended.message
    assert "killed" in ended.message
    resume(home, run.run_id)
    ended = finished(home, run)
    assert (ended.state, ended.attempt) == (State.SUCCEEDED, 2), ended.message
    assert ended.resumed_step
    assert weights(ended) == weights(untouched)


def test_three_nodes_train_together_and_resume_to_the_bytes_of_three_processes(home: Home, engine: "DockerClient", start: Submit) -> None:
    here = finished(home, start("local", resources={"cpus": 3, "processes": 3}))
    assert here.state is State.SUCCEEDED, here.message
    run = start("docker", resources={"cpus": 1, "nodes": 3})
    kill_one(engine, run, 2)
    ended = finished(home, run)
    assert ended.cause is Cause.INFRASTRUCTURE, ended.message
    resume(home, run.run_id)
    ended = finished(home, run)
    assert (ended.state, ended.attempt) == (State.SUCCEEDED, 2), ended.message
    assert weights(ended) == weights(here)
    assert remains(engine, run.run_id) == []
    assert engine.networks.list(filters={"label": f"cloud-train.run={run.run_id}"}) == []
    logs = sorted(path.parent.name for path in Path(ended.run_directory).glob("attempts/2/logs/*/worker.log"))
    assert logs == ["node-0", "node-1", "node-2"]


def test_a_second_submission_of_an_unchanged_job_builds_nothing(home: Home, engine: "DockerClient", tmp_path: Path) -> None:
    (tmp_path / "job.yaml").write_text(json.dumps({**JOB, "provider": "docker", "train": {"fast_dev_run": True}}))
    said: list[str] = []
    runs = [submit(home, make_plan(home, tmp_path / "job.yaml"), said.append) for _ in range(2)]
    images = [json.loads((Path(run.run_directory) / "run.json").read_text())["plan"]["image"] for run in runs]
    assert images[0] == images[1]
    assert images[0].startswith("sha256:")


def test_a_container_that_found_its_attempt_taken_leaves_the_attempt_alone(
    home: Home, engine: "DockerClient", start: Submit, monkeypatch: pytest.MonkeyPatch
) -> None:
    (home.folder.parent / "code").mkdir()
    script = {"kind": "script", "command": "exit 1", "directory": "code"}
    run = finished(home, start("docker", model=script, data=None, train={}, checkpoint={}))
    attempts = Path(run.run_directory) / "attempts"
    ours = AttemptStatus.from_json((attempts / "1/status.json").read_bytes(), "status")
    faster = replace(ours, state=State.RUNNING, host="another-machine", cause=None, ended=None, token="ab" * 8).to_json()

    def launch_second(*arguments: Any) -> None:
        (attempts / "2").mkdir()
        (attempts / "2/status.json").write_bytes(faster)
        launch(*arguments)

    monkeypatch.setattr("cloud_train.orchestrator.resuming.launch", launch_second)
    with pytest.raises(ConflictError, match="another command resumed"):
        resume(home, run.run_id)
    wait_until(lambda: update_run(home, run.run_id).is_unmanaged, "the container has found its attempt taken")
    assert (update_run(home, run.run_id).state, update_run(home, run.run_id).host) == (State.RUNNING, "another-machine")
    wait_until(lambda: update_run(home, run.run_id).is_unmanaged and remains(engine, run.run_id) == [], "the container is removed")
    assert (attempts / "2/status.json").read_bytes() == faster

"""Resuming a run whose image the engine has lost."""

import json
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from cloud_train.errors import ConflictError
from cloud_train.orchestrator.home import Home
from cloud_train.orchestrator.planning import make_plan
from cloud_train.orchestrator.reading import read_logs
from cloud_train.orchestrator.reconcile import update_run
from cloud_train.orchestrator.resuming import Elsewhere, resume
from cloud_train.orchestrator.submitting import submit
from cloud_train.run.states import State
from cloud_train.run.view import RunView
from tests.docker_engine import base_image, engine_or_skip
from tests.support import wait_until

if TYPE_CHECKING:
    from docker import DockerClient

FAILS_ONCE = 'cat greeting.txt; [ "$CLOUD_TRAIN_ATTEMPT" != 1 ]'


@pytest.fixture
def engine(home: Home) -> Iterator["DockerClient"]:
    client = engine_or_skip()
    yield client
    for run in (home.folder.parent / "runs").glob("*"):
        for container in client.containers.list(all=True, filters={"label": f"cloud-train.run={run.name}"}, ignore_removed=True):
            container.remove(force=True)
    client.close()


@pytest.fixture
def failed(home: Home, engine: "DockerClient", tmp_path: Path) -> RunView:
    """A failed run whose image has been removed. The greeting is unique to the test, and so is the image."""
    (tmp_path / "code").mkdir()
    (tmp_path / "code" / "greeting.txt").write_text(f"hello from {tmp_path}\n")
    job = {
        "name": "lost",
        "model": {"kind": "script", "command": FAILS_ONCE, "directory": "code"},
        "provider": "docker",
        "store": "runs",
        "image": {"base": base_image()},
    }
    (tmp_path / "job.yaml").write_text(json.dumps(job))
    run = end_of(home, submit(home, make_plan(home, tmp_path / "job.yaml")))
    assert run.state is State.FAILED, run.message
    engine.images.remove(image_of(run), force=True)
    return run


def image_of(run: RunView) -> str:
    return str(json.loads((Path(run.run_directory) / "run.json").read_text())["plan"]["image"])


def end_of(home: Home, run: RunView) -> RunView:
    wait_until(lambda: update_run(home, run.run_id).state.is_end, f"{run.run_id} ends", 60)
    return update_run(home, run.run_id)


def test_a_lost_image_is_rebuilt_with_the_same_bytes(home: Home, failed: RunView) -> None:
    said: list[str] = []
    ended = end_of(home, resume(home, failed.run_id, said.append))
    assert (ended.state, ended.attempt) == (State.SUCCEEDED, 2), ended.message
    assert said[0].startswith("code: the run's own, in its image ")
    assert said[1:] == [f"the image of {failed.run_id} is gone from the Docker Engine; rebuilding it"]


def test_a_different_image_is_refused_unless_the_caller_asks_for_it(home: Home, failed: RunView, tmp_path: Path) -> None:
    before = image_of(failed)
    (tmp_path / "code" / "greeting.txt").write_text(f"good morning from {tmp_path}\n")
    with pytest.raises(ConflictError, match="cannot be rebuilt") as caught:
        resume(home, failed.run_id)
    assert f"cloud-train resume {failed.run_id} --code current" in (caught.value.hint or "")
    assert update_run(home, failed.run_id).attempt == 1
    ended = end_of(home, resume(home, failed.run_id, elsewhere=Elsewhere(takes_current_code=True)))
    assert ended.state is State.SUCCEEDED, ended.message
    assert b"".join(read_logs(home, failed.run_id)) == f"good morning from {tmp_path}\n".encode()
    assert image_of(failed) != before

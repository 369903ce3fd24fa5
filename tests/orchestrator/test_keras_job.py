"""The shipped Keras job in a container of a real engine: its requirements installed, killed, and resumed to the same numbers.

It installs TensorFlow (about 250 MB from the package index), so it runs where ``CLOUD_TRAIN_TEST_KERAS=1`` asks for it, as CI does.
"""

import json
import os
from pathlib import Path

import pytest

from cloud_train.orchestrator.home import Home
from cloud_train.orchestrator.planning import make_plan
from cloud_train.orchestrator.reconcile import update_run
from cloud_train.orchestrator.resuming import resume
from cloud_train.orchestrator.submitting import submit
from cloud_train.run.states import State
from cloud_train.run.view import RunView
from tests.docker_engine import base_image, engine_or_skip
from tests.support import wait_until

JOB = Path(__file__).parents[2] / "jobs" / "keras-cnn.yaml"


def finished(home: Home, run: RunView) -> RunView:
    wait_until(lambda: update_run(home, run.run_id).state.is_end, f"{run.run_id} ends", 180)
    return update_run(home, run.run_id)


def last_validation_loss(run: RunView) -> tuple[int, float]:
    lines = [
        json.loads(line)
        for path in sorted(Path(run.run_directory).glob("attempts/*/metrics/node-0.jsonl"))
        for line in path.read_text().splitlines()
    ]
    found = [(line["step"], line["value"]) for line in lines if (line["split"], line["name"]) == ("validation", "loss")]
    return found[-1]


@pytest.mark.skipif(os.environ.get("CLOUD_TRAIN_TEST_KERAS") != "1", reason="installs TensorFlow; CLOUD_TRAIN_TEST_KERAS=1 runs it")
def test_the_keras_job_is_killed_and_resumed_to_the_same_numbers(home: Home, tmp_path: Path) -> None:
    engine = engine_or_skip()
    settings = (f"image.base={base_image()}", f"store={tmp_path / 'runs'}", "env.EPOCHS=3")
    try:
        untouched = finished(home, submit(home, make_plan(home, JOB, settings)))
        assert untouched.state is State.SUCCEEDED, untouched.message
        run = submit(home, make_plan(home, JOB, settings))
        checkpoints = Path(run.run_directory) / "checkpoints"
        wait_until(lambda: any(checkpoints.glob("step-*/manifest.json")), "there is a checkpoint", 180)
        (container,) = engine.containers.list(filters={"label": f"cloud-train.run={run.run_id}"})
        container.kill()
        assert finished(home, run).state is State.INTERRUPTED
        resume(home, run.run_id)
        resumed = finished(home, run)
        assert (resumed.state, resumed.attempt) == (State.SUCCEEDED, 2), resumed.message
        assert last_validation_loss(resumed) == last_validation_loss(untouched)
        assert (Path(resumed.run_directory) / "model" / "model.keras").is_file()
    finally:
        engine.close()

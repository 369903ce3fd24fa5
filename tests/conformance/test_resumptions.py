"""Further attempts of a run: asked for by a person, or by the job's ``retry``."""

import hashlib
from typing import Any

import pytest

from cloud_train.errors import ConflictError
from cloud_train.orchestrator.reading import read_worker_log
from cloud_train.orchestrator.reconcile import update_run
from cloud_train.orchestrator.resuming import resume
from cloud_train.orchestrator.stopping import cancel
from cloud_train.run import layout
from cloud_train.run.states import Cause, State
from cloud_train.run.view import RunView
from tests.conformance.bench import READY, UNTIL_LET_GO, Bench, saving

TWO_STEPS = f"""
echo "attempt $CLOUD_TRAIN_ATTEMPT from ${{CLOUD_TRAIN_RESUME##*/}}"
if [ -n "$CLOUD_TRAIN_RESUME" ]; then cat "$CLOUD_TRAIN_RESUME/weights"; exit 0; fi
{saving(1)}
{saving(2)}
"""
"""A first attempt makes two checkpoints, and goes on with what follows; a second one ends well."""


def test_a_run_whose_machine_died_resumes_from_its_newest_checkpoint(bench: Bench) -> None:
    run = bench.start_until_ready(f"{TWO_STEPS}\n{READY}; sleep 600")
    bench.wait_until(lambda: bench.is_sealed(run, 2), "the second checkpoint counts")
    # Vertex AI restarts the worker, which ends the attempt that was cut off.
    assert bench.kill(run).cause is (Cause.PREEMPTED if bench.place.name == "gcp" else Cause.INFRASTRUCTURE)
    again = resume(bench.home, run.run_id)
    assert (again.run_id, again.attempt) == (run.run_id, 2)
    end = bench.end_of(run)
    assert (end.state, end.attempt, end.resumed_step) == (State.SUCCEEDED, 2, 2)
    assert bench.words(run) == [f"attempt 2 from {layout.step_folder(2)}", "2"]
    assert bench.words(run, attempt=1) == ["attempt 1 from ", "ready"]


def test_a_damaged_checkpoint_is_passed_over(bench: Bench) -> None:
    run = bench.run(f"{TWO_STEPS}\nexit 1")
    assert run.state is State.FAILED
    bench.store.put(bench.checkpoint(run, 2, "weights"), b"X\n")
    resume(bench.home, run.run_id)
    assert bench.end_of(run).resumed_step == 1
    assert bench.words(run) == [f"attempt 2 from {layout.step_folder(1)}", "1"]
    assert layout.step_folder(2) in "\n".join(read_worker_log(bench.home, run.run_id))


def test_a_checkpoint_that_was_never_finished_is_passed_over(bench: Bench) -> None:
    run = bench.run(f'{TWO_STEPS}\nmkdir "$CLOUD_TRAIN_CHECKPOINTS/.step-3.tmp"; exit 1')
    resume(bench.home, run.run_id)
    assert bench.end_of(run).resumed_step == 2


def test_a_cancelled_run_can_be_resumed(bench: Bench) -> None:
    run = bench.start_until_ready(f"{TWO_STEPS}\n{READY}; sleep 600")
    assert cancel(bench.home, run.run_id).state is State.CANCELLED
    resume(bench.home, run.run_id)
    assert (bench.end_of(run).state, update_run(bench.home, run.run_id).resumed_step) == (State.SUCCEEDED, 2)


def test_a_run_that_goes_on_or_has_succeeded_is_not_resumed(bench: Bench) -> None:
    run = bench.start_until_ready(f"{READY}; {UNTIL_LET_GO}")
    with pytest.raises(ConflictError, match="is still active"):
        resume(bench.home, run.run_id)
    bench.let_go(run.run_id)
    assert bench.end_of(run).state is State.SUCCEEDED
    with pytest.raises(ConflictError, match="has succeeded"):
        resume(bench.home, run.run_id)
    assert bench.words(run) == ["ready"]


def test_each_resumption_is_the_next_attempt(bench: Bench) -> None:
    run = bench.run('echo "$CLOUD_TRAIN_ATTEMPT"; exit 1')
    for attempt in (2, 3):
        assert resume(bench.home, run.run_id).attempt == attempt
        assert bench.end_of(run).attempt == attempt
    assert [bench.words(run, attempt) for attempt in (1, 2, 3)] == [["1"], ["2"], ["3"]]


def test_a_secret_reaches_a_resumed_program(bench: Bench, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("MY_TOKEN", "first")
    run = bench.run("echo ${#MY_TOKEN}; exit 1", secrets=["MY_TOKEN"])
    monkeypatch.setenv("MY_TOKEN", "the second")
    resume(bench.home, run.run_id)
    bench.end_of(run)
    assert [bench.words(run, attempt) for attempt in (1, 2)] == [["5"], ["10"]]


@pytest.mark.usefixtures("retries_at_once")
def test_the_job_decides_after_which_causes_there_is_another_attempt_and_how_many(bench: Bench) -> None:
    end = bench.run(
        'if [ $CLOUD_TRAIN_ATTEMPT = 1 ]; then echo \'{"message": "flood", "cause": "infrastructure"}\' > "$CLOUD_TRAIN_FAILURE"; fi\n'
        'echo "attempt $CLOUD_TRAIN_ATTEMPT"; exit 1',
        retry={"attempts": 3, "on": ["infrastructure"]},
    )
    assert (end.attempt, end.cause) == (2, Cause.FAILED), "the second attempt failed, which is not retried"
    assert [bench.words(end, attempt) for attempt in (1, 2)] == [["attempt 1"], ["attempt 2"]]


def test_one_attempt_is_one_launch(bench: Bench) -> None:
    end = bench.run("echo launched; exit 1", retry={"attempts": 1, "on": ["failed"]})
    assert (end.attempt, bench.words(end)) == (1, ["launched"])


DIGITS: dict[str, Any] = {
    "model": {"kind": "cnn", "blocks": [{"filters": 4}]},
    "data": {"dataset": "digits", "size": 8},
    "train": {"steps": 12, "batch_size": 100},
    "checkpoint": {"every": "1 step"},
    "resources": {"cpus": 1},
}


def test_a_training_whose_machine_died_ends_with_the_bytes_of_one_that_was_never_touched(bench: Bench) -> None:
    if not bench.place.trains:
        pytest.skip(f"the machines of {bench.place.name} have no torch here")
    pytest.importorskip("torch")
    whole, killed = bench.start_job(DIGITS), bench.start_job(DIGITS)
    checkpoints = f"{killed.run_id}/{layout.CHECKPOINTS}/"
    bench.wait_until(lambda: any(True for _ in bench.store.folders(checkpoints)), "there is a checkpoint")
    bench.place.kill(bench.home.folder, killed.run_id)
    if bench.end_of(killed).state is not State.SUCCEEDED:
        resume(bench.home, killed.run_id)
    assert bench.end_of(whole).state is State.SUCCEEDED
    end = bench.end_of(killed)
    assert (end.state, end.attempt) == (State.SUCCEEDED, 2)
    assert digest(bench, killed) == digest(bench, whole)


def digest(bench: Bench, run: RunView) -> str:
    return hashlib.sha256(bench.store.get(f"{run.run_id}/{layout.MODEL}/model.safetensors")).hexdigest()

"""What an attempt may do otherwise than those before it: other code, other values."""

import json
import subprocess
from collections.abc import Callable
from pathlib import Path

import pytest

from cloud_train.errors import ConflictError, UsageError
from cloud_train.orchestrator.following import follow, glance
from cloud_train.orchestrator.home import Home
from cloud_train.orchestrator.planning import make_plan
from cloud_train.orchestrator.reading import read_logs
from cloud_train.orchestrator.resuming import Elsewhere, resume
from cloud_train.orchestrator.stopping import cancel
from cloud_train.orchestrator.submitting import submit
from cloud_train.run import layout
from cloud_train.run.states import State
from cloud_train.run.view import RunView
from tests.orchestrator.conftest import run_folder
from tests.support import wait_until

CURRENT = Elsewhere(takes_current_code=True)


def end_of(home: Home, run: RunView) -> RunView:
    return list(follow(home, run.run_id))[-1].view


@pytest.fixture
def failed(home: Home, tmp_path: Path) -> RunView:
    """A script, with other files beside it, that failed."""
    (tmp_path / "code").mkdir()
    (tmp_path / "code/main.sh").write_text("echo first; exit 1\n")
    (tmp_path / "code/data.csv").write_text("1\n")
    job = {"name": "scripted", "provider": "local", "store": str(tmp_path / "runs")}
    path = tmp_path / "code/job.yaml"
    path.write_text(json.dumps({**job, "model": {"kind": "script", "command": ["/bin/sh", "main.sh"], "directory": "."}}))
    return end_of(home, submit(home, make_plan(home, path)))


def test_a_script_is_resumed_with_its_own_code_and_that_is_said(home: Home, failed: RunView, tmp_path: Path) -> None:
    (tmp_path / "code/data.csv").write_text("2\n")  # is not code
    (tmp_path / "code/new.py").write_text("")
    notes: list[str] = []
    assert end_of(home, resume(home, failed.run_id, notes.append)).attempt == 2
    assert notes == [f"code: the run's own, with new files in {tmp_path / 'code'}"]


def test_changed_code_is_refused_and_taken_when_that_is_asked_for(home: Home, failed: RunView, tmp_path: Path) -> None:
    (tmp_path / "code/main.sh").write_text("echo second\n")
    with pytest.raises(ConflictError, match=r"has changed since this run began: main\.sh") as refused:
        resume(home, failed.run_id)
    assert refused.value.hint is not None
    assert refused.value.hint.endswith(f"cloud-train resume {failed.run_id} --code current")
    notes: list[str] = []
    assert end_of(home, resume(home, failed.run_id, notes.append, elsewhere=CURRENT)).state is State.SUCCEEDED
    assert notes == [f"code: as it is now in {tmp_path / 'code'}, which differs from the run's own: main.sh"]
    assert b"".join(read_logs(home, failed.run_id)) == b"second\n"
    (change,) = glance(home, failed.run_id, record=False).changes
    assert (change["attempt"], change["set"]) == (2, [])
    assert len(change["code"]["sha256"]) == 64


def test_the_code_that_was_taken_is_the_runs_own_from_then_on(home: Home, failed: RunView, tmp_path: Path) -> None:
    (tmp_path / "code/main.sh").write_text("exit 2\n")
    end_of(home, resume(home, failed.run_id, elsewhere=CURRENT))
    assert end_of(home, resume(home, failed.run_id)).attempt == 3
    (tmp_path / "code/main.sh").unlink()
    with pytest.raises(ConflictError, match=r"main\.sh is missing"):
        resume(home, failed.run_id)


def test_the_commit_to_go_back_to_is_named(home: Home, write_job: Callable[..., Path], tmp_path: Path) -> None:
    path = write_job("sh main.sh; exit 1")
    (tmp_path / "main.sh").write_text("true\n")
    for words in (["init", "-q"], ["add", "."], ["-c", "user.name=a", "-c", "user.email=a@b", "commit", "-qm", "first"]):
        subprocess.run(["git", *words], cwd=tmp_path, check=True)
    commit = subprocess.run(["git", "rev-parse", "HEAD"], cwd=tmp_path, check=True, capture_output=True, text=True).stdout
    run = end_of(home, submit(home, make_plan(home, path)))
    (tmp_path / "main.sh").write_text("false\n")
    with pytest.raises(ConflictError) as refused:
        resume(home, run.run_id)
    assert refused.value.hint is not None
    assert f"go back to commit {commit[:12]}" in refused.value.hint


def test_a_changed_job_file_is_noticed_and_the_runs_own_values_hold(home: Home, failed: RunView, tmp_path: Path) -> None:
    path = tmp_path / "code/job.yaml"
    path.write_text(json.dumps({**json.loads(path.read_text()), "retry": {"attempts": 3}}))
    notes: list[str] = []
    assert end_of(home, resume(home, failed.run_id, notes.append)).attempt == 2
    assert "the job file has changed, and the run keeps its own values (retry.attempts: 1, now 3)" in notes[1]
    path.write_text("name: [")
    end_of(home, resume(home, failed.run_id, notes.append))


def digits(home: Home, tmp_path: Path, *overrides: str) -> RunView:
    path = tmp_path / "digits.yaml"
    model = {"kind": "cnn", "blocks": [{"filters": 4}]}
    job = {"name": "digits", "provider": "local", "store": str(tmp_path / "runs"), "model": model, "data": {"dataset": "digits"}}
    path.write_text(json.dumps({**job, "train": {"epochs": 1, "batch_size": 256}, "resources": {"cpus": 1}}))
    return end_of(home, submit(home, make_plan(home, path, overrides)))


def wait_for_checkpoint_after(run: RunView, epochs: int) -> None:
    """Wait until the second attempt has saved one that the first did not."""
    folder, step = run_folder(run) / "checkpoints-2", layout.step_folder(6 * epochs)
    wait_until(lambda: any(path.parent.name > step for path in folder.glob("step-*/manifest.json")), "it saves a checkpoint")


def test_a_run_trains_on_after_success_to_the_bits_of_one_that_was_changed_and_killed(home: Home, tmp_path: Path) -> None:
    models = []
    for is_stopped in (False, True):
        run = digits(home, tmp_path)
        before = (run_folder(run) / "model/model.safetensors").read_bytes()
        again = resume(home, run.run_id, elsewhere=Elsewhere(changes=("train.epochs=16",)))
        if is_stopped:
            wait_for_checkpoint_after(run, 1)
            assert cancel(home, run.run_id, force=True).state is State.CANCELLED
            assert (run_folder(run) / "model/model.safetensors").read_bytes() == before
            again = resume(home, run.run_id)
        assert end_of(home, again).state is State.SUCCEEDED
        models.append((run_folder(run) / "model/model.safetensors").read_bytes())
        assert models[-1] != before
        seen = glance(home, run.run_id, record=False)
        assert (seen.epochs, seen.step, seen.changes[0]["set"][0]) == (16, seen.total_steps, "train.epochs=16")
    assert models[0] == models[1]


def test_what_would_make_it_another_run_is_refused(home: Home, tmp_path: Path) -> None:
    run = digits(home, tmp_path, "train.epochs=2")

    def refused(*changes: str) -> str:
        with pytest.raises(UsageError) as error:
            resume(home, run.run_id, elsewhere=Elsewhere(changes=changes))
        return error.value.message + (error.value.hint or "")

    assert "train.epochs, train.steps" in refused("train.epochs=4", "train.batch_size=3")
    assert "(2 epochs) already; 2 epochs" in refused("train.epochs=2")
    assert "(2 epochs) already; 3 steps" in refused("train.steps=3")
    with pytest.raises(ConflictError, match="nothing to resume"):
        resume(home, run.run_id, elsewhere=Elsewhere(changes=("limits.grace=1 s",)))
    with pytest.raises(UsageError, match="no code of its own"):
        resume(home, run.run_id, elsewhere=Elsewhere(changes=("train.epochs=4",), takes_current_code=True))


def test_a_schedule_over_the_length_of_the_run_is_mentioned(home: Home, tmp_path: Path) -> None:
    run, notes = digits(home, tmp_path, "train.schedule=cosine"), list[str]()
    end_of(home, resume(home, run.run_id, notes.append, elsewhere=Elsewhere(changes=("train.epochs=2",))))
    assert [note for note in notes if "'cosine' over" in note]
    assert not [note for note in notes if "job file" in note]

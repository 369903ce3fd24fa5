"""Runs on this machine, from submission to end, with real workers."""

import dataclasses
import json
import os
import signal
from collections.abc import Callable
from pathlib import Path

import psutil
import pytest

from cloud_train import locks
from cloud_train.errors import ConflictError, MissingDependencyError, NotFoundError, ProviderError, UsageError
from cloud_train.orchestrator import readiness
from cloud_train.orchestrator.following import follow
from cloud_train.orchestrator.home import Home
from cloud_train.orchestrator.listing import select
from cloud_train.orchestrator.planning import make_plan
from cloud_train.orchestrator.reading import follow_logs, read_logs, read_metrics, read_worker_log
from cloud_train.orchestrator.reconcile import update_run, update_runs
from cloud_train.orchestrator.resuming import resume
from cloud_train.orchestrator.stopping import cancel
from cloud_train.orchestrator.submitting import submit
from cloud_train.run import layout
from cloud_train.run.ledger import Ledger
from cloud_train.run.record import AttemptStatus
from cloud_train.run.states import Cause, State
from cloud_train.run.view import RunView
from tests.orchestrator.conftest import Submit, run_folder, wait_for_file
from tests.support import wait_until

FOREVER = "touch started; sleep 600"


def end_of(home: Home, run: RunView) -> RunView:
    return list(follow(home, run.run_id))[-1].view


def status_of(run: RunView, attempt: int = 1) -> AttemptStatus:
    return AttemptStatus.from_json((run_folder(run) / layout.status(attempt)).read_bytes(), "status")


def test_a_script_runs_to_its_end_and_its_output_is_there(home: Home, start: Submit) -> None:
    run = start("echo out; echo err >&2; printf '\\377\\r'")
    end = end_of(home, run)
    assert (end.state, end.cause) == (State.SUCCEEDED, Cause.SUCCEEDED)
    assert b"".join(read_logs(home, run.run_id)) == b"out\nerr\n\xff\r"
    assert update_run(home, run.run_id).state is State.SUCCEEDED
    assert [each.run_id for each in update_runs(home)] == [run.run_id]


def test_following_yields_all_of_the_output_and_the_metrics(home: Home, start: Submit) -> None:
    metric = json.dumps({"step": 4, "epoch": 0.5, "time": 1.0, "split": "train", "name": "loss", "value": 0.25})
    run = start(f"echo one; echo '{metric}' >> $CLOUD_TRAIN_METRICS; echo two")
    looks = list(follow(home, run.run_id))
    assert b"".join(look.output for look in looks) == b"one\ntwo\n"
    assert looks[-1].latest == {"train/loss": 0.25}
    assert (looks[-1].step, looks[-1].epoch) == (4, 0.5)
    assert [point.value for point in read_metrics(home, run.run_id)] == [0.25]


def test_a_failing_program_fails_the_run_and_its_last_output_is_the_message(home: Home, start: Submit) -> None:
    end = end_of(home, start("echo it is broken; exit 3"))
    assert (end.state, end.cause) == (State.FAILED, Cause.FAILED)
    assert "3" in end.message
    assert "it is broken" in end.message


def test_a_cancelled_run_leaves_no_process(home: Home, start: Submit) -> None:
    run = start("trap '' TERM; sleep 601 & setsid sleep 602 & touch started; wait; sleep 603", "limits: {grace: 0.2 s}")
    wait_for_file(run_folder(run).parent.parent / "started")
    end = cancel(home, run.run_id)
    assert (end.state, end.cause) == (State.CANCELLED, Cause.CANCELLED)
    commands = [" ".join(process.info["cmdline"] or ()) for process in psutil.process_iter(["cmdline"])]
    assert not [command for command in commands if command in {"sleep 601", "sleep 602", "sleep 603"}]
    assert cancel(home, run.run_id).state is State.CANCELLED


def test_a_run_that_ended_cannot_be_cancelled(home: Home, start: Submit) -> None:
    run = start("true")
    end_of(home, run)
    with pytest.raises(ConflictError, match="succeeded"):
        cancel(home, run.run_id)


def test_a_killed_worker_is_detected_and_its_program_ended(home: Home, start: Submit) -> None:
    run = start("setsid sleep 604 & touch started; sleep 605")
    wait_for_file(run_folder(run).parent.parent / "started")
    os.kill(status_of(run).pid, signal.SIGKILL)
    wait_until(lambda: update_run(home, run.run_id).state.is_end, "the run has ended")
    end = update_run(home, run.run_id)
    assert (end.state, end.cause) == (State.INTERRUPTED, Cause.INFRASTRUCTURE)
    assert "the worker was killed" in end.message
    assert status_of(run).cause is Cause.INFRASTRUCTURE
    commands = [" ".join(process.info["cmdline"] or ()) for process in psutil.process_iter(["cmdline"])]
    assert not [command for command in commands if command in {"sleep 604", "sleep 605"}]


def test_a_process_with_the_workers_recycled_id_is_not_mistaken_for_it(home: Home, start: Submit) -> None:
    run = start("true")
    end_of(home, run)
    lock = home.folder / "local" / f"{run.run_id}.1.lock"
    wait_until(lambda: not locks.is_held(lock), "the worker has gone")
    # As if the worker had died and this live process had got its id.
    running = AttemptStatus(State.RUNNING, 1.0, 1.0, status_of(run).host, os.getpid())
    (run_folder(run) / layout.status(1)).write_bytes(running.to_json())
    with Ledger(home.ledger_path) as ledger:
        ledger.observed(run.run_id, 1, State.RUNNING)
    end = update_run(home, run.run_id)
    assert (end.state, end.cause) == (State.INTERRUPTED, Cause.INFRASTRUCTURE)


def test_a_run_resumes_from_its_newest_checkpoint(home: Home, start: Submit) -> None:
    run = start(
        'echo "from $CLOUD_TRAIN_RESUME"\n'
        'if [ -n "$CLOUD_TRAIN_RESUME" ]; then exit 0; fi\n'
        "cd $CLOUD_TRAIN_CHECKPOINTS; mkdir .new; echo 7 > .new/weights; mv .new step-7; exit 1"
    )
    assert end_of(home, run).state is State.FAILED
    again = resume(home, run.run_id)
    assert again.attempt == 2
    end = end_of(home, run)
    assert (end.state, end.attempt, end.resumed_step) == (State.SUCCEEDED, 2, 7)
    assert b"step-7" in b"".join(read_logs(home, run.run_id))
    assert b"".join(read_logs(home, run.run_id, attempt=1)) == b"from \n"
    with pytest.raises(ConflictError, match="has succeeded"):
        resume(home, run.run_id)


def test_a_damaged_checkpoint_is_skipped_and_the_worker_logs_it(home: Home, start: Submit) -> None:
    run = start(
        'echo "from $(basename "$CLOUD_TRAIN_RESUME")"\n'
        'if [ -n "$CLOUD_TRAIN_RESUME" ]; then exit 0; fi\n'
        "cd $CLOUD_TRAIN_CHECKPOINTS; for n in 1 2 3; do mkdir .new; echo $n > .new/weights; mv .new step-$n; done; exit 1"
    )
    end_of(home, run)
    checkpoints = run_folder(run) / layout.CHECKPOINTS
    (checkpoints / "step-3" / "manifest.json").write_bytes((checkpoints / "step-3" / "manifest.json").read_bytes()[:-9])
    (checkpoints / "step-2" / "weights").write_text("X\n")
    resume(home, run.run_id)
    assert end_of(home, run).resumed_step == 1
    assert b"".join(read_logs(home, run.run_id)) == b"from step-1\n"
    notes = "\n".join(read_worker_log(home, run.run_id))
    assert "step-3" in notes
    assert "step-2" in notes


def test_a_running_run_is_not_resumed(home: Home, start: Submit) -> None:
    run = start(FOREVER)
    wait_until(lambda: update_run(home, run.run_id).state is State.RUNNING, "the run is running")
    with pytest.raises(ConflictError, match="is still active"):
        resume(home, run.run_id)
    cancel(home, run.run_id, force=True)


def test_the_time_limit_ends_a_run_as_timed_out(home: Home, start: Submit) -> None:
    end = end_of(home, start(FOREVER, "limits: {duration: 0.3 s, grace: 0.2 s}"))
    assert end.cause is Cause.TIMED_OUT


def test_attempts_counts_every_launch(home: Home, start: Submit, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    run = start(f"echo x >> {tmp_path}/launches; exit 1", "retry: {attempts: 1, on: [failed]}")
    assert end_of(home, run).attempt == 1
    assert (tmp_path / "launches").read_text() == "x\n"


def test_secrets_reach_the_program_and_nothing_else(home: Home, start: Submit, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("MY_TOKEN", "sesame-open-4711")
    run = start("test ${#MY_TOKEN} = 16", "secrets: [MY_TOKEN]")
    assert end_of(home, run).state is State.SUCCEEDED
    for path in [*home.folder.rglob("*"), *run_folder(run).rglob("*")]:
        assert not path.is_file() or b"sesame-open-4711" not in path.read_bytes(), path
    monkeypatch.delenv("MY_TOKEN")
    with pytest.raises(UsageError, match="MY_TOKEN"):
        start("true", "secrets: [MY_TOKEN]")


def test_a_log_is_followed_to_its_last_byte(home: Home, start: Submit) -> None:
    run = start("for n in 1 2 3 4 5; do echo line $n; sleep 0.05; done")
    assert b"".join(follow_logs(home, run.run_id)) == b"".join(b"line %d\n" % n for n in range(1, 6))


def test_a_run_is_selected_by_any_unique_prefix(home: Home, start: Submit) -> None:
    with pytest.raises(NotFoundError, match="no runs yet"):
        select(home, None)
    first, second = start("true"), start("true")
    assert select(home, None) == second.run_id
    assert select(home, first.run_id) == first.run_id
    assert select(home, first.run_id[-4:]) == first.run_id
    with pytest.raises(NotFoundError, match="matches several runs"):
        select(home, "test")
    assert select(home, "test", latest=True) == second.run_id
    assert select(home, first.run_id, latest=True) == first.run_id
    with pytest.raises(NotFoundError, match="'tes' matches several runs"):
        select(home, "tes", latest=True)
    with pytest.raises(NotFoundError, match="'other'"):
        select(home, "other")
    for run in (first, second):
        end_of(home, run)


def test_a_plan_that_cannot_start_leaves_nothing(home: Home, write_job: Callable[..., Path], tmp_path: Path) -> None:
    job = write_job("true", f"data: {{dataset: files, path: {tmp_path}}}")
    plan = make_plan(home, job)
    gone = dataclasses.replace(plan, program=dataclasses.replace(plan.program, directory=str(tmp_path / "gone")))
    with pytest.raises(UsageError, match="no such folder"):
        submit(home, gone)
    assert not (tmp_path / "runs").exists()
    assert not home.folder.exists()


def test_what_a_provider_cannot_do_is_refused_with_the_reason(home: Home, write_job: Callable[..., Path], tmp_path: Path) -> None:
    job = write_job("true")
    settings = tmp_path / "settings.yaml"
    settings.write_text("aws: {region: eu-west-1}\n")
    with pytest.raises(ProviderError, match=r"'aws' cannot reach the store .*runs"):
        make_plan(home, job, provider="aws", config=str(settings))
    with pytest.raises(ProviderError, match=r"resources\.nodes is 2"):
        make_plan(home, job, ["resources.nodes=2"])
    with pytest.raises(UsageError, match="unknown provider 'lokal'") as raised:
        make_plan(home, job, provider="lokal")
    assert raised.value.hint == "did you mean 'local'?"


def test_a_missing_torch_is_named_with_the_command_before_anything_is_written(
    home: Home, write_job: Callable[..., Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    job = tmp_path / "cnn.yaml"
    job.write_text("name: cnn\nmodel: {kind: cnn}\ndata: {dataset: digits}\nstore: runs\n")
    monkeypatch.setattr(readiness, "find_spec", lambda name: None)
    with pytest.raises(MissingDependencyError, match="torch") as raised:
        submit(home, make_plan(home, job))
    assert "pip install 'cloud-train[train]'" in (raised.value.hint or "")
    assert not (tmp_path / "runs").exists()


def test_planning_changes_nothing_on_disk(home: Home, write_job: Callable[..., Path], tmp_path: Path) -> None:
    job = write_job("true")
    before = sorted(tmp_path.rglob("*"))
    make_plan(home, job)
    assert sorted(tmp_path.rglob("*")) == before

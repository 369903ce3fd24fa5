"""Submissions that were cut off, at each place: none is lost, none is doubled."""

import subprocess
import sys
from dataclasses import replace

import pytest

from cloud_train.orchestrator.reconcile import update_runs
from cloud_train.orchestrator.resuming import resume
from cloud_train.run import layout
from cloud_train.run.record import AttemptStatus
from cloud_train.run.states import Cause, State
from tests.conformance.bench import Bench

# A submission that kills itself just before one of these two steps.
SUBMIT = """
import os, signal, sys
from pathlib import Path
from cloud_train.orchestrator import submitting
from cloud_train.orchestrator.home import Home
from cloud_train.orchestrator.planning import make_plan

job, config, before = sys.argv[1:]
owner = {"launch": submitting, "launched": submitting.Ledger}[before]
setattr(owner, before, lambda *unused: os.kill(os.getpid(), signal.SIGKILL))
home = Home.from_environment()
submitting.submit(home, make_plan(home, Path(job), config=config))
"""


def cut_off(bench: Bench, before: str) -> None:
    """Submit a job in a process of its own that dies just before this step."""
    job = bench.job('echo "attempt $CLOUD_TRAIN_ATTEMPT"')
    command = [sys.executable, "-c", SUBMIT, str(job), str(bench.config), before]
    ended = subprocess.run(command, capture_output=True, text=True, check=False, stdin=subprocess.DEVNULL, timeout=120)
    assert ended.returncode == -9, ended.stderr


def test_a_submission_that_died_before_the_launch_is_seen_as_cut_off_and_can_be_resumed(bench: Bench) -> None:
    cut_off(bench, before="launch")
    [run] = update_runs(bench.home)
    assert (run.cause, "cut off" in run.message) == (Cause.INFRASTRUCTURE, True)
    resume(bench.home, run.run_id)
    assert bench.end_of(run).state is State.SUCCEEDED
    assert bench.words(run) == ["attempt 2"]
    written = [info.key for info in bench.store.list(f"{run.run_id}/{layout.attempt(1)}/")]
    assert written == [f"{run.run_id}/{layout.status(1)}"], "the first attempt never ran: resume has written its end alone"
    first = AttemptStatus.from_json(bench.store.get(written[0]), "status")
    assert (first.cause, first.closed) == (Cause.INFRASTRUCTURE, True)


def test_a_submission_that_died_between_launch_and_ledger_is_found_and_ran_once(bench: Bench) -> None:
    cut_off(bench, before="launched")
    [run] = update_runs(bench.home)
    assert (bench.end_of(run).state, run.attempt) == (State.SUCCEEDED, 1)
    assert bench.words(run) == ["attempt 1"]


@pytest.mark.parametrize("before", ["launch", "launched"])
def test_what_became_of_such_a_submission_is_the_same_at_every_look(bench: Bench, before: str) -> None:
    cut_off(bench, before)
    [run] = update_runs(bench.home)
    end = bench.end_of(run)
    assert update_runs(bench.home) == [replace(end, heartbeat=None)]

"""Submissions killed at any point, and many at once: no run is lost or duplicated."""

import json
import subprocess
import sys
from collections.abc import Callable, Iterable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path

import pytest

from cloud_train.orchestrator.following import follow
from cloud_train.orchestrator.home import Home
from cloud_train.orchestrator.reconcile import update_runs
from cloud_train.orchestrator.resuming import resume
from cloud_train.run.states import Cause, State

# Submits in forked processes, several at once, after importing everything that they need. Each is given a moment, the number of the audit
# event at which it kills itself: opening a file, locking, renaming, connecting to the ledger, starting a process. With moment 0 it
# finishes. Prints for each how it ended, and how many events it saw.
SUBMIT = """
import json, multiprocessing, os, signal, sys
from multiprocessing.connection import wait
from pathlib import Path
from cloud_train.orchestrator.home import Home
from cloud_train.orchestrator.planning import make_plan
from cloud_train.orchestrator import submitting

fork = multiprocessing.get_context("fork")
home, job, at_once, moments = Home.from_environment(), Path(sys.argv[1]), int(sys.argv[2]), json.loads(sys.argv[3])

def submit(moment, deeds):
    plan = make_plan(home, job)

    def count(event, arguments):
        if event.startswith(("open", "os.", "fcntl", "sqlite3", "subprocess", "shutil", "tempfile")):
            deeds.value += 1
            if deeds.value == moment:
                os.kill(os.getpid(), signal.SIGKILL)

    sys.addaudithook(count)
    submitting.submit(home, plan)

deeds = [fork.RawValue("i", 0) for _ in moments]
processes = [fork.Process(target=submit, args=place) for place in zip(moments, deeds)]
running = []
for process in processes:
    if len(running) == at_once:
        ended = wait([each.sentinel for each in running])
        running = [each for each in running if each.sentinel not in ended]
    process.start()
    running.append(process)
for process in processes:
    process.join()
print(json.dumps([[process.exitcode, each.value] for process, each in zip(processes, deeds)]))
"""


@dataclass(frozen=True)
class Submission:
    """How the submitting process ended, and how many audit events it saw."""

    exit_status: int
    deeds: int


def submissions(job: Path, moments: Iterable[int], at_once: int) -> list[Submission]:
    """Submit the job once for each moment. Error messages of the processes are in the test's output."""
    program = [sys.executable, "-c", SUBMIT, str(job), str(at_once), json.dumps(list(moments))]
    ended = subprocess.run(program, stdout=subprocess.PIPE, text=True, check=True, timeout=120)
    return [Submission(*each) for each in json.loads(ended.stdout)]


@pytest.mark.slow
def test_a_submission_killed_at_any_point_is_absent_or_visible_and_consistent(
    home: Home, write_job: Callable[..., Path], tmp_path: Path
) -> None:
    job = write_job(f"echo $CLOUD_TRAIN_RUN_ID >> {tmp_path}/launches")
    (whole,) = submissions(job, [0], 1)
    assert whole.exit_status == 0
    assert whole.deeds > 20
    ended = [each.exit_status for each in submissions(job, range(1, whole.deeds + 1), 2)]
    # The last few moments depend on the worker's progress, so a submission may end before it reaches its own.
    assert set(ended) <= {-9, 0}
    assert ended.count(-9) > 20
    outcomes: dict[str, int] = {}
    for run in update_runs(home):
        end = list(follow(home, run.run_id))[-1].view
        outcomes[end.cause or "none"] = outcomes.get(end.cause or "none", 0) + 1
        if end.state is not State.SUCCEEDED:
            assert (end.cause, "cut off" in end.message) == (Cause.INFRASTRUCTURE, True), end
            resume(home, run.run_id)
            assert list(follow(home, run.run_id))[-1].view.state is State.SUCCEEDED
    visible = {run.run_id for run in update_runs(home)}
    on_disk = {path.parent.name for path in (tmp_path / "runs").glob("*/run.json")}
    assert visible == on_disk
    launches = (tmp_path / "launches").read_text().split()
    assert sorted(launches) == sorted(visible), "every visible run ran exactly once"
    assert set(outcomes) == {Cause.SUCCEEDED, Cause.INFRASTRUCTURE}, "some were killed before the launch and some after it"


@pytest.mark.slow
def test_fifty_submissions_at_once_are_fifty_runs(home: Home, write_job: Callable[..., Path], tmp_path: Path) -> None:
    job = write_job(f"echo $CLOUD_TRAIN_RUN_ID >> {tmp_path}/launches")
    assert [each.exit_status for each in submissions(job, [0] * 50, 50)] == [0] * 50
    runs = update_runs(home)
    assert len(runs) == 50
    for run in runs:
        assert list(follow(home, run.run_id))[-1].view.state is State.SUCCEEDED
    assert sorted((tmp_path / "launches").read_text().split()) == sorted(run.run_id for run in runs)


@pytest.mark.slow
@pytest.mark.parametrize("times", [2])
def test_a_run_that_is_resumed_twice_at_once_is_launched_once(
    home: Home, write_job: Callable[..., Path], tmp_path: Path, times: int
) -> None:
    job = write_job(f"echo $CLOUD_TRAIN_ATTEMPT >> {tmp_path}/launches; test -f {tmp_path}/well && sleep 0.2")
    assert [each.exit_status for each in submissions(job, [0], 1)] == [0]
    run = update_runs(home)[0]
    list(follow(home, run.run_id))
    (tmp_path / "well").touch()
    program = (
        "from cloud_train.orchestrator.home import Home; from cloud_train.orchestrator.resuming import resume;"
        f"resume(Home.from_environment(), {run.run_id!r})"
    )
    with ThreadPoolExecutor(8) as pool:
        ended = list(
            pool.map(lambda _: subprocess.run([sys.executable, "-c", program], capture_output=True, check=False, timeout=60), range(8))
        )
    assert [process.returncode for process in ended].count(0) == 1
    list(follow(home, run.run_id))
    assert (tmp_path / "launches").read_text() == "1\n2\n"

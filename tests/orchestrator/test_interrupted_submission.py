"""Submissions that are killed at any point, and many at once: none is lost, none is doubled."""

import subprocess
import sys
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from cloud_train.orchestrator.following import follow
from cloud_train.orchestrator.home import Home
from cloud_train.orchestrator.observing import list_runs
from cloud_train.orchestrator.resuming import resume
from cloud_train.run.states import Cause, State

# Submits, and kills itself at one of the moments at which Python tells of a deed: opening a file, locking, renaming, connecting to the
# ledger, starting a process.
SUBMIT = """
import os, signal, sys
from pathlib import Path
from cloud_train.orchestrator.home import Home
from cloud_train.orchestrator.planning import make_plan
from cloud_train.orchestrator import submitting

home, moment, seen = Home.from_environment(), int(sys.argv[2]), 0
plan = make_plan(home, Path(sys.argv[1]))

def count(event, arguments):
    global seen
    if event.startswith(("open", "os.", "fcntl", "sqlite3", "subprocess", "shutil", "tempfile")):
        seen += 1
        if seen == moment:
            os.kill(os.getpid(), signal.SIGKILL)

sys.addaudithook(count)
submitting.submit(home, plan)
print(seen)
"""


def run_submission(job: Path, moment: int) -> subprocess.CompletedProcess[str]:
    return subprocess.run([sys.executable, "-c", SUBMIT, str(job), str(moment)], capture_output=True, text=True, check=False, timeout=60)


def test_a_submission_killed_at_any_point_is_absent_or_visible_and_consistent(
    home: Home, write_job: Callable[..., Path], tmp_path: Path
) -> None:
    job = write_job(f"echo $CLOUD_TRAIN_RUN_ID >> {tmp_path}/launches")
    whole = run_submission(job, 0)
    assert whole.returncode == 0, whole.stderr
    moments = int(whole.stdout)
    assert moments > 20
    with ThreadPoolExecutor(2) as pool:
        ended = list(pool.map(lambda moment: run_submission(job, moment), range(1, moments + 1)))
    # The last few moments depend on how far the worker is by then, so a submission may end before it meets its own.
    assert {process.returncode for process in ended} <= {-9, 0}, [process.stderr for process in ended]
    assert [process.returncode for process in ended].count(-9) > 20
    outcomes: dict[str, int] = {}
    for run in list_runs(home):
        end = list(follow(home, run.run_id))[-1].view
        outcomes[end.cause or "none"] = outcomes.get(end.cause or "none", 0) + 1
        if end.state is not State.SUCCEEDED:
            assert (end.cause, "cut off" in end.message) == (Cause.INFRASTRUCTURE, True), end
            resume(home, run.run_id)
            assert list(follow(home, run.run_id))[-1].view.state is State.SUCCEEDED
    visible = {run.run_id for run in list_runs(home)}
    on_disk = {path.parent.name for path in (tmp_path / "runs").glob("*/run.json")}
    assert visible == on_disk
    launches = (tmp_path / "launches").read_text().split()
    assert sorted(launches) == sorted(visible), "every visible run ran exactly once"
    assert set(outcomes) == {Cause.SUCCEEDED, Cause.INFRASTRUCTURE}, "some were killed before the launch and some after it"


def test_fifty_submissions_at_once_are_fifty_runs(home: Home, write_job: Callable[..., Path], tmp_path: Path) -> None:
    job = write_job(f"echo $CLOUD_TRAIN_RUN_ID >> {tmp_path}/launches")
    with ThreadPoolExecutor(50) as pool:
        ended = list(pool.map(lambda _: run_submission(job, 0), range(50)))
    assert [process.stderr for process in ended if process.returncode] == []
    runs = list_runs(home)
    assert len(runs) == 50
    for run in runs:
        assert list(follow(home, run.run_id))[-1].view.state is State.SUCCEEDED
    assert sorted((tmp_path / "launches").read_text().split()) == sorted(run.run_id for run in runs)


@pytest.mark.parametrize("times", [2])
def test_a_run_that_is_resumed_twice_at_once_is_launched_once(
    home: Home, write_job: Callable[..., Path], tmp_path: Path, times: int
) -> None:
    job = write_job(f"echo $CLOUD_TRAIN_ATTEMPT >> {tmp_path}/launches; test -f {tmp_path}/well && sleep 0.2")
    assert run_submission(job, 0).returncode == 0
    run = list_runs(home)[0]
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

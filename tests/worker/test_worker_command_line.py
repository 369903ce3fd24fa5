import fcntl
import os
import subprocess
import sys
from pathlib import Path

import psutil
import pytest

from cloud_train import locks
from cloud_train.exit_status import STORE_ON_VERTEX
from cloud_train.run.record import sha256_of
from cloud_train.run.states import Cause, State
from tests.support import wait_until
from tests.worker.launching import Launched

RECORD = "0" * 64


def worker(*arguments: str, **environment: str) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-m", "cloud_train.worker", *arguments]
    return subprocess.run(command, capture_output=True, text=True, check=False, env={**os.environ, **environment})


def test_the_worker_runs_an_attempt_as_a_provider_starts_it(launched: Launched) -> None:
    launched.shell("echo rank $CLOUD_TRAIN_NODE_RANK of $CLOUD_TRAIN_NODES")
    assert launched.start_by_command_line().wait(30) == 0
    assert launched.output() == b"rank 0 of 1\n"
    assert launched.ended_with(Cause.SUCCEEDED)


def test_each_node_keeps_logs_of_its_own_and_node_0_the_status(launched: Launched) -> None:
    launched.shell("echo rank $CLOUD_TRAIN_NODE_RANK of $CLOUD_TRAIN_NODES")
    workers = [launched.start_by_command_line("--node-rank", rank, "--nodes", "2") for rank in ("0", "1")]
    assert [worker.wait(30) for worker in workers] == [0, 0]
    assert launched.status().pid == workers[0].pid
    assert launched.output() == b"rank 0 of 2\n"
    assert (launched.directory / "attempts/1/logs/node-1/output.log").read_bytes() == b"rank 1 of 2\n"


def test_the_delay_before_another_attempt_can_be_given(launched: Launched) -> None:
    launched.shell("exit 1", attempts=2, retry_on=(Cause.FAILED,))
    launched.start_by_command_line("--retry-delay", "0").wait(30)
    assert launched.ended_with(Cause.FAILED, 2)


@pytest.mark.parametrize(
    "arguments",
    [
        [],
        ["--store"],
        ["--store", "/tmp", "--run", "x"],
        ["--store", "/tmp", "--run", "x", "--attempt", "1"],
        ["--store", "/tmp", "--run", "x", "--attempt", "one", "--record", RECORD],
        ["--store", "/tmp", "--run", "x", "--attempt", "0", "--record", RECORD],
        ["--store", "/tmp", "--run", "x", "--attempt", "1", "--record", RECORD, "--colour", "red"],
        ["--store", "/tmp", "--run", "x", "--attempt", "1", "--record", RECORD, "--node-rank", "2", "--nodes", "2"],
        ["--store", "/tmp", "--run", "x", "--attempt", "1", "--record", RECORD, "--lock-fd", "77"],
        ["--store", "floppy://a", "--run", "x", "--attempt", "1", "--record", RECORD],
    ],
)
def test_a_command_line_that_makes_no_sense_is_an_error_without_a_traceback(arguments: list[str]) -> None:
    done = worker(*arguments)
    assert done.returncode == 2
    assert done.stderr.startswith("error: ")
    assert "Traceback" not in done.stderr


def test_a_run_that_does_not_exist_is_an_error_without_a_traceback(tmp_path: Path) -> None:
    done = worker("--store", str(tmp_path), "--run", "nothing", "--attempt", "1", "--record", RECORD)
    assert done.returncode == 6
    assert "no such file" in done.stderr
    assert list(tmp_path.iterdir()) == []


def test_on_vertex_a_store_that_does_not_answer_has_a_status_that_is_not_taken_for_a_crash(tmp_path: Path) -> None:
    options = ("--store", str(tmp_path), "--run", "nothing", "--attempt", "1", "--record", RECORD, "--workspace", str(tmp_path / "work"))
    done = worker(*options, "--platform", "vertex", CLOUD_ML_JOB_ID="1")
    assert done.returncode == STORE_ON_VERTEX
    assert "no such file" in done.stderr


def test_a_run_record_that_is_damaged_is_an_error_that_names_it(tmp_path: Path) -> None:
    (tmp_path / "a-run").mkdir()
    (tmp_path / "a-run" / "run.json").write_text("{}")
    done = worker("--store", str(tmp_path), "--run", "a-run", "--attempt", "1", "--record", sha256_of(b"{}"))
    assert done.returncode == 8
    assert "run.json is not a run record" in done.stderr


def test_the_lock_is_held_for_as_long_as_the_worker_lives_and_the_program_never_has_it(launched: Launched, tmp_path: Path) -> None:
    launched.python("import os\nprint(sorted(os.listdir('/proc/self/fd')), flush=True)\nopen('go').read()")
    os.mkfifo(launched.work / "go")
    descriptor = locks.take(tmp_path / "lock")
    assert descriptor is not None
    process = launched.start_by_command_line("--lock-fd", str(descriptor), pass_fds=(descriptor,))
    os.close(descriptor)
    launched.says(b"]")
    assert locks.is_held(tmp_path / "lock")
    assert b"'0', '1', '2', '3'" in launched.output()
    assert str(descriptor).encode() not in launched.output().replace(b"'3'", b"") or descriptor <= 3
    (launched.work / "go").write_text("go")
    assert process.wait(30) == 0
    wait_until(lambda: not locks.is_held(tmp_path / "lock"), "the lock is let go")


def test_the_lock_of_a_killed_worker_is_let_go_when_its_program_is_gone(launched: Launched, tmp_path: Path) -> None:
    launched.shell("echo $$ ready; exec sleep 600")
    descriptor = locks.take(tmp_path / "lock")
    assert descriptor is not None
    process = launched.start_by_command_line("--lock-fd", str(descriptor), pass_fds=(descriptor,))
    os.close(descriptor)
    launched.says(b"ready")
    wait_until(lambda: launched.is_in(State.RUNNING), "the status says running")
    program = psutil.Process(int(launched.output().split()[0]))
    process.kill()
    process.wait()
    with (tmp_path / "lock").open() as file:
        fcntl.flock(file, fcntl.LOCK_EX)  # as soon as it can be had, the program is gone
        assert not program.is_running() or program.status() == psutil.STATUS_ZOMBIE
    assert launched.is_in(State.RUNNING)

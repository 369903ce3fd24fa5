import os
import time
from dataclasses import replace
from pathlib import Path

from cloud_train.exit_status import TAKEN
from cloud_train.run.states import Cause, State
from tests.support import wait_until
from tests.worker.launching import QUICK, RUN_ID, Launched
from tests.worker.small_disk import fill, small_disk


def use_store(launched: Launched, disk: Path) -> None:
    launched.store = disk
    launched.directory = disk / RUN_ID


def test_a_second_worker_for_the_same_attempt_goes_away_without_harm(launched: Launched) -> None:
    launched.shell("echo started; exec sleep 60")
    first = launched.start()
    launched.says(b"started")
    before = launched.status()
    second = launched.start(timing=replace(QUICK, heartbeat=600))
    assert second.wait(30) == TAKEN == 3
    assert launched.status().pid == before.pid == first.pid
    assert launched.output() == b"started\n"
    first.terminate()
    first.wait(30)
    assert launched.ended_with(Cause.PREEMPTED)


def test_an_attempt_that_has_ended_is_not_run_again(launched: Launched) -> None:
    launched.shell("echo started")
    launched.run()
    assert launched.start().wait(30) == TAKEN
    assert launched.output() == b"started\n"


def test_of_many_workers_at_once_exactly_one_runs_the_attempt(launched: Launched) -> None:
    launched.shell("echo started")
    workers = [launched.start() for _ in range(8)]
    assert sorted(worker.wait(60) for worker in workers) == [0] + [TAKEN] * 7
    assert launched.output() == b"started\n"


def test_a_disk_that_is_full_for_a_while_does_not_stop_the_run(launched: Launched, tmp_path: Path) -> None:
    with small_disk(tmp_path / "disk", kilobytes=512) as disk:
        use_store(launched, disk)
        os.mkfifo(launched.work / "go")
        launched.shell("echo ready; read line < go")
        worker = launched.start()
        launched.says(b"ready")
        wait_until(lambda: launched.is_in(State.RUNNING), "the status says running")
        ballast = fill(disk)
        heard = launched.status().heartbeat
        wait_until(lambda: time.time() > heard + 5 * QUICK.heartbeat, "some signs of life were due")
        assert worker.poll() is None
        assert launched.status().heartbeat == heard
        ballast.unlink()
        wait_until(lambda: launched.status().heartbeat > heard, "signs of life come again")
        (launched.work / "go").write_text("go\n")
        assert worker.wait(30) == 0
        assert launched.ended_with(Cause.SUCCEEDED)
        launched.end()


def test_an_end_that_cannot_be_written_down_is_said_on_stderr(launched: Launched, tmp_path: Path) -> None:
    with small_disk(tmp_path / "disk", kilobytes=512) as disk:
        use_store(launched, disk)
        os.mkfifo(launched.work / "go")
        launched.shell("echo ready; read line < go; exit 4")
        worker = launched.start()
        launched.says(b"ready")
        wait_until(lambda: launched.is_in(State.RUNNING), "the status says running")
        (launched.directory / "attempts/1/.cloud-train-reserve").unlink()
        fill(disk)
        (launched.work / "go").write_text("go\n")
        assert worker.wait(30) == Cause.FAILED.exit_code
        assert launched.is_in(State.RUNNING)
        assert worker.stderr is not None
        assert worker.stderr.read().startswith(b"cannot record the end: failed: exit status 4")
        launched.end()


def test_a_full_disk_at_the_very_start_is_an_error_with_what_and_where(launched: Launched, tmp_path: Path) -> None:
    with small_disk(tmp_path / "disk", kilobytes=128) as disk:
        use_store(launched, disk)
        launched.job("true")
        fill(disk)
        worker = launched.start_by_command_line()
        assert worker.wait(30) == 6
        assert worker.stderr is not None
        said = worker.stderr.read().decode()
        assert said.startswith(f"error: cannot write {disk}")
        assert "no space left on device" in said
        assert "Traceback" not in said
        launched.end()


def test_a_run_directory_in_which_no_log_can_be_made_is_the_machines_fault(launched: Launched) -> None:
    launched.job("true")
    (launched.directory / "checkpoints").write_text("a file where a folder should be")
    status = launched.run()
    assert status.cause is Cause.INFRASTRUCTURE
    assert "cannot make" in status.message


def test_a_program_that_has_filled_the_disk_still_gets_its_end_and_the_reason(launched: Launched, tmp_path: Path) -> None:
    with small_disk(tmp_path / "disk", kilobytes=512) as disk:
        use_store(launched, disk)
        launched.python("import os\nopen(os.environ['CLOUD_TRAIN_MODEL'] + '/weights', 'wb').write(bytes(10_000_000))")
        status = launched.run()
        assert (status.cause, status.program_exit_code) == (Cause.FAILED, 1)
        assert status.message.endswith(f"the disk of {launched.directory} is full")
        assert status.message in launched.worker_log()
        launched.end()

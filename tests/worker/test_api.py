import json
import math
import os
import signal
import subprocess
import sys
import textwrap
from collections.abc import Iterator
from pathlib import Path

import pytest

from cloud_train.errors import StoreError, UsageError
from cloud_train.run.checkpoints import newest_valid
from cloud_train.run.manifest import verify
from cloud_train.run.states import Cause, State
from cloud_train.worker import contract
from cloud_train.worker.api import Run
from cloud_train.worker.metrics import MetricsWriter
from tests.support import wait_until
from tests.worker.launching import Launched
from tests.worker.small_disk import fill, small_disk


def lines(path: Path) -> list[dict[str, object]]:
    return [json.loads(line) for line in path.read_text().splitlines()]


@pytest.fixture
def run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Run]:
    before = signal.getsignal(signal.SIGTERM)
    monkeypatch.chdir(tmp_path)
    monkeypatch.delenv(contract.RUN_ID, raising=False)
    yield Run.from_environment()
    signal.signal(signal.SIGTERM, before)


def test_outside_cloud_train_a_program_has_folders_of_its_own(run: Run, tmp_path: Path) -> None:
    output = tmp_path / "cloud-train-output"
    assert (run.run_id, run.attempt, run.resume_from, run.data) == ("standalone", 1, None, None)
    assert (run.checkpoints, run.model) == (output / "checkpoints", output / "model")
    assert run.checkpoints.is_dir()
    assert run.model.is_dir()


def test_a_standalone_program_resumes_from_its_own_newest_checkpoint(run: Run) -> None:
    with run.checkpoint(3) as folder:
        (folder / "weights").write_text("three")
    assert Run.from_environment().resume_from == run.checkpoints / "step-00000003"


def test_a_checkpoint_is_published_whole_with_its_metrics_and_fingerprint(run: Run) -> None:
    with run.checkpoint(12, {"validation/loss": 0.5}, {"threads": 2}) as folder:
        (folder / "weights").write_text("twelve")
        assert newest_valid(run.checkpoints, print) is None
    manifest = verify(run.checkpoints / "step-00000012")
    assert (manifest.step, manifest.metrics, manifest.fingerprint) == (12, {"validation/loss": 0.5}, {"threads": 2})


def test_an_exception_while_saving_leaves_no_checkpoint_and_goes_on_its_way(run: Run) -> None:
    def save_half() -> None:
        with run.checkpoint(1) as folder:
            (folder / "weights").write_text("half")
            raise ZeroDivisionError

    with pytest.raises(ZeroDivisionError):
        save_half()
    assert list(run.checkpoints.iterdir()) == []


def test_old_checkpoints_are_deleted_but_the_best_stays(run: Run) -> None:
    for step, accuracy in enumerate([0.9, 0.1, 0.2, 0.3, 0.4], start=1):
        with run.checkpoint(step, {"validation/accuracy": accuracy}) as folder:
            (folder / "weights").write_text(str(step))
    assert sorted(path.name for path in run.checkpoints.iterdir()) == [f"step-0000000{step}" for step in (1, 3, 4, 5)]


def test_metrics_are_json_lines_and_what_is_not_finite_is_null(run: Run) -> None:
    run.log(step=1, epoch=0.5, loss=0.25, norm=math.inf)
    run.log(step=2, split="validation", loss=math.nan)
    run.flush()
    written = lines(run.metrics)
    assert [{**line, "time": 0} for line in written] == [
        {"step": 1, "epoch": 0.5, "time": 0, "split": "train", "name": "loss", "value": 0.25},
        {"step": 1, "epoch": 0.5, "time": 0, "split": "train", "name": "norm", "value": None},
        {"step": 2, "epoch": None, "time": 0, "split": "validation", "name": "loss", "value": None},
    ]
    assert all(isinstance(line["time"], float) for line in written)


def test_a_checkpoint_never_comes_before_the_metrics_that_led_to_it(run: Run) -> None:
    run.log(step=1, loss=1.0)
    run.log(step=2, loss=0.5)
    with run.checkpoint(2) as folder:
        assert [line["step"] for line in lines(run.metrics)] == [1, 2]
        (folder / "weights").write_text("two")


def test_the_first_line_is_written_at_once_and_further_ones_at_most_twice_a_second(tmp_path: Path) -> None:
    now = 100.0
    writer = MetricsWriter(tmp_path / "metrics", clock=lambda: now)
    writer.add(1, None, "train", {"loss": 1.0})
    assert len(lines(tmp_path / "metrics")) == 1
    now += 0.4
    writer.add(2, None, "train", {"loss": 1.0})
    assert len(lines(tmp_path / "metrics")) == 1
    now += 0.2
    writer.add(3, None, "train", {"loss": 1.0})
    assert len(lines(tmp_path / "metrics")) == 3


def test_metrics_that_cannot_be_written_are_an_error_and_come_whole_once_there_is_room(tmp_path: Path) -> None:
    with small_disk(tmp_path / "disk", kilobytes=64) as disk:
        writer = MetricsWriter(disk / "metrics")
        writer.add(0, None, "train", {"loss": 1.0})
        ballast = fill(disk)

        def log_much() -> None:
            for step in range(1, 200):
                writer.add(step, None, "train", {"loss": 1.0})
                writer.flush()

        with pytest.raises(StoreError, match="no space left on device"):
            log_much()
        assert len(lines(disk / "metrics")) >= 1
        ballast.unlink()
        writer.flush()
        steps = [line["step"] for line in lines(disk / "metrics")]
        assert steps == list(range(len(steps)))


def test_the_model_is_complete_once_it_is_published(run: Run) -> None:
    (run.model / "weights").write_text("final")
    run.publish_model()
    assert verify(run.model).step is None


def test_a_reason_that_cannot_be_written_is_said_on_stderr(run: Run, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    run.failure = tmp_path / "no such folder" / "failure"
    run.fail("the disk is full", "infrastructure")
    assert capsys.readouterr().err == "infrastructure: the disk is full\n"


def test_folders_that_cannot_be_made_are_an_error_that_names_the_place(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.delenv(contract.RUN_ID, raising=False)
    (tmp_path / "cloud-train-output").write_text("a file")
    with pytest.raises(StoreError, match="cloud-train-output"):
        Run.from_environment()


def test_an_environment_with_a_part_of_the_contract_is_an_error_that_names_what_is_missing(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(contract.RUN_ID, "a-run")
    monkeypatch.delenv(contract.ATTEMPT, raising=False)
    with pytest.raises(UsageError, match="'CLOUD_TRAIN_ATTEMPT' is not"):
        Run.from_environment()


def standalone(tmp_path: Path, code: str) -> subprocess.Popen[bytes]:
    (tmp_path / "program.py").write_text("from cloud_train.worker.api import Run\n" + textwrap.dedent(code))
    environment = {name: value for name, value in os.environ.items() if not name.startswith("CLOUD_TRAIN_")}
    return subprocess.Popen([sys.executable, "program.py"], cwd=tmp_path, env=environment, stdout=subprocess.PIPE)


def test_buffered_metrics_are_written_when_the_program_ends_even_by_an_exception(tmp_path: Path) -> None:
    code = """
        import sys
        run = Run.from_environment()
        for step in range(100):
            run.log(step=step, loss=0.5)
        sys.exit("it failed")
    """
    process = standalone(tmp_path, code)
    process.communicate()
    assert process.returncode == 1
    assert [line["step"] for line in lines(tmp_path / "cloud-train-output" / "metrics.jsonl")] == list(range(100))


def test_a_forked_child_does_not_write_the_buffer_a_second_time(tmp_path: Path) -> None:
    code = """
        import os, sys
        run = Run.from_environment()
        for step in range(100):
            run.log(step=step, loss=0.5)
        if os.fork() == 0:
            sys.exit()
        os.wait()
    """
    standalone(tmp_path, code).communicate()
    assert len(lines(tmp_path / "cloud-train-output" / "metrics.jsonl")) == 100


def test_a_second_sigterm_ends_a_program_that_does_not_listen(tmp_path: Path) -> None:
    code = """
        import time
        run = Run.from_environment()
        print("ready", flush=True)
        while not run.stop_requested:
            time.sleep(0.01)
        print("asked", flush=True)
        while True:
            time.sleep(60)
    """
    process = standalone(tmp_path, code)
    assert process.stdout is not None
    with process.stdout:
        assert process.stdout.readline() == b"ready\n"
        process.terminate()
        assert process.stdout.readline() == b"asked\n"
        process.terminate()
        assert process.wait(30) == -signal.SIGTERM


TRAINS = """
from cloud_train.worker.api import Run
import time

run = Run.from_environment()
start = int((run.resume_from / "step").read_text()) if run.resume_from else 0
for step in range(start + 1, 100_000):
    run.log(step=step, loss=1 / step)
    if step == start + 3:
        print("at", step, flush=True)
    if run.stop_requested:
        with run.checkpoint(step, {"validation/loss": 1 / step}) as folder:
            (folder / "step").write_text(str(step))
        run.exit_stopped()
    time.sleep(0.005)
"""


def test_a_program_that_is_stopped_and_resumed_goes_on_where_it_was(launched: Launched) -> None:
    launched.python(TRAINS)
    worker = launched.start()
    launched.says(b"at 3\n")
    worker.terminate()
    worker.wait(30)
    assert launched.ended_with(Cause.PREEMPTED)
    assert launched.status().program_exit_code == contract.STOPPED
    second = launched.start(attempt=2)
    wait_until(lambda: launched.is_in(State.RUNNING, 2), "the second attempt runs")
    stopped_at = launched.status(2).resumed_step
    assert stopped_at is not None
    launched.says(b"at %d\n" % (stopped_at + 3), attempt=2)
    second.terminate()
    second.wait(30)
    metrics = [lines(launched.directory / f"attempts/{number}/metrics/node-0.jsonl") for number in (1, 2)]
    steps = [line["step"] for line in metrics[0] + metrics[1]]
    assert steps == list(range(1, len(steps) + 1))
    assert metrics[1][0]["step"] == stopped_at + 1

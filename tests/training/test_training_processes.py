"""Several training processes: they learn what one learns, resume exactly, stop together, and tell whose fault it was."""

import json
import os
import re
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from cloud_train.run.checkpoints import newest_valid
from cloud_train.worker import contract
from tests.training.program import ROOT, Program

pytestmark = pytest.mark.slow

RAGGED: dict[str, Any] = {  # 1,438 digits in batches of 400: the last has 238, which three processes do not share equally
    "model": {"kind": "cnn", "blocks": [{"filters": 4}]},
    "data": {"dataset": "digits", "size": 8},
    "train": {"epochs": 1, "batch_size": 400, "tensorboard": False},
    "resources": {"cpus": 1},
}
DROPPING: dict[str, Any] = {
    "model": {"kind": "cnn", "blocks": [{"filters": 8, "norm": "batch", "dropout": 0.2}, {"filters": 8, "padding": 1}], "dropout": 0.3},
    "data": {"dataset": "digits", "size": 8, "augment": {"crop": 1}},
    "train": {"steps": 8, "batch_size": 100, "optimizer": {"name": "adamw", "weight_decay": 0.1}, "schedule": "one-cycle"},
    "checkpoint": {"every": "3 steps"},
}
CARRYING: dict[str, Any] = {
    "model": {"kind": "rnn", "cell": "lstm", "hidden_size": 8, "layers": 2, "dropout": 0.3},
    "data": {"dataset": "text", "path": "text.txt", "sequence_length": 16},
    "train": {"steps": 8, "batch_size": 8, "carry_state": True, "clip_norm": 1.0, "accumulate": 1, "ema": 0.9},
    "checkpoint": {"every": "3 steps"},
}
FORECASTING: dict[str, Any] = {  # 103 windows in batches of 25, which two processes do not share equally
    "model": {"kind": "rnn", "cell": "gru", "hidden_size": 8, "quantiles": [0.1, 0.5, 0.9]},
    "data": {"dataset": "series", "path": "series.csv", "targets": "value", "horizon": 4, "season": 7},
    "train": {"epochs": 2, "batch_size": 25, "tensorboard": False},
    "resources": {"cpus": 1},
}

# Run first in every process of a training. The process that speaks for all kills itself just after it has logged a step.
KILLED = """
import os, signal
from cloud_train.worker.api import Run
log = Run.log
def log_and_be_signalled(self, *, step, **values):
    log(self, step=step, **values)
    if step == 7:
        os.kill({pid}, signal.{name})
Run.log = log_and_be_signalled
"""

# Process 1 goes wrong in its third step, as it would by a mistake in its data or by a machine's fault.
GOES_WRONG = """
import os, signal
from cloud_train.errors import CorruptError
from cloud_train.training.ordering import Position
after = Position.after
def wrong(self, samples, of):
    if os.environ.get("RANK") == "1" and self.step == 2:
        {what}
    return after(self, samples, of)
Position.after = wrong
"""


def processes(job: dict[str, Any], count: int) -> dict[str, Any]:
    return {**job, "resources": {"cpus": count, "processes": count}}


def patched(code: str, folder: Path) -> dict[str, str]:
    """The environment in which every process of the training, the launcher's children included, runs ``code`` first."""
    (folder / "patch").mkdir(exist_ok=True)
    (folder / "patch" / "sitecustomize.py").write_text(code)
    return {"PYTHONPATH": os.pathsep.join([str(folder / "patch"), str(ROOT)])}


def validation(program: Program) -> dict[str, float]:
    lines = [json.loads(line) for line in (program.folder / "metrics.jsonl").read_text().splitlines()]
    return {line["name"]: line["value"] for line in lines if line["split"] == "validation"}


def losses(program: Program) -> list[float]:
    lines = [json.loads(line) for line in (program.folder / "metrics.jsonl").read_text().splitlines()]
    return [line["value"] for line in lines if line["split"] == "train" and line["name"] == "loss"]


@pytest.fixture(scope="module")
def killed(tmp_path_factory: pytest.TempPathFactory) -> Callable[[Path, dict[str, Any], int], Program]:
    """Gives a training of a job in so many processes that was killed after its seventh step: killed once, and copied into a folder."""
    made: dict[tuple[str, int], Path] = {}

    def killed(folder: Path, job: dict[str, Any], count: int) -> Program:
        key = (json.dumps(job), count)
        if key not in made:
            made[key] = tmp_path_factory.mktemp("killed")
            program = Program(made[key] / "run", processes(job, count))
            program.run(**patched(KILLED.format(pid="os.getpid()", name="SIGKILL"), made[key]))
        shutil.copytree(made[key] / "run", folder)
        return Program(folder, processes(job, count))

    return killed


def test_three_processes_learn_what_one_learns_on_data_that_they_cannot_share_equally(tmp_path: Path) -> None:
    alone, together = Program(tmp_path / "alone", RAGGED), Program(tmp_path / "together", processes(RAGGED, 3))
    for program in (alone, together):
        ended = program.run()
        assert ended.returncode == 0, ended.stderr
    assert " in 3 processes, each on cpu with 1 thread; 1,438 training samples" in ended.stdout
    assert ended.stdout.count("done: ") == 1  # one of them speaks for all
    assert losses(together) == pytest.approx(losses(alone), rel=1e-4)
    assert validation(together) == pytest.approx(validation(alone), rel=1e-3)


def test_two_processes_forecast_what_one_forecasts_and_test_it_once(tmp_path: Path) -> None:
    alone, together = Program(tmp_path / "alone", FORECASTING), Program(tmp_path / "together", processes(FORECASTING, 2))
    for program in (alone, together):
        (program.folder / "series.csv").write_text("time,value\n" + "".join(f"{n},{n % 7 + (n * n) % 5 / 9}\n" for n in range(150)))
        ended = program.run()
        assert ended.returncode == 0, ended.stderr
    assert losses(together) == pytest.approx(losses(alone), rel=1e-4)
    assert validation(together) == pytest.approx(validation(alone), rel=1e-3)
    assert validation(alone)["mase"] > 0
    assert ended.stdout.count("test loss") == 1


# Two processes of a CNN are killed in tests/orchestrator/test_kills.py.
@pytest.mark.parametrize(("job", "count"), [(DROPPING, 3), (CARRYING, 2)], ids=["cnn-3", "lstm-2"])
def test_several_processes_that_are_killed_and_resumed_end_with_the_same_bytes(
    tmp_path: Path, killed: Callable[[Path, dict[str, Any], int], Program], job: dict[str, Any], count: int
) -> None:
    through = Program(tmp_path / "through", processes(job, count))
    whole = through.run()
    assert whole.returncode == 0, whole.stderr
    program = killed(tmp_path / "killed", job, count)
    newest = newest_valid(program.checkpoints, print)
    assert newest is not None
    assert newest.name in ("step-00000003", "step-00000006")
    resumed = program.run()
    assert resumed.returncode == 0, resumed.stderr
    assert "bit-identical to a run that never stopped" in resumed.stdout
    assert (program.model / "model.safetensors").read_bytes() == (through.model / "model.safetensors").read_bytes()


def test_several_processes_that_are_told_to_stop_save_once_and_end_together(tmp_path: Path) -> None:
    endless = {**DROPPING, "train": {**DROPPING["train"], "steps": 100_000}}  # the signal arrives some steps later
    stopped = Program(tmp_path, processes(endless, 2))
    told = stopped.run(**patched(KILLED.format(pid="os.getppid()", name="SIGTERM"), tmp_path))  # their launcher hands it on
    assert told.returncode == contract.STOPPED, told.stderr
    (step,) = re.findall(r"stop requested: saved at step ([\d,]+) of 100,000", told.stdout)
    newest = newest_valid(stopped.checkpoints, print)
    assert newest is not None
    assert newest.name == f"step-{int(step.replace(',', '')):08}"
    assert not stopped.failure.exists()


@pytest.mark.parametrize(
    ("what", "cause", "message", "status"),
    [
        ('raise CorruptError("pictures/7.png is torn")', "failed", "pictures/7.png is torn", 1),
        ("raise MemoryError", "out-of-memory", "out of memory", 1),
        ("1 / 0", "failed", "ZeroDivisionError: division by zero", 1),
        ("os.kill(os.getpid(), signal.SIGKILL)", "failed", "rank 1: killed by SIGKILL", 137),
        ("os._exit(7)", "failed", "rank 1: exit status 7", 1),
    ],
    ids=["data", "memory", "mistake", "killed", "exit"],
)
def test_a_process_that_fails_says_why_the_run_failed(tmp_path: Path, what: str, cause: str, message: str, status: int) -> None:
    program = Program(tmp_path, processes(RAGGED, 2))
    ended = program.run(**patched(GOES_WRONG.format(what=what), tmp_path))
    assert ended.returncode == status
    assert program.said()["cause"] == cause
    assert program.said()["message"].startswith(message)
    assert [path.name for path in tmp_path.iterdir() if "-rank-" in path.name] == []


def test_another_number_of_processes_goes_on_in_the_same_data_order_and_says_so(
    tmp_path: Path, killed: Callable[[Path, dict[str, Any], int], Program]
) -> None:
    killed(tmp_path / "run", DROPPING, 2)
    resumed = Program(tmp_path / "run", {**DROPPING, "resources": {"cpus": 1}}).run()
    assert resumed.returncode == 0, resumed.stderr
    assert "same data order, but not bit-identical (processes: 2, now 1)" in resumed.stdout


def test_a_loss_that_is_not_finite_in_one_process_names_step_and_rank(tmp_path: Path) -> None:
    job = {**RAGGED, "train": {**RAGGED["train"], "optimizer": {"name": "sgd", "lr": 1e30}}}
    program = Program(tmp_path, processes(job, 2))
    assert program.run().returncode == 1
    assert program.said()["message"].startswith("step 2, rank 0: the loss is ")

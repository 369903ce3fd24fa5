"""``python -m cloud_train.training`` as the worker starts it: a process that gets real signals, full disks and missing packages."""

import signal
from pathlib import Path
from typing import Any

import pytest

from cloud_train.run.checkpoints import newest_valid
from cloud_train.run.manifest import verify
from cloud_train.worker import contract
from tests.training.program import ROOT, SIGNALLED, Program
from tests.worker.small_disk import small_disk

CNN: dict[str, Any] = {
    "model": {"kind": "cnn", "blocks": [{"filters": 4}]},
    "data": {"dataset": "digits", "size": 8},
    "train": {"epochs": 2, "batch_size": 300},
    "resources": {"cpus": 1},
}
GRU: dict[str, Any] = {
    "model": {"kind": "rnn", "hidden_size": 8},
    "data": {"dataset": "text", "path": "text.txt", "sequence_length": 16},
    "train": {"epochs": 2, "batch_size": 24},
    "resources": {"cpus": 1},
}


@pytest.mark.slow
@pytest.mark.parametrize("job", [CNN, GRU], ids=["cnn", "gru"])
def test_a_training_that_is_told_to_stop_and_then_killed_ends_with_the_same_bytes(tmp_path: Path, job: dict[str, Any]) -> None:
    through = Program(tmp_path / "through", job)
    whole = through.run()
    assert (whole.returncode, whole.stderr) == (0, "")
    assert " on cpu with 1 thread; " in whole.stdout
    assert whole.stdout.splitlines()[-1].startswith("done: validation loss ")

    stopped = Program(tmp_path / "stopped", {**job, "checkpoint": {"every": "2 steps"}})
    told = stopped.run("-c", SIGNALLED.format(step=3, name="SIGTERM"))
    assert (told.returncode, told.stderr) == (contract.STOPPED, "")
    assert newest_valid(stopped.checkpoints, print) == stopped.checkpoints / "step-00000003"
    assert not list(stopped.model.iterdir())

    killed = stopped.run("-c", SIGNALLED.format(step=7, name="SIGKILL"))
    assert killed.returncode == -signal.SIGKILL
    newest = newest_valid(stopped.checkpoints, print)
    assert newest is not None
    assert newest.name in ("step-00000005", "step-00000006")  # the end of an epoch is a validation; the sixth was being written

    resumed = stopped.run()
    assert resumed.returncode == 0, resumed.stderr
    assert f"resumed at step {int(newest.name[5:])}: bit-identical to a run that never stopped" in resumed.stdout
    for file in ("model.safetensors", "model.json"):
        assert (stopped.model / file).read_bytes() == (through.model / file).read_bytes()
    assert verify(stopped.model).files == verify(through.model).files


@pytest.mark.slow
@pytest.mark.parametrize("processes", [1, 2])
def test_a_training_never_takes_the_cpu_for_gpus_that_were_asked_for(tmp_path: Path, processes: int) -> None:
    program = Program(tmp_path, {**CNN, "resources": {"cpus": 2, "accelerator": "L4:1", "processes": processes}})
    ended = program.run(CUDA_VISIBLE_DEVICES="")
    assert ended.returncode == 1
    assert program.said()["cause"] == "no-accelerator"
    assert "the job asks for 1 × L4 on each machine (resources.accelerator), but torch " in program.said()["message"]
    assert not program.checkpoints.exists() or not list(program.checkpoints.iterdir())


def test_without_torch_the_command_that_installs_it_is_named(tmp_path: Path) -> None:
    program = Program(tmp_path, CNN)
    (tmp_path / "without").mkdir()
    (tmp_path / "without" / "torch.py").write_text("raise ModuleNotFoundError(\"No module named 'torch'\", name='torch')")
    ended = program.run(PYTHONPATH=f"{tmp_path / 'without'}:{ROOT}")
    assert ended.returncode == 1
    assert ended.stderr == (
        "error: the built-in trainers need torch: No module named 'torch' (install it with: pip install 'cloud-train[train]')\n"
    )
    assert program.said() == {"message": ended.stderr.removeprefix("error: ").strip(), "cause": "failed"}


@pytest.mark.slow
def test_a_full_disk_is_named_and_leaves_the_checkpoints_before_it(tmp_path: Path) -> None:
    with small_disk(tmp_path / "disk", kilobytes=400) as disk:
        program = Program(tmp_path / "work", {**CNN, "checkpoint": {"every": "1 step", "keep": 100}, "train": {"steps": 500}})
        program.checkpoints = disk / "checkpoints"
        ended = program.run(**{contract.KEEP_CHECKPOINTS: "1000"})
        assert ended.returncode == 1
        assert "Traceback" not in ended.stderr
        assert "no space left" in ended.stderr or "the disk is full" in ended.stderr
        assert program.said()["cause"] == "failed"
        newest = newest_valid(program.checkpoints, pytest.fail)
        assert newest is not None
        assert not [file for file in program.checkpoints.iterdir() if file.name.endswith(".tmp")]


@pytest.mark.slow
def test_memory_that_is_used_up_has_a_cause_of_its_own(tmp_path: Path) -> None:
    program = Program(tmp_path, {**GRU, "model": {"kind": "rnn", "hidden_size": 10**7}})
    ended = program.run()
    assert ended.returncode == 1
    assert "Traceback" not in ended.stderr
    assert program.said()["cause"] == "out-of-memory"


def test_text_that_is_not_there_is_a_message_and_no_traceback(tmp_path: Path) -> None:
    program = Program(tmp_path, GRU)
    (tmp_path / "text.txt").unlink()
    ended = program.run()
    assert ended.returncode == 1
    assert "Traceback" not in ended.stderr
    assert "text.txt: no such file" in program.said()["message"]


LOADING = """
import os, runpy, signal
import cloud_train.training.data.dataset
from cloud_train.training.data.shards import ArrivalError
def load(*unused):
    {what}
cloud_train.training.data.dataset.load = load
runpy.run_module("cloud_train.training", run_name="__main__", alter_sys=True)
"""


def test_a_training_that_is_told_to_stop_while_it_loads_its_data_ends_at_once(tmp_path: Path) -> None:
    program = Program(tmp_path, CNN)
    ended = program.run("-c", LOADING.format(what="os.kill(os.getpid(), signal.SIGTERM)"))
    assert ended.returncode == -signal.SIGTERM
    assert not program.failure.exists()


def test_a_shard_that_cannot_be_fetched_is_no_fault_of_the_job(tmp_path: Path) -> None:
    program = Program(tmp_path, CNN)
    assert program.run("-c", LOADING.format(what='raise ArrivalError("it cannot be fetched")')).returncode == 1
    assert program.said() == {"message": "it cannot be fetched", "cause": "infrastructure"}


def test_what_nobody_foresaw_keeps_its_traceback_in_the_log(tmp_path: Path) -> None:
    program = Program(tmp_path, CNN)
    code = (
        "import runpy; from cloud_train.worker.api import Run; Run.publish_model = lambda self, *_: 1 / 0\n"
        "runpy.run_module('cloud_train.training', run_name='__main__', alter_sys=True)"
    )
    ended = program.run("-c", code)
    assert ended.returncode == 1
    assert "Traceback" in ended.stderr
    assert program.said() == {"message": "ZeroDivisionError: division by zero", "cause": "failed"}


@pytest.mark.slow
def test_a_training_imports_neither_scikit_learn_nor_torchs_compiler(tmp_path: Path) -> None:
    code = (
        "import runpy, sys\n"
        "try:\n"
        "    runpy.run_module('cloud_train.training', run_name='__main__', alter_sys=True)\n"
        "finally:\n"
        "    print(sorted({'sklearn', 'PIL', 'scipy', 'pandas', 'torch._dynamo', 'torch._inductor', 'sympy'} & set(sys.modules)))"
    )
    ended = Program(tmp_path, CNN).run("-c", code)
    assert ended.stdout.splitlines()[-1] == "[]", ended.stderr

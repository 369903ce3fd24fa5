"""Runs that are killed repeatedly, at moments drawn from a fixed seed, end with the same bytes as an undisturbed run.

The suite kills each of the jobs below ``CLOUD_TRAIN_TEST_KILLS`` times, 5 unless that variable says otherwise: 55 in all. For a night:
``CLOUD_TRAIN_TEST_KILLS=500 python -m pytest tests/orchestrator/test_kills.py -n 2``.
"""

import hashlib
import json
import os
import random
import signal
import time
from collections.abc import Callable, Iterator
from contextlib import suppress
from pathlib import Path
from typing import Any

import psutil
import pytest

from cloud_train.orchestrator.home import Home
from cloud_train.orchestrator.planning import make_plan
from cloud_train.orchestrator.reconcile import update_run
from cloud_train.orchestrator.resuming import resume
from cloud_train.orchestrator.submitting import submit
from cloud_train.run import layout
from cloud_train.run.checkpoints import newest_valid
from cloud_train.run.record import AttemptStatus
from cloud_train.run.states import State
from cloud_train.run.view import RunView
from tests.support import wait_until

pytest.importorskip("torch")

pytestmark = pytest.mark.slow

KILLS = int(os.environ.get("CLOUD_TRAIN_TEST_KILLS", "5"))
GIVE_UP_SECONDS = 120.0
TEXT = "the quick brown fox jumps over the lazy dog. " * 40
LINES = "".join(f"{('good', 'bad')[n % 2]}\tit was {('fine', 'poor')[n % 2]} {'really ' * (n % 7)}{n}\n" for n in range(120))
SERIES = "time,value\n" + "".join(f"{n},{n % 7 + n / 50 + (n * n) % 5 / 9}\n" for n in range(200))

DIGITS = {"dataset": "digits", "size": 8}
LANGUAGE = {"dataset": "text", "path": "text.txt", "sequence_length": 16}


def rnn(cell: str) -> dict[str, Any]:
    return {"kind": "rnn", "cell": cell, "hidden_size": 8, "layers": 2, "dropout": 0.3}


DROPPING_CNN: dict[str, Any] = {
    "kind": "cnn",
    "blocks": [{"filters": 8, "norm": "batch", "padding": 1, "dropout": 0.2}, {"filters": 8, "norm": "batch"}],
    "head": "average",
    "dropout": 0.3,
}
JOBS: dict[str, dict[str, Any]] = {
    "cnn": {
        "model": DROPPING_CNN,
        "data": {**DIGITS, "augment": {"flip": True, "crop": 1}},
        "train": {"epochs": 2, "batch_size": 200, "schedule": {"name": "cosine", "warmup": "3 steps"}, "optimizer": {"name": "adamw"}},
    },
    "averaged": {
        "model": DROPPING_CNN,
        "data": DIGITS,
        "train": {"epochs": 2, "batch_size": 200, "ema": 0.9, "accumulate": 3, "precision": "bf16", "early_stopping": {"patience": 9}},
    },
    "half": {
        "model": DROPPING_CNN,
        "data": DIGITS,
        "train": {"steps": 12, "batch_size": 100, "precision": "fp16", "optimizer": {"name": "sgd", "lr": 0.05, "momentum": 0.9}},
    },
    "images": {
        "model": {"kind": "cnn", "blocks": [{"filters": 4}]},
        "data": {"dataset": "images", "path": "images", "size": 16, "workers": 2},
        "train": {"epochs": 3, "batch_size": 8},
    },
    "processes": {
        "model": DROPPING_CNN,
        "data": DIGITS,
        "train": {"steps": 10, "batch_size": 90},
        "resources": {"processes": 2, "cpus": 2},
    },
    "linear": {"model": rnn("linear"), "data": LANGUAGE, "train": {"epochs": 2, "batch_size": 16}},
    "elman": {"model": rnn("elman"), "data": LANGUAGE, "train": {"epochs": 2, "batch_size": 16, "clip_norm": 0.5}},
    "gru": {"model": rnn("gru"), "data": LANGUAGE, "train": {"epochs": 2, "batch_size": 16, "schedule": "one-cycle"}},
    "lstm": {"model": rnn("lstm"), "data": LANGUAGE, "train": {"epochs": 2, "batch_size": 8, "carry_state": True}},
    "series": {
        "model": {**rnn("lstm"), "quantiles": [0.1, 0.9]},
        "data": {"dataset": "series", "path": "series.csv", "targets": "value", "horizon": 4, "season": 7},
        "train": {"epochs": 2, "batch_size": 24, "early_stopping": {"patience": 9}},
    },
    "lines": {
        "model": {**rnn("gru"), "bidirectional": True, "embedding_size": 6},
        "data": {"dataset": "sequences", "path": "lines.tsv"},
        "train": {"epochs": 3, "batch_size": 16, "label_smoothing": 0.1, "class_weights": "balanced"},
    },
}


@pytest.mark.parametrize("name", JOBS)
def test_a_run_that_is_killed_anywhere_ends_with_the_same_bytes(home: Home, tmp_path: Path, name: str) -> None:
    draw = random.Random(f"kills of {name}")
    job = write_job(tmp_path, name)
    began = time.monotonic()
    whole = end_of(home, submit(home, make_plan(home, job)))
    seconds = time.monotonic() - began
    assert whole.state is State.SUCCEEDED, whole.message
    kills = 0
    while kills < KILLS:
        run = submit(home, make_plan(home, job))
        while run.state is not State.SUCCEEDED:
            if kills < KILLS:
                kill(draw, home, run, seconds)
            run = end_of(home, run)
            if run.state is not State.SUCCEEDED:
                kills += 1
                run = resume(home, run.run_id)
        assert digest(run) == digest(whole), f"after {kills} kills"


def write_job(folder: Path, name: str) -> Path:
    (folder / "text.txt").write_text(TEXT)
    (folder / "lines.tsv").write_text(LINES)
    (folder / "series.csv").write_text(SERIES)
    if name == "images":
        write_images(folder / "images")
    job = {"name": name, "store": "runs", "resources": {"cpus": 1}, "checkpoint": {"every": "1 step"}, **JOBS[name]}
    path = folder / "job.yaml"
    path.write_text(json.dumps(job))  # JSON is YAML too
    return path


def write_images(folder: Path) -> None:
    from PIL import Image

    for number in range(40):
        place = folder / ("light", "dark")[number % 2]
        place.mkdir(parents=True, exist_ok=True)
        Image.effect_noise((20, 24), 40 + 2 * number).convert("RGB").save(place / f"{number}.png")


def kill(draw: random.Random, home: Home, run: RunView, seconds: float) -> None:
    """SIGKILL for the worker, a training process, or all of them, at some moment of the attempt, unless it ends first."""
    target = draw.choice(["worker", "training", "both"])
    moment = draw.choice(["time", "writing", "step"])
    delay = draw.uniform(0, seconds if moment == "time" else 0.02)
    steps, victim = draw.randint(1, 4), draw.random()
    directory = Path(run.run_directory)
    first = newest_step(directory)
    moments: dict[str, Callable[[], bool]] = {
        "time": lambda: True,
        "writing": lambda: any(name.endswith(".tmp") for name in names_in(directory, ".step-")),
        "step": lambda: newest_step(directory) >= first + steps,
    }
    worker = worker_of(home, run)
    reached = worker is not None and wait_for(moments[moment], home, run, pace=0.0005) and wait_for(after(delay), home, run)
    if worker is None or not reached:
        return
    with suppress(psutil.NoSuchProcess):
        training = [process for process in worker.children(recursive=True) if is_training(process)]
        victims = [worker] if target == "worker" else training if target == "both" else training[int(victim * len(training)) :][:1]
        for process in [*victims, *([worker] if target == "both" else [])]:
            with suppress(psutil.NoSuchProcess):
                os.kill(process.pid, signal.SIGKILL)


def worker_of(home: Home, run: RunView) -> psutil.Process | None:
    """The worker's process; None if the attempt has ended already."""
    path = Path(run.run_directory) / layout.status(run.attempt)
    wait_for(path.exists, home, run)
    with suppress(psutil.NoSuchProcess, FileNotFoundError):
        return psutil.Process(AttemptStatus.from_json(path.read_bytes(), "status").pid)
    return None


def is_training(process: psutil.Process) -> bool:
    with suppress(psutil.Error):
        return "cloud_train.training" in process.cmdline()
    return False


def newest_step(directory: Path) -> int:
    return max((layout.step_of(name) or 0 for name in names_in(directory, "step-")), default=0)


def names_in(directory: Path, prefix: str) -> Iterator[str]:
    """The names in the attempts' folders of checkpoints. An attempt that begins removes the folders that it has emptied."""
    for folder in directory.glob("checkpoints*"):
        with suppress(FileNotFoundError):
            yield from (path.name for path in list(folder.iterdir()) if path.name.startswith(prefix))


def after(seconds: float) -> Callable[[], bool]:
    until = time.monotonic() + seconds
    return lambda: time.monotonic() >= until


def wait_for(condition: Callable[[], bool], home: Home, run: RunView, pace: float = 0.005) -> bool:
    """Wait for the condition, which may hold only for milliseconds, checking every ``pace`` seconds. False if the attempt ends first."""
    give_up = after(GIVE_UP_SECONDS)
    look = after(0.2)
    while not condition():
        assert not give_up()
        if look():
            if update_run(home, run.run_id).state.is_end:
                return False
            look = after(0.2)
        time.sleep(pace)
    return True


def end_of(home: Home, run: RunView) -> RunView:
    wait_until(lambda: update_run(home, run.run_id).state.is_end, f"{run.run_id} has ended", GIVE_UP_SECONDS, pace=0.05)
    return update_run(home, run.run_id)


def digest(run: RunView) -> str:
    assert newest_valid(Path(run.run_directory) / layout.checkpoints(run.attempt), pytest.fail)
    return hashlib.sha256((Path(run.run_directory) / layout.MODEL / "model.safetensors").read_bytes()).hexdigest()

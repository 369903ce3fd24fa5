"""From SIGKILL and ``resume`` to the next training step, compared with the first start of the same run, from ``submit`` to its first step.

Worker and trainer are killed together, some steps after a checkpoint. The time of a step is the timestamp of its metrics. Bound: at
most 1.3 × the first start.
"""

import json
import os
import signal
import statistics
import subprocess
import tempfile
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

import psutil

from benchmarks._measure import CLOUD_TRAIN, report, verdict
from benchmarks._mnist import write_mnist
from benchmarks._trainer import classic_cnn, step_times
from cloud_train.run import layout
from cloud_train.run.record import AttemptStatus

CASES: Mapping[str, Mapping[str, Any]] = {
    "the classic CNN": {"checkpoint": {"every": "40 steps"}},
    "resnet18, checkpoints of 134 MB": {
        "model": {"kind": "cnn", "network": "resnet18"},
        "train": {"batch_size": 2},
        "checkpoint": {"every": "10 steps"},
    },
}
"""The trainings: sections of the job."""
_LOOK_SECONDS = 0.02
_DEADLINE_SECONDS = 120.0


def main(repeats: int = 7) -> None:
    """Measure and print."""
    signal.signal(signal.SIGTERM, signal.default_int_handler)  # ended by SIGTERM, it leaves no run behind either
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        data = write_mnist(folder / "data")
        measured = {}
        for case, sections in CASES.items():
            job = folder / "job.yaml"
            job.write_text(json.dumps(classic_cnn(data, **sections)))
            rounds = [start_and_resume(folder, job, f"{case.split(',')[0]}-{number}") for number in range(repeats + 1)]
            measured[case] = rounds[1:]  # the first round warms the caches
    lines = ["| what | first start, median s | best s | resume, median s | best s |", "|---|---:|---:|---:|---:|"]
    verdicts = []
    for case, rounds in measured.items():
        starts, resumptions = ([one[index] for one in rounds] for index in (0, 1))
        shown = (f"{value:.2f}" for times in (starts, resumptions) for value in (statistics.median(times), min(times)))
        lines.append(f"| {case} | {' | '.join(shown)} |")
        ratio = statistics.median(resumption / start for start, resumption in rounds)
        verdicts.append(verdict(f"{case}: resume as a multiple of the first start", ratio, 1.3))
    report(f"From SIGKILL to the next step, {repeats} times each", "\n".join(lines), "\n".join(verdicts))


def start_and_resume(folder: Path, job: Path, store: str) -> tuple[float, float]:
    """Seconds to the first step of a new run, and then from killing it to the next step."""
    start = time.time()
    run_id = _cloud_train(folder, "submit", str(job), "--set", f"store={folder / store}")
    run = folder / store / run_id
    with _attempt(run, 1) as first_step:
        seconds = first_step - start
        _wait_for(lambda: any(run.glob("checkpoints*/step-*/manifest.json")), run)
        killed = time.time()
    _cloud_train(folder, "resume", run_id)
    with _attempt(run, 2) as next_step:
        return seconds, next_step - killed


@contextmanager
def _attempt(run: Path, number: int) -> Iterator[float]:
    """The time of an attempt's first step, as soon as it is complete; leaving the block kills the attempt."""
    metrics = run / layout.metrics(number)
    try:
        _wait_for(lambda: step_times(metrics), run)
        yield step_times(metrics)[0]
    finally:
        _kill(run, number)


def _wait_for(condition: Callable[[], object], run: Path) -> None:
    deadline = time.monotonic() + _DEADLINE_SECONDS
    while not condition():
        if time.monotonic() > deadline:
            logs = "\n".join(log.read_text(errors="replace") for log in sorted(run.glob("attempts/*/logs/*/*.log")))
            raise RuntimeError(f"{run.name} makes no progress:\n{logs[-2000:]}")
        time.sleep(_LOOK_SECONDS)


def _kill(run: Path, number: int) -> None:
    """Kill the worker of an attempt and all its descendants, and wait until they are dead."""
    path = run / layout.status(number)
    if not path.exists():
        return
    with suppress(psutil.NoSuchProcess):
        worker = psutil.Process(AttemptStatus.from_json(path.read_bytes(), str(path)).pid)
        processes = [worker, *worker.children(recursive=True)]
        for process in processes:
            with suppress(psutil.NoSuchProcess):  # a process may end because another one does
                process.kill()
        _wait_for(lambda: all(_is_dead(process) for process in processes), run)


def _is_dead(process: psutil.Process) -> bool:
    """Whether the process has ended; a zombie counts as ended."""
    try:
        return process.status() == psutil.STATUS_ZOMBIE
    except psutil.NoSuchProcess:
        return True


def _cloud_train(folder: Path, *arguments: str) -> str:
    """Run a verb, and return its output."""
    environment = {**os.environ, "CLOUD_TRAIN_HOME": str(folder / "home"), "CUDA_VISIBLE_DEVICES": ""}
    command = [CLOUD_TRAIN, *arguments]
    ended = subprocess.run(command, env=environment, stdin=subprocess.DEVNULL, capture_output=True, text=True, check=False)
    if ended.returncode != 0:
        raise RuntimeError(f"{' '.join(command)} ended with {ended.returncode}:\n{ended.stdout}{ended.stderr}")
    return ended.stdout.strip()


if __name__ == "__main__":
    main()

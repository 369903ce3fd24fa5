"""The overhead of the worker: its peak memory, and the slowdown of a trainer with logs, metrics and checkpoints compared with none of them.

The same job is trained alternately as a run and by hand: the trainer alone, with metrics discarded and checkpoints never due. Both
times are those of the loop, from the first step to the last; time_to_first_step.py measures the time before. Bounds: 60 MB for the worker,
3% for the trainer.
"""

import json
import os
import shutil
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path

from benchmarks._measure import CLOUD_TRAIN, ROOT, report, verdict
from cloud_train.run import layout
from cloud_train.run.record import AttemptStatus
from cloud_train.run.states import Cause
from cloud_train.worker import contract

EPOCHS = 20
_LOOK_SECONDS = 0.05
_BARE = """
import atexit, runpy, sys, time
from cloud_train.worker.api import Run
steps = []
Run.log = lambda self, **unused: steps.append(time.time())
atexit.register(lambda: print(steps[-1] - steps[0], file=sys.stderr))
runpy.run_module("cloud_train.training", run_name="__main__", alter_sys=True)
"""


def main(repeats: int = 7) -> None:
    """Measure and print."""
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        bare = _submit(folder, "bare", "checkpoint.every=1000000 steps")
        _finish(bare)
        with_worker, without, peaks = [], [], []
        for number in range(repeats + 1):
            run = _submit(folder, f"worked-{number}")
            peak = _finish(run)
            alone = _train_by_hand(folder, bare)
            if number:  # the first round warms the caches
                with_worker.append(_loop_seconds(run))
                without.append(alone)
                peaks.append(peak)
    slower = statistics.median(with_worker) / statistics.median(without) - 1
    slower_at_best = min(with_worker) / min(without) - 1  # a busy machine distorts medians first
    report(
        "The worker",
        f"digits-cnn, {EPOCHS} epochs with a checkpoint each, {repeats} times alternately:",
        "| the loop | median s | best s |\n|---|---:|---:|\n"
        f"| as a run: logs, metrics, checkpoints | {statistics.median(with_worker):.2f} | {min(with_worker):.2f} |\n"
        f"| the trainer alone | {statistics.median(without):.2f} | {min(without):.2f} |",
        verdict("cost of the worker, metrics and checkpoints to the trainer", slower * 100, 3, "%")
        + "\n"
        + verdict("the same by the best times", slower_at_best * 100, 3, "%")
        + "\n"
        + verdict("peak memory of the worker process", max(peaks) / 1e6, 60, " MB"),
    )


def _submit(folder: Path, store: str, *settings: str) -> Path:
    """Start a run and return its directory."""
    overrides = [f"--set={setting}" for setting in (f"store={folder / store}", f"train.epochs={EPOCHS}", *settings)]
    command = [CLOUD_TRAIN, "submit", str(ROOT / "jobs" / "digits-cnn.yaml"), *overrides]
    subprocess.run(command, env=_environment(folder), check=True, stdout=subprocess.DEVNULL)
    (run,) = (folder / store).iterdir()
    return run


def _finish(run: Path) -> int:
    """Wait until the run succeeds; returns the peak memory of its worker in bytes."""
    peak = 0
    while True:
        time.sleep(_LOOK_SECONDS)
        status = _status(run)
        if status is None:
            continue
        peak = max(peak, _peak_bytes(status.pid))
        if status.state.is_end:
            if status.cause is not Cause.SUCCEEDED:
                raise RuntimeError(f"{run.name} ended as {status.cause}: {status.message}")
            return peak


def _loop_seconds(run: Path) -> float:
    """Seconds from a run's first step to its last."""
    times = [json.loads(line)["time"] for line in (run / layout.metrics(1)).read_text().splitlines()]
    return float(times[-1] - times[0])


def _train_by_hand(folder: Path, run: Path) -> float:
    """The same without a worker, metrics and checkpoints."""
    place = folder / "by-hand"  # outside a run, the program uses its working directory
    place.mkdir()
    environment = {**os.environ, contract.JOB: str(run / layout.RUN)}
    ended = subprocess.run([sys.executable, "-c", _BARE], cwd=place, env=environment, check=True, capture_output=True, text=True)
    shutil.rmtree(place)
    return float(ended.stderr.split()[-1])


def _status(run: Path) -> AttemptStatus | None:
    path = run / layout.status(1)
    return AttemptStatus.from_json(path.read_bytes(), str(path)) if path.exists() else None


def _peak_bytes(pid: int) -> int:
    try:
        text = Path(f"/proc/{pid}/status").read_text()
    except OSError:
        return 0  # the process has ended, or this is not Linux
    return next((int(line.split()[1]) * 1024 for line in text.splitlines() if line.startswith("VmHWM:")), 0)


def _environment(folder: Path) -> dict[str, str]:
    return {**os.environ, "CLOUD_TRAIN_HOME": str(folder / "home")}


if __name__ == "__main__":
    main()

"""From ``submit`` to the end of the first training step, compared with the same loop as a plain script (plain_digits.py).

The plain script's first step ends when its line arrives; the run's at the timestamp of its first metric.
Bound: at most 1.25 × the plain script.
"""

import json
import os
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path

from benchmarks._measure import CLOUD_TRAIN, ROOT, report, verdict
from cloud_train.run import layout

STEPS = 3


def main(repeats: int = 9) -> None:
    """Measure and print."""
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        _by_hand()  # warms the caches
        _submitted(folder, "warm-up")
        rounds = [(_by_hand(), _submitted(folder, str(number))) for number in range(repeats)]
    by_hand, submitted = ([one[index] for one in rounds] for index in (0, 1))
    report(
        "To the first step of digits-cnn",
        "| what | median s | best s |\n|---|---:|---:|\n"
        f"| plain script | {statistics.median(by_hand):.2f} | {min(by_hand):.2f} |\n"
        f"| `cloud-train submit --follow` | {statistics.median(submitted):.2f} | {min(submitted):.2f} |",
        verdict("as a multiple of the plain script", statistics.median(submitted) / statistics.median(by_hand), 1.25),
    )


def _by_hand() -> float:
    """Seconds until the plain script has completed its first step."""
    start = time.time()
    command = [sys.executable, "-m", "benchmarks.plain_digits", "--steps", str(STEPS)]
    with subprocess.Popen(command, cwd=ROOT, stdout=subprocess.PIPE) as process:
        assert process.stdout is not None  # for the type checker: requested in the line above
        process.stdout.readline()
        seconds = time.time() - start
    if process.returncode != 0:
        raise RuntimeError(f"{' '.join(command)} ended with {process.returncode}")
    return seconds


def _submitted(folder: Path, store: str) -> float:
    """Seconds until a run of jobs/digits-cnn.yaml has completed its first step."""
    start = time.time()
    overrides = [f"--set={setting}" for setting in (f"store={folder / store}", f"train.steps={STEPS}")]
    command = [CLOUD_TRAIN, "submit", str(ROOT / "jobs" / "digits-cnn.yaml"), *overrides, "--follow"]
    subprocess.run(command, env={**os.environ, "CLOUD_TRAIN_HOME": str(folder / "home")}, check=True, stdout=subprocess.DEVNULL)
    (run,) = (folder / store).iterdir()
    with (run / layout.metrics(1)).open() as file:
        first = json.loads(file.readline())
    if first["step"] != 1:
        raise RuntimeError(f"the first metric of {run.name} is of step {first['step']}")
    return float(first["time"]) - start


if __name__ == "__main__":
    main()

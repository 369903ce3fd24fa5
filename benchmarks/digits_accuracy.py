"""Accuracy of jobs/digits-cnn.yaml after its 5 epochs, for several seeds: each has different initial weights, order and split.

Bound: at least 98% validation accuracy.
"""

import json
import os
import statistics
import subprocess
import tempfile
from pathlib import Path

from benchmarks._measure import CLOUD_TRAIN, ROOT, report
from cloud_train.run import layout

SEEDS = range(5)
WANTED = 0.98


def main() -> None:
    """Train with each seed, and print."""
    with tempfile.TemporaryDirectory() as name:
        reached = [accuracies(train(Path(name), "digits-cnn", f"train.seed={seed}", f"data.seed={seed}")) for seed in SEEDS]
    rows = [f"| {seed} | {one[-1]:.2%} | {max(one):.2%} |" for seed, one in zip(SEEDS, reached, strict=True)]
    last = [one[-1] for one in reached]
    mean, held = statistics.mean(last), sum(accuracy >= WANTED for accuracy in last)
    report(
        "digits-cnn: validation accuracy after 5 epochs",
        "| seed | after the last epoch | best epoch |\n|---|---:|---:|\n" + "\n".join(rows),
        f"- mean of the last epochs: **{mean:.2%}**; at least {WANTED:.0%} with {held} of {len(last)} seeds",
    )


def train(folder: Path, job: str, *settings: str) -> Path:
    """Train a shipped job to its end, in a store under ``folder``, and return the run's directory; raises RuntimeError if it fails."""
    overrides = [f"--set={setting}" for setting in (f"store={folder / 'runs'}", *settings)]
    command = [CLOUD_TRAIN, "submit", str(ROOT / "jobs" / f"{job}.yaml"), *overrides, "--follow", "--json"]
    environment = {**os.environ, "CLOUD_TRAIN_HOME": str(folder / "home")}
    ended = subprocess.run(command, env=environment, stdin=subprocess.DEVNULL, capture_output=True, check=False)
    if ended.returncode != 0:
        raise RuntimeError(f"{' '.join(command)} ended with {ended.returncode}:\n{(ended.stdout + ended.stderr).decode(errors='replace')}")
    run_id: str = json.loads(ended.stdout)["run_id"]
    return folder / "runs" / run_id


def metric(run: Path, split: str, name: str) -> list[float]:
    """The values of one metric, in the order they were written."""
    points = [json.loads(line) for line in (run / layout.metrics(1)).read_text().splitlines()]
    return [point["value"] for point in points if (point["split"], point["name"]) == (split, name)]


def accuracies(run: Path) -> list[float]:
    """Validation accuracy after each epoch."""
    return metric(run, "validation", "accuracy")


if __name__ == "__main__":
    main()

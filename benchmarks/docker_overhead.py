"""The overhead of the ``docker`` provider: compared with ``docker run`` of the same image, and with the same training outside a container.

Bounds: a trivial job from submit to done at most 0.5 s more than ``docker run``; from submit to the first step at most 1.2 × ``docker
run`` of the same image and trainer; throughput inside a container at least 0.98 of that outside. Needs a Docker Engine with the base image
(``make image``).
"""

import json
import os
import statistics
import subprocess
import tempfile
import time
from pathlib import Path
from typing import Any

from benchmarks._measure import CLOUD_TRAIN, Case, interleave, report, table, verdict
from benchmarks.startup import hello_world
from cloud_train.run import layout

DOCKER = os.environ.get("BENCHMARK_DOCKER") or "docker"
_FIRST_STEP = """
import os, time
from cloud_train.training.__main__ import main
from cloud_train.worker.api import Run

def shown(*_, **__):
    print(time.time(), flush=True)
    os._exit(0)

Run.log = shown
main()
"""
"""The trainer, which reports its first step and ends."""
_TRAINING = {
    "name": "contained",
    "model": {"kind": "cnn", "blocks": [{"filters": 32}, {"filters": 64}]},
    "data": {"dataset": "digits", "size": 28},
    "train": {"epochs": 30, "batch_size": 128, "tensorboard": False},
    "checkpoint": {"every": "1000000 steps"},
}


def main(repeats: int = 5) -> None:
    """Measure and print."""
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        _trivial(folder, repeats + 6)
        _training(folder, repeats)


def _trivial(folder: Path, repeats: int) -> None:
    job = _written(folder, {"name": "trivial", "model": {"kind": "script", "command": ["true"], "directory": "code"}})
    (folder / "code").mkdir()
    image = _image(folder, job)
    environment = {"CLOUD_TRAIN_HOME": str(folder / "home")}
    plain, ours = "`docker run --rm` of the image and `true`", "`cloud-train submit --provider docker --follow`"
    run = [DOCKER, "run", "--rm", "--entrypoint", "true", image]
    submit = [CLOUD_TRAIN, "submit", str(job), "--provider", "docker", "--set", f"store={folder / 'runs'}", "--follow"]
    hello = Case("a bare Typer hello-world: the machine's current speed", [hello_world(folder), "hello"])
    series = interleave([hello, Case(plain, run), Case(ours, submit, environment)], repeats)
    more = series[ours].median - series[plain].median
    report("A trivial job in a container", table(series, plain), verdict("more than `docker run`", more, 0.5, " s"))


def _training(folder: Path, repeats: int) -> None:
    job = _written(folder, _TRAINING)
    image = _image(folder, job)
    rounds = []
    for number in range(repeats + 1):
        loops = {}
        for provider in ("docker", "local") if number % 2 else ("local", "docker"):  # a machine may slow down or speed up within a round
            loops[provider] = _submitted(folder, job, f"{provider}-{number}", provider)
        rounds.append((loops["docker"], _by_hand(folder, image), loops["local"]))
    rounds = rounds[1:]
    first, plain = (statistics.median(one) for one in ([r[0][0] for r in rounds], [r[1] for r in rounds]))
    throughput = statistics.median(outside[1] / inside[1] for inside, _, outside in rounds)
    report(
        "A training in a container",
        "| what | median s | best s |\n|---|---:|---:|\n"
        f"| `docker run` of the image and the trainer, to its first step | {plain:.2f} | {min(r[1] for r in rounds):.2f} |\n"
        f"| `cloud-train submit --provider docker --follow`, to its first step | {first:.2f} | {min(r[0][0] for r in rounds):.2f} |\n"
        f"| the loop in a container | {statistics.median(r[0][1] for r in rounds):.2f} | {min(r[0][1] for r in rounds):.2f} |\n"
        f"| the loop without | {statistics.median(r[2][1] for r in rounds):.2f} | {min(r[2][1] for r in rounds):.2f} |",
        verdict("to the first step, as a multiple of `docker run`'s", first / plain, 1.2),
        verdict("time of the loop inside as a multiple of that outside, median of the rounds", 1 / throughput, 1 / 0.98),
    )


def _written(folder: Path, job: dict[str, Any]) -> Path:
    path = folder / f"{job['name']}.yaml"
    path.write_text(json.dumps(job))
    return path


def _image(folder: Path, job: Path) -> str:
    environment = {**os.environ, "CLOUD_TRAIN_HOME": str(folder / "home")}
    return subprocess.run([CLOUD_TRAIN, "package", str(job)], env=environment, check=True, stdout=subprocess.PIPE, text=True).stdout.strip()


def _submitted(folder: Path, job: Path, store: str, provider: str) -> tuple[float, float]:
    """Seconds to the first step, and from the first step to the last."""
    start = time.time()
    command = [CLOUD_TRAIN, "submit", str(job), f"--set=store={folder / store}", "--provider", provider, "--follow"]
    subprocess.run(command, env={**os.environ, "CLOUD_TRAIN_HOME": str(folder / "home")}, check=True, stdout=subprocess.DEVNULL)
    (run,) = (folder / store).iterdir()
    times = [json.loads(line)["time"] for line in (run / layout.metrics(1)).read_text().splitlines()]
    return times[0] - start, times[-1] - times[0]


def _by_hand(folder: Path, image: str) -> float:
    """Seconds until the trainer, started by ``docker run``, has made its first step."""
    (run,) = (folder / "docker-0").iterdir()
    start = time.time()
    mounts = ["-v", f"{run / layout.RUN}:/run.json:ro", "-e", "CLOUD_TRAIN_JOB=/run.json", "-w", "/tmp", "--entrypoint", "python3"]
    command = [DOCKER, "run", "--rm", "--init", "--user", f"{os.getuid()}:{os.getgid()}", *mounts, image, "-c", _FIRST_STEP]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None  # for the type checker: requested in the line above
        stamps = (line for line in process.stdout if line.replace(".", "", 1).strip().isdigit())
        return float(next(stamps)) - start


if __name__ == "__main__":
    main()

"""What several runs on one machine cost each other, and what the setting against it costs a run that is alone.

Threads of OpenMP spin while they wait for the next piece of work. That is quickest on an idle machine; but a thread that spins keeps a
core from the other runs. GOMP_SPINCOUNT says how often libgomp's threads look before they sleep (its documentation:
https://gcc.gnu.org/onlinedocs/libgomp/GOMP_005fSPINCOUNT.html).

Alone: steps of two trainings, in turns. At once: whole runs of ``cloud-train submit --follow`` of digits-cnn, 1 to 8 of them, each in its
own home; the fair share of n runs is n times as long as one alone.

Bounds: alone at most 3% slower; at once at most 1.3 times the fair share; two at once at most 2.2 times as long as one.
"""

import os
import statistics
import subprocess
import tempfile
import time
from collections.abc import Mapping
from pathlib import Path

from benchmarks._measure import CLOUD_TRAIN, ROOT, report, verdict
from benchmarks._mnist import write_mnist
from benchmarks._trainer import NEVER, classic_cnn, trainer
from benchmarks._turns import Contender, take_turns
from cloud_train.environment import QUIET_THREADS

SETTINGS: dict[str, Mapping[str, str]] = {
    "libgomp's default": {"GOMP_SPINCOUNT": "300000"},
    "never": {"GOMP_SPINCOUNT": "0"},
    "ours": QUIET_THREADS,
    "three times ours": {"GOMP_SPINCOUNT": str(3 * int(QUIET_THREADS["GOMP_SPINCOUNT"]))},
}
"""How often threads look for work before they sleep."""
AT_ONCE = (1, 2, 4, 8)
DIGITS = ROOT / "jobs/digits-cnn.yaml"


def main(rounds: int = 12, seconds: float = 1.0, repeats: int = 3) -> None:
    """Measure and print."""
    alone(rounds, seconds)
    at_once(repeats)


def alone(rounds: int, seconds: float) -> None:
    """Steps of one training on a machine where nothing else runs."""
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        jobs = {"digits-cnn (batches of 16)": _digits(), "classic CNN (batches of 128)": classic_cnn(write_mnist(folder / "mnist"))}
        for title, job in jobs.items():
            contenders = [_with(trainer(setting, job, folder / title / setting), SETTINGS[setting]) for setting in SETTINGS]
            played = take_turns(contenders, rounds, seconds)
            base = played["libgomp's default"]
            slower = {setting: statistics.median(one.slowness(base)) for setting, one in played.items()}
            lines = [f"| {setting} | {played[setting].median * 1000:.2f} | {slower[setting]:.3f} |" for setting in SETTINGS]
            report(
                f"A run alone: {title}",
                "\n".join(["| threads spin | ms per step | ratio |", "|---|---:|---:|", *lines]),
                verdict("time as a multiple of libgomp's default", slower["ours"], 1.03),
            )


def at_once(repeats: int) -> None:
    """Whole runs, 1 to 8 at once; libgomp's default once only, as it takes minutes."""
    took: dict[tuple[str, int], list[float]] = {}
    for number in range(repeats + 1):  # the first round warms up
        for runs in AT_ONCE:
            for setting, environment in SETTINGS.items():
                if setting == "libgomp's default" and runs > 1 and (number != 1 or runs > 2):
                    continue
                if number or runs == 1:
                    took.setdefault((setting, runs), []).append(_run(runs, environment))
    medians = {key: statistics.median(seconds) for key, seconds in took.items()}
    single = medians["ours", 1]
    lines = [
        f"| {setting} | {runs} | {seconds:.1f} | {seconds / single:.2f} | {seconds / single / runs:.2f} |"
        for (setting, runs), seconds in sorted(medians.items(), key=lambda entry: (entry[0][1], entry[0][0]))
    ]
    report(
        "Several runs at once: digits-cnn",
        "\n".join(["| threads spin | runs | seconds for all | of one alone | of the fair share |", "|---|---:|---:|---:|---:|", *lines]),
        verdict("two at once as a multiple of one", medians["ours", 2] / single, 2.2),
        *(verdict(f"{runs} at once as a multiple of the fair share", medians["ours", runs] / single / runs, 1.3) for runs in AT_ONCE[1:]),
    )


def _run(runs: int, environment: Mapping[str, str]) -> float:
    """Seconds until the last of ``runs`` runs has ended; raises RuntimeError with the output of one that fails."""
    with tempfile.TemporaryDirectory() as name:
        start = time.perf_counter()
        started = []
        for number in range(runs):
            home = Path(name) / str(number)
            command = [CLOUD_TRAIN, "submit", str(DIGITS), "--follow", "--set", f"store={home}/runs"]
            variables = {**os.environ, "CLOUD_TRAIN_HOME": str(home), **environment}
            started.append(
                subprocess.Popen(
                    command, env=variables, cwd=name, stdin=subprocess.DEVNULL, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True
                )
            )
        for process in started:
            _, said = process.communicate()
            if process.returncode:
                raise RuntimeError(f"a run ended with {process.returncode}:\n{said[-2000:]}")
        return time.perf_counter() - start


def _with(contender: Contender, environment: Mapping[str, str]) -> Contender:
    return Contender(contender.name, contender.command, contender.folder, {**contender.environment, **environment}, contender.times)


def _digits() -> dict[str, object]:
    return {
        "name": "digits",
        "model": {"kind": "cnn", "blocks": [{"filters": 32}, {"filters": 64}]},
        "data": {"dataset": "digits", "size": 28},
        "train": {"steps": 10**6, "batch_size": 16, "evaluate": NEVER, "optimizer": {"name": "adam", "lr": 4e-3}},
        "checkpoint": {"every": NEVER},
    }


if __name__ == "__main__":
    main()

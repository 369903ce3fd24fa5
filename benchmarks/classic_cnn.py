"""The classic CNN (28×28×1, batches of 128): the trainer compared with the fastest hand-written loop, Keras and Lightning.

All train the same network on the same IDX files, taking turns of a second or two (``_turns``). The hand-written loop is
hand_written_cnn.py, in the variants of ``BY_HAND``, of which the fastest here counts. Validation is excluded everywhere. Bounds: a step
may take 1/0.97 of that loop's time and the process 1.05 of its memory; and both peers have to be slower. They are measured if
``BENCHMARK_PEERS_PYTHON`` (by default this Python) has them installed.
"""

import os
import statistics
import subprocess
import sys
import tempfile
from collections.abc import Mapping
from pathlib import Path

from benchmarks._measure import ROOT, report, verdict
from benchmarks._mnist import write_mnist
from benchmarks._trainer import classic_cnn, trainer
from benchmarks._turns import Contender, Played, take_turns

BATCH_SIZE = 128
TURN_SECONDS = 1.5
TRAINER = "cloud-train"
TRAINER_COMPILED = "cloud-train, `train.compile`"
KEEPING_MEMORY = {"MALLOC_MMAP_THRESHOLD_": "1073741824", "MALLOC_TRIM_THRESHOLD_": "1073741824"}
"""Tells glibc to keep the memory of one step for the next, instead of returning it and getting each page back cleared."""
BY_HAND: Mapping[str, tuple[str, Mapping[str, str]]] = {
    "by hand, as it first comes": ("", {}),
    "by hand, channels last, fused Adam": ("--channels-last --fused", {}),
    "the same, memory kept": ("--channels-last --fused", KEEPING_MEMORY),
    "the same, images as bytes": ("--channels-last --fused --bytes", KEEPING_MEMORY),
    "the same, channels first": ("--fused --bytes", KEEPING_MEMORY),
    "the same, compiled": ("--channels-last --fused --bytes --compile", KEEPING_MEMORY),
    "the same, one thread": ("--channels-last --fused --bytes --threads=1", KEEPING_MEMORY),
}
"""Hand-written variants, with the arguments and environment of each."""
PEERS = {
    "Keras on TensorFlow": ("keras tensorflow", "keras_cnn", ""),
    "Keras on TensorFlow, XLA": ("keras tensorflow", "keras_cnn", "--jit"),
    "Lightning": ("lightning torch", "lightning_cnn", ""),
}
"""Other frameworks: the packages that each needs, its script under ``peers``, and the script's arguments."""


def main(rounds: int = 11) -> None:
    """Measure and print."""
    python = os.environ.get("BENCHMARK_PEERS_PYTHON") or sys.executable
    installed = {name: has_packages(python, packages) for name, (packages, _, _) in PEERS.items()}
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        data = write_mnist(folder / "data")
        contenders = [
            trainer(TRAINER, classic_cnn(data), folder / "trainer"),
            trainer(TRAINER_COMPILED, classic_cnn(data, train={"compile": True}), folder / "compiled"),
            *(by_hand(way, data, folder / f"by-hand-{number}") for number, way in enumerate(BY_HAND)),
            *(peer(way, python, data, folder / f"peer-{number}") for number, way in enumerate(PEERS) if installed[way]),
        ]
        played = take_turns(contenders, rounds, TURN_SECONDS)
    fastest = min(BY_HAND, key=lambda way: played[way].median)
    absent = [f"- {way}: not installed" for way, is_there in installed.items() if not is_there]
    report(
        "The classic CNN",
        f"28×28×1, batches of {BATCH_SIZE}, {rounds} turns of {TURN_SECONDS:g} s each:",
        table(played, fastest),
        f"The fastest by hand was “{fastest}”.",
        "\n".join(
            [
                verdict("time of a step as a multiple of the fastest hand-written loop's", _ratio(played, TRAINER, fastest), 1 / 0.97),
                verdict("peak memory as a multiple of the same loop's", played[TRAINER].peak_mib / played[fastest].peak_mib, 1.05),
                *(verdict(f"as a multiple of {way}’s", _ratio(played, TRAINER, way), 1) for way, there in installed.items() if there),
                *absent,
            ]
        ),
    )


def by_hand(way: str, data: Path, folder: Path) -> Contender:
    """One of the variants of ``BY_HAND``."""
    arguments, environment = BY_HAND[way]
    command = [sys.executable, "-m", "benchmarks.hand_written_cnn", str(data), "--without-end", *arguments.split()]
    return Contender(way, command, folder, environment)


def peer(way: str, python: str, data: Path, folder: Path) -> Contender:
    """One of the ``PEERS``, run by ``python``."""
    _, script, arguments = PEERS[way]
    return Contender(way, [python, "-m", f"benchmarks.peers.{script}", str(data), *arguments.split()], folder)


def has_packages(python: str, packages: str) -> bool:
    """Whether ``python`` could import all of the space-separated ``packages``."""
    program = "import sys, importlib.util as util; sys.exit(not all(util.find_spec(name) for name in sys.argv[1:]))"
    return subprocess.run([python, "-c", program, *packages.split()], cwd=ROOT, check=False).returncode == 0


def table(played: Mapping[str, Played], baseline: str) -> str:
    """Samples per second and memory of each as a Markdown table, with the ratios to ``baseline`` in the same round."""
    lines = [
        "| what | samples/s, median | samples/s, best | peak MiB | time of a step, ratio | interquartile range |",
        "|---|---:|---:|---:|---:|---:|",
    ]
    for name, one in played.items():
        low, middle, high = statistics.quantiles(one.slowness(played[baseline]), n=4)
        median, best = (BATCH_SIZE / seconds for seconds in (one.median, one.best))
        lines.append(f"| {name} | {median:,.0f} | {best:,.0f} | {one.peak_mib:.0f} | {middle:.3f} | {low:.3f}–{high:.3f} |")
    return "\n".join(lines)


def _ratio(played: Mapping[str, Played], name: str, other: str) -> float:
    return statistics.median(played[name].slowness(played[other]))


if __name__ == "__main__":
    main()

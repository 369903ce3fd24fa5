"""The cost of a checkpoint every 30 s: for the classic CNN, and for a network with checkpoints of 134 MB.

The trainer runs with and without checkpoints, in turns of some seconds (``_turns``). The interval is between one and two turns, so that
each turn with checkpoints begins with one: it is copied, then hashed, written and synced on a thread while the training continues. The cost
of a checkpoint is the additional time for the same steps, and it is divided by 30 s. Bound: 1%.
"""

import statistics
import tempfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from benchmarks._measure import report, verdict
from benchmarks._mnist import write_mnist
from benchmarks._trainer import classic_cnn, trainer
from benchmarks._turns import Played, take_turns

WANTED_SECONDS = 30.0
"""The checkpoint interval of the bound."""
CASES: Mapping[str, tuple[Mapping[str, Any], float]] = {
    "the classic CNN, 0.4 MB": ({}, 3.0),
    "resnet18 on 28×28, 134 MB": ({"model": {"kind": "cnn", "network": "resnet18"}, "train": {"batch_size": 2}}, 8.0),
}
"""The trainings, named with the size of a checkpoint: sections of the job, and the seconds of a turn."""


def main(rounds: int = 7) -> None:
    """Measure and print."""
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        data = write_mnist(folder / "data")
        measured = {case: measure(folder / str(number), data, case, rounds) for number, case in enumerate(CASES)}
    costs = {case: cost_seconds(*played) for case, played in measured.items()}
    report(
        "Checkpoints",
        f"{rounds} turns each, alternately; one checkpoint a turn:",
        "\n".join(
            [
                "| what | a step without, ms | turn, s | cost of a checkpoint, s, median | interquartile range | by the best turns |",
                "|---|---:|---:|---:|---:|---:|",
                *(_row(case, *measured[case]) for case in CASES),
            ]
        ),
        "\n".join(
            line
            for case, (median, by_best) in costs.items()
            for line in (
                verdict(f"a checkpoint every {WANTED_SECONDS:g} s, {case}", median / WANTED_SECONDS * 100, 1, "%"),
                verdict("the same by the best turns", by_best / WANTED_SECONDS * 100, 1, "%"),
            )
        ),
    )


def measure(folder: Path, data: Path, case: str, rounds: int) -> tuple[Played, Played]:
    """Train with and without checkpoints; returns both measurements."""
    sections, seconds = CASES[case]
    every = {"every": f"{1.5 * seconds:g} s"}
    played = take_turns(
        [
            trainer("with", classic_cnn(data, **sections, checkpoint=every), folder / "with"),
            trainer("without", classic_cnn(data, **sections), folder / "without"),
        ],
        rounds,
        seconds,
    )
    return played["with"], played["without"]


def cost_seconds(with_them: Played, without: Played) -> tuple[float, float]:
    """Cost of a checkpoint in seconds: the median over the rounds, and by the fastest turn of each."""
    fastest = min(with_them.turns, key=lambda turn: turn.step_seconds)
    return statistics.median(_costs(with_them, without)), fastest.seconds * (1 - without.best / with_them.best)


def _costs(with_them: Played, without: Played) -> list[float]:
    pairs = zip(with_them.turns, without.turns, strict=True)
    return [turn.seconds - turn.steps * other.step_seconds for turn, other in pairs]


def _row(case: str, with_them: Played, without: Played) -> str:
    median, by_best = cost_seconds(with_them, without)
    low, _, high = statistics.quantiles(_costs(with_them, without), n=4)
    step, turn = without.median * 1000, statistics.median(turn.seconds for turn in with_them.turns)
    return f"| {case} | {step:.1f} | {turn:.1f} | {median:.3f} | {low:.3f} to {high:.3f} | {by_best:.3f} |"


if __name__ == "__main__":
    main()

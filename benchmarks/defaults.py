"""What the defaults of the built-in trainers are worth: each beside the value that it replaced, with five seeds.

Shown are both means, and the mean difference with its 95% interval (Student's t over the seeds, which are the same for both values).
"""

import atexit
import shutil
import statistics
import sys
import tempfile
from collections.abc import Callable, Iterator, Mapping
from contextlib import AbstractContextManager, contextmanager, nullcontext, redirect_stdout
from dataclasses import dataclass
from functools import cache
from io import StringIO
from pathlib import Path
from random import Random
from typing import Any
from unittest.mock import patch

import torch

from benchmarks._measure import report
from cloud_train.job.models import JobSpec
from cloud_train.run.ranking import Ranking
from cloud_train.training.data.dataset import load
from cloud_train.training.description import ModelDescription
from cloud_train.training.distributed import ALONE
from cloud_train.training.loop import train
from cloud_train.worker.api import Run

SEEDS = range(5)
_STUDENT_95 = 2.776
"""97.5% quantile of Student's t with four degrees of freedom."""
_LONG = 60
"""Tokens of a line whose class only its first token tells."""

Way = Callable[[], AbstractContextManager[object]]


@dataclass(frozen=True)
class Comparison:
    """One default beside the value that it replaced."""

    title: str
    metric: str
    job: Mapping[str, Any]
    before: Mapping[str, Mapping[str, Any]]
    """What sets the value that was replaced, by section."""
    old: Way = nullcontext
    """Where the value is no setting: makes the trainer use the value that was replaced."""


def main() -> None:
    """Train and print."""
    rows = [_row(comparison) for comparison in COMPARISONS]
    head = "| default | metric | before | now | difference, 95% |\n|---|---|---:|---:|---:|\n"
    report("Defaults of the built-in trainers, mean of five seeds", head + "\n".join(rows))


def _row(comparison: Comparison) -> str:
    before, now = [], []
    for seed in SEEDS:
        with comparison.old():
            before.append(_reached(comparison, seed, comparison.before))
        now.append(_reached(comparison, seed, {}))
        print(comparison.title, comparison.metric, seed, before[-1], now[-1], file=sys.stderr, flush=True)
    gained = [one - other for one, other in zip(now, before, strict=True)]
    interval = _STUDENT_95 * statistics.stdev(gained) / len(gained) ** 0.5
    middle = statistics.mean(gained)
    means = " | ".join(f"{statistics.mean(values):.4f}" for values in (before, now))
    return f"| {comparison.title} | {comparison.metric} | {means} | {middle:+.4f} ± {interval:.4f} |"


def _reached(comparison: Comparison, seed: int, changes: Mapping[str, Mapping[str, Any]]) -> float:
    """The metric of the run's last validation."""
    job: dict[str, Any] = {"checkpoint": {}, **comparison.job}
    sections = {name: {**section, **changes.get(name, {})} for name, section in job.items()}
    sections["train"] = {"tensorboard": False, "seed": seed, **sections["train"]}
    if sections["data"]["dataset"] == "images":
        sections["data"]["path"] = _pictures_of_digits()
    spec = JobSpec.model_validate({"name": "defaults", **sections})
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        (folder / "lines.tsv").write_text("\n".join(_long_lines()), encoding="utf-8")
        data = load(spec, folder / str(getattr(spec.data, "path", "cache")))
        with redirect_stdout(StringIO()):
            return train(spec, data, ModelDescription.of(spec, data), _run(folder), ALONE)[comparison.metric]


def _run(folder: Path) -> Run:
    checkpoints, model = folder / "checkpoints", folder / "model"
    for place in (checkpoints, model):
        place.mkdir()
    return Run("defaults", 1, checkpoints, model, folder / "metrics.jsonl", data=None, resume_from=None, ranking=Ranking())


def _long_lines() -> Iterator[str]:
    """Lines of noise; the first token tells the class."""
    random = Random(0)
    for _ in range(2000):
        label = random.choice("ab")
        yield f"{label}\t{label}{''.join(random.choices('cdefgh', k=_LONG))}"


@cache
def _pictures_of_digits() -> str:
    """A folder with a picture of each digit of scikit-learn's, 32 pixels a side, in a folder of its class."""
    from PIL import Image
    from sklearn.datasets import load_digits

    folder = Path(tempfile.mkdtemp(prefix="digits-"))
    atexit.register(shutil.rmtree, folder)
    found = load_digits()
    for number, (pixels, digit) in enumerate(zip(found.images, found.target, strict=True)):
        (folder / str(digit)).mkdir(exist_ok=True)
        small = Image.fromarray((pixels * 255 / 16).round().astype("uint8"))
        small.resize((32, 32), Image.Resampling.BILINEAR).save(folder / str(digit) / f"{number:04d}.png")
    return str(folder)


@contextmanager
def _torchs_lstm() -> Iterator[None]:
    with patch("cloud_train.training.models.recurrent._remember_at_first", lambda layer: None):
        yield


DIGITS = {"model": {"kind": "cnn"}, "data": {"dataset": "digits", "size": 28}, "checkpoint": {"every": "1000 epochs"}}
LSTM = {"kind": "rnn", "cell": "lstm"}
PICTURES = {
    "model": {"kind": "cnn"},
    "data": {"dataset": "images", "size": 28, "channels": 1, "workers": 0},
    "train": {"epochs": 15},
    "checkpoint": {"every": "1000 epochs"},
}
COMPARISONS = (
    Comparison(
        "LSTM: forget bias 1, orthogonal recurrent weights; a class told by the first of 61 tokens",
        "accuracy",
        {
            "model": {**LSTM, "hidden_size": 64},
            "data": {"dataset": "sequences", "path": "lines.tsv", "tokens": "characters"},
            "train": {"epochs": 12, "batch_size": 32, "optimizer": {"lr": 3e-3}},
        },
        {},
        _torchs_lstm,
    ),
    Comparison(
        "LSTM: the same; a language model of Python's documentation",
        "bits_per_character",
        {
            "model": {**LSTM, "hidden_size": 128},
            "data": {"dataset": "python-docs"},
            "train": {"epochs": 3, "batch_size": 32, "optimizer": {"lr": 3e-3}},
        },
        {},
        _torchs_lstm,
    ),
    Comparison(
        "an embedding of 64 for characters (was one-hot); a GRU of 256 units on Python's documentation",
        "bits_per_character",
        {
            "model": {"kind": "rnn", "cell": "gru", "hidden_size": 256},
            "data": {"dataset": "python-docs"},
            "train": {"epochs": 2, "batch_size": 16, "optimizer": {"lr": 2e-3}},
        },
        {"model": {"embedding_size": 0}},
    ),
    Comparison(
        "`adamw`: weight decay 0.01 (was 0), digits",
        "accuracy",
        {**DIGITS, "train": {"epochs": 10, "optimizer": {"name": "adamw"}}},
        {"train": {"optimizer": {"name": "adamw", "weight_decay": 0}}},
    ),
    Comparison(
        "`sgd`: learning rate 0.01, Nesterov momentum 0.9 (was 0.001 and none), digits",
        "accuracy",
        {**DIGITS, "train": {"epochs": 10, "optimizer": {"name": "sgd"}}},
        {"train": {"optimizer": {"name": "sgd", "lr": 1e-3, "momentum": 0, "nesterov": False}}},
    ),
    Comparison("`images`: gentle augmentation (was strong), digits as a folder", "accuracy", PICTURES, {"data": {"augment": "strong"}}),
    Comparison(
        "`images`: gentle augmentation (none for comparison), digits as a folder", "accuracy", PICTURES, {"data": {"augment": None}}
    ),
)

if __name__ == "__main__":
    torch.set_num_threads(2)
    main()

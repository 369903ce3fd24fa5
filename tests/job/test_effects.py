"""What is said of settings that have less effect than they seem to."""

from typing import Any

import pytest

from cloud_train.job.effects import remarks_on_effects
from cloud_train.job.models import JobSpec
from cloud_train.spec.facts import LayerFacts

PER_EPOCH, TOTAL = 23, 115
RESIDUAL = LayerFacts("layer1.0", "BasicBlock", (64, 8, 8), 100)
NORM = LayerFacts("blocks.0.norm", "BatchNorm2d", (32, 8, 8), 64)
PLAIN = LayerFacts("blocks.0.conv", "Conv2d 3", (32, 8, 8), 320)


def remarks(train: dict[str, Any], *layers: LayerFacts) -> list[str]:
    spec = JobSpec.model_validate({"name": "a", "model": {"kind": "cnn"}, "data": {"dataset": "digits"}, "train": train})
    return list(remarks_on_effects(spec, layers, PER_EPOCH, TOTAL))


@pytest.mark.parametrize(
    ("train", "layer", "said"),
    [
        (
            {"schedule": {"name": "cosine", "warmup": "5 epochs"}},
            PLAIN,
            "train.schedule.warmup: 115 steps are not over when the run ends, after 115: it only warms up",
        ),
        (
            {"schedule": {"name": "cosine", "restart": "5 epochs"}},
            PLAIN,
            "train.schedule.restart: the run has 115 steps, so the rate never begins again; it would after 115",
        ),
        (
            {"schedule": {"name": "cosine", "restart": "4 epochs", "warmup": "30 steps"}},
            PLAIN,
            "train.schedule.restart: the run has 115 steps, so the rate never begins again; it would after 122",
        ),
        (
            {"schedule": {"name": "step"}},
            PLAIN,
            "train.schedule.every: the run has 115 steps, so the learning rate never falls; it would after 690",
        ),
        ({"evaluate": "116 steps"}, PLAIN, "train.evaluate: the run has 115 steps, so it is validated at its end and not every 116 steps"),
        (
            {"early_stopping": {"patience": 5}},
            PLAIN,
            "train.early_stopping: the run has 5 validations, too few to be stopped by a patience of 5",
        ),
        (
            {"accumulate": 4},
            NORM,
            "train.accumulate: batch normalization sees each part of a batch by itself, 16 samples at a time",
        ),
        (
            {"accumulate": 4},
            RESIDUAL,
            "train.accumulate: batch normalization sees each part of a batch by itself, 16 samples at a time",
        ),
    ],
)
def test_what_comes_too_late_is_said(train: dict[str, Any], layer: LayerFacts, said: str) -> None:
    assert remarks(train, layer) == [said]


@pytest.mark.parametrize(
    "train",
    [
        {},
        {"schedule": {"name": "cosine", "warmup": "114 steps"}},
        {"schedule": "one-cycle"},
        {"schedule": {"name": "step", "every": "4 epochs"}},
        {"evaluate": "115 steps"},
        {"early_stopping": {"patience": 4}},
        {"accumulate": 4},
        {"fast_dev_run": True, "evaluate": "5000 steps"},
    ],
)
def test_nothing_is_said_of_what_has_its_effect(train: dict[str, Any]) -> None:
    assert remarks(train, PLAIN) == []

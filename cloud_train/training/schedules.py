"""The learning rate from step to step: it follows from the job and the step's number alone, so there is no state to save."""

import math

from cloud_train.job.models import Schedule, TrainSpec
from cloud_train.spec.types import Cadence

_FIRST = 1 / 25
"""One-cycle: the first rate, as a part of the highest; torch's default ``div_factor``."""
_LAST = _FIRST / 1e4
"""One-cycle: the last rate, as a part of the highest; torch's default ``final_div_factor``."""


def learning_rate(train: TrainSpec, step: int, last_step: int, steps_per_epoch: int) -> float:
    """The learning rate of the step after ``step`` steps of ``last_step``.

    A warm-up of w steps gives lr/w, 2·lr/w, …, lr (Goyal et al., 2017), whatever the schedule would say there. ``cosine`` is half a cosine
    wave from the job's rate down to 0 (Loshchilov and Hutter, 2017, without restarts), over what the warm-up leaves of the run. ``step``
    counts its periods from the start of the run. ``one-cycle`` is torch's ``OneCycleLR`` with its defaults: up from lr/25 to lr, then down
    to lr/250,000, each along half a cosine wave.
    """
    schedule = train.schedule if isinstance(train.schedule, Schedule) else Schedule(name=train.schedule)
    return train.optimizer.lr * _part(schedule, step, last_step, steps_per_epoch)


def _part(schedule: Schedule, step: int, last_step: int, steps_per_epoch: int) -> float:
    """The learning rate as a part of the job's."""
    if schedule.name == "one-cycle":
        return _one_cycle(schedule.peak_at, step, last_step)
    warmup = _steps(schedule.warmup, steps_per_epoch) if schedule.warmup else 0
    if step < warmup:
        return (step + 1) / warmup
    if schedule.name == "cosine":
        return (1 + math.cos(math.pi * (step - warmup) / (last_step - warmup))) / 2
    if schedule.name == "step":
        return float(schedule.factor ** (step // _steps(schedule.every, steps_per_epoch)))
    return 1.0


def _one_cycle(peak_at: float, step: int, last_step: int) -> float:
    peak = peak_at * last_step - 1  # as torch places it: in general between two steps, and before the first one of a very short run
    if step < peak:
        return _half_wave(_FIRST, 1, step / peak)
    return _half_wave(1, _LAST, (step - peak) / (last_step - 1 - peak))


def _half_wave(start: float, end: float, part: float) -> float:
    return end + (start - end) / 2 * (1 + math.cos(math.pi * part))


def _steps(cadence: Cadence, steps_per_epoch: int) -> int:
    """A length in steps; ``job.training_checks`` lets none through that is in seconds."""
    return int(cadence.count) * (steps_per_epoch if cadence.unit == "epoch" else 1)

"""The ``train.schedule`` section: the learning rate at each step. A package adds a schedule as an entry point
``cloud_train.schedules``.

A rate depends only on the section and the step's number, so there is no state to save.
"""

import math
from abc import abstractmethod
from collections.abc import Callable, Iterator
from typing import Annotated, Literal, get_args

from pydantic import Field

from cloud_train.spec.problems import Finding
from cloud_train.spec.registry import Registry
from cloud_train.spec.types import Fraction, Interval, Section, Share

_FIRST = 1 / 25
"""One-cycle: the first rate, as a fraction of the highest; torch's default ``div_factor``."""
_LAST = _FIRST / 1e4
"""One-cycle: the last rate, as a fraction of the highest; torch's default ``final_div_factor``."""


class ScheduleSection(Section):
    """A schedule: its settings, and the rate at each step."""

    name: str

    @abstractmethod
    def multiplier(self, step: int, last_step: int, steps_per_epoch: int) -> float:
        """The factor of the job's learning rate for the step after ``step`` of ``last_step`` steps."""

    def check(self) -> Iterator[Finding]:
        """Mistakes in this section by itself."""
        yield from ()

    def ignored_fields(self) -> Iterator[Finding]:
        """Fields that have no effect beside the others, whether the job sets them or not."""
        yield from ()


ScheduleName = Literal["constant", "cosine", "step", "one-cycle"]


class Schedule(ScheduleSection):
    """The learning rate over the run. ``schedule: cosine`` is short for ``schedule: {name: cosine}``."""

    name: ScheduleName = "constant"
    """``cosine`` falls along half a cosine wave, to 0 unless ``min_factor`` is set; ``step`` is multiplied by ``factor`` at intervals;
    ``one-cycle`` rises and falls along two half cosine waves (Smith and Topin, 2018), with ``lr`` at the top, and leaves the momentum as
    it is.
    """
    warmup: Interval | None = None
    """Rise linearly from 0 over this many steps or epochs first, such as ``500 steps``. Not for ``one-cycle``, which has its own rise."""
    min_factor: Share = 0.0
    """``cosine``: what the rate is multiplied by where it is lowest."""
    restart: Interval | None = None
    """``cosine``: begin again at the full rate after this many steps or epochs (Loshchilov and Hutter, 2017); without it, the rate falls
    until the end of the run.
    """
    growth: Annotated[float, Field(ge=1, le=100)] = 1.0
    """``cosine``: how much longer each period is than the one before, after a restart."""
    every: Interval = Interval(30, "epoch")
    """``step``: how often the rate is multiplied, in steps or epochs."""
    factor: Annotated[float, Field(gt=0, le=1)] = 0.1
    """``step``: what the rate is multiplied by."""
    peak_at: Fraction = 0.3
    """``one-cycle``: the fraction of the run after which the rate is highest."""

    def multiplier(self, step: int, last_step: int, steps_per_epoch: int) -> float:
        """The factor of the job's learning rate for the step after ``step`` of ``last_step`` steps.

        A warm-up of w steps gives 1/w, 2/w, …, 1 (Goyal et al., 2017), regardless of the schedule. ``cosine`` is half a cosine wave from 1
        down to ``min_factor``, over the rest of the run after the warm-up, or over each of its periods (Loshchilov and Hutter, 2017).
        ``step`` counts its periods from the start of the run. ``one-cycle`` is torch's ``OneCycleLR`` with its defaults: up from 1/25 to 1,
        then down to 1/250,000, each along half a cosine wave; the momentum stays as it is.
        """
        warmup = 0
        if self.warmup and self.name != "one-cycle":
            warmup = self.warmup.in_steps(steps_per_epoch)
        if step < warmup:
            return (step + 1) / warmup
        return _MULTIPLIERS[self.name](self, step, last_step, steps_per_epoch, warmup)

    def check(self) -> Iterator[Finding]:
        """Lengths in seconds, which would not be reproducible."""
        for field in ("warmup", "restart", "every"):
            cadence = getattr(self, field)
            if cadence is not None and cadence.unit == "second":
                wanted = "steps or epochs, such as '500 steps'"
                yield ("train", "schedule", field), "a learning rate that depends on time is not reproducible", wanted

    def ignored_fields(self) -> Iterator[Finding]:
        """Fields of the other schedules."""
        for field, name in _ONLY_FOR.items():
            if self.name != name:
                yield ("train", "schedule", field), f"{field} has no effect on the schedule {self.name}", f"name: {name}, or no {field}"
        if self.name == "cosine" and self.restart is None:
            yield ("train", "schedule", "growth"), "growth has no effect without restart", "a restart, such as '10 epochs', or no growth"
        if self.name == "one-cycle":
            yield ("train", "schedule", "warmup"), "one-cycle has its own rise and no warmup", "peak_at, or another schedule"


_ONLY_FOR: dict[str, ScheduleName] = {
    **dict.fromkeys(("min_factor", "restart", "growth"), "cosine"),
    **dict.fromkeys(("every", "factor"), "step"),
    "peak_at": "one-cycle",
}
"""Field → the schedule that has it."""


def _constant(schedule: Schedule, step: int, last_step: int, steps_per_epoch: int, warmup: int) -> float:
    return 1.0


def _cosine(schedule: Schedule, step: int, last_step: int, steps_per_epoch: int, warmup: int) -> float:
    place, period = step - warmup, last_step - warmup
    if schedule.restart is not None:
        period = schedule.restart.in_steps(steps_per_epoch)
        if schedule.growth == 1:
            place %= period
        while place >= period:
            place, period = place - period, round(period * schedule.growth)
    return schedule.min_factor + (1 - schedule.min_factor) * (1 + math.cos(math.pi * place / period)) / 2


def _stepwise(schedule: Schedule, step: int, last_step: int, steps_per_epoch: int, warmup: int) -> float:
    return float(schedule.factor ** (step // schedule.every.in_steps(steps_per_epoch)))


def _one_cycle(schedule: Schedule, step: int, last_step: int, steps_per_epoch: int, warmup: int) -> float:
    peak = schedule.peak_at * last_step - 1  # as torch places it: in general between two steps, and before the first of a very short run
    if step < peak:
        return _half_wave(_FIRST, 1, step / peak)
    return _half_wave(1, _LAST, (step - peak) / (last_step - 1 - peak))


def _half_wave(start: float, end: float, part: float) -> float:
    return end + (start - end) / 2 * (1 + math.cos(math.pi * part))


_MULTIPLIERS: dict[str, Callable[[Schedule, int, int, int, int], float]] = {
    "constant": _constant,
    "cosine": _cosine,
    "step": _stepwise,
    "one-cycle": _one_cycle,
}

SCHEDULES: Registry[ScheduleSection] = Registry(
    noun="schedule",
    field="name",
    group="cloud_train.schedules",
    base=ScheduleSection,
    built_in=dict.fromkeys(get_args(ScheduleName), Schedule),
    annotation=ScheduleName | Schedule,
    default="constant",
)

"""Which checkpoint is the best: by a metric, and whether lower or higher is better."""

from __future__ import annotations  # the worker also runs on Python 3.10, in users' own images

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from typing_extensions import Self  # noqa: UP035 -- typing has it from Python 3.11 on

_USUAL_METRICS = ("validation/accuracy", "validation/loss")
_LESS_IS_BETTER = ("loss", "error", "bits_per", "perplexity", "norm", "mae", "rmse", "mase")


@dataclass(frozen=True)
class Ranking:
    """How the checkpoints of a run are compared: by ``metric``, otherwise by ``validation/accuracy``, otherwise by ``validation/loss``."""

    metric: str | None = None
    """The metric to compare by, such as ``validation/loss``; None for the default."""
    goal: str | None = None
    """``min`` or ``max``; None derives it from the metric's name."""
    keep: int = 1
    """Number of best checkpoints to keep."""

    def quality(self, metrics: Mapping[str, float], step: int) -> tuple[float, ...]:
        """The sort key of a checkpoint; greater is better. Those without the metric or with NaN come last; the newest of equals is best."""
        if self.metric is not None:
            return *_signed(metrics.get(self.metric), self.goal or goal_of(self.metric)), step
        return *_signed(metrics.get("validation/accuracy"), "max"), *_signed(metrics.get("validation/loss"), "min"), step

    def deciding(self, metrics: Mapping[str, float]) -> str:
        """The name of the metric that decides among validations that report ``metrics``."""
        return self.metric or next((name for name in _USUAL_METRICS if name in metrics), _USUAL_METRICS[-1])

    def value(self, metrics: Mapping[str, float]) -> float | None:
        """The score of one validation; greater is better. None if the metric is missing or NaN."""
        metric = self.deciding(metrics)
        has_value, score = _signed(metrics.get(metric), self.goal or goal_of(metric))
        return score if has_value else None

    def to_text(self) -> str:
        """The ranking as one word for an environment variable: ``2:validation/loss:min``, or ``1``."""
        return ":".join([str(self.keep), *([self.metric, self.goal or goal_of(self.metric)] if self.metric else [])])

    @classmethod
    def from_text(cls, text: str) -> Self:
        """Parse the output of ``to_text``; raises ValueError."""
        keep, _, rest = text.partition(":")
        metric, _, goal = rest.rpartition(":")
        if int(keep) < 1 or goal not in ("", "min", "max") or bool(metric) != bool(goal):
            raise ValueError(f"{text!r} is not a checkpoint ranking, such as 2:validation/loss:min")
        return cls(metric or None, goal or None, int(keep))


USUAL = Ranking()
"""By accuracy, otherwise by loss; the best checkpoint is kept."""


def goal_of(metric: str) -> str:
    """``min`` for losses, errors and similar metrics; ``max`` for all others."""
    name = metric.rpartition("/")[2]
    return "min" if any(word in name for word in _LESS_IS_BETTER) else "max"


def _signed(value: float | None, goal: str) -> tuple[bool, float]:
    if value is None or math.isnan(value):
        return False, 0.0
    return True, -value if goal == "min" else value

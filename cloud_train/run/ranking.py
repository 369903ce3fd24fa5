"""Which checkpoint is the best: a metric, and whether less or more of it is better."""

from __future__ import annotations  # the worker runs on Python 3.10 as well, in images of the user's

from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from typing_extensions import Self  # noqa: UP035 -- typing has it from Python 3.11 on

_LESS_IS_BETTER = ("loss", "error", "bits_per", "perplexity", "norm")


@dataclass(frozen=True)
class Ranking:
    """How the checkpoints of a run are compared. Without a metric: by ``validation/accuracy``, else by ``validation/loss``."""

    metric: str | None = None
    """Such as ``validation/loss``."""
    goal: str | None = None
    """``min`` or ``max``; told from the metric's name where it is None."""
    keep: int = 1
    """How many of the best are kept."""

    def quality(self, metrics: Mapping[str, float], step: int) -> tuple[float, ...]:
        """What checkpoints are compared by, greater is better. One without the metric comes last; of equals, the newest is best."""
        if self.metric is not None:
            return *_signed(metrics.get(self.metric), self.goal or goal_of(self.metric)), step
        return *_signed(metrics.get("validation/accuracy"), "max"), *_signed(metrics.get("validation/loss"), "min"), step

    def value(self, metrics: Mapping[str, float]) -> float | None:
        """How good a single validation is, greater is better; None where the metric is missing."""
        for metric in (self.metric,) if self.metric else ("validation/accuracy", "validation/loss"):
            if metric in metrics:
                return _signed(metrics[metric], self.goal or goal_of(metric))[1]
        return None

    def to_text(self) -> str:
        """The ranking as one word for an environment variable: ``2:validation/loss:min``, or ``1``."""
        return ":".join([str(self.keep), *([self.metric, self.goal or goal_of(self.metric)] if self.metric else [])])

    @classmethod
    def from_text(cls, text: str) -> Self:
        """Read what ``to_text`` wrote; raises ValueError."""
        keep, _, rest = text.partition(":")
        metric, _, goal = rest.rpartition(":")
        if int(keep) < 1 or goal not in ("", "min", "max") or bool(metric) != bool(goal):
            raise ValueError(f"{text!r} does not say which checkpoints are the best")
        return cls(metric or None, goal or None, int(keep))


USUAL = Ranking()
"""Accuracy, else loss; one best checkpoint is kept."""


def goal_of(metric: str) -> str:
    """``min`` for what is a loss, an error or the like, ``max`` for everything else."""
    name = metric.rpartition("/")[2]
    return "min" if any(word in name for word in _LESS_IS_BETTER) else "max"


def _signed(value: float | None, goal: str) -> tuple[bool, float]:
    return value is not None, 0.0 if value is None else -value if goal == "min" else value

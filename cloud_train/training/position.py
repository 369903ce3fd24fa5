"""How far a training is. With the seed, it decides all that comes next."""

from dataclasses import dataclass
from typing import Self

from cloud_train.spec.types import Cadence


@dataclass(frozen=True)
class Position:
    """A place between two steps."""

    step: int = 0
    """Steps taken."""
    epoch: int = 0
    """Passes over the training data that are complete."""
    consumed: int = 0
    """Samples of the pass after those that the weights have learned from, in all processes together."""

    def after(self, samples: int, of: int) -> Self:
        """The position one step on, having learned from ``samples`` of an epoch ``of`` so many."""
        consumed = self.consumed + samples
        return type(self)(self.step + 1, self.epoch + consumed // of, consumed % of)

    def meets(self, every: Cadence) -> bool:
        """Whether something that happens ``every`` so many epochs or steps happens here; nothing happens before the first step."""
        if not self.step or every.unit == "second":
            return False
        if every.unit == "epoch":
            return self.consumed == 0 and self.epoch % every.count == 0
        return self.step % every.count == 0

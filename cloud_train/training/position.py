"""How far a training has come. Together with the seed, it determines everything that follows."""

from dataclasses import dataclass
from typing import Self

from cloud_train.spec.types import Cadence


@dataclass(frozen=True)
class Position:
    """A point between two steps."""

    step: int = 0
    """Steps taken."""
    epoch: int = 0
    """Complete passes over the training data."""
    consumed: int = 0
    """Samples of the current pass that have been learned from, across all processes."""

    def after(self, samples: int, of: int) -> Self:
        """The position one step later, after ``samples`` of an epoch of ``of`` samples."""
        consumed = self.consumed + samples
        return type(self)(self.step + 1, self.epoch + consumed // of, consumed % of)

    def meets(self, every: Cadence) -> bool:
        """Whether something with the cadence ``every``, in epochs or steps, is due here; nothing is due before the first step."""
        if not self.step or every.unit == "second":
            return False
        if every.unit == "epoch":
            return self.consumed == 0 and self.epoch % every.count == 0
        return self.step % every.count == 0

"""What the loop asks of data: samples by number, batch by batch, in an order that it decides."""

from abc import ABC, abstractmethod
from collections.abc import Generator, Iterable
from dataclasses import dataclass
from typing import NamedTuple, Self

import torch
from torch import Tensor

from cloud_train.errors import CloudTrainError


class ToldToStopError(CloudTrainError):
    """The attempt is to end, and a sample that was asked for has not arrived yet."""

    code = "told-to-stop"


class Pick(NamedTuple):
    """Which samples the next batch holds."""

    rows: Tensor
    """Their numbers, int64 (samples,) on the CPU."""
    epoch: int | None
    """The pass over the training data that they are for, from which augmentation is drawn; None takes the samples as they are."""


@dataclass(frozen=True)
class Batch:
    """Samples to compute with.

    Images: inputs float32 (B, channels, height, width) in [0, 1], targets int64 (B,), the classes.
    Text: inputs and targets int64 (B, T), each target the character after its input.
    Labelled lines: inputs int64 (B, T), the tokens, padded with 0; targets int64 (B,); lengths.
    """

    inputs: Tensor
    targets: Tensor
    lengths: Tensor | None = None
    """Tokens of each line, int64 (B,), always on the CPU; None where samples have one length."""

    def __len__(self) -> int:
        return len(self.targets)

    def to(self, device: torch.device) -> Self:
        """The same batch in the memory of ``device``."""
        return type(self)(self.inputs.to(device, non_blocking=True), self.targets.to(device, non_blocking=True), self.lengths)

    def parts(self, count: int) -> list[Self]:
        """At most ``count`` batches of nearly equal size that together are this one."""
        columns = [self.inputs.tensor_split(count), self.targets.tensor_split(count)]
        lengths = [None] * count if self.lengths is None else self.lengths.tensor_split(count)
        return [type(self)(*part) for part in zip(*columns, lengths, strict=True) if len(part[1])]


class Samples(ABC):
    """One part of a data set, training or validation."""

    targets: Tensor
    """Of every sample: classes int64 (samples,), or characters int64 (samples, T)."""
    lengths: Tensor | None = None
    """Tokens of every sample, int64 (samples,), where they differ."""
    groups: Tensor | None = None
    """Where samples arrive in groups: the sizes of consecutive groups of samples, int64 (groups,), each a fair sample of all of them."""

    def __len__(self) -> int:
        return len(self.targets)

    def expect(self, rows: Tensor) -> None:  # noqa: B027 -- most data is there already, and has nothing to do
        """Be told the order in which samples will be picked, int64 (samples,); where data still arrives, it may come in that order."""

    @abstractmethod
    def batches(self, picks: Iterable[Pick]) -> Generator[Batch]:
        """A batch for each pick, in the order of the picks, on the device that ``to`` chose. Close it to let go of what it holds.

        Raises ToldToStopError in place of a batch that has not arrived when the attempt is to end.
        """

    @abstractmethod
    def to(self, device: torch.device) -> Self:
        """The same samples, whose batches are in the memory of ``device``."""

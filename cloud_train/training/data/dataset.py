"""A data set, loaded: its samples, which the loop asks for by number in an order of its own, the split, and the names of the classes."""

from abc import ABC, abstractmethod
from collections.abc import Generator, Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Literal, NamedTuple, Self

import torch
from torch import Tensor

from cloud_train.data.pixels import Normalize
from cloud_train.errors import CloudTrainError, JobError
from cloud_train.job.models import JobSpec
from cloud_train.spec.registry import implementation, plugin_code


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


@dataclass(frozen=True)
class DataSet:
    """A data set, split."""

    train: Samples
    validation: Samples
    classes: tuple[str, ...]
    """Names of the classes; for text its characters, in the order of their numbers."""
    image_shape: tuple[int, int, int] | None = None
    """(channels, height, width) of an image, None if a sample is not an image."""
    normalize: Normalize | None = None
    """How the network scales the pixels."""
    tokens: tuple[str, ...] | None = None
    """Vocabulary of labelled lines: the token with number n is ``tokens[n - 1]``, and 0 is every other one and the padding."""
    unit: Literal["characters", "words"] = "characters"
    """What a token of a line is."""
    max_length: int | None = None
    """Tokens of a line that are read; what is longer is cut off."""
    preparation: Literal["drawing", "photograph"] = "drawing"
    """How a picture becomes ``image_shape``: a drawing is scaled as a whole, of a photograph the middle is cut out."""
    bucketing: bool = False
    """Whether lines of similar lengths are put into one batch."""

    def to(self, device: torch.device) -> "DataSet":
        """The same data, whose batches are in the memory of ``device``."""
        return DataSet(**{**vars(self), "train": self.train.to(device), "validation": self.validation.to(device)})


def load(job: JobSpec, place: Path) -> DataSet:
    """The job's data. ``place`` is the file or folder that ``data.path`` names; for data without a path, the cache for downloads."""
    if job.data is None or not job.data.loader:
        raise JobError("data: the built-in trainers need a data set with samples", hint="a script reads its own files")
    loader = implementation(job.data, "loader")
    with plugin_code(job.data, f"fails in {job.data.loader}"):
        loaded: DataSet = loader(job.data, place, job.train.seed)
    return loaded

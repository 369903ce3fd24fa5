"""A loaded data set: its samples, which the loop picks by number, the split, and the names of the classes."""

import hashlib
from abc import ABC, abstractmethod
from collections.abc import Generator, Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Literal, NamedTuple, Self

import torch
from torch import Tensor

from cloud_train.data.pixels import Normalize
from cloud_train.data.series import Forecasting
from cloud_train.errors import CloudTrainError, JobError
from cloud_train.job.models import JobSpec
from cloud_train.spec.registry import implementation, plugin_code

_PIECE = 1 << 22
"""Numbers of a tensor that are hashed at a time, so that a converted copy stays small."""


class ToldToStopError(CloudTrainError):
    """The attempt was asked to stop while a sample that it needs has not arrived."""

    code = "told-to-stop"


class Pick(NamedTuple):
    """The samples of the next batch."""

    rows: Tensor
    """Their numbers, int64 (samples,) on the CPU."""
    epoch: int | None
    """The pass over the training data that they belong to, which seeds augmentation; None for no augmentation."""


@dataclass(frozen=True)
class Batch:
    """The samples of one step.

    Images: inputs float32 (B, channels, height, width) in [0, 1], targets int64 (B,), the classes.
    Text: inputs and targets int64 (B, T), each target the character after its input.
    Labelled lines: inputs int64 (B, T), the tokens, padded with 0; targets int64 (B,); lengths.
    Series: inputs float32 (B, history + horizon, columns) and targets float32 (B, horizon, targets), in scaled units; units.
    """

    inputs: Tensor
    targets: Tensor
    lengths: Tensor | None = None
    """Tokens of each line, int64 (B,), always on the CPU; None if all samples have the same length."""
    units: Tensor | None = None
    """Series: one unit of a scaled target in the target's own unit, and in that of the series' naive error; float32 (B, 2, targets)."""

    def __len__(self) -> int:
        return len(self.targets)

    def to(self, device: torch.device) -> Self:
        """The same batch in the memory of ``device``."""
        units = None if self.units is None else self.units.to(device, non_blocking=True)
        return type(self)(self.inputs.to(device, non_blocking=True), self.targets.to(device, non_blocking=True), self.lengths, units)

    def parts(self, count: int) -> list[Self]:
        """This batch divided into at most ``count`` batches of nearly equal size."""
        columns = [[None] * count if column is None else column.tensor_split(count) for column in vars(self).values()]
        return [type(self)(*part) for part in zip(*columns, strict=True) if len(part[1])]


class Samples(ABC):
    """One part of a data set, training or validation."""

    targets: Tensor
    """Targets of all samples: classes int64 (samples,), or characters int64 (samples, T). Of series, those of all rows, float32 (rows,
    targets), of which a sample's are a piece.
    """
    lengths: Tensor | None = None
    """Number of tokens of each sample, int64 (samples,), if they differ."""
    groups: Tensor | None = None
    """The sizes of consecutive groups in which samples arrive, int64 (groups,), each a representative sample of all; None without groups.
    """

    @property
    def is_text(self) -> bool:
        """Whether each sample is a piece of a text, which the next one continues."""
        return self.targets.dim() > 1 and not self.targets.is_floating_point()

    def __len__(self) -> int:
        return len(self.targets)

    def expect(self, rows: Tensor) -> None:  # noqa: B027 -- most data is complete, and has nothing to do
        """Note the order in which samples will be picked, int64 (samples,), so that arriving data can arrive in that order."""

    def fingerprint(self) -> str:
        """A digest of what the samples are, in their order, for a checkpoint to record; the targets alone by default."""
        return digest_of(self.targets, *([] if self.lengths is None else [self.lengths]))

    def skipped(self) -> str:
        """How many samples were left out because they cannot be read, as words; empty if none was."""
        return ""

    @abstractmethod
    def batches(self, picks: Iterable[Pick]) -> Generator[Batch]:
        """A batch for each pick, in the order of the picks, on the device chosen with ``to``. Close the generator to release its resources.

        Raises ToldToStopError if the attempt is asked to stop while a batch has not arrived.
        """

    @abstractmethod
    def to(self, device: torch.device) -> Self:
        """The same samples with batches on ``device``."""


def digest_of(*tensors: Tensor) -> str:
    """A digest of the tensors' shapes and contents. Whole numbers count by their value, whatever their type."""
    digest = hashlib.sha256()
    for tensor in tensors:
        digest.update(f"{list(tensor.shape)}".encode())
        for piece in torch.split(tensor.detach().flatten(), _PIECE):
            kind = _narrowest(piece)
            digest.update(str(kind).encode())
            digest.update(piece.to("cpu", kind).contiguous().numpy().data)
    return digest.hexdigest()


def _narrowest(numbers: Tensor) -> torch.dtype:
    """The smallest type that holds these whole numbers, so that there is less to hash; for other numbers one that NumPy has."""
    if numbers.dtype == torch.bfloat16:
        return torch.float32
    if numbers.dtype.is_floating_point or not len(numbers):
        return numbers.dtype
    least, most = (int(bound) for bound in torch.aminmax(numbers))
    kinds = (torch.uint8, torch.int16, torch.int32)
    return next((kind for kind in kinds if torch.iinfo(kind).min <= least and most <= torch.iinfo(kind).max), torch.int64)


@dataclass(frozen=True)
class DataSet:
    """A data set, split."""

    train: Samples
    validation: Samples
    classes: tuple[str, ...]
    """Names of the classes, the characters of text, or the targets of series, in the order of their numbers."""
    image_shape: tuple[int, int, int] | None = None
    """(channels, height, width) of an image, None if a sample is not an image."""
    normalize: Normalize | None = None
    """How the network scales the pixels."""
    tokens: tuple[str, ...] | None = None
    """Vocabulary of labelled lines: token number n is ``tokens[n - 1]``, and 0 is any other token and the padding."""
    unit: Literal["characters", "words"] = "characters"
    """What a token of a line is."""
    max_length: int | None = None
    """Most tokens read from a line; longer lines are truncated."""
    preparation: Literal["drawing", "photograph"] = "drawing"
    """How an image gets its ``image_shape``: a drawing is scaled as a whole, a photograph is cropped to its centre."""
    bucketing: bool = False
    """Whether lines of similar length are put in one batch."""
    test: Samples | None = None
    """What the finished model is tested on, if the data has such samples."""
    remarks: tuple[str, ...] = ()
    """What of the data is not read, and what looks like a mistake."""
    series: Forecasting | None = None
    """What is read of time series, and forecast."""

    def parts(self) -> dict[str, Samples]:
        """The samples for training and validation, and those for a test if there are any, by what they are for."""
        parts = {"training": self.train, "validation": self.validation, "test": self.test}
        return {name: samples for name, samples in parts.items() if samples is not None}

    def to(self, device: torch.device) -> "DataSet":
        """The same data with batches on ``device``."""
        moved = {name: samples.to(device) for name in ("train", "validation", "test") if (samples := getattr(self, name)) is not None}
        return DataSet(**{**vars(self), **moved})


def load(job: JobSpec, place: Path) -> DataSet:
    """The job's data. ``place`` is the file or folder that ``data.path`` names, or the download cache if there is no path.

    Raises BrokenComponentError if a plugin's loader fails.
    """
    if job.data is None or not job.data.loader:
        raise JobError("data: the built-in trainers need a data set with samples", hint="a script reads its own files")
    loader = implementation(job.data, "loader")
    with plugin_code(job.data, f"fails in {job.data.loader}"):
        loaded: DataSet = loader(job.data, place, job.train.seed)
    return loaded

"""The data sets as tensors in memory: what is trained on, what is validated on, and what the classes are called."""

from dataclasses import dataclass
from pathlib import Path

import torch

from cloud_train.errors import JobError
from cloud_train.job.models import DigitsData, JobSpec, PythonDocsData, TextData


@dataclass(frozen=True)
class Samples:
    """Inputs and targets; a sample is a row of both.

    Images: inputs float32 (samples, channels, height, width) in [0, 1], targets int64 (samples,).
    Text: inputs and targets int64 (samples, sequence_length), each target the character after its input.
    """

    inputs: torch.Tensor
    targets: torch.Tensor

    def __len__(self) -> int:
        return len(self.targets)

    def batch(self, rows: torch.Tensor | slice) -> tuple[torch.Tensor, torch.Tensor]:
        """The inputs and targets of these samples."""
        return self.inputs[rows], self.targets[rows]


@dataclass(frozen=True)
class DataSet:
    """A data set, split."""

    train: Samples
    validation: Samples
    classes: tuple[str, ...]
    """Names of the classes; for text its characters, in the order of their numbers."""

    @property
    def image_shape(self) -> tuple[int, int, int] | None:
        """(channels, height, width) of an image, None for text."""
        if self.train.inputs.dim() != 4:
            return None
        channels, height, width = self.train.inputs.shape[1:]
        return channels, height, width

    def to(self, device: torch.device) -> "DataSet":
        """The same data in the memory of ``device``."""
        train, validation = (Samples(part.inputs.to(device), part.targets.to(device)) for part in (self.train, self.validation))
        return DataSet(train, validation, self.classes)


def load(job: JobSpec, directory: Path) -> DataSet:
    """The job's data; ``directory`` is where its relative paths start."""
    if isinstance(job.data, DigitsData):
        from cloud_train.training.data.digits import load_digits

        return load_digits(job.data, job.train.seed)
    if isinstance(job.data, PythonDocsData | TextData):
        from cloud_train.training.data.text import load_text

        return load_text(job.data, directory)
    raise JobError("data: the built-in models need a data set of their own")

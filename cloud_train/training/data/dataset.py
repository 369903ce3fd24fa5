"""A data set, loaded: its samples, split, and what its classes are called."""

from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import torch

from cloud_train.data.pixels import Normalize
from cloud_train.errors import JobError
from cloud_train.job.models import JobSpec
from cloud_train.spec.registry import implementation
from cloud_train.training.data.samples import Samples


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
    loaded: DataSet = implementation(job.data.loader)(job.data, place, job.train.seed)
    return loaded

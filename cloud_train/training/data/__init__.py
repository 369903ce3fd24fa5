"""The data sets: what is trained on, what is validated on, and what the classes are called."""

from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import torch

from cloud_train.errors import JobError
from cloud_train.job.models import (
    Cifar10Data,
    DigitsData,
    ImagesData,
    JobSpec,
    MnistData,
    Normalize,
    PythonDocsData,
    SequencesData,
    TextData,
)
from cloud_train.training.data.samples import Samples


@dataclass(frozen=True)
class DataSet:
    """A data set, split."""

    train: Samples
    validation: Samples
    classes: tuple[str, ...]
    """Names of the classes; for text its characters, in the order of their numbers."""
    image_shape: tuple[int, int, int] | None = None
    """(channels, height, width) of an image, None for what is no image."""
    normalize: Normalize | None = None
    """How the network scales the pixels."""
    tokens: tuple[str, ...] | None = None
    """Vocabulary of labelled lines: the token with number n is ``tokens[n - 1]``, and 0 is every other one and the padding."""
    unit: Literal["characters", "words"] = "characters"
    """What a token of a line is."""

    def to(self, device: torch.device) -> "DataSet":
        """The same data, whose batches lie in the memory of ``device``."""
        return DataSet(**{**vars(self), "train": self.train.to(device), "validation": self.validation.to(device)})


def load(job: JobSpec, place: Path) -> DataSet:
    """The job's data. ``place`` is the file or folder that ``data.path`` names; for data without a path, the cache for downloads."""
    seed = job.train.seed
    match job.data:
        case DigitsData():
            from cloud_train.training.data.digits import load_digits

            return load_digits(job.data, seed)
        case MnistData():
            from cloud_train.training.data.mnist import load_mnist

            return load_mnist(job.data, place, seed)
        case Cifar10Data():
            from cloud_train.training.data.cifar10 import load_cifar10

            return load_cifar10(job.data, place, seed)
        case ImagesData():
            from cloud_train.training.data.images import load_images

            return load_images(job.data, place, seed)
        case PythonDocsData() | TextData():
            from cloud_train.training.data.text import load_text

            return load_text(job.data, place)
        case SequencesData():
            from cloud_train.training.data.sequences import load_sequences

            return load_sequences(job.data, place, seed)
    raise JobError("data: the built-in models need a data set of their own")

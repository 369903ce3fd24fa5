"""Samples in memory as two tensors, and how one set of images becomes two."""

from collections.abc import Generator, Iterable
from typing import NamedTuple, Self

import torch
from torch import Tensor

from cloud_train.data.base import held_back
from cloud_train.data.cifar10 import Cifar10Data
from cloud_train.data.digits import DigitsData
from cloud_train.data.mnist import MnistData
from cloud_train.training.data.augmentation import Augmentation
from cloud_train.training.data.dataset import DataSet
from cloud_train.training.data.samples import Batch, Pick, Samples
from cloud_train.training.randomness import permutation


class TensorSamples(Samples):
    """A sample is a row of both tensors. Images may be uint8 from 0 to 255; their batches are float32 from 0 to 1 all the same."""

    def __init__(self, inputs: Tensor, targets: Tensor, augmentation: Augmentation | None = None) -> None:
        self.inputs, self.targets, self._augmentation = inputs, targets, augmentation

    def batches(self, picks: Iterable[Pick]) -> Generator[Batch]:
        """A batch for each pick."""
        for rows, epoch in picks:
            here = rows.to(self.inputs.device)
            inputs = self.inputs.index_select(0, here)  # many times faster than an index in brackets
            if self._augmentation is not None and epoch is not None:
                inputs = self._augmentation(inputs, rows, epoch)
            if inputs.dtype == torch.uint8:
                inputs = inputs.float().div_(255)
            yield Batch(inputs, self.targets.index_select(0, here))

    def to(self, device: torch.device) -> Self:
        """The same samples in the memory of ``device``."""
        return type(self)(self.inputs.to(device), self.targets.to(device), self._augmentation)


class Images(NamedTuple):
    """Images with their classes."""

    pixels: Tensor
    """uint8 from 0 to 255, or float32 from 0 to 1, (images, channels, height, width)."""
    targets: Tensor
    """int64 (images,)."""

    def of(self, rows: Tensor) -> "Images":
        """Those with the numbers ``rows``."""
        return Images(self.pixels.index_select(0, rows), self.targets.index_select(0, rows))


def image_data_set(
    data: DigitsData | MnistData | Cifar10Data, train: Images, test: Images | None, classes: tuple[str, ...], seed: int
) -> DataSet:
    """A data set of images in memory: ``test`` is for validation, or where it is None the fraction ``data.validation`` of ``train``."""
    if test is None:
        train_rows, test_rows = split(len(train.targets), data.validation or 0, seed, "images")
        train, test = train.of(train_rows), train.of(test_rows)
    _, channels, height, width = train.pixels.shape
    augmentation = Augmentation(data.augment, len(train.targets), seed) if data.augment is not None else None
    return DataSet(
        train=TensorSamples(*train, augmentation),
        validation=TensorSamples(*test),
        classes=classes,
        image_shape=(channels, height, width),
        normalize=data.normalize,
    )


def split(samples: int, validation: float, seed: int, what: str) -> tuple[Tensor, Tensor]:
    """The numbers of the samples to train on, and of the fraction ``validation`` to validate on; int64, in an order that follows from
    ``seed``. Raises FieldError, calling the samples ``what``, where either would be none.
    """
    count = held_back(samples, validation, what)
    order = permutation(samples, seed, "split")
    return order[count:], order[:count]

"""Samples in memory as two tensors: splitting one set of images into two, and augmentation.

Augmentation is drawn for each image and epoch: image n always gets the same augmentation in epoch e.
"""

from collections.abc import Generator, Iterable
from typing import NamedTuple, Self

import torch
from torch import Tensor
from torch.nn import functional

from cloud_train.data.cifar10 import Cifar10Data
from cloud_train.data.digits import DigitsData
from cloud_train.data.mnist import MnistData
from cloud_train.data.pixels import Augment
from cloud_train.data.shares import class_shares, share_remarks
from cloud_train.training.data.dataset import Batch, DataSet, Pick, Samples, digest_of
from cloud_train.training.randomness import derived_seed, permutation


class Augmentation:
    """Flips and crops for a training set of ``samples`` images in memory."""

    def __init__(self, settings: Augment, samples: int, seed: int) -> None:
        self._settings, self._samples, self._seed = settings, samples, seed
        self._epoch: int | None = None
        self._draws = torch.empty(0)

    def __call__(self, images_BCHW: Tensor, rows: Tensor, epoch: int) -> Tensor:
        """The images, changed; ``rows`` are their numbers in the training set."""
        if epoch != self._epoch:
            # One draw for a whole epoch, indexed by image number, so it depends neither on the order of the images nor on the process.
            self._draws, self._epoch = self._drawn(epoch), epoch
        flips, downs, rights = self._draws.index_select(1, rows.cpu()).to(images_BCHW.device)
        return _changed(images_BCHW, flips, downs, rights, self._settings.crop)

    def _drawn(self, epoch: int) -> Tensor:
        """For each image: whether it is flipped, and how far its window moves down and right; int64 (3, samples)."""
        draws = torch.zeros(3, self._samples, dtype=torch.int64)
        # Each kind of change has its own seed, so that enabling one does not change the other.
        for name, part, end in (("flip", draws[:1], 1 + self._settings.flip), ("crop", draws[1:], 2 * self._settings.crop + 1)):
            part.random_(0, end, generator=torch.Generator().manual_seed(derived_seed(self._seed, name, epoch)))
        return draws


def _changed(images_BCHW: Tensor, flips_B: Tensor, downs_B: Tensor, rights_B: Tensor, margin: int) -> Tensor:
    """Each image mirrored if its ``flips`` is 1, then cropped to its own size from the image with a black margin.

    One ``gather`` does both: for each pixel of the crop it looks up its source in the padded image.
    """
    batch, channels, height, width = images_BCHW.shape
    device = images_BCHW.device
    padded_BCHW = functional.pad(images_BCHW, (margin,) * 4)
    padded_width = width + 2 * margin
    rows_BH = downs_B.view(-1, 1) + torch.arange(height, device=device)
    columns_BW = rights_B.view(-1, 1) + torch.arange(width, device=device)
    columns_BW = torch.where(flips_B.view(-1, 1) == 1, padded_width - 1 - columns_BW, columns_BW)
    places_B1P = (rows_BH.unsqueeze(2) * padded_width + columns_BW.unsqueeze(1)).view(batch, 1, height * width)
    pixels_BCP = padded_BCHW.flatten(2).gather(2, places_B1P.expand(batch, channels, height * width))
    return pixels_BCP.view(batch, channels, height, width)


class TensorSamples(Samples):
    """Samples in two tensors, one row each. Images may be uint8 from 0 to 255; their batches are float32 from 0 to 1 in any case."""

    def __init__(self, inputs: Tensor, targets: Tensor, augmentation: Augmentation | None = None) -> None:
        self.inputs, self.targets, self._augmentation = inputs, targets, augmentation

    def fingerprint(self) -> str:
        """A digest of all inputs and targets. Targets of text are its inputs, shifted by one; only their last column is read."""
        return digest_of(self.inputs, self.targets[:, -1] if self.targets.dim() > 1 else self.targets)

    def batches(self, picks: Iterable[Pick]) -> Generator[Batch]:
        """A batch for each pick."""
        for rows, epoch in picks:
            here = rows.to(self.inputs.device)
            inputs = self.inputs.index_select(0, here)  # many times faster than indexing with brackets
            if self._augmentation is not None and epoch is not None:
                inputs = self._augmentation(inputs, rows, epoch)
            if inputs.dtype == torch.uint8:
                inputs = inputs.float().div_(255)
            yield Batch(inputs, self.targets.index_select(0, here))

    def to(self, device: torch.device) -> Self:
        """The same samples on ``device``."""
        return type(self)(self.inputs.to(device), self.targets.to(device), self._augmentation)


class Images(NamedTuple):
    """Images with their classes."""

    pixels: Tensor
    """uint8 from 0 to 255, or float32 from 0 to 1, (images, channels, height, width)."""
    targets: Tensor
    """int64 (images,)."""

    def of(self, rows: Tensor) -> "Images":
        """The images with the numbers ``rows``."""
        return Images(self.pixels.index_select(0, rows), self.targets.index_select(0, rows))


def image_data_set(
    data: DigitsData | MnistData | Cifar10Data, train: Images, test: Images | None, classes: tuple[str, ...], seed: int
) -> DataSet:
    """A data set of images in memory: the fraction ``data.validation`` of ``train`` is held out for validation.

    ``seed`` is that of augmentation; ``data.seed`` chooses what is held out. Raises FieldError if the fraction leaves a part empty.
    """
    train_rows, validation_rows = split(train.targets, data.validation, data.seed, "images")
    remarks = share_remarks(len(train.targets), len(validation_rows), data.validation, "images")
    train, validation = train.of(train_rows), train.of(validation_rows)
    _, channels, height, width = train.pixels.shape
    augmentation = Augmentation(data.augment, len(train.targets), seed) if data.augment is not None else None
    return DataSet(
        train=TensorSamples(*train, augmentation),
        validation=TensorSamples(*validation),
        test=TensorSamples(*test) if test is not None else None,
        classes=classes,
        image_shape=(channels, height, width),
        normalize=data.normalize,
        remarks=remarks,
    )


def split(targets_N: Tensor, validation: float, seed: int, what: str) -> tuple[Tensor, Tensor]:
    """The numbers of the samples for training, and of those that are held out for validation; both int64, ascending.

    ``targets_N`` are the classes of all samples, int64. Each class gives its share of the fraction ``validation`` (``class_shares``), and
    ``seed`` chooses which of its samples. Raises FieldError, calling the samples ``what``, if either part would be empty.
    """
    sizes = torch.bincount(targets_N)
    shares = torch.tensor(class_shares(sizes.tolist(), validation, what))
    drawn_N = permutation(len(targets_N), seed, "split")
    by_class_N = drawn_N[targets_N[drawn_N].argsort(stable=True)]
    places_N = torch.arange(len(targets_N)) - (sizes.cumsum(0) - sizes).repeat_interleave(sizes)
    is_held_out_N = torch.zeros(len(targets_N), dtype=torch.bool)
    is_held_out_N[by_class_N] = places_N < shares.repeat_interleave(sizes)
    return (~is_held_out_N).nonzero().flatten(), is_held_out_N.nonzero().flatten()

"""What the data sets of images share: the scaling of pixels, augmentation, and the checks of both."""

from collections.abc import Iterator
from typing import Annotated, ClassVar

from pydantic import Field

from cloud_train.data.base import DataSection, SampleKind, held_back
from cloud_train.spec.facts import DataFacts
from cloud_train.spec.problems import Finding
from cloud_train.spec.section import Section

_TEST_IMAGES = 10_000


class Normalize(Section):
    """Scaling of each channel: (pixel - mean) / std, with pixels from 0 to 1. It belongs to the model, so predictions do the same."""

    mean: Annotated[tuple[float, ...], Field(min_length=1)]
    """Mean of each channel."""
    std: Annotated[tuple[Annotated[float, Field(gt=0)], ...], Field(min_length=1)]
    """Standard deviation of each channel."""


class Augment(Section):
    """Small changes of the training images, drawn for each image in each epoch."""

    flip: bool = False
    """Mirror every second image, on average, left to right."""
    crop: Annotated[int, Field(ge=0, le=64)] = 0
    """Shift the image by up to so many pixels each way; what comes in from outside is black."""


class PhotoAugment(Section):
    """Changes of the training photographs, drawn for each photograph in each epoch."""

    flip: bool = True
    """Mirror every second photograph, on average, left to right."""
    crop: Annotated[float, Field(gt=0, le=1)] = 0.08
    """Smallest part of the area that is cut out at random and scaled to ``size`` (Szegedy et al., 2015); 1 takes the middle, as in
    validation.
    """


class ImageSection(DataSection):
    """A data set of images."""

    sample_kind: ClassVar[SampleKind] = "images"

    def sample_rows(self, facts: DataFacts) -> list[tuple[str, str]]:
        """The size of an image, and the classes."""
        return [("sample", f"image of {'×'.join(map(str, facts.sample_shape))}"), ("classes", f"{facts.classes:,}")]


def benchmark_split(train: int, validation: float | None) -> tuple[int, int]:
    """Samples to train and to validate on, of a benchmark with ``train`` training images and 10,000 test images.

    The test images validate unless the fraction ``validation`` of the training images does.
    """
    if validation is None:
        return train, _TEST_IMAGES
    count = held_back(train, validation, "training images")
    return train - count, count


def check_crop(augment: Augment | None, side: int) -> Iterator[Finding]:
    """What is wrong with the augmentation of square images of ``side`` pixels."""
    if augment is not None and augment.crop >= side:
        yield ("data", "augment", "crop"), f"images of {side}×{side} pixels would be shifted out of sight", f"less than {side}"


def check_normalize(normalize: Normalize | None, channels: int) -> Iterator[Finding]:
    """What does not fit images of so many channels."""
    if normalize is None:
        return
    of_images = f"the images have {channels} channel{'s' if channels > 1 else ''}"
    wanted = "one number" if channels == 1 else f"one number for all channels, or {channels}"
    for name, values in (("mean", normalize.mean), ("std", normalize.std)):
        if len(values) not in (1, channels):
            yield ("data", "normalize", name), f"{name} has {len(values)} numbers, and {of_images}", wanted
    lengths = {len(normalize.mean), len(normalize.std)}
    if len(lengths) == 2 and lengths <= {1, channels}:
        yield ("data", "normalize", "std"), f"mean has {len(normalize.mean)} numbers, and std {len(normalize.std)}", "as many of both"

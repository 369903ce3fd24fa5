"""What image data sets share: the scaling of pixels, augmentation, and the checks of both."""

from collections.abc import Iterator
from typing import Annotated, ClassVar, Literal

from pydantic import Field

from cloud_train.data.base import DataSection, SampleKind
from cloud_train.spec.facts import DataFacts
from cloud_train.spec.problems import Finding
from cloud_train.spec.types import Section


class Normalize(Section):
    """Scaling of each channel: (pixel - mean) / std, with pixels from 0 to 1. Part of the model, so predictions do the same."""

    mean: Annotated[tuple[float, ...], Field(min_length=1)]
    """Mean of each channel."""
    std: Annotated[tuple[Annotated[float, Field(gt=0)], ...], Field(min_length=1)]
    """Standard deviation of each channel."""


class Augment(Section):
    """Small random changes of the training images, drawn for each image in each epoch."""

    flip: bool = False
    """Mirror half of the images, at random, left to right."""
    crop: Annotated[int, Field(ge=0, le=64)] = 0
    """Shift the image by up to this many pixels in each direction; uncovered pixels are black."""


class PhotoAugment(Section):
    """Random changes of the training photographs, drawn for each photograph in each epoch."""

    flip: bool = True
    """Mirror half of the photographs, at random, left to right."""
    crop: Annotated[float, Field(gt=0, le=1)] = 0.08
    """Smallest fraction of the area that is cropped at random and scaled to ``size`` (Szegedy et al., 2015); 1 takes the centre, as in
    validation.
    """


PhotoAugmentName = Literal["gentle", "strong"]
"""The gentle augmentation fits most images: it leaves out little, and what is left stays left. The strong one is that of ImageNet."""


def photo_augment(name: PhotoAugmentName) -> PhotoAugment:
    """The settings that a name stands for."""
    return PhotoAugment(flip=False, crop=0.7) if name == "gentle" else PhotoAugment(flip=True, crop=0.08)


class ImageSection(DataSection):
    """A data set of images."""

    sample_kind: ClassVar[SampleKind] = "images"

    def sample_rows(self, facts: DataFacts) -> list[tuple[str, str]]:
        """The size of an image, and the classes."""
        return [("sample", f"image of {'×'.join(map(str, facts.sample_shape))}"), ("classes", f"{facts.classes:,}")]


def check_crop(augment: Augment | None, side: int) -> Iterator[Finding]:
    """Mistakes in the augmentation of square images of ``side`` pixels."""
    if augment is not None and augment.crop >= side:
        yield (
            ("data", "augment", "crop"),
            f"a shift of {augment.crop} pixels moves images of {side}×{side} pixels out of the frame",
            f"less than {side}",
        )


def check_normalize(normalize: Normalize | None, channels: int) -> Iterator[Finding]:
    """What does not fit images with this number of channels."""
    if normalize is None:
        return
    of_images = f"the images have {channels} channel{'s' if channels > 1 else ''}"
    wanted = "one value" if channels == 1 else f"one value for all channels, or {channels}"
    for name, values in (("mean", normalize.mean), ("std", normalize.std)):
        if len(values) not in (1, channels):
            yield ("data", "normalize", name), f"{name} has {len(values)} values, but {of_images}", wanted
    lengths = {len(normalize.mean), len(normalize.std)}
    if len(lengths) == 2 and lengths <= {1, channels}:
        yield (
            ("data", "normalize", "std"),
            f"mean has {len(normalize.mean)} values, but std has {len(normalize.std)}",
            "the same number of both",
        )

"""scikit-learn's handwritten digits."""

from collections.abc import Iterator
from typing import Annotated, ClassVar, Literal

from pydantic import Field

from cloud_train.data.pixels import Augment, ImageSection, Normalize, check_crop, check_normalize
from cloud_train.data.shares import held_out
from cloud_train.spec.facts import DataFacts
from cloud_train.spec.problems import Finding
from cloud_train.spec.types import Fraction, Seed

CLASS_SIZES = (178, 182, 177, 183, 181, 182, 181, 179, 174, 180)
SAMPLES = sum(CLASS_SIZES)
CLASSES = len(CLASS_SIZES)


class DigitsData(ImageSection):
    """1,797 handwritten digits of 8×8 grey pixels in 10 classes (the UCI optical digits that scikit-learn includes)."""

    dataset: Literal["digits"]
    """scikit-learn's handwritten digits; nothing is downloaded."""
    size: Annotated[int, Field(ge=8, le=256)] = 28
    """Side to which the images are resized, in pixels."""
    validation: Fraction = 0.2
    """Fraction of the samples that is held out for validation."""
    seed: Seed = 0
    """Chooses the samples that are held out for validation; ``train.seed`` does not."""
    augment: Augment | None = None
    """Augmentation of the training images."""
    normalize: Normalize | None = None
    """Scaling of the pixels."""

    loader: ClassVar[str] = "cloud_train.training.data.digits:load_digits"
    packages: ClassVar = {"sklearn": "scikit-learn"}

    @property
    def source(self) -> str:
        """The package that contains the digits."""
        return "scikit-learn's handwritten digits"

    def expected_facts(self) -> DataFacts:
        """Everything is known: the digits never change."""
        validation, remarks = held_out(CLASS_SIZES, self.validation, "images")
        return DataFacts(self.dataset, (self.size, self.size, 1), CLASSES, SAMPLES - validation, validation, self.source, remarks=remarks)

    def check(self) -> Iterator[Finding]:
        """Mistakes in the augmentation or the scaling."""
        yield from check_normalize(self.normalize, 1)
        yield from check_crop(self.augment, self.size)

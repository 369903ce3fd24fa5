"""CIFAR-10."""

from collections.abc import Iterator
from typing import ClassVar, Literal

from cloud_train.data.pixels import Augment, ImageSection, Normalize, check_crop, check_normalize
from cloud_train.data.shares import held_out
from cloud_train.spec.facts import DataFacts
from cloud_train.spec.problems import Finding
from cloud_train.spec.types import Fraction, PathText, Seed, Sha256, Url

URL = "https://www.cs.toronto.edu/~kriz/cifar-10-binary.tar.gz"
SHA256 = "c4a38c50a1bc5f3a1c5537f2155ab9d68f9f25eb1ed8d9ddda3db29a59bca1dd"
_SIDE = 32
_CHANNELS = 3
CLASSES = 10
_TRAINING_IMAGES = 50_000
_TEST_IMAGES = 10_000


class Cifar10Data(ImageSection):
    """CIFAR-10: 60,000 photographs of 32×32 pixels in 10 classes (Krizhevsky, 2009)."""

    dataset: Literal["cifar10"]
    """CIFAR-10 in its binary version."""
    path: PathText | None = None
    """``cifar-10-binary.tar.gz``, or the folder that it unpacks to; relative to the job file, or a store URL. It is downloaded if left out.
    """
    url: Url = URL
    """Where the archive is downloaded from, into a cache."""
    sha256: Sha256 = SHA256
    """SHA-256 of the archive that is downloaded."""
    validation: Fraction = 0.1
    """Fraction of the training images that is held out for validation; the test images are for the test of the finished model."""
    seed: Seed = 0
    """Chooses the samples that are held out for validation; ``train.seed`` does not."""
    augment: Augment | None = None
    """Augmentation of the training images."""
    normalize: Normalize | None = None
    """Scaling of the pixels."""

    loader: ClassVar[str] = "cloud_train.training.data.cifar10:load_cifar10"

    @property
    def source(self) -> str:
        """The archive or folder, or the archive's URL."""
        return self.path or self.url

    def expected_facts(self) -> DataFacts:
        """The image size, classes and samples of CIFAR-10."""
        validation, remarks = held_out([_TRAINING_IMAGES // CLASSES] * CLASSES, self.validation, "training images")
        return DataFacts(
            dataset=self.dataset,
            sample_shape=(_SIDE, _SIDE, _CHANNELS),
            classes=CLASSES,
            train_samples=_TRAINING_IMAGES - validation,
            validation_samples=validation,
            source=self.source,
            test_samples=_TEST_IMAGES,
            remarks=remarks,
        )

    def check(self) -> Iterator[Finding]:
        """Mistakes in the source, the augmentation or the scaling."""
        yield from super().check()
        yield from check_normalize(self.normalize, _CHANNELS)
        yield from check_crop(self.augment, _SIDE)

"""MNIST, and data sets in its format."""

from collections.abc import Iterator
from typing import ClassVar, Literal

from pydantic import Field

from cloud_train.data.pixels import Augment, ImageSection, Normalize, check_crop, check_normalize
from cloud_train.data.shares import held_out
from cloud_train.spec.facts import DataFacts
from cloud_train.spec.problems import Finding
from cloud_train.spec.types import Fraction, PathText, Seed, Sha256, Url

URL = "https://ossci-datasets.s3.amazonaws.com/mnist/"
SHA256 = {
    "train-images-idx3-ubyte.gz": "440fcabf73cc546fa21475e81ea370265605f56be210a4024d2ca8f203523609",
    "train-labels-idx1-ubyte.gz": "3552534a0a558bbed6aed32b30c495cca23d567ec52cac8be1a0730e8010255c",
    "t10k-images-idx3-ubyte.gz": "8d422c7b0a1c1c79245a5bcf07fe86e33eeafee792b84584aec276f5a2dbc4e6",
    "t10k-labels-idx1-ubyte.gz": "f7ae60f92e00ec6debd23a6088c31dbd2371eca3ffa0defaefb259924204aec6",
}
_SIDE = 28
_CLASS_SIZES = (5923, 6742, 5958, 6131, 5842, 5421, 5918, 6265, 5851, 5949)
"""The training images of each digit in MNIST; only a fraction of less than an image of a class would count differently without them."""
_TEST_IMAGES = 10_000


class MnistData(ImageSection):
    """Files in MNIST's format (IDX): MNIST itself, 70,000 handwritten digits of 28×28 grey pixels, or a
    replacement such as Fashion-MNIST.
    """

    dataset: Literal["mnist"]
    """The four IDX files of MNIST."""
    path: PathText | None = None
    """A folder with the four files, plain or ``.gz``; relative to the job file, or a store URL. They are downloaded if left out."""
    url: Url = URL
    """Where the four files are downloaded from, into a cache."""
    sha256: dict[str, Sha256] = Field(default_factory=lambda: dict(SHA256))
    """SHA-256 of each file that is downloaded; those of MNIST if left out."""
    validation: Fraction = 0.1
    """Fraction of the training images that is held out for validation; the test images are for the test of the finished model."""
    seed: Seed = 0
    """Chooses the samples that are held out for validation; ``train.seed`` does not."""
    augment: Augment | None = None
    """Augmentation of the training images."""
    normalize: Normalize | None = None
    """Scaling of the pixels."""

    loader: ClassVar[str] = "cloud_train.training.data.mnist:load_mnist"

    @property
    def source(self) -> str:
        """The folder, or the URL of the four files."""
        return self.path or f"four files from {self.url}"

    def expected_facts(self) -> DataFacts:
        """The image size, classes and samples of MNIST."""
        validation, remarks = held_out(_CLASS_SIZES, self.validation, "training images")
        return DataFacts(
            dataset=self.dataset,
            sample_shape=(_SIDE, _SIDE, 1),
            classes=len(_CLASS_SIZES),
            train_samples=sum(_CLASS_SIZES) - validation,
            validation_samples=validation,
            source=self.source,
            test_samples=_TEST_IMAGES,
            remarks=remarks,
        )

    def check(self) -> Iterator[Finding]:
        """Mistakes in the source, the checksums, the augmentation or the scaling."""
        yield from super().check()
        yield from self._check_sums()
        yield from check_normalize(self.normalize, 1)
        yield from check_crop(self.augment, _SIDE)

    def _check_sums(self) -> Iterator[Finding]:
        wanted = ", ".join(SHA256)
        for name in self.sha256:
            if name not in SHA256:
                yield ("data", "sha256", name), f"unknown file {name!r}", f"one of {wanted}"
        if missing := [name for name in SHA256 if name not in self.sha256]:
            yield ("data", "sha256"), f"the checksum of {', '.join(missing)} is missing", f"a checksum for each of {wanted}"

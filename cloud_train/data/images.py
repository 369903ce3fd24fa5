"""Photographs in folders or tar shards."""

from collections.abc import Iterator
from pathlib import Path
from typing import Annotated, ClassVar, Literal

from pydantic import Field

from cloud_train.data.base import check_source, held_back
from cloud_train.data.imagefolder import list_images
from cloud_train.data.pixels import ImageSection, Normalize, PhotoAugment, check_normalize
from cloud_train.data.shardfolder import find_shards
from cloud_train.spec.facts import DataFacts
from cloud_train.spec.problems import Finding
from cloud_train.spec.problems import Path as Field_
from cloud_train.spec.section import Count, Fraction, PathText, Sha256, Url


class ImagesData(ImageSection):
    """Photographs of your own: one folder per class, JPEG and PNG, decoded during the training."""

    dataset: Literal["images"]
    """A folder of images, one folder per class."""
    path: PathText | None = None
    """A folder with ``train`` and ``val`` in it, each with one folder per class (the layout of ImageNet), or with the classes themselves;
    or with tar shards, which ``cloud-train pack FOLDER DESTINATION`` makes; relative to the job file, or a URL in a store (``s3://…``,
    ``gs://…``, ``az://…``), there also of an archive of such a folder.
    """
    url: Url | None = None
    """A ``.zip``, ``.tar`` or ``.tar.gz`` of such a folder to download into a cache, instead of ``path``."""
    sha256: Sha256 | None = None
    """SHA-256 of the archive that is downloaded."""
    size: Annotated[int, Field(ge=8, le=2048)] = 224
    """Side of the square that is cut out of each image, in pixels."""
    channels: Literal[1, 3] = 3
    """3 for colours, 1 for grey."""
    classes: Count | None = None
    """How many classes there are: checked when the folder is read, and what a plan is made with where the folder is not."""
    validation: Fraction = 0.1
    """Fraction of the images that is kept for validation, where there is no folder ``val``."""
    broken: Literal["fail", "skip"] = "fail"
    """What an image that cannot be read does: end the run, or be named and left out."""
    workers: Annotated[int, Field(ge=0, le=256)] | None = None
    """Processes that decode images beside the training, each process of it; as many as it may use CPU cores, less one, if left out."""
    augment: PhotoAugment | None = Field(default_factory=PhotoAugment)
    """Changes of the training photographs; null takes them as they are."""
    normalize: Normalize | None = None
    """Scaling of the pixels."""

    loader: ClassVar[str] = "cloud_train.training.data.images:load_images"
    packages: ClassVar = {"PIL": "pillow"}

    @property
    def source_field(self) -> Field_:
        """The field that says where the images are."""
        return ("data", "path" if self.path is not None else "url")

    def expected_facts(self) -> DataFacts | None:
        """The size of an image, if the job tells the number of classes."""
        return None if self.classes is None else self._facts(self.classes, None, None)

    def facts_at(self, place: Path) -> DataFacts:
        """The classes and images of a folder, counted without opening any image."""
        if (shards := find_shards(place, self.classes)) is not None:
            classes, train, validation = len(shards.classes), shards.count("train"), shards.count("val")
        else:
            found = list_images(place, self.classes, self.source_field)
            classes, train, validation = len(found.classes), found.count, found.validation_count
        if not validation:
            validation = held_back(train, self.validation, "images")
            train -= validation
        return self._facts(classes, train, validation)

    def check(self) -> Iterator[Finding]:
        """What is wrong with the source, the classes or the scaling of pixels."""
        yield from super().check()
        yield from check_source(self, self.sha256)
        yield from check_normalize(self.normalize, self.channels)
        if self.classes == 1:
            yield ("data", "classes"), "there is nothing to learn with one class", "at least 2"

    def _facts(self, classes: int, train: int | None, validation: int | None) -> DataFacts:
        return DataFacts(self.dataset, (self.size, self.size, self.channels), classes, train, validation, self.source)

"""The data set ``images``: photographs in class folders (``image_folder``) or in tar shards, by name alone. Imports no torch."""

import re
import tarfile
from collections import Counter, defaultdict
from collections.abc import Iterator, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Annotated, ClassVar, Literal

from pydantic import Field

from cloud_train.data.base import check_source
from cloud_train.data.image_folder import ENDINGS, check_classes, list_images
from cloud_train.data.pixels import ImageSection, Normalize, PhotoAugment, PhotoAugmentName, check_normalize, photo_augment
from cloud_train.data.shards import ENDING, INDEX, Part, Shard, ShardIndex, class_of, part_of, read_index
from cloud_train.data.shares import held_out
from cloud_train.errors import CorruptError
from cloud_train.spec.facts import DataFacts
from cloud_train.spec.problems import FieldError, Finding
from cloud_train.spec.problems import Path as FieldPath
from cloud_train.spec.types import Count, Fraction, PathText, Seed, Sha256, Url

_SHARDS_HINT = "name members such as cat/1.jpg, or train/cat/1.jpg and val/cat/2.jpg; cloud-train pack makes such shards from a folder"
_IGNORED = re.compile(r"(^|/)(\._[^/]+|\.DS_Store|__MACOSX)(/|$)")


def find_shards(folder: Path, class_count: int | None = None) -> ShardIndex | None:
    """The index of the shards in ``folder``; None if it is not a folder of shards: it has no index, and contains folders or no tars.

    Raises FieldError for an index or a tar that cannot be used, a class without training images, fewer than two classes, or a number of
    classes that is not ``class_count``.
    """
    field = ("data", "path")
    try:
        if (folder / INDEX).is_file():
            found = read_index(folder / INDEX)
        elif tars := _tars(folder):
            found = scan(folder, tars)
        else:
            return None
    except CorruptError as error:
        raise FieldError(field, error.message, error.hint) from error
    except OSError as error:
        raise FieldError(field, f"{error.filename or folder}: {(error.strerror or 'cannot be read').lower()}", _SHARDS_HINT) from error
    check_classes(found.classes, class_count, folder, field)
    trained = {class_of(member) for _, shard in found.of_part("train") for member in shard.members}
    if empty := [name for name in found.classes if name not in trained]:
        shown = ", ".join(empty[:3]) + (", …" if len(empty) > 3 else "")
        raise FieldError(
            field, f"{len(empty)} of {len(found.classes):,} classes have no training images in {folder}: {shown}", _SHARDS_HINT
        )
    return found


def scan(folder: Path, tars: Sequence[str]) -> ShardIndex:
    """The index of these tars, made from their headers. Raises CorruptError, which names tar and member, and OSError."""
    shards = [shard for name in tars for shard in _scan(folder / name)]
    classes = sorted({class_of(member) for shard in shards for member in shard.members})
    return ShardIndex(tuple(classes), tuple(shards))


def _scan(path: Path) -> list[Shard]:
    """The training and the validation images of a tar, each as a shard."""
    found: defaultdict[Part, list[tuple[str, int, int]]] = defaultdict(list)
    try:
        with tarfile.open(path, "r:") as opened:
            for info in opened:
                name = info.name.removeprefix("./")
                if info.isdir() or _IGNORED.search(name) or not name.lower().endswith(ENDINGS):
                    continue
                part = part_of(name)
                if not info.isfile() or info.issparse() or part is None:
                    raise CorruptError(f"{path}: member {info.name!r} is not an image in a class folder", hint=_SHARDS_HINT)
                found[part].append((name, info.offset_data, info.size))
    except (tarfile.TarError, ValueError, EOFError) as error:
        raise CorruptError(f"{path} is not a readable tar: {error}", hint=_SHARDS_HINT) from error
    size = path.stat().st_size
    shards = []
    for part, images in sorted(found.items()):
        members, offsets, sizes = (tuple(column) for column in zip(*images, strict=True))
        if offsets[-1] + sizes[-1] > size:
            raise CorruptError(f"{path} is truncated: member {members[-1]!r} ends after the end of the file", hint="copy it again")
        shards.append(Shard(path.name, part, size, None, members, offsets, sizes))
    return shards


def _class_sizes(shards: ShardIndex) -> list[int]:
    """The number of training images of each class."""
    counts = Counter(class_of(member) for _, shard in shards.of_part("train") for member in shard.members)
    return [counts[name] for name in shards.classes]


def _tars(folder: Path) -> list[str]:
    """The tars in a folder; none if it contains folders, which would be classes."""
    if not folder.is_dir():
        return []
    entries = [entry for entry in folder.iterdir() if not entry.name.startswith(".")]
    if any(entry.is_dir() and entry.name != "__MACOSX" for entry in entries):
        return []
    return sorted(entry.name for entry in entries if entry.name.endswith(ENDING) and entry.is_file())


class ImagesData(ImageSection):
    """Your own photographs: one folder per class, JPEG, PNG, WebP, BMP, GIF or TIFF, decoded during training."""

    dataset: Literal["images"]
    """A folder of images, one folder per class."""
    path: PathText | None = None
    """A folder with ``train``, ``val`` and ``test`` in it, each with one folder per class (the layout of ImageNet), or with the classes
    themselves; or with tar shards, which ``cloud-train pack FOLDER DESTINATION`` makes; relative to the job file, or a store URL (``s3://…``,
    ``gs://…``, ``az://…``), which may also name an archive of such a folder.
    """
    url: Url | None = None
    """A ``.zip``, ``.tar`` or ``.tar.gz`` of such a folder to download into a cache, instead of ``path``."""
    sha256: Sha256 | None = None
    """SHA-256 of the archive that is downloaded."""
    size: Annotated[int, Field(ge=8, le=2048)] = 224
    """Side of the square that is cropped from each image, in pixels."""
    channels: Literal[1, 3] = 3
    """3 for colour, 1 for grey."""
    classes: Count | None = None
    """Number of classes: checked when the folder is read, and used for the plan when the folder is not available."""
    validation: Fraction = 0.1
    """Fraction of the images that is held out for validation, if there is no folder ``val``."""
    seed: Seed = 0
    """Chooses the samples that are held out for validation; ``train.seed`` does not."""
    broken: Literal["fail", "skip"] = "fail"
    """What to do with an image that cannot be read: end the run, or name it and leave it out."""
    max_broken: Annotated[float, Field(ge=0, le=1)] = 0.1
    """With ``broken: skip``, the largest fraction of a class that may be left out; more ends the run."""
    workers: Annotated[int, Field(ge=0, le=256)] | None = None
    """Decoder processes for each training process; if left out, one fewer than the CPU cores it may use."""
    augment: PhotoAugmentName | PhotoAugment | None = "gentle"
    """Augmentation of the training images: ``gentle`` crops at random at least 70% of the area, ``strong`` at least 8%, and mirrors half of
    the images, as for ImageNet; null disables it.
    """
    normalize: Normalize | None = None
    """Scaling of the pixels."""

    loader: ClassVar[str] = "cloud_train.training.data.images:load_images"
    packages: ClassVar = {"PIL": "pillow"}

    @property
    def augmentation(self) -> PhotoAugment | None:
        """The settings of ``augment``, also where it is a name."""
        return photo_augment(self.augment) if isinstance(self.augment, str) else self.augment

    @property
    def source_field(self) -> FieldPath:
        """The field that names where the images are."""
        return ("data", "path" if self.path is not None else "url")

    def expected_facts(self) -> DataFacts | None:
        """The size of an image, if the job sets the number of classes."""
        return None if self.classes is None else self._facts(self.classes, None, None)

    def facts_at(self, place: Path) -> DataFacts:
        """The classes and images of a folder, counted without opening any image."""
        remarks: tuple[str, ...] = ()
        if (shards := find_shards(place, self.classes)) is not None:
            classes = len(shards.classes)
            train, validation, test = (shards.count(part) for part in ("train", "val", "test"))
            sizes = [] if validation else _class_sizes(shards)
        else:
            found = list_images(place, self.classes, self.source_field)
            classes, remarks = len(found.classes), found.remarks
            train, validation, test = (part.count if part else 0 for part in (found.train, found.validation, found.test))
            sizes = [len(names) for names in found.train.images]
        if not validation:
            validation, on_split = held_out(sizes, self.validation, "images")
            remarks = (*remarks, *on_split)
            train -= validation
        return replace(self._facts(classes, train, validation), test_samples=test or None, remarks=remarks)

    def check(self) -> Iterator[Finding]:
        """Mistakes in the source, the classes or the scaling."""
        yield from super().check()
        yield from check_source(self, self.sha256)
        yield from check_normalize(self.normalize, self.channels)
        if self.classes == 1:
            yield ("data", "classes"), "one class leaves nothing to learn", "at least 2"

    def _facts(self, classes: int, train: int | None, validation: int | None) -> DataFacts:
        return DataFacts(self.dataset, (self.size, self.size, self.channels), classes, train, validation, self.source)

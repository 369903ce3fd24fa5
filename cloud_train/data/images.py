"""Photographs in folders or tar shards, listed by name alone: no image is opened. Imports no torch.

A folder has one folder per class, either directly or, as in the layout of ImageNet, in its folders ``train`` and ``val``. Images are
recognized by their extensions (``.jpg``, ``.jpeg``, ``.png``, in any case); names that begin with a dot are ignored, and so is the folder
that macOS adds to its archives.
"""

import os
import re
import tarfile
from collections import defaultdict
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, ClassVar, Literal

from pydantic import Field

from cloud_train.data.base import check_source, held_back
from cloud_train.data.pixels import ImageSection, Normalize, PhotoAugment, check_normalize
from cloud_train.data.shards import ENDING, INDEX, Part, Shard, ShardIndex, class_of, part_of, read_index
from cloud_train.errors import CorruptError
from cloud_train.spec.facts import DataFacts
from cloud_train.spec.problems import FieldError, Finding
from cloud_train.spec.problems import Path as FieldPath
from cloud_train.spec.types import Count, Fraction, PathText, Sha256, Url

ENDINGS = (".jpg", ".jpeg", ".png")
_NO_CLASS = "__MACOSX"
_TRAIN, _VALIDATION = "train", "val"
_HINT = "put the .jpg, .jpeg or .png files of each class in a folder of its own, or such folders in the folders train and val"
_SHARDS_HINT = "name members such as cat/1.jpg, or train/cat/1.jpg and val/cat/2.jpg; cloud-train pack makes such shards from a folder"
_IGNORED = re.compile(r"(^|/)(\._[^/]+|\.DS_Store|__MACOSX)(/|$)")


@dataclass(frozen=True)
class ImageFolder:
    """The contents of a folder of images."""

    classes: tuple[str, ...]
    """Names of the classes, sorted."""
    train: Path
    """The folder of the classes, each with its training images."""
    images: tuple[tuple[str, ...], ...]
    """Names of the training images of each class, sorted."""
    validation: Path | None
    """The folder of validation images; None if they are taken from the training images."""
    validation_images: tuple[tuple[str, ...], ...]
    """Names of the validation images of each class."""

    @property
    def count(self) -> int:
        """Images in the folder of training images."""
        return sum(map(len, self.images))

    @property
    def validation_count(self) -> int:
        """Images in the folder of validation images."""
        return sum(map(len, self.validation_images))


def list_images(folder: Path, class_count: int | None = None, field: FieldPath = ("data", "path")) -> ImageFolder:
    """List ``folder``; ``field`` is the job's field that names it.

    Raises FieldError for a class without images, fewer than two classes, or a number of classes that is not ``class_count``.
    """
    try:
        train, validation = _parts(folder)
        classes = _folders(train)
        images = tuple(_images(train / name) for name in classes)
        validation_classes = _folders(validation) if validation else ()
        validation_images = {name: _images(validation / name) for name in validation_classes} if validation else {}
    except OSError as error:
        raise FieldError(field, f"{error.filename or folder}: {(error.strerror or 'cannot be read').lower()}", _HINT) from error
    check_classes(classes, class_count, train, field)
    empty = [name for name, inside in zip(classes, images, strict=True) if not inside]
    if empty:
        raise FieldError(field, f"{len(empty)} of {len(classes):,} classes have no images: {_listed(train, empty)}", _HINT)
    unknown = [name for name in validation_classes if name not in set(classes)]
    if validation and unknown:
        raise FieldError(field, f"no training images for {len(unknown)} classes: {_listed(validation, unknown)}", _HINT)
    found = ImageFolder(classes, train, images, validation, tuple(validation_images.get(name, ()) for name in classes))
    if validation and not found.validation_count:
        raise FieldError(field, f"{validation} contains no images of the {len(classes):,} classes", _HINT)
    return found


def check_classes(classes: tuple[str, ...], class_count: int | None, folder: Path, field: FieldPath) -> None:
    """Raise FieldError for fewer than two classes in ``folder``, and for a number of classes that is not ``class_count``."""
    if len(classes) < 2:
        found = f"only one class, {classes[0]!r}" if classes else "no classes: it contains no folders"
        raise FieldError(field, f"{folder} has {found}", _HINT)
    if class_count is not None and class_count != len(classes):
        raise FieldError(
            ("data", "classes"),
            f"{folder} has {len(classes):,} classes, not {class_count:,}",
            hint=f"set classes to {len(classes)}, or leave it out",
        )


def _parts(folder: Path) -> tuple[Path, Path | None]:
    """The folder of the training classes, and that of the validation classes."""
    train, validation = folder / _TRAIN, folder / _VALIDATION
    # A class may itself be called "train"; then the folder contains images and no folders.
    if train.is_dir() and _folders(train):
        return train, validation if validation.is_dir() else None
    return folder, None


def _folders(folder: Path) -> tuple[str, ...]:
    with os.scandir(folder) as entries:
        return tuple(sorted(entry.name for entry in entries if _counts(entry.name) and entry.is_dir()))


def _images(folder: Path) -> tuple[str, ...]:
    with os.scandir(folder) as entries:
        names = [entry.name for entry in entries if entry.name.lower().endswith(ENDINGS) and entry.is_file()]
    return tuple(sorted(name for name in names if _counts(name)))


def _counts(name: str) -> bool:
    return not name.startswith(".") and name != _NO_CLASS


def _listed(folder: Path, names: list[str]) -> str:
    shown = ", ".join(str(folder / name) for name in names[:3])
    return shown if len(names) <= 3 else f"{shown}, …"


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


def _tars(folder: Path) -> list[str]:
    """The tars in a folder; none if it contains folders, which would be classes."""
    if not folder.is_dir():
        return []
    entries = [entry for entry in folder.iterdir() if not entry.name.startswith(".")]
    if any(entry.is_dir() and entry.name != "__MACOSX" for entry in entries):
        return []
    return sorted(entry.name for entry in entries if entry.name.endswith(ENDING) and entry.is_file())


class ImagesData(ImageSection):
    """Your own photographs: one folder per class, JPEG and PNG, decoded during training."""

    dataset: Literal["images"]
    """A folder of images, one folder per class."""
    path: PathText | None = None
    """A folder with ``train`` and ``val`` in it, each with one folder per class (the layout of ImageNet), or with the classes themselves;
    or with tar shards, which ``cloud-train pack FOLDER DESTINATION`` makes; relative to the job file, or a store URL (``s3://…``,
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
    broken: Literal["fail", "skip"] = "fail"
    """What to do with an image that cannot be read: end the run, or name it and leave it out."""
    workers: Annotated[int, Field(ge=0, le=256)] | None = None
    """Decoder processes for each training process; if left out, one fewer than the CPU cores it may use."""
    augment: PhotoAugment | None = Field(default_factory=PhotoAugment)
    """Augmentation of the training images; null disables it."""
    normalize: Normalize | None = None
    """Scaling of the pixels."""

    loader: ClassVar[str] = "cloud_train.training.data.images:load_images"
    packages: ClassVar = {"PIL": "pillow"}

    @property
    def source_field(self) -> FieldPath:
        """The field that names where the images are."""
        return ("data", "path" if self.path is not None else "url")

    def expected_facts(self) -> DataFacts | None:
        """The size of an image, if the job sets the number of classes."""
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
        """Mistakes in the source, the classes or the scaling."""
        yield from super().check()
        yield from check_source(self, self.sha256)
        yield from check_normalize(self.normalize, self.channels)
        if self.classes == 1:
            yield ("data", "classes"), "one class leaves nothing to learn", "at least 2"

    def _facts(self, classes: int, train: int | None, validation: int | None) -> DataFacts:
        return DataFacts(self.dataset, (self.size, self.size, self.channels), classes, train, validation, self.source)

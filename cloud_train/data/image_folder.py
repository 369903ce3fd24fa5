"""A folder of photographs, listed by name alone: no image is opened. Imports no torch.

It has one folder per class, either directly or in folders for training, validation and test, which may have any of their usual names
(``train``, ``valid``, ``test_set``, …). A class's images may be in sub folders, as torchvision reads them. Hidden names, and what macOS and
Synology add to folders, are never data. Everything else that is not read is counted in ``remarks``.
"""

import os
import re
import unicodedata
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

from cloud_train.data.listing import SHOWN, LeftOut, may_be_data, sub_folders, walk
from cloud_train.spec.problems import FieldError
from cloud_train.spec.problems import Path as FieldPath

ENDINGS = (".jpg", ".jpeg", ".png", ".webp", ".bmp", ".gif", ".tif", ".tiff")
HINT = "put the images of each class in a folder of its own, or such folders in the folders train and val"

_PARTS = {
    "train": re.compile(r"train(ing)?([ _-]?(set|data|images))?", re.IGNORECASE),
    "val": re.compile(r"val(id|idation)?([ _-]?(set|data|images))?", re.IGNORECASE),
    "test": re.compile(r"test(ing)?([ _-]?(set|data|images))?", re.IGNORECASE),
}


@dataclass(frozen=True)
class ImagePart:
    """The images for training, for validation or for the test."""

    folder: Path
    folders: tuple[str, ...]
    """The folder of each class, in the order of the classes. Its name may spell the class with other code points."""
    images: tuple[tuple[str, ...], ...]
    """The images of each class by their paths in its folder, sorted."""

    @property
    def count(self) -> int:
        """Images of all classes."""
        return sum(map(len, self.images))


@dataclass(frozen=True)
class ImageFolder:
    """The contents of a folder of images."""

    classes: tuple[str, ...]
    """Names of the classes, sorted."""
    train: ImagePart
    validation: ImagePart | None
    """None if the images for validation are taken from those for training."""
    test: ImagePart | None
    """None if the folder has no images for a test."""
    remarks: tuple[str, ...] = ()
    """Notes on files that are not read, and on likely mistakes."""


def list_images(folder: Path, class_count: int | None = None, field: FieldPath = ("data", "path")) -> ImageFolder:
    """List ``folder``; ``field`` is the job's field that names it.

    Raises FieldError for a class without images, two spellings of one name, fewer than two classes, or a number of classes that is not
    ``class_count``.
    """
    left_out = _LeftOut()
    try:
        parts = _parts(folder, left_out, field)
        classes = sub_folders(parts["train"])
        check_classes(classes, class_count, parts["train"], field)
        _check_spelling(parts["train"], classes, field)
        train = ImagePart(parts["train"], classes, tuple(_images(parts["train"] / name, left_out) for name in classes))
        others = {name: _other_part(name, place, classes, left_out, field) for name, place in parts.items() if name != "train"}
        for place in parts.values():
            left_out.beside_classes(place)
    except OSError as error:
        raise FieldError(field, f"{error.filename or folder}: {(error.strerror or 'cannot be read').lower()}", HINT) from error
    if empty := [name for name, inside in zip(classes, train.images, strict=True) if not inside]:
        shown = f"{len(empty):,} of {len(classes):,} classes have no images: {_listed(train.folder, empty)}"
        raise FieldError(field, f"{shown}{left_out.of_classes()}", HINT)
    return ImageFolder(classes, train, others.get("val"), others.get("test"), (*left_out.remarks(), *_lonely(train, classes)))


def check_classes(classes: tuple[str, ...], class_count: int | None, folder: Path, field: FieldPath) -> None:
    """Raise FieldError for fewer than two classes in ``folder``, and for a number of classes that is not ``class_count``."""
    if len(classes) < 2:
        found = f"only one class, {classes[0]!r}" if classes else "no classes: it contains no folders"
        raise FieldError(field, f"{folder} has {found}", HINT)
    if all(_part_called(name) for name in classes):
        raise _without_classes(folder, classes, field)
    if class_count is not None and class_count != len(classes):
        raise FieldError(
            ("data", "classes"),
            f"{folder} has {len(classes):,} classes, not {class_count:,}",
            hint=f"set classes to {len(classes)}, or leave it out",
        )


def _without_classes(folder: Path, parts: tuple[str, ...], field: FieldPath) -> FieldError:
    """The error for a folder that contains ``parts`` of a data set and no classes."""
    training = next((name for name in parts if _part_called(name) == "train"), None)
    if training is not None:
        return FieldError(field, f"{folder / training} contains no folders, so there are no classes", HINT)
    shown = ", ".join(map(repr, parts))
    return FieldError(field, f"{folder} has the folders {shown}, but none called train", "rename the one with the training images")


def _parts(folder: Path, left_out: "_LeftOut", field: FieldPath) -> dict[str, Path]:
    """The folder of each part; that of ``train`` is the folder itself if it has the classes."""
    names = sub_folders(folder)
    found: dict[str, Path] = {}
    for name in names:
        # A class may itself be called "train"; its folder then contains images and no folders.
        if (part := _part_called(name)) and sub_folders(folder / name):
            if part in found:
                raise FieldError(field, f"{found[part]} and {folder / name} have the same purpose", "keep one of them, or rename the other")
            found[part] = folder / name
    if "train" not in found:
        return {"train": folder}
    left_out.folders += [name for name in names if folder / name not in found.values()]
    left_out.beside_classes(folder)
    return found


def _other_part(part: str, folder: Path, classes: tuple[str, ...], left_out: "_LeftOut", field: FieldPath) -> ImagePart | None:
    """The images for validation or test; a class may be missing there, but not in the training images."""
    number = {_spelling(name): place for place, name in enumerate(classes)}
    names = sub_folders(folder)
    if unknown := [name for name in names if _spelling(name) not in number]:
        several = "a class" if len(unknown) == 1 else f"{len(unknown):,} classes"
        raise FieldError(field, f"no training images for {several} of {folder.name}: {_listed(folder, unknown)}", HINT)
    _check_spelling(folder, names, field)
    folders, images = list(classes), [()] * len(classes)  # type: list[str], list[tuple[str, ...]]
    for name in names:
        folders[number[_spelling(name)]], images[number[_spelling(name)]] = name, _images(folder / name, left_out)
    found = ImagePart(folder, tuple(folders), tuple(images))
    if not found.count:
        raise FieldError(field, f"{folder} contains no images of the {len(classes):,} classes{left_out.of_classes()}", HINT)
    return found


def _part_called(name: str) -> str | None:
    return next((part for part, pattern in _PARTS.items() if pattern.fullmatch(name)), None)


def _spelling(name: str) -> str:
    """The name with composed characters: macOS decomposes those of files on some disks."""
    return unicodedata.normalize("NFC", name)


def _check_spelling(folder: Path, names: Sequence[str], field: FieldPath) -> None:
    spelled = Counter(map(_spelling, names))
    if twice := [name for name, count in spelled.items() if count > 1]:
        raise FieldError(
            field,
            f"{folder / twice[0]}: two folders have this name, one with composed and one with decomposed characters (Unicode NFC and NFD)",
            "move the images of one into the other",
        )


def _images(folder: Path, left_out: "_LeftOut") -> tuple[str, ...]:
    """The images of a class: those in its folder, then those in its sub folders."""
    return tuple(walk(folder, ENDINGS, left_out.files))


def _listed(folder: Path, names: list[str]) -> str:
    shown = ", ".join(str(folder / name) for name in names[:SHOWN])
    return shown if len(names) <= SHOWN else f"{shown}, …"


def _lonely(train: ImagePart, classes: Sequence[str]) -> Iterator[str]:
    single = [name for name, inside in zip(classes, train.images, strict=True) if len(inside) == 1]
    if single:
        several = "a class has" if len(single) == 1 else f"{len(single):,} classes have"
        yield f"{several} a single image: {_listed(train.folder, single)}"


class _LeftOut:
    """Collects what is not read."""

    def __init__(self) -> None:
        self.files = LeftOut()
        """Files in the class folders that are not images."""
        self.folders: list[str] = []
        """Folders beside the training images that are not for validation or test."""
        self._stray = 0

    def beside_classes(self, folder: Path) -> None:
        """Count the images in a folder that should only have folders."""
        with os.scandir(folder) as entries:
            self._stray += sum(may_be_data(entry.name) and entry.name.lower().endswith(ENDINGS) and entry.is_file() for entry in entries)

    def of_classes(self) -> str:
        """The files that are not images, to be appended to an error."""
        return f"; {self.files.sentence('images', ENDINGS)}" if self.files else ""

    def remarks(self) -> Iterator[str]:
        """A sentence for each kind."""
        if self.files:
            yield self.files.sentence("images", ENDINGS)
        if self._stray:
            yield f"{self._stray:,} {'image is' if self._stray == 1 else 'images are'} outside the class folders and not used"
        if self.folders:
            shown = ", ".join(map(repr, self.folders[:SHOWN])) + (", …" if len(self.folders) > SHOWN else "")
            several = "this folder is" if len(self.folders) == 1 else "these folders are"
            yield f"{several} not used: {shown} (used are train, val and test, if they contain one folder per class)"

"""A folder of images, one folder per class, as names alone: it is listed, and no image is opened. Imports no torch.

Either the classes are in the folder itself, or, as in the layout of ImageNet, in its folders ``train`` and ``val``. Files are images by the
ends of their names (``.jpg``, ``.jpeg``, ``.png``, in any case); names that begin with a dot are ignored, and so is
the folder that macOS puts into its archives.
"""

import os
from dataclasses import dataclass
from pathlib import Path

from cloud_train.spec.problems import FieldError
from cloud_train.spec.problems import Path as Field

ENDINGS = (".jpg", ".jpeg", ".png")
_NO_CLASS = "__MACOSX"
_TRAIN, _VALIDATION = "train", "val"
_HINT = "one folder per class, with .jpg, .jpeg or .png files in it; or folders train and val, each with such folders"


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
    """The folder of validation images; None where they are taken from the training images."""
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


def list_images(folder: Path, class_count: int | None = None, field: Field = ("data", "path")) -> ImageFolder:
    """List ``folder``, which the ``field`` of the job names.

    Raises FieldError for a class without images, fewer than two classes, and another number than ``class_count``.
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
        raise FieldError(field, f"{len(empty)} of {len(classes):,} classes have no image: {_listed(train, empty)}", _HINT)
    unknown = [name for name in validation_classes if name not in set(classes)]
    if validation and unknown:
        raise FieldError(field, f"there are no training images of {len(unknown)} classes: {_listed(validation, unknown)}", _HINT)
    found = ImageFolder(classes, train, images, validation, tuple(validation_images.get(name, ()) for name in classes))
    if validation and not found.validation_count:
        raise FieldError(field, f"{validation} has no image of any of the {len(classes):,} classes", _HINT)
    return found


def check_classes(classes: tuple[str, ...], class_count: int | None, folder: Path, field: Field) -> None:
    """Raise FieldError for fewer than two classes in ``folder``, and for another number than ``class_count``."""
    if len(classes) < 2:
        found = f"only one class, {classes[0]!r}" if classes else "no classes: it contains no folders"
        raise FieldError(field, f"{folder} has {found}", _HINT)
    if class_count is not None and class_count != len(classes):
        raise FieldError(
            ("data", "classes"),
            f"{folder} has {len(classes):,} classes, not {class_count:,}",
            hint=f"classes: {len(classes)}, or no classes",
        )


def _parts(folder: Path) -> tuple[Path, Path | None]:
    """The folder of the training classes, and that of the validation classes."""
    train, validation = folder / _TRAIN, folder / _VALIDATION
    # A class may be called "train", too: then there are images in it, and no folders.
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

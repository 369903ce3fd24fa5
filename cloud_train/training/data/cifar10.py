"""CIFAR-10 in its "python version": five batches of training images and one of test images, as pickles of NumPy arrays from Python 2.

A. Krizhevsky, "Learning Multiple Layers of Features from Tiny Images", 2009; the files are described at
https://www.cs.toronto.edu/~kriz/cifar.html: in each, ``data`` has a row of 3,072 bytes for an image (1,024 red, 1,024 green, 1,024 blue,
each row by row), and ``labels`` a number from 0 to 9. The file ``batches.meta`` has the names of the classes.
"""

import tarfile
import zlib
from collections.abc import Iterator
from pathlib import Path, PurePosixPath
from typing import NamedTuple

import numpy as np
import torch

from cloud_train.data.cifar10 import Cifar10Data
from cloud_train.errors import CorruptError, StoreError
from cloud_train.training.data.cache import shown_bytes
from cloud_train.training.data.dataset import DataSet
from cloud_train.training.data.download import fetch
from cloud_train.training.data.memory import Images, image_data_set
from cloud_train.training.data.plain_pickle import PlainArray, read_plain

_SIDE = 32
_CHANNELS = 3
_PIXELS = _CHANNELS * _SIDE * _SIDE
_CLASSES = 10
_NAMES = "batches.meta"
_TRAINING = tuple(f"data_batch_{number}" for number in range(1, 6))
_TEST = "test_batch"
_FOLDER = "cifar-10-batches-py"
_LARGEST_BYTES = 64 << 20
_HINT = "get the archive anew, and check where it comes from"


def load_cifar10(data: Cifar10Data, place: Path, seed: int) -> DataSet:
    """The images, as uint8 (images, 3, 32, 32), and their classes.

    ``place`` is the archive or folder of ``data.path``, or without that the cache that the archive is downloaded to. The test batch is for
    validation, unless a fraction of the training images is. Raises CorruptError naming the file and what is wrong with it.
    """
    source = place if data.path is not None else fetch(data.url, data.sha256, place)
    wanted = {_NAMES, *_TRAINING} | ({_TEST} if data.validation is None else set())
    batches: dict[str, _Batch] = {}
    classes: tuple[str, ...] | None = None
    for name, content in _files(source, wanted):
        origin = f"{source}: {name}"
        record = _Record(read_plain(content, origin), origin)
        if name == _NAMES:
            classes = record.class_names()
        else:
            batches[name] = record.batch()
    missing = sorted(wanted - batches.keys() - ({_NAMES} if classes else set()))
    if missing or classes is None:
        raise CorruptError(f"{source} lacks {', '.join(missing)} of CIFAR-10's python version", hint=_HINT)
    test = _images([batches.pop(_TEST)]) if _TEST in wanted else None
    return image_data_set(data, _images([batches.pop(name) for name in _TRAINING]), test, classes, seed)


class _Batch(NamedTuple):
    """The images of one file."""

    rows: np.ndarray
    """uint8 (images, 3072)."""
    labels: list[int]


class _Record(NamedTuple):
    """What one of the pickles holds, and which it is."""

    content: object
    origin: str

    def batch(self) -> _Batch:
        """The images and their labels, checked."""
        data, labels = self._value("data"), self._value("labels")
        try:
            rows = data.to_numpy() if isinstance(data, PlainArray) else None
        except ValueError as error:
            raise CorruptError(f"{self.origin}: the images cannot be read: {error}", hint=_HINT) from error
        if rows is None or rows.shape[1] != _PIXELS or not len(rows):
            raise CorruptError(f"{self.origin} has no images of {_PIXELS:,} bytes", hint=_HINT)
        if not isinstance(labels, list) or len(labels) != len(rows):
            raise CorruptError(f"{self.origin} has {len(rows):,} images, and not as many labels", hint=_HINT)
        for number, label in enumerate(labels):
            if type(label) is not int or not 0 <= label < _CLASSES:
                raise CorruptError(f"{self.origin}: label number {number:,} (from 0) is {label!r}, and not from 0 to 9", hint=_HINT)
        return _Batch(rows, labels)

    def class_names(self) -> tuple[str, ...]:
        """The names of the classes, in the order of their numbers."""
        names = self._value("label_names")
        if isinstance(names, list) and len(names) == _CLASSES:
            texts = tuple(name.decode("utf-8", "replace") if isinstance(name, bytes) else str(name) for name in names)
            if all(texts) and len(set(texts)) == _CLASSES:
                return texts
        raise CorruptError(f"{self.origin} does not name {_CLASSES} classes", hint=_HINT)

    def _value(self, key: str) -> object:
        """The value of a key, which is bytes where Python 2 wrote it."""
        if not isinstance(self.content, dict):
            raise CorruptError(f"{self.origin} holds no mapping", hint=_HINT)
        return self.content.get(key.encode(), self.content.get(key))


def _images(batches: list[_Batch]) -> Images:
    """The batches as one; each is let go of as soon as it is copied."""
    labels = [label for batch in batches for label in batch.labels]
    pixels = np.empty((len(labels), _PIXELS), dtype=np.uint8)
    end = len(labels)
    while batches:
        rows = batches.pop().rows
        pixels[end - len(rows) : end] = rows
        end -= len(rows)
    return Images(torch.from_numpy(pixels).view(-1, _CHANNELS, _SIDE, _SIDE), torch.tensor(labels))


def _files(source: Path, wanted: set[str]) -> Iterator[tuple[str, bytes]]:
    """Name and content of each wanted file that there is."""
    try:
        if source.is_dir():
            folder = source / _FOLDER if (source / _FOLDER).is_dir() else source
            for name in sorted(wanted):
                if (folder / name).is_file():
                    _check_size(f"{source}: {name}", (folder / name).stat().st_size)
                    yield name, (folder / name).read_bytes()
        else:
            yield from _archived(source, wanted)
    except OSError as error:
        raise StoreError(f"cannot read {source}: {(error.strerror or 'it is unreadable').lower()}") from error


def _archived(source: Path, wanted: set[str]) -> Iterator[tuple[str, bytes]]:
    """The wanted files of an archive, read one after another, without unpacking it to the disk."""
    left = set(wanted)
    try:
        with tarfile.open(source, "r|gz") as archive:
            while left and (member := archive.next()) is not None:
                _check_size(f"{source}: {member.name}", member.size)
                name = PurePosixPath(member.name).name
                if name in left and member.isfile() and (file := archive.extractfile(member)) is not None:
                    left.discard(name)
                    yield name, file.read()
    except (tarfile.TarError, EOFError, zlib.error, ValueError) as error:
        raise CorruptError(f"{source} is no whole .tar.gz: {error}", hint=_HINT) from error


def _check_size(origin: str, size: int) -> None:
    if not 0 <= size <= _LARGEST_BYTES:
        raise CorruptError(f"{origin} has {shown_bytes(size)}, more than a file of CIFAR-10 has", hint=_HINT)

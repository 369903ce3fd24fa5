"""CIFAR-10 in its binary version: five batches of training images and one of test images.

A. Krizhevsky, "Learning Multiple Layers of Features from Tiny Images", 2009; the files are described at
https://www.cs.toronto.edu/~kriz/cifar.html: each image is a byte for its class, from 0 to 9, and 3,072 bytes of pixels (1,024 red, 1,024
green, 1,024 blue, each row by row). The file ``batches.meta.txt`` has the names of the classes, one per line.
"""

import tarfile
import zlib
from collections.abc import Iterable, Iterator
from pathlib import Path, PurePosixPath

import numpy as np
import torch

from cloud_train.data.cifar10 import CLASSES, Cifar10Data
from cloud_train.errors import CorruptError, StoreError
from cloud_train.training.data.dataset import DataSet
from cloud_train.training.data.memory import Images, image_data_set
from cloud_train.training.data.unpack import shown_bytes

_SIDE = 32
_CHANNELS = 3
_RECORD_BYTES = 1 + _CHANNELS * _SIDE * _SIDE
_NAMES = "batches.meta.txt"
_TRAINING = tuple(f"data_batch_{number}.bin" for number in range(1, 6))
_TEST = "test_batch.bin"
_FOLDER = "cifar-10-batches-bin"
_PYTHON_VERSION = "data_batch_1"
"""A file of the "python version", which contains pickles."""
_LARGEST_BYTES = 64 << 20
_HINT = "download the archive again, and check its source"
_BINARY_HINT = "download cifar-10-binary.tar.gz instead, or leave out data.path"


def load_cifar10(data: Cifar10Data, place: Path, seed: int) -> DataSet:
    """The images, as uint8 (images, 3, 32, 32), and their classes.

    ``place`` is the archive or folder of ``data.path``, or without it the cache with the downloaded archive. The test batch is for
    the test. Raises CorruptError, naming the file and what is wrong with it.
    """
    source = data.source_at(place)
    wanted = {_NAMES, *_TRAINING, _TEST}
    contents = dict(_files(source, wanted))
    if missing := sorted(wanted - contents.keys()):
        if _PYTHON_VERSION in contents:
            raise CorruptError(f"{source} is the Python version of CIFAR-10; only the binary version can be read", hint=_BINARY_HINT)
        raise CorruptError(f"{source} is not CIFAR-10's binary version: {', '.join(missing)} is missing", hint=_HINT)
    classes = _class_names(contents[_NAMES], f"{source}: {_NAMES}")
    train, test = _images(contents, _TRAINING, source), _images(contents, [_TEST], source)
    return image_data_set(data, train, test, classes, seed)


def _class_names(content: bytes, origin: str) -> tuple[str, ...]:
    """The names of the classes, in the order of their numbers."""
    names = tuple(line.strip() for line in content.decode("utf-8", "replace").splitlines() if line.strip())
    if len(names) != CLASSES or len(set(names)) != CLASSES:
        raise CorruptError(f"{origin} does not name {CLASSES} classes", hint=_HINT)
    return names


def _images(contents: dict[str, bytes], names: Iterable[str], source: Path) -> Images:
    """The images of these batches together, checked."""
    batches = [_records(contents.pop(name), f"{source}: {name}") for name in names]
    labels = np.concatenate([batch[:, 0] for batch in batches])
    pixels = np.concatenate([batch[:, 1:] for batch in batches])
    return Images(torch.from_numpy(pixels).view(-1, _CHANNELS, _SIDE, _SIDE), torch.from_numpy(labels.astype(np.int64)))


def _records(content: bytes, origin: str) -> np.ndarray:
    """The records of a batch, uint8 (images, 3073)."""
    if not content or len(content) % _RECORD_BYTES:
        raise CorruptError(f"{origin} is truncated: {len(content):,} bytes are not a whole number of images", hint=_HINT)
    records = np.frombuffer(content, dtype=np.uint8).reshape(-1, _RECORD_BYTES)
    if len(wrong := np.flatnonzero(records[:, 0] >= CLASSES)):
        label = int(records[wrong[0], 0])
        raise CorruptError(f"{origin}: label number {int(wrong[0]):,} (from 0) is {label}, not 0 to 9", hint=_HINT)
    return records


def _files(source: Path, wanted: set[str]) -> Iterator[tuple[str, bytes]]:
    """Name and content of each wanted file that exists, and an empty file by which the Python version is recognized."""
    try:
        if not source.is_dir():
            yield from _archived(source, wanted)
            return
        folder = source / _FOLDER if (source / _FOLDER).is_dir() else source
        for name in sorted(wanted):
            if (folder / name).is_file():
                _check_size(f"{source}: {name}", (folder / name).stat().st_size)
                yield name, (folder / name).read_bytes()
        if any((source / above / _PYTHON_VERSION).is_file() for above in ("", "cifar-10-batches-py")):
            yield _PYTHON_VERSION, b""
    except OSError as error:
        raise StoreError(f"cannot read {source}: {(error.strerror or 'unknown reason').lower()}") from error


def _archived(source: Path, wanted: set[str]) -> Iterator[tuple[str, bytes]]:
    """The wanted files of an archive, read one after another without unpacking it to disk."""
    left = set(wanted)
    try:
        with tarfile.open(source, "r|gz") as archive:
            while left and (member := archive.next()) is not None:
                _check_size(f"{source}: {member.name}", member.size)
                name = PurePosixPath(member.name).name
                if name == _PYTHON_VERSION:
                    yield name, b""
                if name in left and member.isfile() and (file := archive.extractfile(member)) is not None:
                    left.discard(name)
                    yield name, file.read()
    except (tarfile.TarError, EOFError, zlib.error, ValueError) as error:
        raise CorruptError(f"{source} is not a complete .tar.gz: {error}", hint=_HINT) from error


def _check_size(origin: str, size: int) -> None:
    if not 0 <= size <= _LARGEST_BYTES:
        raise CorruptError(f"{origin} is too large for a file of CIFAR-10: {shown_bytes(size)}", hint=_HINT)

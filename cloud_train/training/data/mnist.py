"""MNIST and data sets in its format: images and labels in four IDX files, plain or compressed with gzip.

The format is described at http://yann.lecun.com/exdb/mnist/: two zero bytes, a byte for the type of the values (8: unsigned bytes), a byte
for the number of axes, the size of each axis as a big-endian number of four bytes, and then the values, the last axis changing fastest.
"""

import gzip
import io
import math
import zlib
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import torch
from torch import Tensor

from cloud_train.data.mnist import MnistData
from cloud_train.errors import CorruptError, StoreError
from cloud_train.spec.problems import FieldError
from cloud_train.training.data.dataset import DataSet
from cloud_train.training.data.memory import Images, image_data_set

_CLASSES = tuple(str(digit) for digit in range(10))
_Reader = io.BufferedReader | gzip.GzipFile
_GZIP = b"\x1f\x8b"
_LARGEST_RATIO = 1032
"""The highest compression ratio of deflate."""
_PIECE_BYTES = 1 << 20
_HINT = "download the file again, and check its source"


def load_mnist(data: MnistData, place: Path, seed: int) -> DataSet:
    """The images, as uint8 (images, 1, height, width), and their labels from 0 to 9.

    ``place`` is the folder of ``data.path``, or without it the cache with the downloaded files. The files ``t10k-…`` are for the test.
    Raises CorruptError, naming the file and what is wrong with it, and FieldError for a missing file.
    """
    train, test = _images(data, place, "train"), _images(data, place, "t10k")
    if test.pixels.shape[1:] != train.pixels.shape[1:]:
        raise CorruptError(
            f"the training images have {_sides(train.pixels)} pixels, but the test images have {_sides(test.pixels)}",
            hint="use four files of the same data set",
        )
    return image_data_set(data, train, test, _CLASSES, seed)


def _images(data: MnistData, place: Path, part: str) -> Images:
    images_file, labels_file = (_file(data, place, f"{part}-{kind}-ubyte") for kind in ("images-idx3", "labels-idx1"))
    pixels, labels = _read(images_file, axes=3), _read(labels_file, axes=1)
    if len(pixels) != len(labels):
        raise CorruptError(f"{images_file} has {len(pixels):,} images, but {labels_file} has {len(labels):,} labels", hint=_HINT)
    wrong = (labels >= len(_CLASSES)).nonzero()
    if len(wrong):
        number = int(wrong[0])
        raise CorruptError(f"{labels_file}: label number {number:,} (from 0) is {int(labels[number])}, not 0 to 9", hint=_HINT)
    return Images(pixels.unsqueeze(1), labels.long())


def _file(data: MnistData, place: Path, name: str) -> Path:
    names = (f"{name}.gz", name)
    if data.path is not None:
        for path in (place / each for each in names):
            if path.is_file():
                return path
        raise FieldError(
            ("data", "path"), f"{place} contains neither {names[0]} nor {names[1]}", hint="set path to the folder of the four files"
        )
    files = {file.name: file for file in data.downloads()}
    for each in names:
        if each in files:
            return files[each].place_in(place)
    raise FieldError(("data", "sha256"), f"{names[0]} is missing", hint="set the SHA-256 of each of the four files")


def _read(path: Path, axes: int) -> Tensor:
    """The values of an IDX file, uint8; reads no more than its header announces."""
    with _explained(path), path.open("rb") as plain:
        size = path.stat().st_size
        is_packed = plain.read(2) == _GZIP
        plain.seek(0)
        with gzip.open(plain) if is_packed else plain as file:
            shape = _head(file, path, axes)
            announced = math.prod(shape)
            if announced > size * (_LARGEST_RATIO if is_packed else 1):
                raise CorruptError(f"{path} is truncated: its header announces {announced:,} bytes, more than it can contain", hint=_HINT)
            content = bytearray(announced)
            if (count := _fill(file, content)) < announced:
                raise CorruptError(f"{path} is truncated after {count:,} of {announced:,} bytes", hint=_HINT)
            if file.read(1):
                raise CorruptError(f"{path} contains data after the {announced:,} bytes that its header announces", hint=_HINT)
    return torch.frombuffer(content, dtype=torch.uint8).view(shape)


def _head(file: _Reader, path: Path, axes: int) -> tuple[int, ...]:
    magic = bytes((0, 0, 8, axes))
    head = file.read(4 + 4 * axes)
    if not head:
        raise CorruptError(f"{path} is empty", hint=_HINT)
    if head[:4] != magic or len(head) < 4 + 4 * axes:
        raise CorruptError(f"{path} begins with {head[:4].hex(' ')}, not with {magic.hex(' ')} and {axes} sizes", hint=_HINT)
    shape = tuple(int.from_bytes(head[place : place + 4]) for place in range(4, len(head), 4))
    if 0 in shape:
        raise CorruptError(f"{path} is empty: its sizes are {' × '.join(str(size) for size in shape)}", hint=_HINT)
    return shape


def _fill(file: _Reader, content: bytearray) -> int:
    """Read until ``content`` is full or the file ends; returns how many bytes there were."""
    count = 0
    while piece := file.read(min(_PIECE_BYTES, len(content) - count)):  # in pieces: gzip's readinto would need twice the memory
        content[count : count + len(piece)] = piece
        count += len(piece)
    return count


@contextmanager
def _explained(path: Path) -> Iterator[None]:
    try:
        yield
    except (EOFError, zlib.error, gzip.BadGzipFile) as error:
        raise CorruptError(f"{path} is not a complete gzip file: {error}", hint=_HINT) from error
    except OSError as error:
        raise StoreError(f"cannot read {path}: {(error.strerror or 'unknown reason').lower()}") from error


def _sides(pixels: Tensor) -> str:
    return f"{pixels.shape[2]}×{pixels.shape[3]}"

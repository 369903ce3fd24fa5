"""Synthetic data in MNIST's format, for benchmarks that train on it: written as IDX files, so that every program reads the same data.

This module imports numpy only where files are read: the measuring process's memory counts towards that of the processes it starts.
"""

import random
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import numpy as np

SIDE = 28
CLASSES = 10
_PIXELS = SIDE * SIDE
_STRONGEST_BIT = int.from_bytes(b"\x80" * _PIXELS)
_OTHER_BITS = int.from_bytes(b"\x7f" * _PIXELS)
_IMAGES_HEAD, _LABELS_HEAD = 16, 8  # bytes: two zeros, type, number of axes, then the size of each axis in four bytes


VALIDATION = 128 / 12_928
"""The fraction of the training images that the trainer holds out (``data.validation``): the 128 that ``read_mnist`` leaves out."""
_TRAIN, _VALIDATION, _TEST = 12_800, 128, 128


def write_mnist(folder: Path, seed: int = 0) -> Path:
    """Write 12,800 images for training, 128 for validation, in the same files, and 128 for the test; creates and returns the ``folder``.

    The highest bit of each pixel comes from the class's pattern, the other bits are noise, and every tenth label is random: so the
    network learns something, and its loss does not get so close to zero that numbers become denormal, which slows down a CPU.
    """
    draw = random.Random(seed)
    pictures = [int.from_bytes(draw.randbytes(_PIXELS)) & _STRONGEST_BIT for _ in range(CLASSES)]
    folder.mkdir(parents=True, exist_ok=True)
    for part, count in (("train", _TRAIN + _VALIDATION), ("t10k", _TEST)):
        shown = [draw.randrange(CLASSES) for _ in range(count)]
        images = b"".join(_image(pictures[digit], draw) for digit in shown)
        labels = bytes(draw.randrange(CLASSES) if number % 10 == 0 else digit for number, digit in enumerate(shown))
        (folder / f"{part}-images-idx3-ubyte").write_bytes(_head(count, SIDE, SIDE) + images)
        (folder / f"{part}-labels-idx1-ubyte").write_bytes(_head(count) + labels)
    return folder


def read_mnist(folder: Path) -> "tuple[np.ndarray, np.ndarray]":
    """As many images as the trainer learns from, without the rest: uint8 (images, SIDE, SIDE), and their labels, uint8 (images,)."""
    import numpy as np

    images = np.fromfile(folder / "train-images-idx3-ubyte", np.uint8, offset=_IMAGES_HEAD)
    labels = np.fromfile(folder / "train-labels-idx1-ubyte", np.uint8, offset=_LABELS_HEAD)
    return images.reshape(-1, SIDE, SIDE)[:_TRAIN], labels[:_TRAIN]


def _image(picture: int, draw: random.Random) -> bytes:
    return (picture | int.from_bytes(draw.randbytes(_PIXELS)) & _OTHER_BITS).to_bytes(_PIXELS)


def _head(*sizes: int) -> bytes:
    return bytes((0, 0, 8, len(sizes))) + b"".join(size.to_bytes(4) for size in sizes)

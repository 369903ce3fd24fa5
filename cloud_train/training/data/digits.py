"""scikit-learn's handwritten digits: 1,797 images of 8×8 pixels, light strokes on a dark background.

E. Alpaydin, C. Kaynak, "Optical Recognition of Handwritten Digits", UCI Machine Learning Repository, 1998. The file is read from the
installed package without importing it: importing scikit-learn takes a second, and its 56 kB file is all that is needed.
"""

import gzip
from importlib.util import find_spec
from pathlib import Path

import numpy as np
import torch
from torch.nn import functional

from cloud_train.data.digits import CLASSES, SAMPLES, DigitsData
from cloud_train.errors import CorruptError, MissingDependencyError
from cloud_train.training.data.dataset import DataSet
from cloud_train.training.data.memory import Images, image_data_set

_SIDE = 8
_BRIGHTEST = 16


def load_digits(data: DigitsData, _place: Path, seed: int) -> DataSet:
    """The digits, resized to ``data.size`` pixels a side and scaled to [0, 1]; ``seed`` is that of augmentation."""
    table = _read(_file())
    images = torch.from_numpy(table[:, :-1].astype(np.float32) / _BRIGHTEST).view(-1, 1, _SIDE, _SIDE)
    if data.size != _SIDE:
        images = functional.interpolate(images, size=(data.size, data.size), mode="bilinear", align_corners=False)
    targets = torch.from_numpy(table[:, -1].astype(np.int64))
    return image_data_set(data, Images(images, targets), None, tuple(str(digit) for digit in range(CLASSES)), seed)


def _file() -> Path:
    found = find_spec("sklearn")
    if found is None or not found.submodule_search_locations:
        raise MissingDependencyError(
            "the data set 'digits' needs scikit-learn, which is not installed", hint="install it with: pip install 'cloud-train[train]'"
        )
    return Path(found.submodule_search_locations[0], "datasets", "data", "digits.csv.gz")


def _read(path: Path) -> np.ndarray:
    """The table: a row is 64 pixels from 0 to 16, then the digit."""
    try:
        with gzip.open(path, "rt", encoding="ascii") as file:
            table = np.fromstring(file.read().replace("\n", ","), sep=",", dtype=np.float64)
        table = table.reshape(SAMPLES, _SIDE * _SIDE + 1)
    except (OSError, EOFError, ValueError) as error:
        raise CorruptError(f"{path} is not scikit-learn's table of digits: {error}", hint="reinstall scikit-learn") from error
    if table.min() < 0 or table[:, :-1].max() > _BRIGHTEST or table[:, -1].max() >= CLASSES:
        raise CorruptError(f"{path} is not scikit-learn's table of digits: a value is out of range", hint="reinstall scikit-learn")
    return table

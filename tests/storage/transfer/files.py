"""Files with known content for tests of transfers."""

import random
from pathlib import Path

SIZES = {"empty": 0, "small": 10, "two parts": 2000, "large": 4001, "exact": 5000}


def bytes_of(seed: int | str, size: int) -> bytes:
    return random.Random(seed).randbytes(size)


def file_of(folder: Path, name: str, size: int) -> Path:
    path = folder / name
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(bytes_of(name, size))
    return path


def left_over(folder: Path) -> list[str]:
    return [path.name for path in folder.rglob(".cloud-train-*")]

"""Small image files, and folders of them."""

import struct
import zlib
from collections.abc import Mapping
from pathlib import Path

import numpy as np
from PIL import Image

SIDE = 16


def noise(width: int = SIDE, height: int = SIDE, seed: int = 0) -> Image.Image:
    """An image in colours, no two of which are the same."""
    return Image.fromarray(np.random.default_rng(seed).integers(0, 256, (height, width, 3), dtype=np.uint8))


def slope(width: int, height: int) -> Image.Image:
    """An image that gets red from left to right and green from top to bottom: smooth, so that scaling changes little."""
    reds, greens = np.meshgrid(np.linspace(0, 255, width), np.linspace(0, 255, height))
    return Image.fromarray(np.stack([reds, greens, np.full_like(reds, 128)], axis=2).astype(np.uint8))


def oriented(orientation: int) -> Image.Exif:
    """Exif data that say how to turn the image upright."""
    exif = Image.Exif()
    exif[0x0112] = orientation
    return exif


def png_header(width: int, height: int) -> bytes:
    """A PNG that claims to have so many pixels, and whose pixels are none."""

    def chunk(kind: bytes, content: bytes) -> bytes:
        return struct.pack(">I", len(content)) + kind + content + struct.pack(">I", zlib.crc32(kind + content))

    header = chunk(b"IHDR", struct.pack(">IIBBBBB", width, height, 8, 2, 0, 0, 0))
    return b"\x89PNG\r\n\x1a\n" + header + chunk(b"IDAT", b"no pixels") + chunk(b"IEND", b"")


def jpeg_that_claims(path: Path, width: int, height: int) -> None:
    """Write a JPEG that claims to have so many pixels."""
    noise().save(path, format="JPEG")
    content = bytearray(path.read_bytes())
    start_of_frame = content.index(b"\xff\xc0")
    content[start_of_frame + 5 : start_of_frame + 9] = struct.pack(">HH", height, width)
    path.write_bytes(content)


def write_folder(folder: Path, images: Mapping[str, int], ending: str = "png") -> Path:
    """Write so many images into each class's folder, no two of which are the same; returns ``folder``."""
    for name, count in images.items():
        (folder / name).mkdir(parents=True)
        for number in range(count):
            seed = zlib.crc32(f"{name}/{number}".encode())
            noise(seed=seed).save(folder / name / f"{number:03}.{ending}")
    return folder

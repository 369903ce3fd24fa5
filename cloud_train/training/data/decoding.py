"""One image file as the pixels of a square: read, turned upright, cropped, scaled.

The format is determined by a file's content, not its name, and an image that claims to be very large is refused before it is decoded.
"""

import errno
import math
import random
import struct
import zlib
from collections.abc import Callable, Iterable
from io import BytesIO
from os import PathLike
from pathlib import Path
from typing import NamedTuple

import numpy as np
from PIL import Image, UnidentifiedImageError

from cloud_train.data.pixels import PhotoAugment
from cloud_train.errors import CorruptError, StoreError

MOST_PIXELS = 64_000_000
"""Pixels of an image, width times height, above which it is refused."""

_FORMATS = ("JPEG", "PNG", "WEBP", "BMP", "GIF", "TIFF")
_UNREADABLE = (OSError, SyntaxError, ValueError, EOFError, IndexError, KeyError, TypeError, OverflowError, struct.error, zlib.error)
"""What Pillow raises for damaged files."""
_OF_THE_MACHINE = (errno.EMFILE, errno.ENFILE, errno.ENOMEM)
"""Reasons for a failed open that are not the file's fault."""
_LONGEST_REASON = 200
_OF_12_BITS = 1 << 12
_KEPT_BLOCKS = 4
_ORIENTATION = 0x0112
_UPRIGHT = {
    2: Image.Transpose.FLIP_LEFT_RIGHT,
    3: Image.Transpose.ROTATE_180,
    4: Image.Transpose.FLIP_TOP_BOTTOM,
    5: Image.Transpose.TRANSPOSE,
    6: Image.Transpose.ROTATE_270,
    7: Image.Transpose.TRANSVERSE,
    8: Image.Transpose.ROTATE_90,
}
"""Exif orientation (CIPA DC-008, tag 0x0112) → the operation that turns the image upright."""
_SIDEWAYS = (5, 6, 7, 8)
_MIDDLE = 7 / 8
_TRIES = 10
_LOWEST_ASPECT, _HIGHEST_ASPECT = 3 / 4, 4 / 3


class UnreadableImageError(CorruptError):
    """An image file cannot be read; ``reason`` says why, without the file's path."""

    def __init__(self, path: str | PathLike[str], reason: str, hint: str | None = None) -> None:
        super().__init__(f"{path}: {reason}", hint)
        self.reason = reason


class View(NamedTuple):
    """The cropped part of an upright image, in pixels from the upper left corner, and whether it is mirrored."""

    left: float
    top: float
    right: float
    bottom: float
    is_mirrored: bool = False


Chooser = Callable[[int, int], View]
"""Chooses the crop of an image from its width and height."""


def read_image(path: str | PathLike[str], size: int, channels: int, choose: Chooser, content: bytes | None = None) -> np.ndarray:
    """The crop that ``choose`` takes from the image at ``path``, scaled to uint8 (size, size, channels); 3 channels are RGB, 1 is grey.

    With ``content``, the image is those bytes, and ``path`` is only for messages.

    Transparency is ignored, 16 bits per pixel are scaled to 8, and only the first of several images in a file is used. Raises
    UnreadableImageError for a file that cannot be decoded or has more than ``MOST_PIXELS``, StoreError if it cannot be opened for another
    reason.
    """
    try:
        with Image.open(path if content is None else BytesIO(content), formats=_FORMATS) as image:
            if image.width * image.height > MOST_PIXELS:
                raise UnreadableImageError(path, _too_large(f"{image.width:,}×{image.height:,} pixels"))
            return _pixels(image, size, channels, choose)
    except Image.DecompressionBombError as error:  # Pillow's own limit, which is higher
        raise UnreadableImageError(path, _too_large("the image")) from error
    except UnidentifiedImageError as error:
        is_empty = (Path(path).stat().st_size if content is None else len(content)) == 0
        raise UnreadableImageError(path, "the file is empty" if is_empty else "not a JPEG, PNG, WebP, BMP, GIF or TIFF") from error
    except _UNREADABLE as error:
        if isinstance(error, OSError) and error.errno in _OF_THE_MACHINE:
            raise StoreError(f"cannot open {path}: {_reason(error)}") from error
        raise UnreadableImageError(path, _reason(error)) from error


def middle(size: int) -> Chooser:
    """Crops the centre: a square of 7/8 of the shorter side, or the whole of an image that is already ``size`` pixels square.

    For 224 pixels this is the usual validation crop: the shorter side scaled to 256, then 224 pixels from the centre.
    """

    def choose(width: int, height: int) -> View:
        if width == height == size:
            return View(0, 0, size, size)
        side = min(width, height) * _MIDDLE
        left, top = (width - side) / 2, (height - side) / 2
        return View(left, top, left + side, top + side)

    return choose


def random_part(size: int, augment: PhotoAugment, seed: int) -> Chooser:
    """A random crop drawn from ``seed``, mirrored half of the time with ``augment.flip``.

    Its area is uniform between ``augment.crop`` and 1 times the image's, and its aspect ratio between 3/4 and 4/3 (Szegedy et al., "Going
    deeper with convolutions", 2015, section 6), uniform on a logarithmic scale. If ten draws in a row do not fit into the image, it is the
    largest centred one with such an aspect ratio. With ``augment.crop`` = 1 it is the centre, as in validation.
    """
    draws = random.Random(seed)

    def choose(width: int, height: int) -> View:
        is_mirrored = augment.flip and draws.random() < 0.5
        view = middle(size)(width, height) if augment.crop == 1 else _random_part(width, height, augment.crop, draws)
        return view._replace(is_mirrored=is_mirrored)

    return choose


def deep_images(paths: Iterable[str]) -> str:
    """A remark about images with more than 8 bits per channel among ``paths``; empty if there is none, or none can be read.

    Cameras and scanners with 10 or 12 bits store them in 16, so that all values are small and the scaled image is almost black.
    """
    brightest, deep = 0, []
    for path in paths:
        try:
            with Image.open(path, formats=_FORMATS) as image:
                if image.mode.startswith("I") and image.width * image.height <= MOST_PIXELS:
                    brightest = max(brightest, int(np.asarray(image).max()))
                    deep.append(path)
        except (*_UNREADABLE, Image.DecompressionBombError):
            continue  # the training itself says what is wrong with it
    if not deep:
        return ""
    scaled = f"images with 16 bits per channel, such as {deep[0]}, are scaled to 8 bits"
    if brightest >= _OF_12_BITS:
        return scaled
    several = "its brightest pixel is" if len(deep) == 1 else f"the brightest pixel of {len(deep):,} of them is"
    return f"{scaled}; {several} {brightest:,} of 65,535, so they become almost black: if they have fewer bits, scale them first"


def prepare_pillow() -> None:
    """Load Pillow's decoders, and let it keep some memory of freed images.

    Otherwise it allocates each image from the operating system and returns it, which can take as long as decoding a small image.
    """
    Image.init()
    Image.core.set_blocks_max(_KEPT_BLOCKS)  # type: ignore[attr-defined]  # documented ("Block Allocator"), not declared


def _random_part(width: int, height: int, smallest: float, draws: random.Random) -> View:
    for _ in range(_TRIES):
        area = width * height * draws.uniform(smallest, 1)
        aspect = math.exp(draws.uniform(math.log(_LOWEST_ASPECT), math.log(_HIGHEST_ASPECT)))
        part_width, part_height = round(math.sqrt(area * aspect)), round(math.sqrt(area / aspect))
        if 0 < part_width <= width and 0 < part_height <= height:
            left, top = draws.randint(0, width - part_width), draws.randint(0, height - part_height)
            return View(left, top, left + part_width, top + part_height)
    part_width = min(width, max(1, round(height * _HIGHEST_ASPECT)))
    part_height = min(height, max(1, round(width / _LOWEST_ASPECT)))
    left, top = (width - part_width) // 2, (height - part_height) // 2
    return View(left, top, left + part_width, top + part_height)


def _pixels(image: Image.Image, size: int, channels: int, choose: Chooser) -> np.ndarray:
    orientation = _orientation(image)
    view = choose(image.height, image.width) if orientation in _SIDEWAYS else choose(image.width, image.height)
    mode = "L" if channels == 1 else "RGB"
    scale = _scaled_while_decoding(image, mode, size, view)
    picture = image if image.mode == mode else _eight_bits(image).convert(mode)
    if orientation in _UPRIGHT:
        picture = picture.transpose(_UPRIGHT[orientation])
    box = (view.left * scale, view.top * scale, view.right * scale, view.bottom * scale)
    if picture.size != (size, size) or box != (0, 0, size, size):
        # If the image becomes much smaller, whole pixels are averaged first, down to twice the size: faster, and hardly visible.
        picture = picture.resize((size, size), Image.Resampling.BILINEAR, box, reducing_gap=2.0)
    if view.is_mirrored:
        picture = picture.transpose(Image.Transpose.FLIP_LEFT_RIGHT)
    return np.asarray(picture).reshape(size, size, channels)


def _orientation(image: Image.Image) -> int:
    """The Exif orientation; 1 (upright) if it is missing or unreadable."""
    if image.format == "PNG":
        image.load()  # its Exif data may follow the pixels
    try:
        return int(image.getexif().get(_ORIENTATION, 1))
    except _UNREADABLE:
        return 1


def _scaled_while_decoding(image: Image.Image, mode: str, size: int, view: View) -> float:
    """Decode a JPEG at 1/2, 1/4 or 1/8 of its size if its crop stays large enough; returns that factor."""
    wanted = size / min(view.right - view.left, view.bottom - view.top)
    width, height = image.size
    drafted = image.draft(mode, (math.ceil(width * wanted), math.ceil(height * wanted)))
    return 1.0 if drafted is None else drafted[1][2] / width


def _eight_bits(image: Image.Image) -> Image.Image:
    """The image with 8 bits per channel: Pillow would clip 16 bits to 8 instead of scaling them. Raises ValueError for other numbers."""
    if image.mode == "F":
        raise ValueError("its pixels are floating-point numbers; convert it to 8 or 16 bits")
    if not image.mode.startswith("I"):
        return image
    return Image.fromarray((np.asarray(image).clip(0, 65535) >> 8).astype(np.uint8))


def _too_large(what: str) -> str:
    return f"too large: {what} exceeds the limit of {MOST_PIXELS // 10**6} million pixels"


def _reason(error: Exception) -> str:
    said = error.strerror if isinstance(error, OSError) and error.errno else str(error)
    return (said or type(error).__name__)[:_LONGEST_REASON]

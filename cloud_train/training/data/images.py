"""Images in class folders or in tar shards, decoded during training.

The samples are numbered in the order of the names of classes, sub folders and files, or of shards and their members, so a number means
the same image wherever the folder is. An image's augmentation in an epoch is drawn from the seed, the epoch and its number. An image that
cannot be read ends the run, or is left out of its batch (``data.broken: skip``), which then has fewer samples, or none; progress counts the
picked samples. So nothing depends on the number of decoder processes, or on where a run was resumed.
"""

import hashlib
import math
import os
import sys
import warnings
import weakref
from collections import Counter, deque
from collections.abc import Callable, Generator, Iterable, Mapping, Sequence
from contextlib import closing
from copy import copy
from functools import partial
from pathlib import Path
from typing import NamedTuple, Protocol, Self

import numpy as np
import torch
from torch import Tensor

from cloud_train.data.image_folder import ImagePart, list_images
from cloud_train.data.images import ImagesData, find_shards
from cloud_train.data.shards import Part
from cloud_train.data.shares import share_remarks
from cloud_train.run.shard_exchange import ShardExchange
from cloud_train.training.data.dataset import Batch, DataSet, Pick, Samples
from cloud_train.training.data.decoder_processes import done_ahead, shared_memory
from cloud_train.training.data.decoding import Chooser, UnreadableImageError, deep_images, middle, prepare_pillow, random_part, read_image
from cloud_train.training.data.memory import split
from cloud_train.training.data.shards import ShardImages
from cloud_train.training.data.unpack import unpacked
from cloud_train.training.device import usable_cpus
from cloud_train.training.randomness import derived_seed
from cloud_train.worker import contract

_OTHERS: tuple[Part, Part] = ("val", "test")
_MOST_EXAMPLES = 20
"""Images that are opened before the training, one of a class, to see how many bits they have."""
_SHOWN_CLASSES = 5
_MOST_SIZES = 20_000
"""Files whose sizes are part of the data's fingerprint."""


def load_images(data: ImagesData, place: Path, seed: int) -> DataSet:
    """The images in the folder ``place``, or, with ``data.url`` only, in the archive that was downloaded into the cache ``place``.

    The folder may also contain tar shards, which may still be arriving. Without images in ``val``, ``data.seed`` chooses which ones are for
    validation; ``seed`` is that of augmentation. Raises FieldError for a folder without the required layout, and what ``unpacked`` and
    ``ShardImages`` raise.
    """
    folder = _downloaded(data, place) if data.path is None else _unpacked(place) if place.is_file() else place
    found = _found(data, folder)
    files, held_out, remarks = found.train, found.validation, found.remarks
    if held_out is not None:
        train_numbers, validation_numbers = np.arange(len(files)), np.arange(len(held_out))
    else:
        held_out = files
        train_rows, validation_rows = split(torch.from_numpy(files.classes), data.validation, data.seed, "images")
        train_numbers, validation_numbers = train_rows.numpy(), validation_rows.numpy()
        remarks = (*remarks, *share_remarks(len(files), len(validation_rows), data.validation, "images"))
    return DataSet(
        train=FolderSamples(files, train_numbers, data, seed, found.classes),
        validation=FolderSamples(held_out, validation_numbers, data, seed, found.classes),
        test=FolderSamples(found.test, np.arange(len(found.test)), data, seed, found.classes) if found.test is not None else None,
        classes=found.classes,
        image_shape=(data.channels, data.size, data.size),
        normalize=data.normalize,
        preparation="photograph",
        remarks=remarks,
    )


class _Found(NamedTuple):
    """The images of each part."""

    classes: tuple[str, ...]
    train: "Images"
    validation: "Images | None"
    test: "Images | None"
    remarks: tuple[str, ...] = ()


def _found(data: ImagesData, folder: Path) -> _Found:
    if (index := find_shards(folder, data.classes)) is not None:
        arrivals = ShardExchange(folder, os.environ.get(contract.RUN_ID, ""), int(os.environ.get(contract.NODE_RANK) or 0))
        others = [ShardImages(arrivals, index, part) if index.of_part(part) else None for part in _OTHERS]
        return _Found(index.classes, ShardImages(arrivals, index, "train"), others[0], others[1])
    found = list_images(folder, data.classes, data.source_field)
    train = ImageFiles(found.train)
    held_out, tested = (ImageFiles(part) if part else None for part in (found.validation, found.test))
    examples = np.unique(train.classes, return_index=True)[1][:_MOST_EXAMPLES]
    remark = deep_images(map(train.path, examples))
    return _Found(found.classes, train, held_out, tested, (*found.remarks, *filter(None, [remark])))


def _downloaded(data: ImagesData, cache: Path) -> Path:
    """The folder of images in the downloaded archive, unpacked in the cache."""
    return unpacked(data.source_at(cache), data.sha256 or "", cache)


def _unpacked(archive: Path) -> Path:
    """The folder of images in an archive that was fetched from a store, unpacked next to it."""
    with archive.open("rb") as file:
        return unpacked(archive, hashlib.file_digest(file, "sha256").hexdigest(), archive.parent)


class Images(Protocol):
    """Images by number, wherever they are."""

    classes: np.ndarray
    """Number of each image's class, int64 (images,)."""

    def __len__(self) -> int: ...

    def path(self, number: int) -> str:
        """Where an image is, for messages and, if it is a separate file, for Pillow."""

    def content(self, number: int, is_stopped: Callable[[], bool]) -> bytes | None:
        """The bytes of an image in a shard, for which it waits until ``is_stopped()``; None if the image is a separate file."""

    def groups(self, numbers: np.ndarray) -> Tensor | None:
        """``Samples.groups`` for the images with these ascending numbers."""

    def expect(self, numbers: np.ndarray) -> None:
        """Note the order in which images will be needed."""

    def fingerprint(self, numbers: np.ndarray) -> str:
        """``Samples.fingerprint`` for the images with these ascending numbers."""


class ImageFiles:
    """Paths of images by number, class after class.

    A million names as Python strings take a hundred megabytes, and each process that only reads them ends up with its own copy. Here they
    are one block of memory.
    """

    def __init__(self, part: ImagePart) -> None:
        names = part.images
        self._folders = [os.fsencode(part.folder / name) for name in part.folders]
        self.classes = np.arange(len(names)).repeat([len(of_class) for of_class in names])
        """Number of each image's class, int64 (images,)."""
        lengths = np.fromiter((len(os.fsencode(name)) for of_class in names for name in of_class), np.int64, len(self.classes))
        self._ends = np.concatenate([np.zeros(1, np.int64), lengths.cumsum()])
        self._names = b"".join(os.fsencode("".join(of_class)) for of_class in names)

    def __len__(self) -> int:
        return len(self.classes)

    def path(self, number: int) -> str:
        """Where the image is."""
        name = self._name(number)
        return os.fsdecode(self._folders[self.classes[number]] + b"/" + name)

    def content(self, number: int, is_stopped: Callable[[], bool]) -> None:
        """None: every image is a file."""

    def groups(self, numbers: np.ndarray) -> None:
        """None: the images are separate files."""

    def expect(self, numbers: np.ndarray) -> None:
        """Nothing to do: all files exist."""

    def fingerprint(self, numbers: np.ndarray) -> str:
        """A digest of the classes and names of these images, and of the sizes of at most ``_MOST_SIZES`` of them, evenly spread.

        On a network file system each size is a round trip, and a digest of the contents would read everything.
        """
        digest = hashlib.sha256(self.classes[numbers].tobytes())
        for number in numbers:
            digest.update(self._name(number) + b"\0")
        for number in numbers[:: math.ceil(len(numbers) / _MOST_SIZES) or 1]:
            try:
                size = os.stat(self.path(number)).st_size  # noqa: PTH116 -- paths are kept as strings
            except OSError:
                size = -1
            digest.update(b"%d\0" % size)
        return digest.hexdigest()

    def _name(self, number: int) -> bytes:
        return self._names[self._ends[number] : self._ends[number + 1]]


class Decoded(NamedTuple):
    """The images of a batch."""

    images: Tensor
    """The readable images, (B, height, width, channels): uint8, or float32 from 0 to 1."""
    broken: list[tuple[int, str]]
    """The unreadable ones: index in the batch, and what is wrong."""


Request = tuple[list[int], int | None]
"""Numbers of samples, and their epoch."""


class FolderSamples(Samples):
    """Some of the images in a folder. Batches have their channels innermost in memory.

    With ``data.broken: skip`` a batch may have fewer samples than its pick, or none; each skipped file is named once, on stderr, and too
    many of one class end the run.
    """

    def __init__(self, files: Images, numbers: np.ndarray, settings: ImagesData, seed: int, classes: Sequence[str]) -> None:
        self.targets = torch.from_numpy(files.classes[numbers])
        self.groups = files.groups(numbers)
        self._files, self._numbers, self._settings, self._seed = files, numbers, settings, seed
        self._processes = default_processes() if settings.workers is None else settings.workers
        self._device = torch.device("cpu")
        self._broken = _Broken(self.targets, classes, settings.max_broken)

    def batches(self, picks: Iterable[Pick]) -> Generator[Batch]:
        """A batch for each pick; from an infinite iterator of picks, a few are taken at a time.

        Raises UnreadableImageError if an image cannot be read and must not be skipped, and what ``done_ahead`` raises.
        """
        asked: deque[Tensor] = deque()
        recycled = RecycledMemory()
        with closing(self._decoded(_requests(picks, asked), recycled)) as decoded:
            for images, broken in decoded:
                rows = asked.popleft()
                if broken:
                    rows = self._without(broken, rows)
                yield Batch(self._floats(images, recycled).permute(0, 3, 1, 2), self.targets[rows].to(self._device))

    def to(self, device: torch.device) -> Self:
        """The same samples with batches on ``device``."""
        moved = copy(self)
        moved._device = device
        return moved

    def fingerprint(self) -> str:
        """A digest of the images' names and sizes."""
        return self._files.fingerprint(self._numbers)

    def skipped(self) -> str:
        """A sentence on how many images were left out, and of which classes."""
        return self._broken.sum()

    def path(self, row: int) -> str:
        """The file of a sample, or its shard and its name in it."""
        return self._files.path(self._numbers[row])

    def expect(self, rows: Tensor) -> None:
        """If shards are still arriving, request them in the order in which their images are picked."""
        self._files.expect(self._numbers[rows.numpy()])

    def _decoded(self, requests: Iterable[Request], recycled: "RecycledMemory") -> Generator[Decoded]:
        prepare_pillow()  # before the processes start, so that they inherit it
        if self._processes:
            work = partial(self._decode_shared, {})
            return done_ahead(work, requests, self._processes, pin_memory=self._device.type == "cuda")
        allocate = recycled.floats if self._device.type == "cpu" else partial(torch.empty, dtype=torch.uint8)
        return (self._decode(request, allocate) for request in requests)

    def _decode_shared(self, memory: dict[int, Tensor], request: Request, slot: int, is_stopped: Callable[[], bool]) -> Decoded:
        """Decode in a separate process; ``memory`` is its memory for each slot."""

        def allocate(shape: Sequence[int]) -> Tensor:
            count = math.prod(shape)
            if slot not in memory or memory[slot].numel() < count:
                memory[slot] = shared_memory((count,), torch.uint8)
            return memory[slot][:count].view(*shape)

        return self._decode(request, allocate, is_stopped)

    def _decode(
        self, request: Request, allocate: Callable[[Sequence[int]], Tensor], is_stopped: Callable[[], bool] = lambda: False
    ) -> Decoded:
        rows, epoch = request
        size, channels = self._settings.size, self._settings.channels
        images = allocate((len(rows), size, size, channels))
        pixels_BHWC = images.numpy()
        readable, broken = 0, []
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # most of Pillow's warnings are harmless, and the rest are errors here
            for place, row in enumerate(rows):
                if is_stopped():
                    break
                try:
                    content = self._files.content(self._numbers[row], is_stopped)
                    _put(pixels_BHWC[readable], read_image(self.path(row), size, channels, self._chooser(row, epoch), content))
                    readable += 1
                except UnreadableImageError as error:
                    broken.append((place, error.reason))
                    if self._settings.broken == "fail":
                        break
        return Decoded(images[:readable], broken)

    def _chooser(self, row: int, epoch: int | None) -> Chooser:
        augmentation = self._settings.augmentation
        if epoch is None or augmentation is None:
            return middle(self._settings.size)
        return random_part(self._settings.size, augmentation, derived_seed(self._seed, "augment", epoch, row))

    def _without(self, broken: Sequence[tuple[int, str]], rows: Tensor) -> Tensor:
        """The rows of readable images; names the others, or raises UnreadableImageError for the first of them."""
        for place, reason in broken:
            row = int(rows[place])
            if self._settings.broken == "fail":
                hint = "replace or delete the file, or set data.broken to skip"
                raise UnreadableImageError(self.path(row), reason, hint)
            self._broken.add(row, self.path(row), reason)
        is_readable = torch.ones(len(rows), dtype=torch.bool)
        is_readable[[place for place, _ in broken]] = False
        return rows[is_readable]

    def _floats(self, images: Tensor, recycled: "RecycledMemory") -> Tensor:
        """The images as float32 from 0 to 1, on the device."""
        if images.dtype == torch.float32:
            return images
        if self._device.type != "cpu":
            return images.to(self._device, non_blocking=images.is_pinned()).float().div_(255)
        floats = recycled.floats(images.shape)
        for place, pixels in zip(floats.numpy(), images.numpy(), strict=True):
            _put(place, pixels)
        return floats


class _Broken:
    """The images that were left out because they cannot be read."""

    def __init__(self, targets: Tensor, classes: Sequence[str], most: float) -> None:
        self._targets, self._classes, self._most = targets, classes, most
        self._sizes = torch.bincount(targets, minlength=len(classes)).tolist()
        self._rows: set[int] = set()
        self._counts = Counter[int]()

    def add(self, row: int, path: str, reason: str) -> None:
        """Name an image on stderr, once. Raises UnreadableImageError if too many of its class cannot be read: the whole of it, or more than
        one and more than the allowed fraction.
        """
        if row in self._rows:
            return
        print(f"skipped: {path}: {reason}", file=sys.stderr, flush=True)
        self._rows.add(row)
        number = int(self._targets[row])
        self._counts[number] += 1
        broken, size = self._counts[number], self._sizes[number]
        if broken == size or broken > max(1, self._most * size):
            what = f"{reason}; with it, {broken:,} of the {size:,} images of the class {self._classes[number]!r} cannot be read"
            raise UnreadableImageError(path, what, "replace or delete these files, or set data.max_broken to a larger fraction")

    def sum(self) -> str:
        """A sentence on how many were left out, and of which classes; empty if none was."""
        if not self._rows:
            return ""
        several = "image was" if len(self._rows) == 1 else "images were"
        of_classes = ", ".join(f"{count:,} of {self._classes[number]!r}" for number, count in self._counts.most_common(_SHOWN_CLASSES))
        more = ", …" if len(self._counts) > _SHOWN_CLASSES else ""
        return f"{len(self._rows):,} of {len(self._targets):,} {several} skipped because they cannot be read: {of_classes}{more}"


class RecycledMemory:
    """Memory for successive batches, reused as soon as no tensor refers to it.

    Allocating that much memory from the operating system for each batch takes longer than filling it.
    """

    _MOST = 2  # a loop still holds its batch when it asks for the next one

    def __init__(self) -> None:
        self._kept: list[tuple[np.ndarray, weakref.ref[np.ndarray]]] = []

    def floats(self, shape: Sequence[int]) -> Tensor:
        """An uninitialized float32 tensor of ``shape``."""
        count = math.prod(shape)
        free = [memory for memory, lent in self._kept if lent() is None and memory.size >= count]
        memory = free[0] if free else np.empty(count, np.float32)
        lent = memory[:count].reshape(shape)
        self._kept = [(other, use) for other, use in self._kept if other is not memory and (use() is not None or other.size >= count)]
        if len(self._kept) < self._MOST:
            self._kept.append((memory, weakref.ref(lent)))
        return torch.from_numpy(lent)  # keeps ``lent`` alive as long as any tensor uses this memory


def default_processes(environment: Mapping[str, str] = os.environ) -> int:
    """One fewer than the CPU cores that this process may use, shared among the training processes on this machine; at least 1."""
    return max(1, (usable_cpus() - 1) // int(environment.get("LOCAL_WORLD_SIZE") or 1))


def _put(place: np.ndarray, pixels: np.ndarray) -> None:
    """Write uint8 ``pixels`` into ``place``, whose floats go from 0 to 1."""
    place[...] = pixels
    if place.dtype != np.uint8:
        place /= np.float32(255)  # in place while it is in the processor's cache, faster than one division with a conversion


def _requests(picks: Iterable[Pick], asked: deque[Tensor]) -> Generator[Request]:
    """The picks as plain numbers, which are passed between processes without shared memory; ``asked`` keeps their rows."""
    for rows, epoch in picks:
        asked.append(rows)
        yield rows.tolist(), epoch

"""Packing a folder of images into tar shards, as ``cloud-train pack`` does.

The images are ordered by a hash of their names, which mixes the classes, so that each shard is a representative sample, and which is the
same on every machine. Headers contain neither owner nor time: the same folder gives the same bytes. The index is written last, so it never
exists without its shards.

The folder may be another person's. A link in it is followed to an image in the same folder; any other link is refused, because a shard
would otherwise contain a file that was never meant to be shared.
"""

import hashlib
import os
import shutil
import tarfile
import tempfile
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path

from cloud_train.beneath import open_within
from cloud_train.data.image_folder import ENDINGS, ImagePart, list_images
from cloud_train.data.shards import BLOCK_BYTES, ENDING, INDEX, MOST_INDEX_BYTES, Part, Shard, ShardIndex, part_of
from cloud_train.errors import CorruptError, UsageError
from cloud_train.spec.problems import FieldError
from cloud_train.storage.base import ObjectMissingError, Store
from cloud_train.storage.registry import bucket_and_prefix, folder_of, open_store, scheme_of
from cloud_train.storage.transfer.engine import Options
from cloud_train.storage.transfer.paths import explained
from cloud_train.storage.transfer.progress import Meter, Progress
from cloud_train.storage.transfer.uploading import Upload, upload

_END = bytes(2 * BLOCK_BYTES)
"""Two empty blocks end a tar."""
_PIECE_BYTES = 1 << 20
_SUB_FOLDER = "__"
"""Replaces the slashes in the path of an image in a sub folder of its class."""
_COPY = "to include the files that links point to, pack a copy without links: cp -rL FOLDER COPY"

Report = Callable[[Progress], None]


@dataclass(frozen=True)
class Packed:
    """The result of packing."""

    destination: str
    shards: int
    images: int
    classes: int
    bytes: int
    """Size of all shards together."""


@dataclass(frozen=True)
class _Entry:
    """An image on its way into a shard."""

    member: str
    path: Path
    """Its file, which is not a link and is reached through no link below ``root``."""
    root: Path
    size: int

    def header(self) -> bytes:
        """Its header in the tar."""
        info = tarfile.TarInfo(self.member)
        info.size, info.mode = self.size, 0o644
        return info.tobuf(tarfile.PAX_FORMAT, "utf-8", "surrogateescape")

    @cached_property
    def taken(self) -> int:
        """Bytes in the tar: header, content and padding."""
        return len(self.header()) + self.size + -self.size % BLOCK_BYTES


@dataclass(frozen=True)
class _PlannedShard:
    name: str
    part: Part
    entries: Sequence[_Entry]

    @property
    def size(self) -> int:
        return sum(entry.taken for entry in self.entries) + len(_END)


def pack(folder: Path, destination: str, shard_bytes: int, report: Report | None = None) -> Packed:
    """Pack the images in ``folder`` into shards of at most ``shard_bytes``, but at least one image, and write their index.

    ``destination`` is a folder, which appears complete or not at all, or a store URL, where a repeated call continues. Raises UsageError
    for a folder without images, and for a destination with other content; StoreError if the folder cannot be read or the destination cannot
    be written.
    """
    classes, planned = _plan(folder, shard_bytes)
    size = sum(shard.size for shard in planned)
    if scheme_of(destination) == "file":
        shards = _into_folder(folder, folder_of(destination), classes, planned, report)
    else:
        shards = _into_store(destination, classes, planned, report)
    return Packed(destination, len(shards), sum(len(shard.members) for shard in shards), len(classes), size)


def _plan(folder: Path, shard_bytes: int) -> tuple[tuple[str, ...], list[_PlannedShard]]:
    try:
        found = list_images(folder)
    except FieldError as error:
        raise UsageError(error.reason, hint=error.hint) from error
    is_split = found.validation is not None or found.test is not None
    parts: tuple[tuple[Part, ImagePart | None], ...] = (("train", found.train), ("val", found.validation), ("test", found.test))
    planned: list[_PlannedShard] = []
    for part, images in parts:
        if images is not None:
            entries = _entries(folder.resolve(), f"{part}/" if is_split else "", images, found.classes)
            planned += _cut(part, entries, shard_bytes)
    return found.classes, planned


def _entries(root: Path, prefix: str, part: ImagePart, classes: Sequence[str]) -> list[_Entry]:
    entries: dict[str, _Entry] = {}
    for of_class, folder, inside in zip(classes, part.folders, part.images, strict=True):
        place = _real(part.folder / folder, root) if inside else part.folder
        for name in inside:
            path, member = part.folder / folder / name, f"{prefix}{of_class}/{name.replace('/', _SUB_FOLDER)}"
            if part_of(member) is None:
                raise UsageError(f"{str(path)!r} is not a valid name for an image in a shard", hint="rename it without control characters")
            if member in entries:
                raise UsageError(
                    f"{path} and {entries[member].path} would have the same name in a shard: {member}", hint="rename one of them"
                )
            with explained(f"read {path}"):
                is_link = "/" in name or (place / name).is_symlink()
                file = _real(path, root) if is_link else place / name
                entries[member] = _Entry(member, file, root, file.lstat().st_size)
    return sorted(entries.values(), key=lambda entry: hashlib.sha256(entry.member.encode()).digest())


def _real(path: Path, root: Path) -> Path:
    """The resolved path of a class folder or an image; raises UsageError if that is outside the folder to pack, or not an image."""
    with explained(f"read {path}"):
        place = path.resolve(strict=True)
    if not place.is_relative_to(root):
        raise UsageError(f"{path} links to {place}, outside the folder to pack", hint=_COPY)
    if not place.is_dir() and not place.name.lower().endswith(ENDINGS):
        raise UsageError(f"{path} links to {place}, whose name is not that of an image", hint=_COPY)
    return place


def _cut(part: Part, entries: Sequence[_Entry], shard_bytes: int) -> Iterator[_PlannedShard]:
    begin, size, number = 0, len(_END), 0
    for place, entry in enumerate(entries):
        if place > begin and size + entry.taken > shard_bytes:
            yield _PlannedShard(f"{part}-{number:05}{ENDING}", part, entries[begin:place])
            begin, size, number = place, len(_END), number + 1
        size += entry.taken
    if entries:
        yield _PlannedShard(f"{part}-{number:05}{ENDING}", part, entries[begin:])


def _into_folder(
    source: Path, target: Path, classes: tuple[str, ...], planned: Sequence[_PlannedShard], report: Report | None
) -> list[Shard]:
    if target.resolve().is_relative_to(source.resolve()):
        raise UsageError(f"{target} is inside the folder to pack", hint="name another folder")
    with explained(f"write {target}"):
        if target.exists() and (not target.is_dir() or any(target.iterdir())):
            raise UsageError(f"{target} already exists and is not empty", hint="name another folder, or remove that one")
        beginning = target.with_name(f".{target.name}.packing")
        shutil.rmtree(beginning, ignore_errors=True)
        beginning.mkdir(parents=True)
        meter = Meter(report)
        meter.expect(len(planned), sum(shard.size for shard in planned))
        try:
            shards = []
            for shard in planned:
                shards.append(_write(shard, beginning / shard.name, meter))
                meter.finish_file()
            (beginning / INDEX).write_bytes(_index(classes, shards))
            meter.tell(last=True)
            if target.exists():
                target.rmdir()
            beginning.rename(target)
        finally:
            shutil.rmtree(beginning, ignore_errors=True)
    return shards


def _into_store(url: str, classes: tuple[str, ...], planned: Sequence[_PlannedShard], report: Report | None) -> list[Shard]:
    bucket, prefix = bucket_and_prefix(url)
    store, above = open_store(bucket), f"{prefix}/" if prefix else ""
    _refuse_taken(store, url, above, {shard.name for shard in planned})
    shards: list[Shard] = []
    progress = _Whole(report, len(planned), sum(shard.size for shard in planned))
    with tempfile.TemporaryDirectory(prefix="cloud-train-pack-") as folder:
        for planned_shard in planned:
            path = Path(folder, planned_shard.name)
            with explained(f"write {path}"):
                shard = _write(planned_shard, path)
            if not _is_there(store, above + shard.name, shard):
                upload(store, [Upload(path, above + shard.name, shard.sha256)], Options(report=progress))
            path.unlink()
            shards.append(shard)
            progress.is_done(shard.size)
        index = Path(folder, INDEX)
        index.write_bytes(_index(classes, shards))
        upload(store, [Upload(index, above + INDEX)])
    return shards


def _refuse_taken(store: Store, url: str, above: str, names: set[str]) -> None:
    """Raise UsageError if the place contains anything but shards with these names, which an interrupted call may have left."""
    found = [info.key.removeprefix(above) for info in store.list(above)]
    if INDEX in found:
        raise UsageError(f"{url} already contains shards", hint="name another URL, or delete them first")
    if others := [name for name in found if name and name not in names]:
        raise UsageError(f"{url} is not empty: it contains {others[0]!r}, for example", hint="name another URL")


def _is_there(store: Store, key: str, shard: Shard) -> bool:
    try:
        info = store.stat(key)
    except ObjectMissingError:
        return False
    return info.size == shard.size and info.sha256 == shard.sha256


def _index(classes: tuple[str, ...], shards: Sequence[Shard]) -> bytes:
    content = ShardIndex(classes, tuple(shards)).to_json()
    if len(content) > MOST_INDEX_BYTES:
        raise UsageError(f"the index would exceed {MOST_INDEX_BYTES >> 20} MiB", hint="pack the images in several sets")
    return content


def _write(shard: _PlannedShard, path: Path, meter: Meter | None = None) -> Shard:
    """Write a tar and sync it; raises CorruptError if an image changed its size, and OSError."""
    sha256, offsets, end = hashlib.sha256(), [], 0
    with path.open("wb") as file:

        def put(piece: bytes) -> None:
            nonlocal end
            file.write(piece)
            sha256.update(piece)
            end += len(piece)
            if meter:
                meter.add(len(piece))
                meter.tell()

        for entry in shard.entries:
            put(entry.header())
            offsets.append(end)
            for piece in _content(entry):
                put(piece)
            put(bytes(-end % BLOCK_BYTES))
        put(_END)
        file.flush()
        os.fsync(file.fileno())
    members, sizes = tuple(entry.member for entry in shard.entries), tuple(entry.size for entry in shard.entries)
    return Shard(path.name, shard.part, end, sha256.hexdigest(), members, tuple(offsets), sizes)


def _content(entry: _Entry) -> Iterator[bytes]:
    left = entry.size
    with explained(f"read {entry.path}"), os.fdopen(open_within(entry.path, entry.root), "rb") as file:
        while piece := file.read(_PIECE_BYTES):
            left -= len(piece)
            yield piece
    if left:
        raise CorruptError(f"{entry.path} changed while being packed", hint="make sure that nothing writes to the folder, and retry")


class _Whole:
    """Total progress, from the transfers of individual shards."""

    def __init__(self, report: Report | None, files: int, size: int) -> None:
        self._report, self._files, self._size = report, files, size
        self._files_done = self._done = 0

    def __call__(self, progress: Progress) -> None:
        if self._report is None:
            return
        done = self._done + progress.bytes_done
        eta = (self._size - done) / progress.rate if progress.rate > 0 else None
        self._report(replace(progress, files_done=self._files_done, files=self._files, bytes_done=done, bytes=self._size, eta=eta))

    def is_done(self, size: int) -> None:
        """One more shard is in the store."""
        self._files_done += 1
        self._done += size

"""A folder of tar shards, by its index or, without one, by the headers in the tars. No image is opened. Imports no torch."""

import re
import tarfile
from collections import defaultdict
from collections.abc import Sequence
from pathlib import Path

from cloud_train.data.imagefolder import ENDINGS, check_classes
from cloud_train.data.shards import ENDING, INDEX, Part, Shard, ShardIndex, class_of, part_of, read_index
from cloud_train.errors import CorruptError
from cloud_train.spec.problems import FieldError

_HINT = "members such as cat/1.jpg, or train/cat/1.jpg and val/cat/2.jpg; cloud-train pack makes such shards of a folder"
_IGNORED = re.compile(r"(^|/)(\._[^/]+|\.DS_Store|__MACOSX)(/|$)")


def find_shards(folder: Path, class_count: int | None = None) -> ShardIndex | None:
    """What the shards in ``folder`` hold; None if it is not a folder of shards: it has no index, and contains folders, or no tar.

    Raises FieldError for an index or a tar that cannot be used, a class without training images, fewer than two classes, and another number
    than ``class_count``.
    """
    field = ("data", "path")
    try:
        if (folder / INDEX).is_file():
            found = read_index(folder / INDEX)
        elif tars := _tars(folder):
            found = scan(folder, tars)
        else:
            return None
    except CorruptError as error:
        raise FieldError(field, error.message, error.hint) from error
    except OSError as error:
        raise FieldError(field, f"{error.filename or folder}: {(error.strerror or 'cannot be read').lower()}", _HINT) from error
    check_classes(found.classes, class_count, folder, field)
    trained = {class_of(member) for _, shard in found.of_part("train") for member in shard.members}
    if empty := [name for name in found.classes if name not in trained]:
        shown = ", ".join(empty[:3]) + (", …" if len(empty) > 3 else "")
        raise FieldError(field, f"{len(empty)} of {len(found.classes):,} classes have no training image in {folder}: {shown}", _HINT)
    return found


def scan(folder: Path, tars: Sequence[str]) -> ShardIndex:
    """The index of the tars of these names, made from their headers. Raises CorruptError naming tar and member; OSError."""
    shards = [shard for name in tars for shard in _scan(folder / name)]
    classes = sorted({class_of(member) for shard in shards for member in shard.members})
    return ShardIndex(tuple(classes), tuple(shards))


def _scan(path: Path) -> list[Shard]:
    """The training and the validation images of a tar, each as a shard."""
    found: defaultdict[Part, list[tuple[str, int, int]]] = defaultdict(list)
    try:
        with tarfile.open(path, "r:") as opened:
            for info in opened:
                name = info.name.removeprefix("./")
                if info.isdir() or _IGNORED.search(name) or not name.lower().endswith(ENDINGS):
                    continue
                part = part_of(name)
                if not info.isfile() or info.issparse() or part is None:
                    raise CorruptError(f"{path}: its member {info.name!r} is not an image in a class folder", hint=_HINT)
                found[part].append((name, info.offset_data, info.size))
    except (tarfile.TarError, ValueError, EOFError) as error:
        raise CorruptError(f"{path} is not a readable tar: {error}", hint=_HINT) from error
    size = path.stat().st_size
    shards = []
    for part, images in sorted(found.items()):
        members, offsets, sizes = (tuple(column) for column in zip(*images, strict=True))
        if offsets[-1] + sizes[-1] > size:
            raise CorruptError(f"{path} is cut off: its member {members[-1]!r} ends after the end of the file", hint="copy it again")
        shards.append(Shard(path.name, part, size, None, members, offsets, sizes))
    return shards


def _tars(folder: Path) -> list[str]:
    """The tars in a folder that has no folders, which would be classes."""
    if not folder.is_dir():
        return []
    entries = [entry for entry in folder.iterdir() if not entry.name.startswith(".")]
    if any(entry.is_dir() and entry.name != "__MACOSX" for entry in entries):
        return []
    return sorted(entry.name for entry in entries if entry.name.endswith(ENDING) and entry.is_file())

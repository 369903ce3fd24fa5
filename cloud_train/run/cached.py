"""Files and folders in the cache of downloads. Links in it are not followed, and content is used only if unchanged since it was sealed.

This machine's cache belongs to its user alone; containers have their own. An earlier version shared it with containers, and scripts can
write to it, so it may contain links and folders that no download created, and every use checks what it finds.
"""

from __future__ import annotations  # the worker also runs on Python 3.10, in users' own images

import os
import stat
import time
from collections.abc import Collection, Iterator
from contextlib import suppress
from pathlib import Path

from cloud_train.beneath import IrregularError, open_folder, open_plain
from cloud_train.errors import StoreError

_TICK_SECONDS = 0.02
"""Longer than the resolution of the kernel's clock: a file that changes after this delay gets another timestamp."""
_OWN = ".cloud-train-"  # the prefix of all files that are never data
_SEAL = f"{_OWN}seal-"


def own_folder(cache: Path, *names: str) -> Path:
    """The folder at ``names`` below ``cache``, created if missing. ``cache`` itself may be a link, for instance to another disk.

    Raises StoreError if one of ``names`` is a link or a file, and OSError.
    """
    try:
        os.close(open_folder(cache, names, make=True))
    except IrregularError as error:
        raise StoreError(
            f"{error.path} is a link or a file, and the cache does not follow links",
            hint=f"remove it; to keep the cache on another disk, make {cache} itself a link",
        ) from error
    return cache.joinpath(*names)


def open_lock(path: Path) -> int:
    """A descriptor of the lock file ``path``, created if missing and in place of a link. Raises OSError."""
    try:
        return open_plain(path, os.O_RDWR | os.O_CREAT)
    except IrregularError:
        remove(path)
        return open_plain(path, os.O_RDWR | os.O_CREAT)


def open_to_read(path: Path) -> int | None:
    """A descriptor of the regular file ``path``; None if it is missing or anything else, such as a link. Raises OSError."""
    try:
        return open_plain(path)
    except (FileNotFoundError, NotADirectoryError, IrregularError):
        return None


def write_new(path: Path, content: str) -> None:
    """Write a file, replacing whatever is at ``path``, without following a link. Raises OSError."""
    remove(path)
    with open(open_plain(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL), "w", encoding="utf-8") as file:  # noqa: PTH123 -- of a descriptor
        file.write(content)


def remove(path: Path) -> None:
    """Remove whatever is at ``path``, if anything; of a link, the link itself. Raises OSError."""
    try:
        is_folder = stat.S_ISDIR(path.lstat().st_mode)
    except FileNotFoundError:
        return
    if is_folder:
        import shutil  # takes 3 ms, and is only needed here

        shutil.rmtree(path)  # which follows no link either
    else:
        path.unlink(missing_ok=True)


def seal(place: Path, paths: Collection[str] | None = None) -> None:
    """Record the state of the verified file or folder ``place``, so that ``is_sealed`` can tell whether it changed. Raises OSError.

    In a folder only the files at ``paths``, with '/' between names, count; by default everything in it does.
    """
    write_new(_seal_of(place), f"{_stamp(place, paths)}\n")
    time.sleep(_TICK_SECONDS)


def is_sealed(place: Path, paths: Collection[str] | None = None) -> bool:
    """Whether ``place`` is unchanged since it was sealed with the same ``paths``, by names, kinds, sizes and change times.

    The change time is the kernel's (st_ctime), which reveals accidental changes even if the other timestamps were restored. This does not
    protect against a malicious program that can write to the cache, because it can forge a seal as well; therefore a container has its own
    cache. A copy of the cache has other times, so it is not sealed. For 60,000 files this takes a quarter of a second (measured); reading
    their 170 MB takes 0.8 s, and unpacking them again 9 s.
    """
    descriptor = open_to_read(_seal_of(place))
    if descriptor is None:
        return False
    with open(descriptor, "rb") as file:  # noqa: PTH123 -- of a descriptor
        noted = file.read(100)
    try:
        return noted == f"{_stamp(place, paths)}\n".encode()
    except OSError:
        return False


def others(place: Path, paths: Collection[str]) -> list[str]:
    """Everything in a folder except the files at ``paths``, their parent folders and cloud-train's own small files. Raises OSError."""
    folders: set[str] = set()
    for path in paths:
        while (path := path.rpartition("/")[0]) and path not in folders:
            folders.add(path)
    found: list[str] = []
    todo = [""]
    while todo:
        above = todo.pop()
        with os.scandir(place / above) as entries:
            for entry in entries:
                path = above + entry.name
                if entry.is_dir(follow_symlinks=False):
                    (todo if path in folders else found).append(f"{path}/")
                elif path not in paths and not entry.name.startswith(_OWN):
                    found.append(path)
    return sorted(found)


def is_folder(place: Path) -> bool:
    """Whether ``place`` is a folder and not a link to one."""
    return place.is_dir() and not place.is_symlink()


def replace(place: Path, by: Path) -> None:
    """Replace whatever is at ``place`` with the finished folder ``by``, by renaming. Raises OSError."""
    old = place.with_name(f"{place.name}.old")
    remove(old)
    with suppress(FileNotFoundError):
        place.rename(old)
    by.rename(place)
    remove(old)


def _seal_of(place: Path) -> Path:
    return place.with_name(f"{_SEAL}{place.name}")


def _stamp(place: Path, paths: Collection[str] | None) -> str:
    import hashlib  # takes 3 ms, and is only needed here

    digest = hashlib.sha256()
    status = place.lstat()
    if stat.S_ISDIR(status.st_mode):
        for line in _lines(str(place), "", paths):
            digest.update(line)
    else:
        digest.update(_line("", status))
    return digest.hexdigest()


def _lines(folder: str, below: str, paths: Collection[str] | None) -> Iterator[bytes]:
    with os.scandir(folder) as entries:
        found = sorted(entries, key=lambda entry: entry.name)
    for entry in found:
        name = f"{below}/{entry.name}"
        if entry.is_dir(follow_symlinks=False):
            if paths is None:
                yield f"{name}\0folder\0".encode(errors="surrogateescape")
            yield from _lines(entry.path, name, paths)
        elif paths is None or name[1:] in paths:
            yield _line(name, entry.stat(follow_symlinks=False))


def _line(name: str, status: os.stat_result) -> bytes:
    kind = stat.S_IFMT(status.st_mode)
    return f"{name}\0{kind:o} {status.st_size} {status.st_mtime_ns} {status.st_ctime_ns}\0".encode(errors="surrogateescape")

"""Files and folders of the cache of downloads. No link in it is followed, and what it holds is used only as it was when it was sealed.

The cache of this machine belongs to its user alone: a container has one of its own. What an earlier version shared with containers, or a
script left there, may still hold links and folders that no download made, so each use looks at what is there.
"""

from __future__ import annotations  # the worker runs on Python 3.10 as well, in images of the user's

import os
import stat
import time
from collections.abc import Collection, Iterator
from contextlib import suppress
from pathlib import Path

from cloud_train.beneath import IrregularError, open_folder, open_plain
from cloud_train.errors import StoreError

_TICK_SECONDS = 0.02
"""More than the grain of the kernel's clock: a file that changes later than this has another time."""
_OWN = ".cloud-train-"  # as of all files that are never data
_SEAL = f"{_OWN}seal-"


def own_folder(cache: Path, *names: str) -> Path:
    """The folder of these names below ``cache``, made where it is missing. ``cache`` itself may be a link, to another disk for instance.

    Raises StoreError where a link or a file has one of the names, and OSError.
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
    """A descriptor of the lock file ``path``, made if need be. A link there is removed. Raises OSError."""
    try:
        return open_plain(path, os.O_RDWR | os.O_CREAT)
    except IrregularError:
        remove(path)
        return open_plain(path, os.O_RDWR | os.O_CREAT)


def open_to_read(path: Path) -> int | None:
    """A descriptor of the plain file ``path``; None where there is none, but nothing, a link or something else. Raises OSError."""
    try:
        return open_plain(path)
    except (FileNotFoundError, NotADirectoryError, IrregularError):
        return None


def open_to_append(path: Path) -> int:
    """A descriptor that adds to the plain file ``path``; anything else, or a file with a second name, is removed first. Raises OSError."""
    try:
        status = path.lstat()
        if not stat.S_ISREG(status.st_mode) or status.st_nlink > 1:
            remove(path)
    except FileNotFoundError:
        pass
    return open_plain(path, os.O_WRONLY | os.O_APPEND | os.O_CREAT)


def write_new(path: Path, content: str) -> None:
    """Write a file in place of whatever has its name, without following a link. Raises OSError."""
    remove(path)
    with open(open_plain(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL), "w", encoding="utf-8") as file:  # noqa: PTH123 -- of a descriptor
        file.write(content)


def remove(path: Path) -> None:
    """Remove what is at ``path``: a link itself, and not what it leads to. Nothing need be there. Raises OSError."""
    try:
        is_folder = stat.S_ISDIR(path.lstat().st_mode)
    except FileNotFoundError:
        return
    if is_folder:
        import shutil  # 3 ms, and only here

        shutil.rmtree(path)  # which follows no link either
    else:
        path.unlink(missing_ok=True)


def seal(place: Path, paths: Collection[str] | None = None) -> None:
    """Note how the verified file or folder ``place`` is now, so that ``is_sealed`` finds it unchanged. Raises OSError.

    Of a folder only the files of these ``paths`` count, with '/' between names; by default everything in it does.
    """
    write_new(_seal_of(place), f"{_stamp(place, paths)}\n")
    time.sleep(_TICK_SECONDS)


def is_sealed(place: Path, paths: Collection[str] | None = None) -> bool:
    """Whether ``place`` is as it was when it was sealed with these ``paths``: names, kinds and sizes, and when each file was last changed.

    That is the time at which the kernel saw content or attributes change (st_ctime), so a file that was changed by accident is found out
    even if its other times were put back. It does not protect against a program that means harm and can write to the cache: that can forge
    a seal as well, which is why a container has a cache of its own. A copy of the cache has other times, and is not sealed. For 60,000
    files it takes a quarter of a second (measured), where to read their 170 MB again takes 0.8 s, and 9 s to unpack them again.
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
    """What a folder holds beside the files of these ``paths``, the folders that they are in, and our own small files. Raises OSError."""
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
    """Whether ``place`` is a folder, and no link to one."""
    return place.is_dir() and not place.is_symlink()


def replace(place: Path, by: Path) -> None:
    """Put the finished folder ``by`` in the place of what is at ``place``, which stays there until then. Raises OSError."""
    old = place.with_name(f"{place.name}.old")
    remove(old)
    with suppress(FileNotFoundError):
        place.rename(old)
    by.rename(place)
    remove(old)


def _seal_of(place: Path) -> Path:
    return place.with_name(f"{_SEAL}{place.name}")


def _stamp(place: Path, paths: Collection[str] | None) -> str:
    import hashlib  # 3 ms, and only here

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

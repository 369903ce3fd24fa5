"""Opens files and folders below a trusted folder one name at a time: follows no link, and opens only regular files.

Anything that can write below that folder (a container, another user of a shared store) can create links, pipes and devices there. A link
may lead to unrelated files, and a pipe blocks its reader forever. The trusted folder itself may be a link.
"""

from __future__ import annotations  # the worker also runs on Python 3.10, in the user's images

import errno
import os
import stat
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path

_PASSED = getattr(os, "O_PATH", os.O_RDONLY) | os.O_DIRECTORY | os.O_CLOEXEC  # O_PATH needs no permission to read the folder
_LISTED = os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC
_PLAIN = os.O_NOFOLLOW | os.O_NONBLOCK | os.O_NOCTTY | os.O_CLOEXEC  # neither follows a link nor waits for the other end of a pipe

_DEEPEST = 200
"""Maximum depth for ``remove``: every level takes a descriptor."""

_KINDS = (
    (stat.S_ISLNK, "a link, which is not followed"),
    (stat.S_ISDIR, "a folder, not a file"),
    (stat.S_ISFIFO, "a named pipe, not a file"),
    (stat.S_ISSOCK, "a socket, not a file"),
    (stat.S_ISREG, "a file, not a folder"),
)


class IrregularError(OSError):
    """Something below a trusted folder is a link, a pipe or a device, or a folder instead of a file."""

    def __init__(self, path: str, mode: int) -> None:
        what = next((words for fits, words in _KINDS if fits(mode)), "neither a file nor a folder")
        super().__init__(errno.ELOOP, f"it is {what}", path)
        self.path, self.what = path, what
        self.is_link = stat.S_ISLNK(mode)


def open_folder(root: str | Path, parts: Sequence[str] = (), *, make: bool = False, listed: bool = False) -> int:
    """A descriptor of the folder ``parts`` below ``root``, for ``dir_fd``, and with ``listed`` for ``os.scandir`` too.

    ``make`` creates missing folders, with modes according to the umask. Raises OSError; IrregularError for a link or a file instead of a
    folder.
    """
    last = len(parts)
    descriptor = _open_root(root, _LISTED if listed and not last else _PASSED, make)
    for number, part in enumerate(parts, 1):
        flags = (_LISTED if listed and number == last else _PASSED) | os.O_NOFOLLOW
        try:
            inner = os.open(part, flags, dir_fd=descriptor)
        except OSError as error:
            try:
                shown = os.path.join(root, *parts[:number])  # noqa: PTH118 -- text
                if make and isinstance(error, FileNotFoundError):
                    inner = _make_and_open(part, flags, descriptor, shown)
                else:
                    raise _explained(error, part, descriptor, shown) from error
            finally:
                os.close(descriptor)
        else:
            os.close(descriptor)
        descriptor = inner
    return descriptor


@contextmanager
def held(root: str | Path, parts: Sequence[str] = (), *, make: bool = False, listed: bool = False) -> Iterator[int]:
    """Like ``open_folder``, closed at the end of the block. With ``listed``, the folder can be synced too."""
    descriptor = open_folder(root, parts, make=make, listed=listed)
    try:
        yield descriptor
    finally:
        os.close(descriptor)


def open_file(root: str | Path, parts: Sequence[str], flags: int = os.O_RDONLY, mode: int = 0o644) -> int:
    """A descriptor of the regular file ``parts`` below ``root``. Raises OSError; IrregularError for anything else."""
    directory = open_folder(root, parts[:-1])
    try:
        return open_plain(parts[-1], flags, mode, directory=directory, shown=os.path.join(root, *parts))  # noqa: PTH118 -- text
    finally:
        os.close(directory)


def open_plain(name: str | Path, flags: int = os.O_RDONLY, mode: int = 0o644, *, directory: int | None = None, shown: str = "") -> int:
    """A descriptor of the regular file ``name`` in the folder ``directory``, or at a path, whose last part must not be a link.

    Raises OSError; IrregularError, with the path ``shown`` or ``name``, for anything but a regular file.
    """
    try:
        descriptor = os.open(name, flags | _PLAIN, mode, dir_fd=directory)
    except OSError as error:
        if error.errno in (errno.ELOOP, errno.ENXIO, errno.EISDIR, errno.EMLINK):  # a link, a pipe without a reader or a socket, a folder
            raise IrregularError(shown or str(name), mode_of(name, directory)) from error
        raise
    try:
        if stat.S_ISREG(found := os.fstat(descriptor).st_mode):
            return descriptor
        raise IrregularError(shown or str(name), found)
    except BaseException:
        os.close(descriptor)
        raise


def open_within(path: Path, root: Path | None, flags: int = os.O_RDONLY, mode: int = 0o644) -> int:
    """A descriptor of the regular file ``path`` below ``root``; without ``root``, the file's own folder is trusted."""
    return open_plain(path, flags, mode) if root is None else open_file(root, path.relative_to(root).parts, flags, mode)


def unlink_within(path: Path, root: Path | None) -> None:
    """Delete the file ``path`` below ``root``. Raises OSError."""
    root = root or path.parent
    with held(root, path.parent.relative_to(root).parts) as directory:
        os.unlink(path.name, dir_fd=directory)


def write_file(path: Path, root: Path | None, data: bytes) -> None:
    """Write the regular file ``path`` below ``root``, replacing its content. Raises OSError."""
    descriptor = open_within(path, root, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o666)  # reduced by the umask
    try:
        write_all(descriptor, data)
    finally:
        os.close(descriptor)


def mode_of(name: str | Path, directory: int | None = None) -> int:
    """The mode of this name in a folder, without following a link; 0 if it does not exist."""
    try:
        return os.stat(name, dir_fd=directory, follow_symlinks=False).st_mode
    except OSError:
        return 0


def remove(name: str, directory: int) -> None:
    """Delete the folder ``name`` in the folder ``directory`` and everything in it, without following links. Raises OSError."""
    _remove(name, directory, 0)


def read_all(descriptor: int, start: int, end: int) -> bytes:
    """Bytes ``start`` to ``end`` of a file, as far as they exist. Memory is allocated only for existing bytes."""
    pieces = []
    end = min(end, os.fstat(descriptor).st_size)
    while start < end and (piece := os.pread(descriptor, end - start, start)):
        pieces.append(piece)
        start += len(piece)
    return pieces[0] if len(pieces) == 1 else b"".join(pieces)


def write_all(descriptor: int, data: bytes) -> None:
    """Write all of ``data`` at the descriptor's position."""
    written = os.write(descriptor, data)
    while written < len(data):
        written += os.write(descriptor, memoryview(data)[written:])


def _remove(name: str, directory: int, depth: int) -> None:
    # shutil.rmtree supports ``dir_fd`` only from Python 3.11 on.
    if depth == _DEEPEST:
        raise OSError(errno.ENAMETOOLONG, f"its folders are nested more than {_DEEPEST} deep", name)
    descriptor = os.open(name, _LISTED | os.O_NOFOLLOW, dir_fd=directory)
    try:
        with os.scandir(descriptor) as entries:
            inside = [(entry.name, entry.is_dir(follow_symlinks=False)) for entry in entries]
        for inner, is_folder in inside:
            if is_folder:
                _remove(inner, descriptor, depth + 1)
            else:
                os.unlink(inner, dir_fd=descriptor)
    finally:
        os.close(descriptor)
    os.rmdir(name, dir_fd=directory)


def _open_root(root: str | Path, flags: int, make: bool) -> int:
    try:
        return os.open(root, flags)
    except FileNotFoundError:
        if not make:
            raise
        Path(root).mkdir(parents=True, exist_ok=True)
        return os.open(root, flags)


def _make_and_open(name: str, flags: int, above: int, shown: str) -> int:
    with suppress(FileExistsError):  # another thread or process was faster, or it is a dangling link
        os.mkdir(name, dir_fd=above)
    try:
        return os.open(name, flags, dir_fd=above)
    except OSError as error:
        raise _explained(error, name, above, shown) from error


def _explained(error: OSError, name: str, above: int, shown: str) -> OSError:
    return IrregularError(shown, mode_of(name, above)) if error.errno in (errno.ENOTDIR, errno.ELOOP, errno.EMLINK) else error

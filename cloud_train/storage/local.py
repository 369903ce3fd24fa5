"""A store in a local folder. Objects are files, each written under a temporary name in the same folder, synced and then renamed."""

import errno
import os
import stat
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path

from cloud_train import locks
from cloud_train.beneath import IrregularError, open_file, open_folder, open_plain, read_all, write_all
from cloud_train.errors import StoreError
from cloud_train.storage.base import (
    InvalidKeyError,
    Multipart,
    NotPlainError,
    ObjectChangedError,
    ObjectExistsError,
    ObjectInfo,
    ObjectMissingError,
    UploadGoneError,
)

_PIECE_BYTES = 1 << 20
_TEMPORARY = ".cloud-train-"  # name prefix of files that are not objects yet
_NEW = os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC | os.O_NOFOLLOW
_LISTED = os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC
_DEEPEST = 100
"""Maximum depth of a listing: folders can be nested deeper than any path, and every level takes a descriptor."""


class LocalStore:
    """Objects as files under ``folder``, which may be a link; below it no link is followed, and only regular files are opened."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder.expanduser().absolute()
        self.url = self._root = str(self.folder)

    def put(self, key: str, data: bytes) -> ObjectInfo:
        """Write an object, replacing an existing one."""
        status = self._write(key, data, _replace)
        return ObjectInfo(key, status.st_size, status.st_mtime, _version(status))

    def create(self, key: str, data: bytes) -> ObjectInfo:
        """Write an object that must not exist yet; if several callers compete, exactly one succeeds."""
        status = self._write(key, data, _link)
        return ObjectInfo(key, status.st_size, status.st_mtime, _version(status))

    def replace(self, seen: ObjectInfo, data: bytes) -> ObjectInfo:
        """Write an object only if it is still in the version ``seen``, under the lock of its folder."""

        def publish(temporary: str, name: str, directory: int) -> None:
            with locks.folder_held(directory, self.path_of(seen.key).parent):
                try:
                    present = os.stat(name, dir_fd=directory, follow_symlinks=False)
                except FileNotFoundError as error:
                    raise ObjectChangedError(f"{self.path_of(seen.key)} no longer exists") from error
                if _version(present) != seen.version:
                    raise ObjectChangedError(f"{self.path_of(seen.key)} was changed by another process")
                _replace(temporary, name, directory)

        status = self._write(seen.key, data, publish)
        return ObjectInfo(seen.key, status.st_size, status.st_mtime, _version(status))

    def get(self, key: str, start: int = 0, end: int | None = None, *, version: str | None = None) -> bytes:
        """Bytes ``start`` to ``end`` (exclusive) of an object."""
        with self._opened(key) as descriptor:
            status = os.fstat(descriptor)
            if version is not None and version != _version(status):
                raise ObjectChangedError(f"{self.path_of(key)} changed while being read", hint="retry")
            return read_all(descriptor, start, status.st_size if end is None else end)

    def read(self, key: str, end: int | None = None) -> tuple[ObjectInfo, bytes]:
        """A whole object, or its first ``end`` bytes, with its information."""
        with self._opened(key) as descriptor:
            status = os.fstat(descriptor)
            info = ObjectInfo(key, status.st_size, status.st_mtime, _version(status))
            return info, read_all(descriptor, 0, status.st_size if end is None else min(end, status.st_size))

    def pieces(self, key: str, start: int, end: int | None, *, version: str | None = None) -> Iterator[bytes]:
        """A range of an object, piece by piece."""
        end = self.stat(key).size if end is None else end
        for begin in range(start, end, _PIECE_BYTES):
            yield self.get(key, begin, min(end, begin + _PIECE_BYTES), version=version)

    def stat(self, key: str) -> ObjectInfo:
        """Information about one object. As in ``list``, only regular files are objects."""
        *above, name = self._parts(key) or [""]
        try:
            directory = open_folder(self._root, above)
            try:
                status = os.stat(name, dir_fd=directory, follow_symlinks=False)
            finally:
                os.close(directory)
        except IrregularError as error:
            raise ObjectMissingError(f"{self.path_of(key)} is not a file: {error.path} is {error.what}") from error
        except OSError as error:
            raise _explain(error, f"read {self.path_of(key)}") from error
        if not stat.S_ISREG(status.st_mode):
            raise ObjectMissingError(f"{self.path_of(key)} is not a file")
        return ObjectInfo(key, status.st_size, status.st_mtime, _version(status))

    def list(self, prefix: str = "", after: str = "") -> Iterator[ObjectInfo]:
        """Every object whose key starts with ``prefix`` and is greater than ``after``, sorted by key."""
        above, slash, _ = prefix.rpartition("/")
        found: list[ObjectInfo] = []
        try:
            directory = open_folder(self._root, self._parts(above), listed=True)
        except OSError:  # the folder does not exist or is not accessible
            return iter(())
        try:
            _walk(directory, above + slash, prefix, after, found)
        finally:
            os.close(directory)
        return iter(sorted(found, key=lambda info: info.key))

    def folders(self, prefix: str = "") -> Iterator[str]:
        """The names of the folders directly under the folder ``prefix``, in order."""
        parts = self._parts(prefix.rstrip("/"))
        try:
            directory = open_folder(self._root, parts, listed=True)
            try:
                with os.scandir(directory) as entries:
                    names = [entry.name for entry in entries if entry.is_dir(follow_symlinks=False)]
            finally:
                os.close(directory)
        except (FileNotFoundError, IrregularError):
            names = []
        except OSError as error:
            raise _explain(error, f"list {self.path_of(prefix.rstrip('/'))}") from error
        return iter(sorted(names))

    def delete(self, key: str) -> None:
        """Delete an object; no error if it does not exist."""
        with suppress(ObjectMissingError), self._folder_of(key, "delete") as (directory, name):
            os.unlink(name, dir_fd=directory)

    def multipart(self) -> Multipart:
        """Writes large files in parts, which need not fit into memory together."""
        return _Pieces(self)

    def local_path(self, key: str) -> Path | None:
        """The object's file."""
        return self.path_of(key)

    @contextmanager
    def locked(self, folder: str) -> Iterator[None]:
        """Hold the lock of a folder of the store (empty: the store's own). Raises StoreError, also if another process holds it for long."""
        try:
            directory = open_folder(self._root, self._parts(folder))
        except OSError as error:
            raise _explain(error, f"open {self.path_of(folder)}") from error
        try:
            with locks.folder_held(directory, self.path_of(folder)):
                yield
        finally:
            os.close(directory)

    def path_of(self, key: str) -> Path:
        """The object's file; raises InvalidKeyError."""
        return self.folder.joinpath(*self._parts(key))

    @contextmanager
    def _opened(self, key: str) -> Iterator[int]:
        parts = self._parts(key)
        try:
            descriptor = open_file(self._root, parts) if parts else os.open(self._root, os.O_RDONLY | os.O_CLOEXEC)
            try:
                yield descriptor
            finally:
                os.close(descriptor)
        except OSError as error:
            raise _explain(error, f"read {self.path_of(key)}") from error

    @contextmanager
    def _folder_of(self, key: str, action: str, *, make: bool = False) -> Iterator[tuple[int, str]]:
        """A descriptor of an object's folder, and its name in it; turns an OSError into a StoreError."""
        *above, name = self._parts(key) or [""]
        try:
            directory = open_folder(self._root, above, make=make)
            try:
                yield directory, name
            finally:
                os.close(directory)
        except OSError as error:
            if make:
                self._remove_empty_folders(above)
            raise _explain(error, f"{action} {self.path_of(key)}") from error

    def _parts(self, key: str) -> Sequence[str]:
        parts = key.split("/") if key else []
        if "\0" in key or "\\" in key or any(part in ("", ".", "..") for part in parts):
            raise InvalidKeyError(f"the key {key!r} is outside the store {self.url}")
        return parts

    def _write(self, key: str, data: bytes, publish: Callable[[str, str, int], None]) -> os.stat_result:
        with self._folder_of(key, "write", make=True) as (directory, name):
            temporary = f"{_TEMPORARY}{os.urandom(8).hex()}"
            descriptor = os.open(temporary, _NEW, 0o644, dir_fd=directory)  # reduced by the umask
            try:
                write_all(descriptor, data)
                os.fsync(descriptor)
                publish(temporary, name, directory)
                return os.fstat(descriptor)
            except BaseException:
                _unlink(temporary, directory)
                raise
            finally:
                os.close(descriptor)

    def _remove_empty_folders(self, parts: Sequence[str]) -> None:
        # A failed write must leave no trace, such as an empty run directory.
        with suppress(OSError):
            for number in range(len(parts) - 1, -1, -1):
                directory = open_folder(self._root, parts[:number])
                try:
                    os.rmdir(parts[number], dir_fd=directory)
                finally:
                    os.close(directory)


class _Pieces:
    """Writes a large file in parts under a temporary name, which is the token."""

    in_order = False

    def __init__(self, store: LocalStore) -> None:
        self._store = store

    def part_bytes(self, size: int) -> int:
        return 8 << 20

    def begin(self, key: str, size: int, sha256: str) -> str:
        token = f"{_TEMPORARY}{os.urandom(8).hex()}"
        with self._store._folder_of(key, "write", make=True) as (directory, _):
            descriptor = os.open(token, _NEW, 0o644, dir_fd=directory)
            try:
                os.ftruncate(descriptor, size)
            finally:
                os.close(descriptor)
        return token

    def send(self, key: str, token: str, number: int, offset: int, data: bytes) -> str:
        with self._begun(key, token, os.O_WRONLY) as (_, descriptor):
            view = memoryview(data)
            while view:
                written = os.pwrite(descriptor, view, offset)
                offset, view = offset + written, view[written:]
        return str(number)

    def finish(self, key: str, token: str, receipts: Mapping[int, str]) -> None:
        with self._begun(key, token) as (directory, descriptor):
            os.fsync(descriptor)
            _replace(token, key.rpartition("/")[2], directory)

    def abort(self, key: str, token: str) -> None:
        with suppress(UploadGoneError), self._begun(key, token) as (directory, _):
            _unlink(token, directory)

    @contextmanager
    def _begun(self, key: str, token: str, flags: int = os.O_RDONLY) -> Iterator[tuple[int, int]]:
        """Descriptors of the folder and of the temporary file; raises UploadGoneError if that does not exist any more."""
        gone = f"the unfinished upload of {self._store.path_of(key)} no longer exists"
        if not token.startswith(_TEMPORARY) or "/" in token:
            raise UploadGoneError(gone)
        try:
            with self._store._folder_of(key, "write") as (directory, _):
                descriptor = open_plain(token, flags, directory=directory)
                try:
                    yield directory, descriptor
                finally:
                    os.close(descriptor)
        except (ObjectMissingError, NotPlainError) as error:
            raise UploadGoneError(gone) from error


def _walk(directory: int, above: str, prefix: str, after: str, found: list[ObjectInfo]) -> None:
    """Add every object in and below an open folder, whose keys begin with ``above``. Vanishing and inaccessible files are left out."""
    inner = []
    with suppress(OSError), os.scandir(directory) as entries:
        for entry in entries:
            key = above + entry.name
            if entry.is_dir(follow_symlinks=False):
                if f"{key}/".startswith(prefix[: len(key) + 1]):
                    inner.append(entry.name)
            elif key.startswith(prefix) and key > after and not entry.name.startswith(_TEMPORARY) and entry.is_file(follow_symlinks=False):
                with suppress(OSError):
                    status = entry.stat(follow_symlinks=False)
                    found.append(ObjectInfo(key, status.st_size, status.st_mtime, _version(status)))
    if above.count("/") >= _DEEPEST:
        return
    for name in inner:
        with suppress(OSError):
            descriptor = os.open(name, _LISTED, dir_fd=directory)
            try:
                _walk(descriptor, f"{above}{name}/", prefix, after, found)
            finally:
                os.close(descriptor)


def _version(status: os.stat_result) -> str:
    return f"{status.st_ino}-{status.st_mtime_ns}-{status.st_size}"


def _replace(temporary: str, name: str, directory: int) -> None:
    try:
        os.rename(temporary, name, src_dir_fd=directory, dst_dir_fd=directory)
    except IsADirectoryError as error:
        raise IrregularError(f"{name!r}", stat.S_IFDIR) from error


def _link(temporary: str, name: str, directory: int) -> None:
    # Creating a hard link is the only atomic operation that fails if the name exists and never exposes an incomplete file.
    os.link(temporary, name, src_dir_fd=directory, dst_dir_fd=directory, follow_symlinks=False)
    _unlink(temporary, directory)


def _unlink(name: str, directory: int) -> None:
    with suppress(OSError):
        os.unlink(name, dir_fd=directory)


def _explain(error: OSError, action: str) -> StoreError:
    if isinstance(error, FileExistsError) and action.startswith("write"):
        return ObjectExistsError(f"cannot {action}: it already exists")
    if isinstance(error, FileNotFoundError):
        return ObjectMissingError(f"cannot {action}: no such file")
    if isinstance(error, IrregularError):
        what_to_do = "remove the link" if error.is_link else "move it away"
        hint = f"a store may contain only regular files and folders: {what_to_do}, then retry"
        return NotPlainError(f"cannot {action}: {error.path} is {error.what}", hint=hint)
    hints = {
        errno.ENOSPC: "free some space on that disk, or choose another folder with --store FOLDER",
        errno.EDQUOT: "your disk quota is used up; choose another folder with --store FOLDER",
        errno.EACCES: "change its permissions, or choose another folder with --store FOLDER",
        errno.EPERM: "change its permissions, or choose another folder with --store FOLDER",
        errno.EROFS: "that disk is read-only; choose another folder with --store FOLDER",
        errno.ENOTDIR: "part of that path is a file; choose another folder with --store FOLDER",
    }
    return StoreError(f"cannot {action}: {os.strerror(error.errno or 0).lower()}", hint=hints.get(error.errno or 0))

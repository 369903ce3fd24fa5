"""A store in a local folder. Objects are files; a write goes to a temporary name in the same folder, is synced and then renamed."""

import errno
import os
import shutil
import tempfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from cloud_train.errors import StoreError
from cloud_train.storage.base import InvalidKeyError, ObjectExistsError, ObjectInfo, ObjectMissingError

_TEMPORARY = ".cloud-train-"  # begins the name of a file that is not an object yet


class LocalStore:
    """Objects as files under ``folder``."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder.expanduser().absolute()
        self.url = str(self.folder)

    def put(self, key: str, data: bytes) -> None:
        """Write an object whole, replacing what was there."""
        self._write(key, lambda temporary: temporary.write_bytes(data), os.replace)

    def create(self, key: str, data: bytes) -> None:
        """Write an object that must not exist yet; of several callers at once exactly one succeeds."""
        # A hard link is the one atomic step that refuses a taken name and never shows half a file.
        self._write(key, lambda temporary: temporary.write_bytes(data), os.link)

    def put_file(self, key: str, path: Path) -> None:
        """Write a local file as an object, whole."""
        self._write(key, lambda temporary: shutil.copyfile(path, temporary), os.replace)

    def get(self, key: str, start: int = 0, end: int | None = None) -> bytes:
        """Bytes ``start`` to ``end`` (exclusive) of an object."""
        path = self._path(key)
        with _explained(f"read {path}", key), path.open("rb") as file:
            file.seek(start)
            return file.read() if end is None else file.read(max(0, end - start))

    def get_file(self, key: str, path: Path) -> None:
        """Write an object to a local file, under a temporary name first, then renamed."""
        source = self._path(key)
        with _explained(f"copy {source} to {path}", key):
            path.parent.mkdir(parents=True, exist_ok=True)
            with _temporary_beside(path) as temporary:
                shutil.copyfile(source, temporary)
                _sync(temporary)
                temporary.replace(path)

    def stat(self, key: str) -> ObjectInfo:
        """Size and time of one object."""
        path = self._path(key)
        with _explained(f"read {path}", key):
            status = path.stat()
            if not path.is_file():
                raise ObjectMissingError(f"{path} is not a file")
            return ObjectInfo(key, status.st_size, status.st_mtime)

    def list(self, prefix: str = "") -> Iterator[ObjectInfo]:
        """Every object whose key starts with ``prefix``, in the order of the keys."""
        above = self._path(prefix.rpartition("/")[0])
        found = []
        for folder, subfolders, names in os.walk(above):
            subfolders.sort()
            for name in names:
                path = Path(folder, name)
                key = path.relative_to(self.folder).as_posix()
                if key.startswith(prefix) and not name.startswith(_TEMPORARY) and path.is_file() and not path.is_symlink():
                    status = path.stat()
                    found.append(ObjectInfo(key, status.st_size, status.st_mtime))
        return iter(sorted(found, key=lambda info: info.key))

    def folders(self, prefix: str = "") -> Iterator[str]:
        """The names of the folders directly under the folder ``prefix``, in order."""
        path = self._path(prefix.rstrip("/"))
        try:
            with os.scandir(path) as entries:
                names = [entry.name for entry in entries if entry.is_dir(follow_symlinks=False)]
        except FileNotFoundError:
            names = []
        except OSError as error:
            raise _explain(error, f"list {path}", prefix) from error
        return iter(sorted(names))

    def delete(self, key: str) -> None:
        """Remove an object; it is no error if it is gone already."""
        path = self._path(key)
        with _explained(f"delete {path}", key):
            path.unlink(missing_ok=True)

    def local_path(self, key: str) -> Path | None:
        """Where this object lies as a file."""
        return self._path(key)

    def _path(self, key: str) -> Path:
        parts = key.split("/") if key else []
        if any(part in ("", ".", "..") or "\0" in part or "\\" in part for part in parts):
            raise InvalidKeyError(f"the key {key!r} does not stay inside the store {self.url}")
        return self.folder.joinpath(*parts)

    def _write(self, key: str, fill: Callable[[Path], object], publish: Callable[[Path, Path], object]) -> None:
        path = self._path(key)
        with _explained(f"write {path}", key):
            try:
                path.parent.mkdir(parents=True, exist_ok=True)
                with _temporary_beside(path) as temporary:
                    fill(temporary)
                    _sync(temporary)
                    publish(temporary, path)
            except OSError:
                self._remove_empty_folders(path.parent)
                raise

    def _remove_empty_folders(self, folder: Path) -> None:
        # A failed write leaves no trace, such as the empty folder of a run that never was.
        with suppress(OSError):
            while folder != self.folder:
                folder.rmdir()
                folder = folder.parent


@contextmanager
def _temporary_beside(path: Path) -> Iterator[Path]:
    descriptor, name = tempfile.mkstemp(prefix=_TEMPORARY, dir=path.parent)
    os.fchmod(descriptor, 0o644)
    os.close(descriptor)
    try:
        yield Path(name)
    finally:
        with suppress(OSError):
            Path(name).unlink()


def _sync(path: Path) -> None:
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


@contextmanager
def _explained(action: str, key: str) -> Iterator[None]:
    try:
        yield
    except OSError as error:
        raise _explain(error, action, key) from error


def _explain(error: OSError, action: str, key: str) -> StoreError:
    if isinstance(error, FileExistsError) and action.startswith("write"):
        return ObjectExistsError(f"cannot {action}: it exists already")
    if isinstance(error, FileNotFoundError):
        return ObjectMissingError(f"cannot {action}: there is no such file")
    hints = {
        errno.ENOSPC: "free some space on that disk, or choose another folder with --set store=FOLDER",
        errno.EDQUOT: "your disk quota is used up; choose another folder with --set store=FOLDER",
        errno.EACCES: "you have no permission there; choose another folder with --set store=FOLDER",
        errno.EPERM: "you have no permission there; choose another folder with --set store=FOLDER",
        errno.EROFS: "that disk is read-only; choose another folder with --set store=FOLDER",
        errno.ENOTDIR: "a part of that path is a file; choose another folder with --set store=FOLDER",
    }
    return StoreError(f"cannot {action}: {os.strerror(error.errno or 0).lower()}", hint=hints.get(error.errno or 0))

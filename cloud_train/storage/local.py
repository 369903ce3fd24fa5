"""A store in a local folder. Objects are files; a write goes to a temporary name in the same folder, is synced and then renamed."""

import errno
import os
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager, suppress
from pathlib import Path

from cloud_train.errors import StoreError
from cloud_train.storage.base import (
    InvalidKeyError,
    Multipart,
    ObjectChangedError,
    ObjectExistsError,
    ObjectInfo,
    ObjectMissingError,
    UploadGoneError,
)

_PIECE_BYTES = 1 << 20
_TEMPORARY = ".cloud-train-"  # begins the name of a file that is not an object yet


class LocalStore:
    """Objects as files under ``folder``."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder.expanduser().absolute()
        self.url = str(self.folder)

    def put(self, key: str, data: bytes) -> ObjectInfo:
        """Write an object whole, replacing what was there."""
        self._write(key, lambda temporary: temporary.write_bytes(data), os.replace)
        return self.stat(key)

    def create(self, key: str, data: bytes) -> None:
        """Write an object that must not exist yet; of several callers at once exactly one succeeds."""
        # A hard link is the one atomic step that refuses a taken name and never shows half a file.
        self._write(key, lambda temporary: temporary.write_bytes(data), os.link)

    def get(self, key: str, start: int = 0, end: int | None = None, *, version: str | None = None) -> bytes:
        """Bytes ``start`` to ``end`` (exclusive) of an object."""
        path = self.path_of(key)
        with _explained(f"read {path}", key), path.open("rb") as file:
            if version is not None and version != _version(os.fstat(file.fileno())):
                raise ObjectChangedError(f"{path} was written anew while it was read", hint="do it again")
            file.seek(start)
            return file.read() if end is None else file.read(max(0, end - start))

    def read(self, key: str) -> tuple[ObjectInfo, bytes]:
        """A whole object, and what is known of it."""
        path = self.path_of(key)
        with _explained(f"read {path}", key), path.open("rb") as file:
            status = os.fstat(file.fileno())
            return ObjectInfo(key, status.st_size, status.st_mtime, _version(status)), file.read()

    def pieces(self, key: str, start: int, end: int, *, version: str | None = None) -> Iterator[bytes]:
        """The bytes of a range, one piece after another."""
        for begin in range(start, end, _PIECE_BYTES):
            yield self.get(key, begin, min(end, begin + _PIECE_BYTES), version=version)

    def stat(self, key: str) -> ObjectInfo:
        """Size and time of one object."""
        path = self.path_of(key)
        with _explained(f"read {path}", key):
            status = path.stat()
            if not path.is_file():
                raise ObjectMissingError(f"{path} is not a file")
            return ObjectInfo(key, status.st_size, status.st_mtime, _version(status))

    def list(self, prefix: str = "", after: str = "") -> Iterator[ObjectInfo]:
        """Every object whose key starts with ``prefix`` and is greater than ``after``, in the order of the keys."""
        above = self.path_of(prefix.rpartition("/")[0])
        found = []
        for folder, subfolders, names in os.walk(above):
            subfolders.sort()
            for name in names:
                path = Path(folder, name)
                key = path.relative_to(self.folder).as_posix()
                if key.startswith(prefix) and key > after and not name.startswith(_TEMPORARY) and path.is_file() and not path.is_symlink():
                    status = path.stat()
                    found.append(ObjectInfo(key, status.st_size, status.st_mtime, _version(status)))
        return iter(sorted(found, key=lambda info: info.key))

    def folders(self, prefix: str = "") -> Iterator[str]:
        """The names of the folders directly under the folder ``prefix``, in order."""
        path = self.path_of(prefix.rstrip("/"))
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
        path = self.path_of(key)
        with _explained(f"delete {path}", key):
            path.unlink(missing_ok=True)

    def multipart(self) -> Multipart:
        """Large files in pieces, so that none has to fit into memory."""
        return _Pieces(self)

    def local_path(self, key: str) -> Path | None:
        """Where this object lies as a file."""
        return self.path_of(key)

    def path_of(self, key: str) -> Path:
        """The file that an object is; raises InvalidKeyError."""
        parts = key.split("/") if key else []
        if any(part in ("", ".", "..") or "\0" in part or "\\" in part for part in parts):
            raise InvalidKeyError(f"the key {key!r} does not stay inside the store {self.url}")
        return self.folder.joinpath(*parts)

    def _write(self, key: str, fill: Callable[[Path], object], publish: Callable[[Path, Path], object]) -> None:
        path = self.path_of(key)
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


class _Pieces:
    """A large file, written piece by piece under a temporary name. The token is that name."""

    in_order = False

    def __init__(self, store: LocalStore) -> None:
        self._store = store

    def part_bytes(self, size: int) -> int:
        return 8 << 20

    def begin(self, key: str, size: int, sha256: str) -> str:
        path = self._store.path_of(key)
        token = f"{_TEMPORARY}{os.urandom(8).hex()}"
        with _explained(f"write {path}", key):
            path.parent.mkdir(parents=True, exist_ok=True)
            with path.with_name(token).open("xb") as file:
                file.truncate(size)
        return token

    def sent(self, key: str, token: str) -> Mapping[int, str]:
        """None: what a crash left in the file may be anything, and writing it again costs less than reading it."""
        self._check(key, token)
        return {}

    def is_part(self, receipt: str, data: bytes) -> bool:
        return False

    def send(self, key: str, token: str, number: int, offset: int, data: bytes) -> str:
        with _explained(f"write {self._store.path_of(key)}", key):
            descriptor = os.open(self._check(key, token), os.O_WRONLY | os.O_CLOEXEC | os.O_NOFOLLOW)
            try:
                view = memoryview(data)
                while view:
                    written = os.pwrite(descriptor, view, offset)
                    offset, view = offset + written, view[written:]
            finally:
                os.close(descriptor)
        return str(number)

    def finish(self, key: str, token: str, receipts: Mapping[int, str]) -> None:
        temporary = self._check(key, token)
        with _explained(f"write {self._store.path_of(key)}", key):
            _sync(temporary)
            temporary.replace(self._store.path_of(key))

    def abort(self, key: str, token: str) -> None:
        with suppress(UploadGoneError):
            self._check(key, token).unlink(missing_ok=True)

    def _check(self, key: str, token: str) -> Path:
        path = self._store.path_of(key).with_name(token)
        if not token.startswith(_TEMPORARY) or not path.is_file():
            raise UploadGoneError(f"what was begun of {self._store.path_of(key)} is gone")
        return path


def _version(status: os.stat_result) -> str:
    return f"{status.st_ino}-{status.st_mtime_ns}-{status.st_size}"


@contextmanager
def _temporary_beside(path: Path) -> Iterator[Path]:
    # By hand, because tempfile takes 6 ms to import, and every worker and every command needs this.
    temporary = path.with_name(f"{_TEMPORARY}{os.urandom(8).hex()}")
    descriptor = os.open(temporary, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o644)
    os.fchmod(descriptor, 0o644)  # whatever the umask says
    os.close(descriptor)
    try:
        yield temporary
    finally:
        with suppress(OSError):
            temporary.unlink()


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
        errno.ENOSPC: "free some space on that disk, or choose another folder with --store FOLDER",
        errno.EDQUOT: "your disk quota is used up; choose another folder with --store FOLDER",
        errno.EACCES: "you have no permission there; choose another folder with --store FOLDER",
        errno.EPERM: "you have no permission there; choose another folder with --store FOLDER",
        errno.EROFS: "that disk is read-only; choose another folder with --store FOLDER",
        errno.ENOTDIR: "a part of that path is a file; choose another folder with --store FOLDER",
    }
    return StoreError(f"cannot {action}: {os.strerror(error.errno or 0).lower()}", hint=hints.get(error.errno or 0))

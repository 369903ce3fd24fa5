"""The manifest of a complete folder (a checkpoint or a final model): every file with its size and SHA-256, written last.

A folder without a valid manifest is ignored. ``manifest.json``::

    {"format": 1, "step": 1200, "metrics": {"validation/accuracy": 0.98}, "fingerprint": {…},
     "files": {"model.safetensors": {"size": 139304, "sha256": "…"}}}

Manifests are untrusted: names are checked before they are used, and links are never followed. If ``root`` is given, the folder is below it
and no link on the way to it is followed either; otherwise the folder itself is trusted.
"""

import json
import math
import os
import re
import stat
import sys
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from dataclasses import asdict, dataclass, field
from io import FileIO
from pathlib import Path
from typing import Any

from cloud_train.beneath import IrregularError, held, open_file, write_all
from cloud_train.errors import CorruptError, StoreError
from cloud_train.run import documents
from cloud_train.run.documents import Fields
from cloud_train.run.layout import MANIFEST
from cloud_train.run.succession import publishing

FORMAT = 1
LARGEST = 16 * 2**20
"""Size limit of a manifest in bytes, enough for a hundred thousand files."""

REMOVE_LINK = "a run directory may contain only regular files and folders: remove it, then resume the run"

_TEMPORARY = ".manifest.json.tmp"
_NEW = os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC | os.O_NOFOLLOW
_PIECE_BYTES = 1 << 18
_SHA256 = re.compile(r"[0-9a-f]{64}")
_LONGEST = 1024
_LARGEST_FILE = 1 << 60


@dataclass(frozen=True, slots=True)
class FileEntry:
    """One file of a manifest: its size in bytes and its SHA-256 in hexadecimal."""

    size: int
    sha256: str


@dataclass(frozen=True)
class Manifest:
    """The contents of a complete folder."""

    step: int | None
    """The step of a checkpoint; None for a final model."""
    metrics: Mapping[str, float]
    files: Mapping[str, FileEntry]
    """Relative path, with '/' → size and SHA-256."""
    fingerprint: Mapping[str, Any] = field(default_factory=dict)
    """What bit-identical results depend on (device, versions, threads); empty if the program does not report it."""
    attempt: int | None = None
    """The attempt that made the folder; None if an earlier version wrote it, or a program outside cloud-train."""


def read_manifest(folder: Path, root: Path | None = None) -> Manifest:
    """Read ``folder/manifest.json``; raises CorruptError with the reason (missing, truncated, wrong format, unsafe names)."""
    return parse_manifest(manifest_bytes(folder, root), str(folder / MANIFEST))


def manifest_bytes(folder: Path, root: Path | None = None) -> bytes:
    """The bytes of ``folder/manifest.json``; raises CorruptError if it is missing or too large."""
    with _opened(folder, MANIFEST, root) as file:
        size = os.fstat(file.fileno()).st_size
        if size > LARGEST:
            raise CorruptError(f"{folder / MANIFEST} has {size:,} bytes; the limit is {LARGEST:,}")
        return file.read(LARGEST)


def parse_manifest(data: bytes, where: str) -> Manifest:
    """Parse a manifest; raises CorruptError, which names ``where``."""
    try:
        return _parse(data)
    except ValueError as error:
        raise CorruptError(f"{where} is not a manifest: {error}") from error


def check_sizes(folder: Path, root: Path | None = None) -> Manifest:
    """Read the manifest and check that every file exists with its size; raises CorruptError. Cheap: no content is read."""
    manifest = read_manifest(folder, root)
    for name, entry in manifest.files.items():
        with _opened(folder, name, root) as file:
            _check_size(folder / name, file.fileno(), entry)
    return manifest


def verify(folder: Path, root: Path | None = None) -> Manifest:
    """Read the manifest and check every file against it (size first, then SHA-256); raises CorruptError naming the file and the reason."""
    manifest = check_sizes(folder, root)
    for name, entry in manifest.files.items():
        with _opened(folder, name, root) as file:
            _check_size(folder / name, file.fileno(), entry)
            if _digest(file) != entry.sha256:
                raise CorruptError(f"{folder / name} is damaged: its SHA-256 differs from the manifest's")
    return manifest


def write_manifest(
    folder: Path,
    step: int | None,
    metrics: Mapping[str, float] | None = None,
    fingerprint: Mapping[str, Any] | None = None,
    root: Path | None = None,
    *,
    attempt: int | None = None,
) -> Manifest:
    """Hash and sync every file under ``folder``, then write the manifest under a temporary name, sync it and rename it.

    With ``attempt``, which made the folder, ``root`` is the run's own folder; raises SupersededError if a newer attempt has begun there.

    Metrics that are not finite are left out, because JSON cannot represent them. Raises StoreError if the disk is full, if the folder is
    empty or contains anything but regular files and folders, if a link leads to it from ``root``, or if a file changes meanwhile.
    """
    with _explained(f"seal {folder}"):
        files = {name: _seal(folder, name, root) for name in _names(folder, root)}
        if not files:
            raise StoreError(f"cannot seal {folder}: it holds no files")
        finite = {name: float(value) for name, value in (metrics or {}).items() if math.isfinite(value)}
        manifest = Manifest(step, finite, files, dict(fingerprint or {}), attempt)
        made_by = {} if attempt is None else {"attempt": attempt}
        fields = {name: value for name, value in asdict(manifest).items() if name != "attempt"}
        written = json.dumps({"format": FORMAT, **fields, **made_by}, allow_nan=False).encode() + b"\n"
        _write_synced(folder, root, written, attempt)
    return manifest


def _parse(data: bytes) -> Manifest:
    document = documents.load(data, LARGEST)
    documents.check_format(document, FORMAT)
    fields = Fields(document)
    metrics, listed = fields.mapping("metrics"), fields.mapping("files")
    if not all(type(value) in (int, float) and abs(value) <= sys.float_info.max for value in metrics.values()):
        raise ValueError("a metric is not a number")
    fingerprint = fields.mapping("fingerprint")
    step = None if fields.value("step") is None else fields.whole("step", 0, documents.LARGEST_STEP)
    files = {_checked_name(name): _entry(name, listed.pop(name)) for name in list(listed)}  # popped to save memory
    if not files:
        raise ValueError("it lists no files")
    return Manifest(step, metrics, files, fingerprint, fields.whole_or_none("attempt", 1, documents.MOST_ATTEMPTS))


def _checked_name(name: str) -> str:
    parts = name.split("/")
    if any(part in ("", ".", "..") for part in parts) or "\\" in name or not name.isprintable() or name == MANIFEST or len(name) > _LONGEST:
        raise ValueError(f"{name[:_LONGEST]!r} is not a valid file name")
    return name


def _entry(name: str, values: Any) -> FileEntry:
    size, sha256 = (values.get("size"), values.get("sha256")) if isinstance(values, dict) else (None, None)
    if type(size) is not int or not 0 <= size <= _LARGEST_FILE or not isinstance(sha256, str) or not _SHA256.fullmatch(sha256):
        raise ValueError(f"the size or SHA-256 of {name!r} is invalid")
    return FileEntry(size, sha256)


def _names(folder: Path, root: Path | None) -> list[str]:
    """The files in a folder and below it. Syncs the folders below it; the folder itself is synced with its manifest."""
    names, waiting = [], [""]
    while waiting:
        above = waiting.pop()
        top, *parts = _from(folder, root, above.rstrip("/"))
        with held(top, parts, listed=True) as directory:
            with os.scandir(directory) as entries:
                found = [(above + entry.name, entry.stat(follow_symlinks=False).st_mode) for entry in entries]
            if above:
                os.fsync(directory)
        for relative, mode in found:
            if relative in (MANIFEST, _TEMPORARY):
                continue
            if not stat.S_ISREG(mode) and not stat.S_ISDIR(mode):
                raise StoreError(f"cannot seal {folder}: {relative!r} is not a regular file", hint="save copies instead of links")
            if stat.S_ISDIR(mode) and len(relative) <= _LONGEST:
                waiting.append(f"{relative}/")
                continue
            try:
                names.append(_checked_name(relative))
            except ValueError as error:
                raise StoreError(f"cannot seal {folder}: {error}", hint="use plain file names") from error
    return sorted(names)


def _seal(folder: Path, name: str, root: Path | None) -> FileEntry:
    with _opened(folder, name, root) as file:
        before = os.fstat(file.fileno())
        os.fsync(file.fileno())
        digest = _digest(file)
        after = os.fstat(file.fileno())
        if (before.st_size, before.st_mtime_ns) != (after.st_size, after.st_mtime_ns):
            raise StoreError(f"cannot seal {folder}: {name!r} is still being written", hint="fill a temporary folder, then rename it")
        return FileEntry(after.st_size, digest)


def _digest(file: FileIO) -> str:
    import hashlib  # takes 2 ms, and a worker that starts without a checkpoint does not need it
    import mmap

    # Page-aligned memory: the kernel copies into a bytearray of this size, which begins 16 bytes into a page, at a third of the speed.
    digest, buffer = hashlib.sha256(), memoryview(mmap.mmap(-1, _PIECE_BYTES))
    while read := file.readinto(buffer):  # hashlib.file_digest came with Python 3.11, and the worker runs on 3.10 as well
        digest.update(buffer[:read])
    return digest.hexdigest()


def _write_synced(folder: Path, root: Path | None, data: bytes, attempt: int | None) -> None:
    top, *parts = _from(folder, root, "")
    with held(top, parts, listed=True) as directory:
        try:
            with suppress(FileNotFoundError):  # left by an interrupted write or by a program
                os.unlink(_TEMPORARY, dir_fd=directory)
            descriptor = os.open(_TEMPORARY, _NEW, 0o666, dir_fd=directory)
            with FileIO(descriptor, "wb") as file:
                write_all(descriptor, data)
                os.fsync(file.fileno())
            with publishing(root or folder, attempt):
                os.rename(_TEMPORARY, MANIFEST, src_dir_fd=directory, dst_dir_fd=directory)
        except (OSError, StoreError):
            with suppress(OSError):
                os.unlink(_TEMPORARY, dir_fd=directory)
            raise
        os.fsync(directory)


@contextmanager
def _opened(folder: Path, name: str, root: Path | None) -> Iterator[FileIO]:
    """Open a regular file below ``folder`` for reading, one path component at a time, so that no part of ``name`` can be a link."""
    try:
        top, *parts = _from(folder, root, name)
        with FileIO(open_file(top, parts), "rb") as file:
            yield file
    except IrregularError as error:
        raise CorruptError(f"{error.path} is {error.what}") from error
    except FileNotFoundError as error:
        raise CorruptError(f"{folder / name} is missing") from error
    except OSError as error:
        raise CorruptError(f"{folder / name} cannot be read: {os.strerror(error.errno or 0).lower()}") from error


def _from(folder: Path, root: Path | None, name: str) -> list[str]:
    """The trusted folder, then the path components to open below it one after another."""
    between = folder.relative_to(root).parts if root else ()
    return [str(root or folder), *between, *(name.split("/") if name else ())]


def _check_size(path: Path, descriptor: int, entry: FileEntry) -> None:
    size = os.fstat(descriptor).st_size
    if size != entry.size:
        raise CorruptError(f"{path} has {size:,} bytes; the manifest says {entry.size:,}")


@contextmanager
def _explained(action: str) -> Iterator[None]:
    try:
        yield
    except IrregularError as error:
        raise StoreError(f"cannot {action}: {error.path} is {error.what}", hint=REMOVE_LINK) from error
    except OSError as error:
        raise StoreError(
            f"cannot {action}: {os.strerror(error.errno or 0).lower()}", hint="free some space on that disk, then resume the run"
        ) from error
    except CorruptError as error:
        raise StoreError(f"cannot {action}: {error.message}") from error

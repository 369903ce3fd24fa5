"""Copying a whole run directory to this machine, and bringing the copy up to date. Every file is verified.

Files that are unchanged since they were verified are recognized by what ``transfer.remembered`` recorded, without reading them.
"""

import hashlib
import os
import time
from collections.abc import Iterable, Mapping
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path

from cloud_train.beneath import open_file, open_plain
from cloud_train.errors import ConflictError, CorruptError, UsageError
from cloud_train.orchestrator.connections import store_at
from cloud_train.orchestrator.home import Home
from cloud_train.orchestrator.results import ANOTHER_FOLDER, Report, download_verified, identity_of, manifest_at, unwritable
from cloud_train.orchestrator.run_directory import check_there
from cloud_train.orchestrator.state import read_run
from cloud_train.run import documents, layout
from cloud_train.run.manifest import FileEntry
from cloud_train.run.streams import SegmentedStream, stream_of
from cloud_train.storage.base import InvalidKeyError, ObjectInfo, ObjectMissingError, Store
from cloud_train.storage.transfer.downloading import Download
from cloud_train.storage.transfer.engine import Identity, Known, Options
from cloud_train.storage.transfer.paths import TEMPORARY, Placed, ignores_case, open_folder, place
from cloud_train.storage.transfer.remembered import Memory

_PIECE_BYTES = 8 << 20


@dataclass(frozen=True)
class SyncResult:
    """A copy of a run directory on this machine."""

    run_id: str
    folder: Path
    copied: tuple[str, ...]
    unchanged: int
    bytes: int
    """Bytes that were copied."""
    skipped: tuple[tuple[str, str], ...] = ()
    """Objects that cannot safely become files, and incomplete logs, each with the reason."""


def sync(home: Home, run_id: str, to: Path | None = None, report: Report | None = None) -> SyncResult:
    """Copy the run directory into ``to`` (by default ``./<run id>``); existing files with the same SHA-256 are left alone.

    Every file that a manifest lists is checked against it. Nothing is deleted. Raises ConflictError if the folder holds anything but a copy
    of this run. A copy is recognized by its ``run.json``, which is copied first, so that an interrupted copy can be continued.
    """
    run = read_run(home, run_id)
    store = store_at(run.store)
    target = (to or Path(run_id)).absolute()
    if store.local_path(run_id) == target:
        raise UsageError(f"{target} is the run directory itself", hint=ANOTHER_FOLDER)
    infos = {info.key: info for info in store.list(f"{run_id}/")}
    if not infos:
        check_there(store, run_id)
    _check_is_copy(target, run_id)
    memory = Memory.in_copy(target, store.url, f"{run_id}/")
    copy = _Copy(store, run_id, target, infos, memory)
    is_complete = False
    try:
        copy.bring_files(report)
        copy.bring_streams()
        is_complete = True
    finally:
        memory.write(is_complete)
    return copy.result()


@dataclass
class _Copy:
    """A copy of a run directory in progress. ``infos`` is the store's listing; with ``memory`` it tells which files are unchanged."""

    store: Store
    run_id: str
    target: Path
    infos: Mapping[str, ObjectInfo]
    memory: Memory
    copied: list[str] = field(default_factory=list)
    skipped: list[tuple[str, str]] = field(default_factory=list)
    moved_bytes: int = 0

    def __post_init__(self) -> None:
        self._segments: dict[str, list[ObjectInfo]] = {}
        # A stream becomes a file under its own name, so that name has to be safe.
        names = {key: _stream_name(key, self.run_id) for key in self.infos}
        streams = set(names.values())
        for key, info in self.infos.items():
            if (name := names[key] or key) in streams:
                self._segments.setdefault(name, []).append(info)
        all_names = dict.fromkeys(names[key] or key for key in self.infos)
        placed = _without_hidden(place(all_names, f"{self.run_id}/", ignores_case=ignores_case(_existing(self.target))))
        self.skipped += placed.skipped
        self._streams = {key: path for key, path in placed.paths.items() if key in streams}
        self._files = {path: key for key, path in placed.paths.items() if key not in streams}

    def bring_files(self, report: Report | None) -> None:
        """Copy each object that is missing here."""
        is_known = all(self.memory.sha256_of_object(key, self.infos[key].version) for key in self._files.values())
        expected = {} if is_known else _entries_of_manifests(self.store, self.run_id, self.infos)
        changed = [path for path, key in self._files.items() if not self._is_here(path, self.infos[key], expected.get(path))]
        if changed and not expected:
            expected = _entries_of_manifests(self.store, self.run_id, self.infos)
        options = Options(report=report, durable=False)
        for turn in range(3):
            part = [path for path in changed if _turn(path) == turn]
            copies = [_copy(self._files[path], self.target, path, expected.get(path), self.infos[self._files[path]].size) for path in part]
            self.skipped += download_verified(self.store, copies, options, self.memory)
        self.copied += changed
        self.moved_bytes += sum(self.infos[self._files[path]].size for path in changed)

    def bring_streams(self) -> None:
        """Copy each stream that is missing here, as one file."""
        for key, path in sorted(self._streams.items()):
            version = _version_of(self._segments[key])
            if self._is_same(path, key, version, self.memory.sha256_of_object(key, version)):
                continue
            stream = SegmentedStream(self.store, key)
            try:
                is_new, known = _assemble(stream, self.target, path, key, version)
            except InvalidKeyError as error:
                self.skipped.append((key, error.message))
                continue
            if is_new:
                self.copied.append(path)
                self.moved_bytes += sum(info.size for info in self._segments[key])
            if (gap := stream.missing()) is None:
                self.memory.learn([known])
            else:
                reason = f"cut off at byte {gap[0]:,}: the bytes up to {gap[1]:,} are missing from the store"
                self.skipped.append((path, reason))

    def result(self) -> SyncResult:
        """The result."""
        unchanged = max(0, len(self._files) + len(self._streams) - len(self.copied))
        return SyncResult(self.run_id, self.target, tuple(self.copied), unchanged, self.moved_bytes, tuple(self.skipped))

    def _is_here(self, path: str, info: ObjectInfo, entry: FileEntry | None) -> bool:
        remembered = self.memory.sha256_of_object(info.key, info.version)
        if entry is None:
            return self._is_same(path, info.key, info.version, remembered, info)
        if remembered not in (None, entry.sha256):
            return identity_of(self.target, path, entry.sha256) is not None
        return self._is_same(path, info.key, info.version, entry.sha256)

    def _is_same(self, path: str, key: str, version: str, sha256: str | None, info: ObjectInfo | None = None) -> bool:
        """Whether the file has this SHA-256, or if that is unknown, the one of ``info``."""
        try:
            descriptor = open_file(self.target, path.split("/"))
        except OSError:
            return False
        with os.fdopen(descriptor, "rb") as file:
            looked_ns, identity = time.time_ns(), Identity.of(os.fstat(descriptor))
            if self.memory.is_unchanged(key, version, identity):
                return True
            if info is not None and identity.size != info.size:
                return False
            if sha256 is None and info is not None:
                sha256 = self.store.stat(info.key).sha256 or _sha256_of_object(self.store, info)
            if sha256 is None or hashlib.file_digest(file, "sha256").hexdigest() != sha256:
                return False
        self.memory.learn([Known(key, sha256, version, identity, looked_ns)])
        return True


def _entries_of_manifests(store: Store, run_id: str, infos: Iterable[str]) -> dict[str, FileEntry]:
    """Every file of the run directory that a manifest lists; ``infos`` are the keys in it."""
    entries: dict[str, FileEntry] = {}
    for key in infos:
        folder, _, name = key.removeprefix(f"{run_id}/").rpartition("/")
        if name == layout.MANIFEST and (folder == layout.MODEL or _is_checkpoint(folder)):
            with suppress(ObjectMissingError, CorruptError):
                entries |= {f"{folder}/{name}": entry for name, entry in manifest_at(store, f"{run_id}/{folder}").files.items()}
    return entries


def _is_checkpoint(folder: str) -> bool:
    above, _, name = folder.rpartition("/")
    return layout.checkpoints_of(above) is not None and layout.step_of(name) is not None


def _version_of(segments: Iterable[ObjectInfo]) -> str:
    """A version of a stream that changes whenever one of its segments does."""
    lines = "".join(f"{info.key} {info.size} {info.version}\n" for info in segments)
    return hashlib.sha256(lines.encode(errors="surrogatepass")).hexdigest()


def _copy(key: str, target: Path, path: str, entry: FileEntry | None, size: int) -> Download:
    # ``below``: a store's listing is not trusted, and may be out of date.
    return Download(key, target / path, entry.size if entry else size, entry.sha256 if entry else None, below=target)


def _check_is_copy(target: Path, run_id: str) -> None:
    """Refuse a folder in which the run's objects, whatever their names, could overwrite files."""
    try:
        names = [path.name for path in target.iterdir() if not path.name.startswith(TEMPORARY)]
    except FileNotFoundError:
        return
    except OSError as error:
        raise ConflictError(f"cannot copy into {target}: {error.strerror}", hint=ANOTHER_FOLDER) from error
    if names and _run_id_of(target) != run_id:
        message = f"{target} is not empty and is not a copy of {run_id}: files in it could be overwritten"
        raise ConflictError(message, hint="name a new or empty folder with --to")


def _run_id_of(folder: Path) -> str | None:
    """The run id in a copy's ``run.json``."""
    try:
        with os.fdopen(open_file(folder, [layout.RUN]), "rb") as file:
            written = file.read(documents.LARGEST_RECORD + 1)
        return documents.Fields(documents.load(written, documents.LARGEST_RECORD)).text("run_id")
    except (OSError, ValueError):
        return None


def _without_hidden(placed: Placed) -> Placed:
    """Leave out hidden files, which no run has: programs act on some of them, such as ``.git``, which can contain commands."""
    hidden = [key for key, path in placed.paths.items() if path.startswith(".")]
    paths = {key: path for key, path in placed.paths.items() if key not in hidden}
    return Placed(paths, [*placed.skipped, *((key, "hidden files do not belong to a run") for key in hidden)])


def _turn(path: str) -> int:
    """The pass in which a file is copied: ``run.json`` first, to identify the copy; manifests last, so no partial copy looks complete."""
    return 0 if path == layout.RUN else 2 if path.endswith(f"/{layout.MANIFEST}") else 1


def _stream_name(key: str, run_id: str) -> str | None:
    """The stream that a segment belongs to; None outside an attempt, where a program may use any file name."""
    found = stream_of(key) if key.startswith(f"{run_id}/{layout.ATTEMPTS}/") else None
    return found[0] if found else None


def _sha256_of_object(store: Store, info: ObjectInfo) -> str:
    digest = hashlib.sha256()
    for piece in store.pieces(info.key, 0, info.size):
        digest.update(piece)
    return digest.hexdigest()


def _assemble(stream: SegmentedStream, target: Path, path: str, key: str, version: str) -> tuple[bool, Known]:
    """Write a stream that is stored in segments as one file; returns whether it is new, and the facts to remember.

    Raises InvalidKeyError if a link or a folder is in the way.
    """
    *above, name = path.split("/")
    directory = open_folder(target, above)
    temporary, sha256, position = f".{name}.arriving", hashlib.sha256(), 0
    try:
        with suppress(FileNotFoundError):  # from an interrupted copy
            os.unlink(temporary, dir_fd=directory)
        descriptor = open_plain(temporary, os.O_WRONLY | os.O_CREAT | os.O_EXCL, directory=directory)
        with os.fdopen(descriptor, "wb") as file:
            while piece := stream.read(position, position + _PIECE_BYTES):
                file.write(piece)
                sha256.update(piece)
                position += len(piece)
            file.flush()
            looked_ns, identity = time.time_ns(), identity_of(target, path, sha256.hexdigest())
            is_new = identity is None
            if identity is None:
                os.rename(temporary, name, src_dir_fd=directory, dst_dir_fd=directory)
                looked_ns, identity = time.time_ns(), Identity.of(os.fstat(descriptor))
    except IsADirectoryError as error:
        raise InvalidKeyError(f"{target / path} is a folder", hint="move it away") from error
    except OSError as error:
        raise unwritable(target / path, error) from error
    finally:
        with suppress(OSError):
            os.unlink(temporary, dir_fd=directory)
        os.close(directory)
    return is_new, Known(key, sha256.hexdigest(), version, identity, looked_ns)


def _existing(folder: Path) -> Path:
    """The folder, or the nearest one above it that exists."""
    return next(place for place in (folder, *folder.parents) if place.is_dir())

"""Copying between the objects under a prefix and a folder, either way: after one listing, only those that differ are moved.

Nothing is deleted on either side; a file that differs is replaced. Neither times nor sizes count as proof that files are identical:
``remembered`` knows which are unchanged, and SHA-256 decides about the others.
"""

import hashlib
import os
import stat
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path

from cloud_train.beneath import IrregularError, open_file
from cloud_train.storage.base import ObjectInfo, ObjectMissingError, Store
from cloud_train.storage.transfer.downloading import Download, download_step
from cloud_train.storage.transfer.engine import Engine, Identity, Known, Options, Summary
from cloud_train.storage.transfer.local_files import PIECE_BYTES, StoppedError, hash_file
from cloud_train.storage.transfer.paths import explain, explained, ignores_case, open_folder, place
from cloud_train.storage.transfer.pool import Step
from cloud_train.storage.transfer.remembered import Memory
from cloud_train.storage.transfer.uploading import Upload, upload_step

_HASHING_BYTES = PIECE_BYTES


def download_folder(store: Store, prefix: str, folder: Path, options: Options | None = None) -> Summary:
    """Download all objects under ``prefix`` (empty, or ending with '/') that differ from the files below ``folder``.

    Objects whose keys are unsafe as paths are skipped and listed in the summary with the reason. Raises like ``downloading.download``.
    """
    comparison = _Comparison.begin(store, folder, prefix, options or Options())
    os.close(open_folder(folder))
    placed = place(comparison.listed, prefix, ignores_case=ignores_case(folder))
    comparison.engine.skipped.extend(placed.skipped)
    comparison.run([step for key, path in placed.paths.items() if (step := _download_or_not(comparison, key, folder / path))])
    return comparison.engine.summary()


def upload_folder(
    store: Store, prefix: str, folder: Path, files: Mapping[str, Path], options: Options | None = None
) -> tuple[Summary, list[str]]:
    """Upload ``files`` below ``folder``, which are reached through no link, each to ``prefix`` and its name there, if the object differs.

    Returns also the keys under ``prefix`` that are none of these files. Raises like ``uploading.upload``.
    """
    comparison = _Comparison.begin(store, folder, prefix, options or Options())
    others = dict.fromkeys(comparison.listed)
    steps = []
    for name, path in files.items():
        others.pop(prefix + name, None)
        if step := _upload_or_not(comparison, prefix + name, path):
            steps.append(step)
    comparison.run(steps)
    return comparison.engine.summary(), list(others)


def _upload_or_not(comparison: "_Comparison", key: str, path: Path) -> Step | None:
    with explained(f"read {path}"):
        identity = Identity.of(path.stat(follow_symlinks=False))
    is_alike = key in comparison.listed and comparison.listed[key].size == identity.size
    if is_alike and comparison.is_unchanged(key, identity):
        return None
    comparison.engine.meter.expect(1, identity.size)
    file = Upload(path, key, below=comparison.folder)
    if is_alike:
        return Step(partial(_compare_and_upload, comparison, file, identity.size), _HASHING_BYTES)
    return upload_step(comparison.engine, file, identity.size)


def _compare_and_upload(comparison: "_Comparison", file: Upload, size: int) -> Sequence[Step]:
    if (known := comparison.same(file.key, file.path)) is not None:
        return comparison.settle(known)
    return [upload_step(comparison.engine, file, size)]


def _download_or_not(comparison: "_Comparison", key: str, path: Path) -> Step | None:
    info = comparison.listed[key]
    identity = _identity_of(path)
    if identity is not None and identity.size == info.size and comparison.is_unchanged(key, identity):
        return None
    comparison.engine.meter.expect(1, info.size)
    file = Download(key, path, info.size, below=comparison.folder)
    if identity is not None and identity.size == info.size:
        return Step(partial(_compare_and_download, comparison, file), _HASHING_BYTES)
    return download_step(comparison.engine, file)


def _compare_and_download(comparison: "_Comparison", file: Download) -> Sequence[Step]:
    if (known := comparison.same(file.key, file.path)) is not None:
        return comparison.settle(known)
    return [download_step(comparison.engine, file)]


def _identity_of(path: Path) -> Identity | None:
    """The identity of a regular file, or None."""
    try:
        status = path.stat(follow_symlinks=False)
    except OSError:
        return None
    return Identity.of(status) if stat.S_ISREG(status.st_mode) else None


@dataclass
class _Comparison:
    """One call's knowledge of both sides."""

    engine: Engine
    folder: Path
    prefix: str
    listed: dict[str, ObjectInfo]
    memory: Memory

    @classmethod
    def begin(cls, store: Store, folder: Path, prefix: str, options: Options) -> "_Comparison":
        engine = Engine(store, options)
        listed = {info.key: info for info in store.list(prefix)}
        return cls(engine, folder, prefix, listed, Memory.in_state(options.state_folder, store.url, prefix, folder))

    def is_unchanged(self, key: str, identity: Identity) -> bool:
        """Whether object and file are both unchanged since they were remembered."""
        if unchanged := self.memory.is_unchanged(key, self.listed[key].version, identity):
            self.engine.remembered.append(key)
        return unchanged

    def run(self, steps: Sequence[Step]) -> None:
        """Run the steps, then remember identical files, even after an error."""
        try:
            self.engine.run(iter(steps))
        finally:
            self.memory.learn([*self.engine.done, *self.engine.unchanged])
            self.memory.write()

    def same(self, key: str, path: Path) -> Known | None:
        """The file and the object if their SHA-256s match; None also if the object has none."""
        try:
            descriptor = open_file(self.folder, path.relative_to(self.folder).parts)
        except IrregularError:
            return None  # not a copy
        except OSError as error:
            raise explain(error, f"read {path}") from error
        try:
            looked_ns = time.time_ns()
            identity = Identity.of(os.fstat(descriptor))
            version = self.listed[key].version if key in self.listed else ""
            sha256 = self.memory.sha256_of_object(key, version)
            if sha256 is None:
                info = self._look(key)
                version, sha256 = (info.version, info.sha256) if info else ("", None)
            if sha256 is None:
                return None
            with explained(f"read {path}"):
                own = self.memory.sha256_of_file(key, identity) or hash_file(descriptor, identity.size, self.engine.stopped)
            return Known(key, sha256, version, identity, looked_ns) if own == sha256 else None
        finally:
            os.close(descriptor)

    def settle(self, known: Known) -> Sequence[Step]:
        """Count a file that is identical on both sides."""
        self.engine.meter.add(known.identity.size, 0)
        self.engine.meter.finish_file()
        self.engine.unchanged.append(known)
        return ()

    def _look(self, key: str) -> ObjectInfo | None:
        try:
            info = self.engine.store.stat(key)
        except ObjectMissingError:
            return None
        if info.sha256 is not None or self.engine.store.local_path(key) is None:
            return info
        return replace(info, sha256=self._sha256_of_object(key, info))

    def _sha256_of_object(self, key: str, info: ObjectInfo) -> str:
        digest = hashlib.sha256()
        for piece in self.engine.store.pieces(key, 0, info.size, version=info.version):
            if self.engine.stopped.is_set():
                raise StoppedError
            digest.update(piece)
        return digest.hexdigest()

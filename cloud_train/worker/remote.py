"""A cloud's store as the worker uses it directly: to claim attempts and to download checkpoints and marks.

Each call runs in a forked child, because a store's client has threads, and the worker has to stay free of threads to fork safely.
Downloads are untrusted: names are checked, and all content is verified against its manifest.
"""

from __future__ import annotations  # the worker also runs on Python 3.10, in users' own images

import os
import stat
import time
from collections.abc import Callable, Iterable
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

from cloud_train.beneath import IrregularError, held, mode_of, write_file
from cloud_train.errors import CloudTrainError, CorruptError, StoreError
from cloud_train.retry import RetryPolicy
from cloud_train.run import documents, layout
from cloud_train.run.succession import Branch
from cloud_train.storage.base import InvalidKeyError, ObjectExistsError, ObjectMissingError, Store
from cloud_train.storage.local import LocalStore
from cloud_train.storage.registry import open_store

Note = Callable[[str], None]

CLAIMED, TAKEN = "claimed", "taken"
_TRY_SECONDS = 120.0
_PAUSE_SECONDS = 2.0
_MARKS_SECONDS = 5.0  # a worker that is stopping has little time


@dataclass(frozen=True)
class Remote:
    """One run in a store."""

    url: str
    run_id: str

    def bring_record(self, workspace: LocalStore) -> str:
        """Download run.json into the workspace; raises StoreError."""
        key = f"{self.run_id}/{layout.RUN}"
        workspace.put(key, documents.read(self.store(), key, documents.LARGEST_RECORD))
        return ""

    def claim(self, name: str, status: bytes) -> str:
        """Create a status; returns ``CLAIMED``, or ``TAKEN`` if another worker has claimed the attempt. Raises StoreError."""
        try:
            self.store().create(f"{self.run_id}/{name}", status)
        except ObjectExistsError:
            return TAKEN
        return CLAIMED

    def status(self, name: str) -> str:
        """A status in the store, or an empty string; raises StoreError."""
        try:
            return documents.read(self.store(), f"{self.run_id}/{name}", documents.LARGEST_STATUS).decode(errors="replace")
        except ObjectMissingError:
            return ""

    def put_status(self, name: str, status: bytes) -> str:
        """Write a status; raises StoreError."""
        self.store().put(f"{self.run_id}/{name}", status)
        return ""

    def bring_marks(self, workspace: LocalStore, attempts: Iterable[int]) -> str:
        """Download the cancel marks of these attempts, with a short time limit; raises StoreError."""
        store = self.store(time_limit=_MARKS_SECONDS)
        for number in attempts:
            key = f"{self.run_id}/{layout.cancel(number)}"
            with suppress(ObjectMissingError):
                workspace.put(key, store.get(key, 0, documents.LARGEST_MARK))
        return ""

    def bring_newest(self, checkpoints: Path, note: Note, branch: Branch | None = None) -> None:
        """Download the newest valid checkpoint of the ``branch``, unless it is already here; raises StoreError."""
        from cloud_train.run.checkpoints import newest_valid

        store, prefix = self.store(), f"{self.run_id}/{layout.CHECKPOINTS}"
        here = newest_valid(checkpoints, note, branch)
        newest_here = -1 if here is None else layout.step_of(here.name) or 0
        names = [(step, name) for name in store.folders(f"{prefix}/") if (step := layout.step_of(name)) is not None and step > newest_here]
        for _, name in sorted(names, reverse=True):
            try:
                self._bring(store, name, checkpoints, branch)
            except ObjectMissingError as error:
                note(f"skipped checkpoint {name} in the store: incomplete ({error.message})")
            except (CorruptError, InvalidKeyError) as error:  # the latter for file names that conflict
                note(f"skipped checkpoint {name} in the store: {error.message}")
            else:
                note(f"downloaded checkpoint {name} from the store")
                return

    def bring(self, name: str, checkpoints: Path, patience: float, sleep: Callable[[float], None] = time.sleep) -> str:
        """Download the checkpoint that node 0 chose into the folder; raises StoreError or CorruptError.

        Node 0 may still be uploading it, so this waits up to ``patience`` seconds.
        """
        store, waited = self.store(), 0.0
        while not _is_here(checkpoints, name):
            try:
                self._bring(store, name, checkpoints)
            except ObjectMissingError:
                if waited >= patience:
                    raise
                sleep(_PAUSE_SECONDS)
                waited += _PAUSE_SECONDS
        return ""

    def _bring(self, store: Store, name: str, checkpoints: Path, branch: Branch | None = None) -> None:
        from cloud_train.run.checkpoints import check_branch, put_in_place
        from cloud_train.run.manifest import LARGEST, parse_manifest
        from cloud_train.storage.transfer.downloading import Download, download

        prefix = f"{self.run_id}/{layout.CHECKPOINTS}/{name}"
        written = documents.read(store, f"{prefix}/{layout.MANIFEST}", LARGEST)
        manifest = parse_manifest(written, f"{store.url}/{prefix}/{layout.MANIFEST}")
        if manifest.step != layout.step_of(name):
            raise CorruptError(f"its manifest is for step {manifest.step}")
        check_branch(branch, manifest)
        temporary = checkpoints / f".{name}-brought"
        root = checkpoints.parent  # the run's own folder, below which a program may create a link at any time
        files = [
            Download(f"{prefix}/{file}", temporary / file, size=entry.size, sha256=entry.sha256, below=root)
            for file, entry in manifest.files.items()
        ]
        for key, reason in download(store, files).skipped:  # deleted by now, or blocked by a link
            raise ObjectMissingError(f"{store.url}/{key} did not arrive: {reason}")
        try:
            write_file(temporary / layout.MANIFEST, root, written)
            put_in_place(temporary.name, checkpoints, name)
        except OSError as error:
            reason = error.what if isinstance(error, IrregularError) else os.strerror(error.errno or 0).lower()
            raise StoreError(f"cannot write {checkpoints / name}: {reason}") from error

    def store(self, time_limit: float = _TRY_SECONDS) -> Store:
        """The store, for use in a forked child; raises StoreError."""
        try:
            return open_store(self.url, RetryPolicy(time_limit=time_limit))
        except CloudTrainError as error:
            raise StoreError(f"cannot open {self.url}: {error.message}", hint=error.hint) from error


def _is_here(checkpoints: Path, name: str) -> bool:
    try:
        with held(checkpoints.parent, (checkpoints.name,)) as directory:
            return stat.S_ISDIR(mode_of(name, directory))
    except IrregularError as error:
        raise StoreError(f"cannot write {checkpoints / name}: {error.path} is {error.what}") from error
    except OSError:
        return False

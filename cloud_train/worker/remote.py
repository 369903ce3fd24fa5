"""A cloud's store as the worker uses it directly: to claim attempts and to download checkpoints and marks.

Each call runs in a forked child, because a store's client has threads, and the worker has to stay free of threads to fork safely.
Downloads are untrusted: names are checked, and all content is verified against its manifest.
"""

from __future__ import annotations  # the worker also runs on Python 3.10, in users' own images

import os
import time
from collections.abc import Callable, Iterable
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

from cloud_train.beneath import IrregularError, write_file
from cloud_train.errors import CloudTrainError, CorruptError, StoreError
from cloud_train.retry import RetryPolicy
from cloud_train.run import documents, layout
from cloud_train.run.succession import Branch
from cloud_train.storage.base import InvalidKeyError, ObjectChangedError, ObjectExistsError, ObjectMissingError, Store
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

    def end_for(self, name: str, seen: str, ended: bytes) -> str:
        """Write an end in the place of a worker that is gone, if its status is still as ``seen``; returns the status that is there then.

        Raises StoreError.
        """
        store, key = self.store(), f"{self.run_id}/{name}"
        with suppress(ObjectChangedError, ObjectMissingError):
            info, present = store.read(key, documents.LARGEST_STATUS)
            if present.decode(errors="replace") == seen:
                store.replace(info, ended)
        return self.status(name)

    def bring_marks(self, workspace: LocalStore, attempts: Iterable[int]) -> str:
        """Download the cancel marks of these attempts, with a short time limit; raises StoreError."""
        store = self.store(time_limit=_MARKS_SECONDS)
        for number in attempts:
            key = f"{self.run_id}/{layout.cancel(number)}"
            with suppress(ObjectMissingError):
                workspace.put(key, store.get(key, 0, documents.LARGEST_MARK))
        return ""

    def bring_file(self, name: str, path: Path, size: int, sha256: str) -> None:
        """Download a file of the run directory, with this SHA-256. Raises CorruptError, also if it is missing, and StoreError."""
        from cloud_train.storage.transfer.downloading import Download, download

        try:
            download(self.store(), [Download(f"{self.run_id}/{name}", path, size, sha256)])
        except ObjectMissingError as error:
            raise CorruptError(f"{self.url}/{self.run_id}/{name} is missing", hint="submit the job again") from error

    def bring_newest(self, checkpoints: Path, note: Note, branch: Branch | None = None) -> dict[str, int | None]:
        """Download the newest valid checkpoint of the ``branch`` into this attempt's own folder, unless it is already here.

        Returns the attempt that made it, by its name. Raises StoreError.
        """
        from cloud_train.run.checkpoints import newest_valid, places_in_store

        store = self.store()
        here = newest_valid(checkpoints, note, branch)
        newest_here = -1 if here is None else layout.step_of(here.name) or 0
        for step, attempt, name in places_in_store(store, self.run_id):
            if step <= newest_here:
                break
            try:
                made_by = self._bring(store, attempt, name, checkpoints, branch)
            except ObjectMissingError as error:
                note(f"skipped checkpoint {name} in the store: incomplete ({error.message})")
            except (CorruptError, InvalidKeyError) as error:  # the latter for file names that conflict
                note(f"skipped checkpoint {name} in the store: {error.message}")
            else:
                note(f"downloaded checkpoint {name} from the store")
                return {name: made_by}
        return {}

    def bring(self, name: str, digest: str, checkpoints: Path, patience: float, sleep: Callable[[float], None] = time.sleep) -> str:
        """Download the checkpoint that node 0 chose into this attempt's own folder; raises StoreError or CorruptError.

        ``digest`` is the SHA-256 of its manifest. Node 0 may still be uploading it, so this waits up to ``patience`` seconds.
        """
        store, waited = self.store(), 0.0
        while not _is_here(checkpoints, name, digest):
            try:
                self._bring(store, self._place_of(store, name, digest), name, checkpoints)
            except ObjectMissingError:
                if waited >= patience:
                    raise
                sleep(_PAUSE_SECONDS)
                waited += _PAUSE_SECONDS
        return ""

    def _place_of(self, store: Store, name: str, digest: str) -> int:
        """The attempt in whose folder the store has the checkpoint with this manifest. Raises ObjectMissingError."""
        import hashlib

        from cloud_train.run.checkpoints import places_in_store
        from cloud_train.run.manifest import LARGEST

        for _, attempt, found in places_in_store(store, self.run_id):
            key = f"{self.run_id}/{layout.checkpoints(attempt)}/{name}/{layout.MANIFEST}"
            with suppress(ObjectMissingError, CorruptError):
                if found == name and hashlib.sha256(documents.read(store, key, LARGEST)).hexdigest() == digest:
                    return attempt
        raise ObjectMissingError(f"{store.url}/{self.run_id} has no checkpoint {name} as node 0 chose it")

    def _bring(self, store: Store, attempt: int, name: str, checkpoints: Path, branch: Branch | None = None) -> int | None:
        """Download a checkpoint from the folder of ``attempt``; returns the attempt that made it, None if unknown."""
        from cloud_train.run.checkpoints import check_branch, put_in_place
        from cloud_train.run.manifest import LARGEST, parse_manifest
        from cloud_train.storage.transfer.downloading import Download, download

        prefix = f"{self.run_id}/{layout.checkpoints(attempt)}/{name}"
        written = documents.read(store, f"{prefix}/{layout.MANIFEST}", LARGEST)
        manifest = parse_manifest(written, f"{store.url}/{prefix}/{layout.MANIFEST}")
        if manifest.step != layout.step_of(name):
            raise CorruptError(f"its manifest is for step {manifest.step}")
        check_branch(branch, manifest, attempt)
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
        return branch.maker(manifest.attempt, attempt) if branch else manifest.attempt

    def store(self, time_limit: float = _TRY_SECONDS) -> Store:
        """The store, for use in a forked child; raises StoreError."""
        try:
            return open_store(self.url, RetryPolicy(time_limit=time_limit))
        except CloudTrainError as error:
            raise StoreError(f"cannot open {self.url}: {error.message}", hint=error.hint) from error


def _is_here(checkpoints: Path, name: str, digest: str) -> bool:
    from cloud_train.run.checkpoints import take_over_one

    try:
        return take_over_one(checkpoints, name, digest)
    except IrregularError as error:
        raise StoreError(f"cannot write {checkpoints / name}: {error.path} is {error.what}") from error
    except OSError:
        return False

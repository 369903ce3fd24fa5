"""Uploading folders: checkpoints and the final model, with their manifests last, and all other files of an attempt.

A folder without its manifest is ignored. The store keeps the newest and the best checkpoints, as the machine does. It is pruned only after
a checkpoint to keep has been uploaded completely, so the last complete one is never deleted.
"""

import os
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping
from contextlib import suppress
from pathlib import Path
from time import monotonic

from cloud_train.beneath import IrregularError, held, open_folder, open_within
from cloud_train.errors import CorruptError, StoreError
from cloud_train.run import documents, layout
from cloud_train.run.checkpoints import kept
from cloud_train.run.fencing import publish
from cloud_train.run.manifest import LARGEST, Manifest, parse_manifest, read_manifest
from cloud_train.run.record import Program
from cloud_train.run.succession import Branch
from cloud_train.storage.base import ObjectMissingError, Store
from cloud_train.storage.local import LocalStore
from cloud_train.storage.transfer.uploading import Upload, upload
from cloud_train.worker.nodes import NodeContext

Note = Callable[[str], None]

_OTHERS_SECONDS = 30.0  # between two uploads of a changing file that is neither a stream nor the status


class FolderUploads:
    """One node's uploads other than its streams and its status."""

    def __init__(
        self,
        workspace: LocalStore,
        store: Store,
        run_id: str,
        program: Program,
        *,
        node: NodeContext,
        note: Note,
        check: Callable[[], None] = lambda: None,
        branch: Branch | None = None,
        clock: Callable[[], float] = monotonic,
    ) -> None:
        """``check`` raises SupersededError if a newer attempt has begun; it is called before results are written. Checkpoints in the store
        that do not belong to the ``branch`` count as incomplete.
        """
        self._check, self._branch = check, branch
        self._run = workspace.path_of(run_id)
        self._store, self._run_id, self._program, self._node, self._note = store, run_id, program, node, note
        self._there: dict[str, Manifest | None] | None = None
        self._spoilt: dict[str, Manifest] = {}
        """Checkpoints on this machine with a file that differs from the manifest."""
        self._model: Manifest | None = None
        self._clock = clock
        self._others: dict[str, tuple[int, int]] = {}
        self._next_others = clock()

    def look(self, attempts: Collection[int], ended: Collection[int]) -> bool:
        """Upload whatever is complete and not in the store yet; returns True. Raises StoreError.

        Other files of ``attempts`` are uploaded every now and then, those of ``ended`` attempts immediately.
        """
        if self._node.rank == 0:
            self._upload_checkpoints()
            self._upload_model()
        is_time = self._clock() >= self._next_others
        if is_time:
            self._next_others = self._clock() + _OTHERS_SECONDS
        for number in {*attempts, *ended} if is_time else ended:
            self._upload_others(number)
        return True

    def _upload_checkpoints(self) -> None:
        while (found := self._newest_waiting()) is not None:
            name, manifest = found
            self._check()
            there = self._checkpoints_there()
            if there.get(name) is not None:  # from an earlier attempt at the same step: it must be invalid while its files are replaced
                self._store.delete(f"{self._run_id}/{layout.CHECKPOINTS}/{name}/{layout.MANIFEST}")
            there[name] = None
            try:
                is_there = self._upload_folder(f"{layout.CHECKPOINTS}/{name}", manifest)
            except CorruptError as error:
                self._note(f"cannot upload checkpoint {name}: {error.message}")
                self._spoilt[name], is_there = manifest, False
            if is_there:
                there[name] = manifest
                self._note(f"uploaded checkpoint {name}")
                self._prune(uploaded=name)
            else:
                self._delete_there(name)

    def _newest_waiting(self) -> tuple[str, Manifest] | None:
        """The newest checkpoint that is not in the store yet, among those that pruning would keep."""
        here = self._checkpoints_here()
        if not here:
            return None
        there = self._checkpoints_there()
        stay = self._staying(here)
        return next(((name, manifest) for name, manifest in here.items() if name in stay and there.get(name) != manifest), None)

    def _checkpoints_here(self) -> dict[str, Manifest]:
        """The complete checkpoints on this machine, the newest first."""
        here = {}
        for name in _newest_first(_steps_in(self._run)):
            with suppress(CorruptError):  # not sealed yet, or just being pruned
                here[name] = read_manifest(self._run / layout.CHECKPOINTS / name, self._run)
        return {name: manifest for name, manifest in here.items() if self._spoilt.get(name) != manifest}

    def _staying(self, here: Mapping[str, Manifest]) -> set[str]:
        """The checkpoints to keep in the store. Any that are newer than all on this machine are left out: the worker skipped them."""
        newest = max((layout.step_of(name) or 0 for name in here), default=0)
        complete = {name: found for name, found in self._checkpoints_there().items() if found and (layout.step_of(name) or 0) <= newest}
        complete |= here
        order = [(name, complete[name]) for name in _newest_first(complete)]
        return kept(order, self._program.keep_checkpoints, self._program.ranking)

    def _upload_model(self) -> None:
        try:
            manifest = read_manifest(self._run / layout.MODEL, self._run)
        except CorruptError:
            return  # no model, or not yet
        if manifest != self._model and self._upload_folder(layout.MODEL, manifest):
            self._model = manifest
            self._note("uploaded the final model")

    def _upload_folder(self, name: str, manifest: Manifest) -> bool:
        """Upload a folder, its manifest last. False if the folder was deleted meanwhile, as old checkpoints are."""
        folder, prefix = self._run / name, f"{self._run_id}/{name}"
        try:
            with os.fdopen(open_within(folder / layout.MANIFEST, self._run), "rb") as file:
                written = file.read(LARGEST)
            uploads = [Upload(folder / name, f"{prefix}/{name}", entry.sha256, below=self._run) for name, entry in manifest.files.items()]
            self._check()
            upload(self._store, uploads)
            publish(self._store, f"{prefix}/{layout.MANIFEST}", written, self._check)
        except (OSError, StoreError, CorruptError):
            if not (folder / layout.MANIFEST).exists():
                return False
            raise
        return True

    def _upload_others(self, number: int) -> None:
        """Upload TensorBoard files, the reason for a failure and all other files except streams, statuses and marks."""
        for path in _files_below(self._run, layout.attempt(number)):
            name = path.relative_to(self._run).as_posix()
            if self._is_other(name, number):
                with suppress(FileNotFoundError):
                    status = path.lstat()
                    seen = (status.st_size, status.st_mtime_ns)
                    if self._others.get(name) != seen:
                        upload(self._store, [Upload(path, f"{self._run_id}/{name}", below=self._run)])
                        self._others[name] = seen

    def _is_other(self, name: str, number: int) -> bool:
        rank = self._node.rank
        known = {layout.status(number), layout.cancel(number), layout.superseded(number), layout.start(number), layout.following(number)}
        streams = {layout.output_log(number, rank), layout.worker_log(number, rank), layout.metrics(number, rank)}
        if name in known | streams or name.endswith("/status.json"):
            return False
        if self._node.nodes == 1:
            return True
        of_another = name.startswith(f"{layout.attempt(number)}/nodes/")
        return name == layout.failure(number, rank) or (rank == 0 and not of_another)

    def _prune(self, uploaded: str) -> None:
        """Delete the checkpoints not to keep, now that ``uploaded`` is complete."""
        self._check()
        here = self._checkpoints_here()
        stay = self._staying(here) | {uploaded}
        newest = max(layout.step_of(name) or 0 for name in stay)
        for name in [name for name in self._checkpoints_there() if name not in stay and (layout.step_of(name) or 0) <= newest]:
            self._delete_there(name)

    def _delete_there(self, name: str) -> None:
        # The manifest first, so that a half-deleted checkpoint is invalid.
        prefix = f"{self._run_id}/{layout.CHECKPOINTS}/{name}/"
        self._store.delete(f"{prefix}{layout.MANIFEST}")
        for info in self._store.list(prefix):
            self._store.delete(info.key)
        self._checkpoints_there().pop(name, None)

    def _checkpoints_there(self) -> dict[str, Manifest | None]:
        """Every checkpoint folder in the store, with None for an invalid manifest. Listed once, because only this node writes there."""
        if self._there is None:
            prefix = f"{self._run_id}/{layout.CHECKPOINTS}"
            names = [name for name in self._store.folders(f"{prefix}/") if layout.step_of(name) is not None]
            found = {name: manifest_there(self._store, f"{prefix}/{name}") for name in names}
            self._there = {name: manifest if self._is_ours(manifest) else None for name, manifest in found.items()}
        return self._there

    def _is_ours(self, manifest: Manifest | None) -> bool:
        return manifest is not None and (self._branch is None or self._branch.holds(manifest.attempt, manifest.step or 0))


def manifest_there(store: Store, prefix: str) -> Manifest | None:
    """The manifest of a folder in the store; None if it is missing or invalid."""
    key = f"{prefix}/{layout.MANIFEST}"
    try:
        return parse_manifest(documents.read(store, key, LARGEST), f"{store.url}/{key}")
    except (ObjectMissingError, CorruptError):
        return None


def _steps_in(run: Path) -> list[str]:
    try:
        with held(run, (layout.CHECKPOINTS,), listed=True) as directory:
            return [name for name in os.listdir(directory) if layout.step_of(name) is not None]  # noqa: PTH208 -- only names are needed
    except (FileNotFoundError, IrregularError):  # the latter ends the attempt, because the worker checks this folder as well
        return []


def _newest_first(names: Iterable[str]) -> list[str]:
    return sorted(names, key=lambda name: layout.step_of(name) or 0, reverse=True)


def _files_below(run: Path, folder: str) -> Iterator[Path]:
    try:
        os.close(open_folder(run, folder.split("/")))
    except OSError:
        return
    for place, _, names in os.walk(run / folder):
        for name in sorted(names):
            path = Path(place, name)
            if not name.startswith(".") and path.is_file() and not path.is_symlink():
                yield path

"""Uploading folders: checkpoints and the final model, with their manifests last, and all other files of an attempt.

A folder without its manifest is ignored. The store keeps the newest and the best checkpoints, as the machine does. It is pruned only after
a checkpoint to keep has been uploaded completely, so the last complete one is never deleted.

As on the machine, the checkpoints of each attempt are in a folder of their own. Requests of an attempt that was overtaken, even if they
arrive late, reach only its own; those of earlier attempts are only deleted, by the attempt that continues them.
"""

import os
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping
from contextlib import suppress
from pathlib import Path
from time import monotonic

from cloud_train.beneath import IrregularError, held, open_folder, open_within
from cloud_train.errors import CorruptError, StoreError
from cloud_train.run import documents, layout
from cloud_train.run.checkpoints import attempts_in, kept, places_in_store
from cloud_train.run.fencing import publish
from cloud_train.run.manifest import LARGEST, Manifest, parse_manifest, read_manifest
from cloud_train.run.record import Program
from cloud_train.run.succession import Branch
from cloud_train.storage.base import ObjectMissingError, Store
from cloud_train.storage.local import LocalStore
from cloud_train.storage.transfer.uploading import Upload, upload
from cloud_train.worker.nodes import NodeContext

Note = Callable[[str], None]
Place = tuple[int, str]
"""Where a checkpoint is: the attempt in whose folder, and its name there."""

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
        self._there: dict[Place, Manifest | None] | None = None
        self._spoilt: dict[Place, Manifest] = {}
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
            place, manifest = found
            name = place[1]
            self._check()
            there = self._checkpoints_there()
            if there.get(place) is not None:  # the program saved this step again: it must be invalid while its files are replaced
                self._store.delete(f"{self._prefix(place)}/{layout.MANIFEST}")
            there[place] = None
            try:
                is_there = self._upload_folder(_folder(place), manifest)
            except CorruptError as error:
                self._note(f"cannot upload checkpoint {name}: {error.message}")
                self._spoilt[place], is_there = manifest, False
            if is_there:
                there[place] = manifest
                self._note(f"uploaded checkpoint {name}")
                self._prune(place, manifest)
            else:
                self._delete_there(place)

    def _newest_waiting(self) -> tuple[Place, Manifest] | None:
        """The newest checkpoint that is not in the store yet, among those that pruning would keep."""
        here = self._checkpoints_here()
        if not here:
            return None
        stay, there = self._staying(here), self._checkpoints_there()
        return next((found for found in here.items() if _is_among(*found, stay) and not _is_among(*found, there)), None)

    def _checkpoints_here(self) -> dict[Place, Manifest]:
        """The complete checkpoints on this machine, the newest first."""
        here = {}
        for place in _newest_first(_places_in(self._run)):
            with suppress(CorruptError):  # not sealed yet, or just being pruned
                here[place] = read_manifest(self._run / _folder(place), self._run)
        return {place: manifest for place, manifest in here.items() if self._spoilt.get(place) != manifest}

    def _staying(self, here: Mapping[Place, Manifest]) -> dict[Place, Manifest]:
        """The checkpoints to keep in the store. Any that are newer than all on this machine are left out: the worker skipped them."""
        newest = max((_step(place) for place in here), default=0)
        complete = {place: found for place, found in self._checkpoints_there().items() if found and _step(place) <= newest}
        complete |= here
        of_steps: dict[int, Place] = {}
        for place in _newest_first(complete):
            of_steps.setdefault(_step(place), place)
        order = [(place, complete[place]) for place in of_steps.values()]
        stay = kept(order, self._program.keep_checkpoints, self._program.ranking)
        return {place: complete[place] for place in stay}

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

    def _prune(self, uploaded: Place, manifest: Manifest) -> None:
        """Delete the checkpoints not to keep, now that ``uploaded`` is complete."""
        self._check()
        stay = {**self._staying(self._checkpoints_here()), uploaded: manifest}
        newest = max(_step(place) for place in stay)
        for place, found in list(self._checkpoints_there().items()):
            if place[0] <= uploaded[0] and _step(place) <= newest and not _is_among(place, found, stay):
                self._delete_there(place)

    def _delete_there(self, place: Place) -> None:
        # The manifest first, so that a half-deleted checkpoint is invalid.
        prefix = f"{self._prefix(place)}/"
        self._store.delete(f"{prefix}{layout.MANIFEST}")
        for info in self._store.list(prefix):
            self._store.delete(info.key)
        self._checkpoints_there().pop(place, None)

    def _checkpoints_there(self) -> dict[Place, Manifest | None]:
        """Every checkpoint folder in the store, with None for an invalid manifest. Listed once, because only this node writes there."""
        if self._there is None:
            places = [(attempt, name) for _, attempt, name in places_in_store(self._store, self._run_id)]
            found = {place: manifest_there(self._store, self._prefix(place)) for place in places}
            self._there = {place: manifest if self._is_ours(manifest, place) else None for place, manifest in found.items()}
        return self._there

    def _is_ours(self, manifest: Manifest | None, place: Place) -> bool:
        return manifest is not None and (self._branch is None or self._branch.holds(manifest.attempt, manifest.step or 0, place[0]))

    def _prefix(self, place: Place) -> str:
        return f"{self._run_id}/{_folder(place)}"


def manifest_there(store: Store, prefix: str) -> Manifest | None:
    """The manifest of a folder in the store; None if it is missing or invalid."""
    key = f"{prefix}/{layout.MANIFEST}"
    try:
        return parse_manifest(documents.read(store, key, LARGEST), f"{store.url}/{key}")
    except (ObjectMissingError, CorruptError):
        return None


def _places_in(run: Path) -> list[Place]:
    found = []
    with suppress(StoreError):  # a link, which ends the attempt, because the worker checks this folder as well
        for attempt in attempts_in(run):
            with suppress(FileNotFoundError, IrregularError), held(run, (layout.checkpoints(attempt),), listed=True) as directory:
                names = os.listdir(directory)  # noqa: PTH208 -- only names are needed
                found += [(attempt, name) for name in names if layout.step_of(name) is not None]
    return found


def _folder(place: Place) -> str:
    attempt, name = place
    return f"{layout.checkpoints(attempt)}/{name}"


def _step(place: Place) -> int:
    return layout.step_of(place[1]) or 0


def _newest_first(places: Iterable[Place]) -> list[Place]:
    """Of two for one step, that of the later attempt comes first."""
    return sorted(places, key=lambda place: (_step(place), place), reverse=True)


def _is_among(place: Place, manifest: Manifest | None, places: Mapping[Place, Manifest | None]) -> bool:
    """Whether a checkpoint is one of ``places``, where the same one may be in the folder of another attempt, which moved it there."""
    return manifest is not None and any(found == manifest and _step(other) == _step(place) for other, found in places.items())


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

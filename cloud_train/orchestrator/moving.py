"""Moving a run to another store, with its newest valid checkpoint and the logs of earlier attempts, so that it can continue there.

The move claims the next attempt in the old place before it copies anything, and closes that claim when everything is copied: one
conditional write decides between it and a resume in the old place or another move. A move that is interrupted before that leaves the run
in its old place, and can be repeated. Afterwards, the claim and the file ``moved`` name the new place. Until then, ``moved`` in the new
place names the old one, so that the run is not continued there. An unfinished move leaves its copies: another move to the same place may
have written the same files.
"""

import shlex
import tempfile
import time
from collections.abc import Callable, Iterator, Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

from cloud_train.errors import ConflictError, CorruptError, StoreError, UsageError
from cloud_train.orchestrator.connections import store_at
from cloud_train.orchestrator.run_directory import read_record_bytes, read_status
from cloud_train.orchestrator.starting import copy_between
from cloud_train.run import documents, layout
from cloud_train.run.checkpoints import check_branch, places_in_store
from cloud_train.run.fencing import ancestor_in
from cloud_train.run.ledger import Ledger
from cloud_train.run.ledger_entry import RecordKind
from cloud_train.run.manifest import LARGEST, parse_manifest
from cloud_train.run.plan import Plan
from cloud_train.run.record import AttemptStatus, RunRecord, sha256_of
from cloud_train.run.states import Cause, State
from cloud_train.run.streams import open_stream, segment_key, stream_of
from cloud_train.run.succession import Branch
from cloud_train.run.view import MOVED
from cloud_train.storage.base import InvalidKeyError, ObjectChangedError, ObjectExistsError, ObjectInfo, ObjectMissingError, Store
from cloud_train.storage.transfer.downloading import Download, download
from cloud_train.storage.transfer.uploading import Upload, upload

Note = Callable[[str], None]

_SEGMENT_BYTES = 8 << 20
_DOCUMENTS = frozenset({"status.json", "failure", "cancel", "start", "next"})
"""An attempt's files other than logs and metrics."""


def move(
    ledger: Ledger,
    plan: Plan,
    source_url: str,
    note: Note,
    keep: Callable[[bytes], None] = lambda _: None,
    *,
    provenance: Mapping[str, Any] | None = None,
) -> Plan:
    """Copy everything that ``plan`` needs to continue from ``source_url`` to its own store, write ``run.json`` there, update the ledger.

    Returns the plan with the SHA-256 of that ``run.json``, of which ``keep`` gets a copy; ``provenance`` is added to the run's own.

    Raises StoreError, ConflictError if another command has resumed or moved the run meanwhile, and CorruptError if a checkpoint is damaged.
    """
    source, target = store_at(source_url), store_at(plan.store)
    is_elsewhere = not _is_same(source, target, plan.run_id)
    if not is_elsewhere:  # the same folder by another name keeps its name
        plan, target = replace(plan, store=source_url), source
    before, old = read_record_bytes(source, plan.run_id)
    place = f"{source_url.rstrip('/')}/{plan.run_id}"
    record = RunRecord(
        plan.run_id,
        old.created,
        plan.job.model_dump(mode="json"),
        plan.program,
        plan.facts(),
        {**old.provenance, **({"moved_from": place} if is_elsewhere else {}), **(provenance or {})},
    )
    written = record.to_json()
    sha256 = sha256_of(written)
    arrival = _copied(source, target, plan, place, note) if is_elsewhere else None
    ledger.know_record(plan.run_id, sha256_of(before), RecordKind.SEEN)  # both are expected here until the move is complete
    ledger.know_record(plan.run_id, sha256, RecordKind.OWN)
    keep(written)
    if arrival is not None:
        arrival.complete(written)
    else:
        target.delete(f"{plan.run_id}/{layout.MOVED}")
        target.put(f"{plan.run_id}/{layout.RUN}", written)
    settings = plan.provider_settings
    ledger.move(plan.run_id, plan.attempt, plan.provider, plan.store, settings=settings, record_sha256=sha256, token=plan.token)
    return replace(plan, record_sha256=sha256)


def _copied(source: Store, target: Store, plan: Plan, place: str, note: Note) -> "_Arrival":
    """Claim the attempt in the old ``place``, and copy what it needs to the new one."""
    _refuse_foreign(target, plan)
    arrival = _Arrival(source, target, plan)
    target.put(f"{plan.run_id}/{layout.MOVED}", f"{place}\n".encode())
    _copy_attempts(source, target, plan, note)
    _copy_newest_checkpoint(source, target, plan, note)
    copy_between(source, target, plan)
    return arrival


class _Arrival:
    """The last steps of a move: ``run.json`` in the new place, the decision, and the marks that say where the run is."""

    def __init__(self, source: Store, target: Store, plan: Plan) -> None:
        """Claim the attempt. Raises ConflictError if it has been claimed already, and StoreError."""
        self._source, self._target, self._run_id = source, target, plan.run_id
        self._place = f"{plan.store.rstrip('/')}/{plan.run_id}"
        self._seen = _version(target, f"{plan.run_id}/{layout.RUN}")  # before the claim, so that any later claim sees what is written here
        self._claim = _Claim(source, plan)

    def complete(self, record: bytes) -> None:
        """Write ``run.json`` and complete the move. Raises StoreError, and ConflictError if the run was resumed or moved meanwhile."""
        try:
            self._write(record)
            self._claim.close()
        except ConflictError:
            finish(self._source, self._target, self._run_id, self._place)  # the other command may have moved it to the same place
            raise
        self._target.delete(f"{self._run_id}/{layout.MOVED}")
        self._source.put(f"{self._run_id}/{layout.MOVED}", f"{self._place}\n".encode())

    def _write(self, record: bytes) -> None:
        key = f"{self._run_id}/{layout.RUN}"
        try:
            if self._seen is None:
                self._target.create(key, record)
            else:
                self._target.replace(self._seen, record)
        except (ObjectExistsError, ObjectChangedError, ObjectMissingError) as error:
            raise self._claim.conflict("another command was moving it to the same place") from error


def _version(store: Store, key: str) -> ObjectInfo | None:
    try:
        return store.stat(key)
    except ObjectMissingError:
        return None


def finish(source: Store, target: Store, run_id: str, place: str) -> None:
    """Remove the mark of a move that was not complete from the new ``place``, if the move has been decided after all. Raises StoreError."""
    newest = max((documents.attempt_number(name) or 0 for name in source.folders(f"{run_id}/{layout.ATTEMPTS}/")), default=0)
    status = read_status(source, run_id, newest)
    if status is not None and status.closed and status.moved_to == place:
        target.delete(f"{run_id}/{layout.MOVED}")


def _is_same(source: Store, target: Store, run_id: str) -> bool:
    """Whether two stores have the same directory of the run, perhaps through a symbolic link."""
    here, there = source.local_path(run_id), target.local_path(run_id)
    if here is None or there is None:
        return source.url == target.url
    try:
        return here.samefile(there)
    except OSError:  # one of them does not exist
        return False


class _Claim:
    """The attempt that a move has claimed in the old place: its status names the new one."""

    def __init__(self, source: Store, plan: Plan) -> None:
        """Raises ConflictError if the attempt has been claimed already, and StoreError."""
        self._source, self.run_id = source, plan.run_id
        now, place = time.time(), f"{plan.store.rstrip('/')}/{plan.run_id}"
        status = AttemptStatus(State.STARTING, started=now, heartbeat=now, host="", pid=0, token=plan.token, moved_to=place)
        self._status = status.ended_with(Cause.INFRASTRUCTURE, f"being {MOVED}{place}", now)
        try:
            self._seen = source.create(f"{plan.run_id}/{layout.status(plan.attempt)}", self._status.to_json())
        except ObjectExistsError as error:
            raise self.conflict("another command has resumed it") from error

    def close(self) -> None:
        """Complete the move. Raises ConflictError if the run has been resumed in the old place meanwhile, and StoreError."""
        try:
            moved = replace(self._status, message=self._status.message.removeprefix("being "), closed=True)
            self._source.replace(self._seen, moved.to_json())
        except (ObjectChangedError, ObjectExistsError, ObjectMissingError) as error:
            raise self.conflict("it was resumed in its old place meanwhile") from error

    def conflict(self, why: str) -> ConflictError:
        """The error for a run that was not moved."""
        return ConflictError(f"{self.run_id} was not moved: {why}", hint=f"check with: cloud-train status {self.run_id}")


def new_place(store_url: str, run_id: str) -> str | None:
    """The URL of the run directory in which the run of this store continues: it was moved there, or its move from there is not complete.

    None if it continues here. Raises StoreError.
    """
    try:
        return documents.read_text(store_at(store_url), f"{run_id}/{layout.MOVED}")
    except ObjectMissingError:
        return None


def _refuse_foreign(target: Store, plan: Plan) -> None:
    """Refuse to overwrite a run directory that has later attempts: the run was already moved and continued there."""
    newest = max((documents.attempt_number(name) or 0 for name in target.folders(f"{plan.run_id}/{layout.ATTEMPTS}/")), default=0)
    if newest >= plan.attempt:
        raise UsageError(
            f"{plan.store}/{plan.run_id} already has attempt {newest}: the run was already moved there",
            hint=f"continue there: cloud-train adopt {shlex.quote(f'{plan.store}/{plan.run_id}')}",
        )


def _copy_attempts(source: Store, target: Store, plan: Plan, note: Note) -> None:
    """Copy the documents and logs of the attempts before the plan's, which begins in the new place."""
    prefix = f"{plan.run_id}/{layout.ATTEMPTS}/"
    streams = set()
    for info in source.list(prefix):
        if (documents.attempt_number(info.key.removeprefix(prefix).partition("/")[0]) or 0) >= plan.attempt:
            continue
        found = stream_of(info.key)
        if found or (source.local_path(info.key) is not None and info.key.endswith((".log", ".jsonl"))):
            streams.add(found[0] if found else info.key)
        elif info.key.removeprefix(prefix).rpartition("/")[2] in _DOCUMENTS:
            target.put(info.key, documents.read(source, info.key, documents.LARGEST_STATUS))
        else:
            note(f"not copied: {info.key} does not belong to an attempt")
    for key in sorted(streams):
        _copy_stream(source, target, key)


def _copy_stream(source: Store, target: Store, key: str) -> None:
    stream = open_stream(source, key)
    if target.local_path(key) is not None:
        with tempfile.NamedTemporaryFile(prefix="cloud-train-move-") as file:  # a log may be larger than memory
            for _, piece in _pieces(stream.read, stream.size()):
                file.write(piece)
            file.flush()
            upload(target, [Upload(Path(file.name), key)])
        return
    empty = True
    for start, piece in _pieces(stream.read, stream.size()):
        target.put(segment_key(key, start), piece)
        empty = False
    if empty:
        target.put(segment_key(key, 0), b"")


def _pieces(read: Callable[[int, int], bytes], size: int) -> Iterator[tuple[int, bytes]]:
    """The offset and the bytes of each piece."""
    start = 0
    while start < size and (piece := read(start, min(size, start + _SEGMENT_BYTES))):
        yield start, piece
        start += len(piece)


def _copy_newest_checkpoint(source: Store, target: Store, plan: Plan, note: Note) -> None:
    branch = Branch(plan.attempt, ancestor_in(source, plan.run_id))
    for _, attempt, name in places_in_store(source, plan.run_id):
        prefix = f"{plan.run_id}/{layout.checkpoints(attempt)}/{name}"
        try:
            written = documents.read(source, f"{prefix}/{layout.MANIFEST}", LARGEST)
        except ObjectMissingError:  # it was never completed, which is common for a script that was stopped
            continue
        except CorruptError as error:
            note(f"skipped checkpoint {name}: {error.message}")
            continue
        try:
            with tempfile.TemporaryDirectory(prefix="cloud-train-move-") as folder:
                size = _copy_checkpoint(source, target, (attempt, prefix, written), Path(folder), branch)
        except (ObjectMissingError, CorruptError, InvalidKeyError) as error:
            note(f"skipped checkpoint {name}: {error.message}")
            continue
        except OSError as error:
            hint = "name a folder with more room in TMPDIR"
            raise StoreError(f"cannot store the checkpoint {name} on this machine: {error.strerror}", hint=hint) from error
        note(f"copied checkpoint {name}, {size / 1e6:,.1f} MB, verified")
        return
    note("no valid checkpoint: the run starts from the beginning")


def _copy_checkpoint(source: Store, target: Store, place: tuple[int, str, bytes], folder: Path, branch: Branch) -> int:
    """Copy a checkpoint and return its size in bytes. Every file is checked against the manifest, which is copied last.

    ``place`` is the attempt in whose folder it is, its key, which is the same in both stores, and its manifest.
    """
    attempt, prefix, written = place
    key = f"{prefix}/{layout.MANIFEST}"
    manifest = parse_manifest(written, f"{source.url}/{key}")
    if manifest.step != layout.step_of(prefix.rpartition("/")[2]):
        raise CorruptError(f"its manifest is for step {manifest.step}")
    check_branch(branch, manifest, attempt)
    entries = manifest.files.items()
    download(source, [Download(f"{prefix}/{name}", folder / name, entry.size, entry.sha256) for name, entry in entries])
    upload(target, [Upload(folder / name, f"{prefix}/{name}", entry.sha256) for name, entry in entries])
    target.put(key, written)
    return sum(entry.size for _, entry in entries)

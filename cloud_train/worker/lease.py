"""Claiming attempts, in a local folder directly and in other stores through a workspace on this machine and an uploader."""

from __future__ import annotations  # for types that are imported only where they are used

import os
import sys
from collections.abc import Callable, Sequence
from contextlib import suppress
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING

from cloud_train.errors import CorruptError, StoreError
from cloud_train.run import documents, layout
from cloud_train.run.fencing import Lease
from cloud_train.run.record import AttemptStatus, RunRecord, sha256_of
from cloud_train.run.states import Cause
from cloud_train.storage.credential_forwarding import forwarded_values
from cloud_train.storage.local import LocalStore
from cloud_train.worker.context import AttemptContext, Timing
from cloud_train.worker.nodes import NodeContext, Peers
from cloud_train.worker.processes import subprocesses
from cloud_train.worker.processes.subprocesses import Signals
from cloud_train.worker.status import StatusFile
from cloud_train.worker.worker_log import Redactor, WorkerLog
from cloud_train.worker.workspace import Workspace

if TYPE_CHECKING:
    from cloud_train.worker.remote import Remote
    from cloud_train.worker.uploads.uploader import Uploader


class AttemptLease:
    """The attempts of one run that this worker claims, from ``first`` on."""

    def __init__(
        self,
        store: LocalStore,
        run_id: str,
        first: int,
        record_sha256: str,
        *,
        node: NodeContext,
        signals: Signals,
        timing: Timing,
        remote: Remote | None,
        token: str,
        job: str = "",
        earlier: Sequence[Path] = (),
    ) -> None:
        """Read the run's record; raises StoreError, and CorruptError if it is not the submitted one.

        ``store`` is the run's own, or with ``remote`` a workspace; ``token`` is that of the launch, ``job`` the platform's id of this
        worker's job. ``earlier`` are run directories that earlier workers left on this machine.
        """
        self._token, self._earlier = token, earlier
        self._store, self._first, self._node, self._signals = store, first, node, signals
        self._timing, self._remote, self._job = timing, remote, job
        self._uploader: Uploader | None = None
        self._record_sha256 = record_sha256
        self._newest = first
        if remote:
            self._ask(partial(remote.bring_record, store))
        self.record = _submitted_record(store, f"{run_id}/{layout.RUN}", record_sha256)
        secrets = [os.environ.get(name, "") for name in self.record.job.get("secrets", ())]
        self._redactor = Redactor((*secrets, *forwarded_values(os.environ)))

    def take(self, number: int) -> AttemptContext | None:
        """Claim attempt ``number`` and return its context; None if another worker has claimed it. Raises StoreError."""
        self._newest = number
        at = self._context(number)
        if self._remote is None:
            with self._store.locked(self.record.run_id):  # under which an earlier attempt checks for a newer one before it writes results
                return at if at.status.claim() else None
        from cloud_train.worker.remote import TAKEN
        from cloud_train.worker.uploads.uploader import Uploader, WorkspaceUpload

        name = layout.status(number, self._node.rank)
        if self._ask(partial(self._remote.claim, name, at.status.status.to_json())) == TAKEN:
            return None
        at.status.update()
        if self._uploader is None:
            upload = WorkspaceUpload(
                self._store, self._remote.url, self.record, self._first, self._node, self._token, self._timing.uploading
            )
            self._uploader = Uploader(upload, self._signals, lambda attempt: self._worker_log(attempt).note)
        return replace(at, remote=self._remote, uploader=self._uploader)

    @property
    def rank(self) -> int:
        """This node's rank."""
        return self._node.rank

    def skip(self, number: int) -> None:
        """Skip attempt ``number``, which an earlier worker ran."""
        self._first = self._newest = number + 1

    def status_in_store(self, number: int) -> str | None:
        """This node's status of attempt ``number`` as JSON, or None; raises StoreError."""
        if self._remote is None:
            return None
        return self._ask(partial(self._remote.status, layout.status(number, self._node.rank))) or None

    def end_for(self, number: int, seen: str, ended: AttemptStatus) -> None:
        """Write the end of an earlier attempt into the store, unless its status has changed since it was ``seen``; raises StoreError."""
        if self._remote:
            self._ask(partial(self._remote.end_for, layout.status(number, self._node.rank), seen, ended.to_json()))

    def is_marked_in_store(self, number: int) -> bool:
        """Whether attempt ``number`` is marked as cancelled in the store; raises StoreError."""
        if self._remote is None:
            return False
        self._ask(partial(self._remote.bring_marks, self._store, [number]))
        return _exists(self._store, f"{self.record.run_id}/{layout.cancel(number)}")

    def bring_marks(self) -> None:
        """Download the cancel marks of the attempts; an unreachable store counts as having none."""
        if self._remote:
            self._do(partial(self._remote.bring_marks, self._store, range(self._first, self._newest + 1)), gives_up=False)

    def leave(self, exit_status: int) -> int:
        """Wait until everything is uploaded, then delete the workspace; returns the worker's exit status."""
        if self._uploader is None or self._remote is None:
            return exit_status
        folder = self._store.path_of(self.record.run_id)
        if self._uploader.finish(self._newest):
            import shutil  # takes 3 ms, which a worker with a local store can save

            shutil.rmtree(folder, ignore_errors=True)
            return exit_status
        print(f"not everything could be uploaded to {self._remote.url}; the rest is in {folder}", file=sys.stderr)
        return Cause.INFRASTRUCTURE.exit_code

    def _context(self, number: int) -> AttemptContext:
        store, run_id = self._store, self.record.run_id
        workspace = Workspace.in_store(store, run_id, number, self._node.rank)
        # A cancellation between two attempts may have marked the earlier one.
        marks = [f"{run_id}/{layout.cancel(attempt)}" for attempt in range(self._first, number + 1)]
        rank = self._node.rank
        lease = Lease(store, run_id, number, self._token, layout.status(number, rank))
        return AttemptContext(
            record=self.record,
            record_sha256=self._record_sha256,
            workspace=workspace,
            node=self._node,
            status=StatusFile(lease, self._redactor, rank, token=self._token, launch=self._job),
            worker_log=self._worker_log(number),
            signals=self._signals,
            peers=Peers(store, run_id, number, self._node),
            is_cancelled=lambda: any(_exists(store, key) for key in marks),
            is_forced=lambda: any(_exists(store, key) and store.get(key, 0, 64) == layout.AT_ONCE for key in marks),
            superseded=partial(_superseded, lease, store, f"{run_id}/{layout.superseded(number)}"),
            timing=self._timing,
            earlier=self._earlier,
        )

    def _worker_log(self, number: int) -> WorkerLog:
        workspace = Workspace.in_store(self._store, self.record.run_id, number, self._node.rank)
        return WorkerLog(workspace.worker_log, self._redactor, root=workspace.store)

    def _ask(self, work: Callable[[], str]) -> str:
        went_well, text = self._do(work, gives_up=True)
        if not went_well:
            raise StoreError(text)
        return text

    def _do(self, work: Callable[[], str], *, gives_up: bool) -> tuple[bool, str]:
        return subprocesses.do(work, self._signals, self._in_child, gives_up=gives_up)

    def _in_child(self) -> None:
        self._signals.close_in_child()
        if self._uploader:
            self._uploader.close()


def _submitted_record(store: LocalStore, key: str, sha256: str) -> RunRecord:
    """Read ``run.json``, whose command runs with all of this worker's permissions, and check that it is the submitted one."""
    written, where = documents.read(store, key, documents.LARGEST_RECORD), f"{store.url}/{key}"
    if sha256_of(written) != sha256:
        raise CorruptError(
            f"{where} was changed after this attempt was submitted, so its command was not started",
            hint="find out who writes to that store; then adopt the run again, and resume it",
        )
    return RunRecord.from_json(written, where)


def _superseded(lease: Lease, store: LocalStore, mark: str) -> int | None:
    """The newer attempt, which in a folder is in the run directory itself; otherwise the uploader leaves a mark in the workspace."""
    with suppress(StoreError, ValueError):
        lease.superseded = lease.superseded or int(store.get(mark, 0, 20))
    with suppress(StoreError):
        return lease.look()
    return lease.superseded


def _exists(store: LocalStore, key: str) -> bool:
    try:
        store.stat(key)
    except StoreError:
        return False
    return True

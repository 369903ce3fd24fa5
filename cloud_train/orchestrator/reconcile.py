"""Brings the ledger, the run directory and the provider up to date: the only module that carries out ``Findings``.

It settles submissions that were cut off, records the status of attempts, writes the end of a worker that vanished, stops the processes that
it left, and cleans up at the provider. Verbs that call it say so in their help; everything else uses ``state``, which only reads.
"""

import shlex
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import replace

from cloud_train import locks
from cloud_train.errors import CloudTrainError, ConflictError, StoreError
from cloud_train.orchestrator import own_records
from cloud_train.orchestrator.connections import provider_at, store_at
from cloud_train.orchestrator.findings import (
    CleanUp,
    Findings,
    Forget,
    Pending,
    RecordLaunch,
    RecordNeverLaunched,
    RecordStatus,
    StopLaunch,
    WriteStatus,
)
from cloud_train.orchestrator.home import Home
from cloud_train.orchestrator.ledgers import Visit, open_ledger, read_ledger
from cloud_train.orchestrator.listing import each_of
from cloud_train.orchestrator.polling import Observer
from cloud_train.orchestrator.run_directory import newest_status
from cloud_train.orchestrator.starting import remove_start
from cloud_train.orchestrator.state import end_without_worker, look, read, unknown_run
from cloud_train.providers.base import Observation
from cloud_train.run import layout
from cloud_train.run.ledger import Ledger
from cloud_train.run.ledger_entry import UNMANAGED, Entry
from cloud_train.run.ledger_reader import LedgerReader
from cloud_train.run.record import AttemptStatus
from cloud_train.run.states import Cause, State
from cloud_train.run.view import RunView
from cloud_train.storage.base import ObjectChangedError, ObjectExistsError, ObjectInfo, Store

_LOOKS = 5
"""How often to check again if something changed between checking and acting."""


def update_run(home: Home, run_id: str, note: Callable[[str], None] = lambda _: None) -> RunView:
    """The current state of one run, after ``reconcile``; ``note`` is told if the ledger cannot record it. Raises NotFoundError."""
    with looking_at(home, run_id, record=True, note=note) as (_, look_at_it):
        return look_at_it(None)


def update_runs(home: Home, limit: int | None = None, note: Callable[[str], None] = lambda _: None) -> list[RunView]:
    """The current state of the newest runs, newest first, each after ``reconcile``; ``note`` is told about failures."""
    return list(update_each(home, limit, note))


def update_each(
    home: Home, limit: int | None = None, note: Callable[[str], None] = lambda _: None, *, name: str | None = None, check_ended: bool = True
) -> Iterator[RunView]:
    """As ``update_runs``, one run after another as they are needed."""

    def update(home: Home, _: LedgerReader, run_id: str, observer: Observer | None) -> RunView:
        return reconcile(home, ledger, run_id, observer)

    with open_ledger(home, note) as ledger:
        yield from each_of(home, ledger, update, limit, note, name=name, check_ended=check_ended)


def reconcile(home: Home, ledger: Ledger, run_id: str, observer: Observer | None = None) -> RunView:
    """Check a run, carry out the pending actions, and return the resulting state.

    Raises NotFoundError for a run that is not in the ledger or was never written. An ``observer`` limits requests to the provider.
    """
    for _ in range(_LOOKS):
        findings = look(home, ledger, run_id, observer)
        entry = findings.entry
        if findings.settlement is not None:
            with locks.held(home.submission_lock(run_id)) as is_mine:
                if not is_mine:
                    return entry.view()
                if not _settle(ledger, findings):
                    continue
            if isinstance(findings.settlement, Forget):
                raise unknown_run(run_id)
            entry = ledger.get(run_id) or entry
        if all(_carry_out(home, ledger, entry, action) for action in findings.pending):
            return replace(findings.run, is_recorded=True)
    return findings.run  # the run changes faster than it can be checked; the next check records it


@contextmanager
def looking_at(
    home: Home, run_id: str, record: bool, note: Callable[[str], None] = lambda _: None
) -> Iterator[tuple[LedgerReader, Callable[[Observer | None], RunView]]]:
    """The open ledger, and a function that returns the run's current state: with ``reconcile`` if ``record``, otherwise only reading.

    On a visit, it only reads. ``note`` is told if the ledger cannot record the findings.
    """
    if not record or isinstance(home, Visit):
        with read_ledger(home) as reader:
            yield reader, lambda observer: read(home, reader, run_id, observer)
        return
    with open_ledger(home, note) as ledger:
        yield ledger, lambda observer: reconcile(home, ledger, run_id, observer)


def declare_lost(home: Home, ledger: Ledger, entry: Entry, heartbeat: float | None, message: str) -> RunView:
    """Record the end of an attempt whose last heartbeat was ``heartbeat``, in the run directory and in the ledger.

    If the worker has written a heartbeat in the meantime, or another machine was faster, the run's state is returned instead. Raises
    StoreError: without the end in the run directory, no further attempt may be started.
    """
    store = store_at(entry.store)
    found = newest_status(store, entry)
    if found.number != entry.attempt or (found.status and found.status.heartbeat != heartbeat):
        return reconcile(home, ledger, entry.run_id)
    status = found.status
    if status is None or not status.state.is_end:
        lost = Observation(Cause.INFRASTRUCTURE.state, Cause.INFRASTRUCTURE, message)
        status = replace(end_without_worker(store, entry.run_id, found.number, status, lost), closed=True)
        if not _write_end(store, f"{entry.run_id}/{layout.status(found.number)}", status, found.seen):
            return reconcile(home, ledger, entry.run_id)
    ledger.record(entry, found.number, status, is_unmanaged=entry.is_unmanaged)
    return entry.shown_by(found.number, status).view(status)


def close(ledger: Ledger, run: RunView, *, even_success: bool = False) -> bool:
    """Make the end of a run's newest attempt final, before another attempt is started: from then on its worker may not take it back.

    ``even_success``: also after success, to train on. Returns whether another command had done so already, which may be starting the next
    attempt too. Raises ConflictError if the run directory has changed since ``run`` was read, and StoreError.
    """
    entry = ledger.get(run.run_id)
    if entry is None:
        raise unknown_run(run.run_id)
    store = store_at(run.store)
    for _ in range(_LOOKS):
        found = newest_status(store, entry)
        status = found.status
        if status is None:  # it never began; a worker that still starts finds the attempt taken
            now = time.time()
            ended = AttemptStatus(State.STARTING, started=now, heartbeat=now, host="", pid=0, token=entry.token)
            status = ended.ended_with(run.cause or Cause.INFRASTRUCTURE, run.message, now)
        if found.number != run.attempt or not status.state.is_end or (status.state is State.SUCCEEDED and not even_success):
            break
        if status.closed and status.moved_to:
            store.put(f"{run.run_id}/{layout.MOVED}", f"{status.moved_to}\n".encode())  # the move may have been interrupted before that
            raise ConflictError(
                f"{run.run_id} was moved to {status.moved_to}",
                hint=f"resume it there: cloud-train adopt {shlex.quote(status.moved_to)}",
            )
        key = f"{run.run_id}/{layout.status(found.number)}"
        # A move that was not completed is not completed by others: its claim no longer names another place.
        if status.closed or _write_end(store, key, replace(status, closed=True, moved_to=""), found.seen):
            return status.closed  # of two resumes at the same moment, only one claims the next attempt
    raise ConflictError(f"{run.run_id} has just changed", hint=f"check with: cloud-train status {run.run_id}")


def _settle(ledger: Ledger, findings: Findings) -> bool:
    """Record the outcome of a submission; False if it has changed meanwhile and has to be checked again."""
    entry, settlement = findings.entry, findings.settlement
    if ledger.get(entry.run_id) != entry:
        return False
    match settlement:
        case Forget():
            ledger.forget(entry.run_id)
            with suppress(CloudTrainError):
                remove_start(entry.run_id, store_at(entry.store))  # the submission may have ended while it copied them
        case RecordLaunch(attempt, reference):
            ledger.launched(entry.run_id, attempt, reference)
        case RecordNeverLaunched(attempt, status, claims):
            if claims and not _claim(entry, attempt, status):
                ledger.launched(entry.run_id, attempt, UNMANAGED)  # its worker was faster: only its status is known
                return False
            ledger.observed(entry.run_id, attempt, status.state, status.cause, status.message, ended=status.ended)
    return True


def _claim(entry: Entry, attempt: int, ended: AttemptStatus) -> bool:
    """Write the attempt's end into the run directory, so that a worker that starts late exits; False if it has already started."""
    try:
        store_at(entry.store).create(f"{entry.run_id}/{layout.status(attempt)}", ended.to_json())
    except ObjectExistsError:
        return False
    return True


def _carry_out(home: Home, ledger: Ledger, entry: Entry, action: Pending) -> bool:
    """Carry out one action; False if the run has changed since it was checked, so that the action may be wrong."""
    match action:
        case RecordLaunch(attempt, reference):
            ledger.launched(entry.run_id, attempt, reference)
        case RecordStatus(attempt, status, is_unmanaged):
            if status.state is State.SUCCEEDED:
                own_records.forget(home, entry.run_id)
            return ledger.record(entry, attempt, status, is_unmanaged=is_unmanaged)
        case WriteStatus(_, attempt, status, seen):
            with suppress(StoreError):  # the ledger still gets it, and the next reader reaches the same conclusion
                return _write_end(store_at(entry.store), f"{entry.run_id}/{layout.status(attempt)}", status, seen)
        case StopLaunch(launch):
            provider_at(home, launch.provider).cancel(launch, force=True)
        case CleanUp(launch):
            provider_at(home, launch.provider).clean_up(launch)
    return True


def _write_end(store: Store, key: str, status: AttemptStatus, seen: ObjectInfo | None) -> bool:
    """Write an end on behalf of a worker; False if the status has changed since it was seen. Raises StoreError."""
    try:
        if seen is None:
            store.create(key, status.to_json())
        else:
            store.replace(seen, status.to_json())
    except (ObjectExistsError, ObjectChangedError):
        return False
    return True

"""Bringing the ledger, the run directory and the provider up to date: the only module that carries out ``Findings``.

It settles submissions that were cut off, records the status of attempts, writes the end of a worker that vanished, stops the processes that
it left, and cleans up at the provider. Verbs that call it say so in their help; everything else uses ``state``, which only reads.
"""

from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import replace

from cloud_train.errors import StoreError
from cloud_train.orchestrator.connections import provider_at, store_at
from cloud_train.orchestrator.home import Home
from cloud_train.orchestrator.polling import Observer
from cloud_train.orchestrator.state import (
    CleanUp,
    Findings,
    Forget,
    Pending,
    RecordLaunch,
    RecordNeverLaunched,
    RecordStatus,
    StopLaunch,
    WriteStatus,
    each_of,
    end_without_worker,
    look,
    newest_status,
    read,
    unknown_run,
)
from cloud_train.providers.base import Observation
from cloud_train.run import layout, locks
from cloud_train.run.ledger import UNMANAGED, Entry, Ledger, LedgerReader
from cloud_train.run.record import AttemptStatus
from cloud_train.run.states import Cause
from cloud_train.run.view import RunView
from cloud_train.storage.base import ObjectExistsError


def update_run(home: Home, run_id: str, note: Callable[[str], None] = lambda _: None) -> RunView:
    """The current state of one run, after ``reconcile``; ``note`` is told if the ledger cannot record it. Raises NotFoundError."""
    with Ledger(home.ledger_path, unwritable=note) as ledger:
        return reconcile(home, ledger, run_id)


def update_runs(home: Home, limit: int | None = None, note: Callable[[str], None] = lambda _: None) -> list[RunView]:
    """The current state of the newest runs, newest first, each after ``reconcile``; ``note`` is told about failures."""

    def update(home: Home, _: LedgerReader, run_id: str, observer: Observer | None) -> RunView:
        return reconcile(home, ledger, run_id, observer)

    with Ledger(home.ledger_path, unwritable=note) as ledger:
        return each_of(home, ledger, update, limit, note)


def reconcile(home: Home, ledger: Ledger, run_id: str, observer: Observer | None = None) -> RunView:
    """Check a run, carry out the pending actions, and return the resulting state.

    Raises NotFoundError for a run that is not in the ledger or was never written. An ``observer`` limits requests to the provider.
    """
    findings = look(home, ledger, run_id, observer)
    if findings.settlement is not None:
        with locks.held(home.submission_lock(run_id)) as is_mine:
            if not is_mine:
                return findings.entry.view()
            if not _settle(ledger, findings):
                return reconcile(home, ledger, run_id, observer)
    if isinstance(findings.settlement, Forget):
        raise unknown_run(run_id)
    for action in findings.pending:
        _carry_out(home, ledger, findings.entry, action)
    return replace(findings.run, is_recorded=True)


@contextmanager
def looking_at(
    home: Home, run_id: str, record: bool, note: Callable[[str], None] = lambda _: None
) -> Iterator[tuple[LedgerReader, Callable[[Observer | None], RunView]]]:
    """The open ledger, and a function that returns the run's current state: with ``reconcile`` if ``record``, otherwise only reading.

    ``note`` is told if the ledger cannot record the findings.
    """
    if not record:
        with LedgerReader(home.ledger_path) as reader:
            yield reader, lambda observer: read(home, reader, run_id, observer)
        return
    with Ledger(home.ledger_path, unwritable=note) as ledger:
        yield ledger, lambda observer: reconcile(home, ledger, run_id, observer)


def declare_lost(ledger: Ledger, entry: Entry, message: str) -> RunView:
    """Record the end of an attempt without a heartbeat, in the run directory and in the ledger."""
    store = store_at(entry.store)
    number, status = newest_status(store, entry)
    if status is None or not status.state.is_end:
        lost = Observation(Cause.INFRASTRUCTURE.state, Cause.INFRASTRUCTURE, message)
        status = end_without_worker(store, entry.run_id, number, status, lost)
        _write_status(entry, number, status)
    seen = entry.shown_by(number, status)
    _record_status(ledger, entry.run_id, number, status)
    return seen.view(status.heartbeat)


def _settle(ledger: Ledger, findings: Findings) -> bool:
    """Record the outcome of a submission; False if it has changed meanwhile and has to be checked again."""
    entry, settlement = findings.entry, findings.settlement
    if ledger.get(entry.run_id) != entry:
        return False
    match settlement:
        case Forget():
            ledger.forget(entry.run_id)
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


def _carry_out(home: Home, ledger: Ledger, entry: Entry, action: Pending) -> None:
    match action:
        case RecordLaunch(attempt, reference):
            ledger.launched(entry.run_id, attempt, reference)
        case RecordStatus(attempt, status):
            _record_status(ledger, entry.run_id, attempt, status)
        case WriteStatus(_, attempt, status):
            _write_status(entry, attempt, status)
        case StopLaunch(launch):
            provider_at(home, launch.provider).cancel(launch, force=True)
        case CleanUp(launch):
            provider_at(home, launch.provider).clean_up(launch)


def _write_status(entry: Entry, attempt: int, status: AttemptStatus) -> None:
    with suppress(StoreError):  # the ledger still gets it, and the next reader reaches the same conclusion
        store_at(entry.store).put(f"{entry.run_id}/{layout.status(attempt)}", status.to_json())


def _record_status(ledger: Ledger, run_id: str, attempt: int, status: AttemptStatus) -> None:
    ledger.observed(
        run_id,
        attempt,
        status.state,
        status.cause,
        status.message,
        started=status.started,
        ended=status.ended,
        host=status.host,
        resumed_step=status.resumed_step,
    )

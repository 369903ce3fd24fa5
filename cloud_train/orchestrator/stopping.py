"""Cancelling a run: a mark in the run directory records that it was cancelled rather than failed; then its provider is told to stop it."""

import time
from collections.abc import Callable
from contextlib import suppress

from cloud_train.errors import CloudTrainError, ConflictError, CorruptError, NotFoundError, ProviderError, StoreError
from cloud_train.orchestrator.connections import pause_of, provider_at, store_at
from cloud_train.orchestrator.home import Home
from cloud_train.orchestrator.ledgers import Visit, open_ledger
from cloud_train.orchestrator.polling import Poller
from cloud_train.orchestrator.reconcile import reconcile
from cloud_train.orchestrator.run_directory import read_record
from cloud_train.orchestrator.state import launch_of, observed
from cloud_train.orchestrator.visiting import visit_damaged
from cloud_train.providers.base import Handle
from cloud_train.providers.registry import UnknownProviderError
from cloud_train.run import layout
from cloud_train.run.documents import one_line
from cloud_train.run.ledger import Ledger
from cloud_train.run.ledger_entry import Entry
from cloud_train.run.ledger_reader import DamagedRecordError
from cloud_train.run.states import Cause, State
from cloud_train.run.view import RunView
from cloud_train.storage.base import Store

_MARGIN_SECONDS = 10.0
"""Time after the grace period until a worker counts as stuck."""
_SILENCE_SECONDS = 45.0
"""The same for a worker whose heartbeats arrive through a cloud's store: several times their interval."""
_CLOUD_SECONDS = 300.0
"""The same for a cloud, which is slow to stop a machine, especially one that is still starting."""
_PAUSE_SECONDS = 0.05
_DEFAULT_GRACE_SECONDS = 30.0
"""The grace period of a job that sets none."""
_LEAVING_SECONDS = 5.0
"""Time for a worker to exit after it wrote its end."""


def cancel(
    home: Home,
    run_id: str,
    wait: bool = True,
    force: bool = False,
    *,
    note: Callable[[str], None] = lambda _: None,
    sleep: Callable[[float], None] = time.sleep,
    clock: Callable[[], float] = time.monotonic,
) -> RunView:
    """Stop the run, after its grace period for a last checkpoint or immediately with ``force``; ``wait`` until it has ended.

    If its record in the ledger is damaged, it is stopped by what its provider and its run directory say, and ``note`` is told.

    Cancelling a cancelled run changes nothing. Raises ConflictError if it ended otherwise. Others can write to the run directory, so an
    attempt that its provider still runs is stopped even if the run directory says that it has ended. A ledger that cannot be written does
    not prevent it: ``note`` is told.
    """

    def stop(home: Home) -> RunView:
        with open_ledger(home, note) as ledger:
            return _cancelled(home, ledger, run_id, wait, force, sleep=sleep, clock=clock)

    try:
        return stop(home)
    except (DamagedRecordError, UnknownProviderError):
        if isinstance(home, Visit) or (visiting := visit_damaged(home, run_id, note)) is None:
            raise
        return stop(visiting)


def _cancelled(
    home: Home, ledger: Ledger, run_id: str, wait: bool, force: bool, *, sleep: Callable[[float], None], clock: Callable[[], float]
) -> RunView:
    run = reconcile(home, ledger, run_id)
    if run.state.is_end and (alive := outlives_its_end(home, ledger, run, sleep=sleep, clock=clock)) is not None:
        _stop(home, run, alive, force, sleep=sleep, clock=clock)
        return reconcile(home, ledger, run_id)
    if run.state is State.CANCELLED:
        return run
    if run.state.is_end:
        raise ConflictError(f"{run_id} has already ended: {run.state}", hint=f"see why with: cloud-train status {run_id}")
    entry = ledger.get(run_id)
    if entry is None or entry.reference is None:
        raise ConflictError(f"{run_id} is being submitted right now", hint=one_line(run.message) or "retry in a second")
    store_at(run.store).put(_mark(run), layout.AT_ONCE if force else b"")
    _tell(home, run, entry, force)
    if not wait and not force:
        return reconcile(home, ledger, run_id)
    return _wait_for_end(home, ledger, run, entry, force, sleep=sleep, clock=clock)


def _wait_for_end(
    home: Home,
    ledger: Ledger,
    run: RunView,
    entry: Entry,
    force: bool,
    *,
    sleep: Callable[[float], None],
    clock: Callable[[], float],
) -> RunView:
    """The run after its end. It is killed if it does not end within the grace period and a margin. Raises ProviderError if that fails."""
    store, poller = store_at(run.store), Poller(clock)
    is_far, heartbeat = run.is_unmanaged or store.local_path(run.run_id) is None, run.heartbeat
    is_slow = not run.is_unmanaged and provider_at(home, run.provider).capabilities.stops_slowly
    margin = _CLOUD_SECONDS if is_slow else _SILENCE_SECONDS if is_far else _MARGIN_SECONDS
    deadline = clock() + (grace := _grace_seconds(store, run.run_id)) + margin
    told = run.attempt
    while not (now := reconcile(home, ledger, run.run_id, poller)).state.is_end:
        if now.attempt != told:  # another attempt has begun, here or on another machine, and the whole run has to stop
            store.put(_mark(now), layout.AT_ONCE if force else b"")
            _tell(home, now, ledger.get(run.run_id) or entry, force)
            told, deadline = now.attempt, clock() + grace + margin
        if is_far and not force and now.heartbeat != heartbeat:  # it is alive, and may still be uploading its last checkpoint
            heartbeat, deadline = now.heartbeat, max(deadline, clock() + margin)
        if clock() > deadline:
            if force:
                hint = f"retry, or kill its processes yourself; find them with: cloud-train status {run.run_id}"
                raise ProviderError(f"{run.run_id} does not stop", hint=hint)
            store.put(_mark(run), layout.AT_ONCE)
            _tell(home, run, entry, force=True)
            deadline, force = clock() + (margin if is_slow else _MARGIN_SECONDS), True
        sleep(pause_of(store, _PAUSE_SECONDS))
    return now


def _grace_seconds(store: Store, run_id: str) -> float:
    """The job's grace period. A damaged ``run.json`` does not prevent a cancellation: then the default applies."""
    try:
        return read_record(store, run_id).program.grace_seconds
    except (CorruptError, NotFoundError):
        return _DEFAULT_GRACE_SECONDS


def _mark(run: RunView) -> str:
    """The key that records that the attempt was cancelled."""
    return f"{run.run_id}/{layout.cancel(run.attempt)}"


def outlives_its_end(
    home: Home, ledger: Ledger, run: RunView, *, sleep: Callable[[float], None], clock: Callable[[], float]
) -> Handle | None:
    """The attempt, if its provider still runs it although its run directory says that it has ended and its worker had time to exit."""
    deadline = clock() + _LEAVING_SECONDS
    while (alive := _still_running(home, ledger, run)) is not None and clock() < deadline:
        sleep(pause_of(store_at(run.store), _PAUSE_SECONDS))
    return alive


def _still_running(home: Home, ledger: Ledger, run: RunView) -> Handle | None:
    """The attempt, if its provider runs it, whatever the run directory says; None also if the provider cannot be asked.

    Raises DamagedRecordError.
    """
    entry = ledger.get(run.run_id)
    if entry is None or entry.reference is None or entry.is_unmanaged:
        return None
    handle = launch_of(entry)
    try:
        observation = observed(Poller(), provider_at(home, entry.provider), handle)
    except DamagedRecordError:
        raise
    except CloudTrainError:
        return None
    is_going = observation.state in (State.STARTING, State.RUNNING) and observation.cause is not Cause.UNKNOWN
    return handle if is_going and not observation.is_elsewhere else None


def _stop(home: Home, run: RunView, alive: Handle, force: bool, *, sleep: Callable[[float], None], clock: Callable[[], float]) -> None:
    """Stop an attempt that has ended according to its run directory. A worker that is just exiting is gone within the margin."""
    provider, store = provider_at(home, alive.provider), store_at(run.store)
    with suppress(StoreError):
        store.put(_mark(run), layout.AT_ONCE if force else b"")
    provider.cancel(alive, force)
    if provider.capabilities.stops_slowly:
        return
    deadline = clock() + _MARGIN_SECONDS
    while not provider.observe(alive).state.is_end:
        if clock() > deadline:
            provider.cancel(alive, force=True)
            deadline = clock() + _MARGIN_SECONDS
        sleep(_PAUSE_SECONDS)


def _tell(home: Home, run: RunView, entry: Entry, force: bool) -> None:
    if run.is_unmanaged:  # its worker checks for the mark every few seconds; there is no provider to tell
        return
    handle = Handle(run.run_id, run.attempt, run.provider, run.store, entry.reference or {})
    provider_at(home, run.provider).cancel(handle, force)

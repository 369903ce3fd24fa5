"""The state of runs, from the ledger, the provider and the run directory. This module only reads.

A run that has succeeded is read from the ledger alone, so listing thousands costs one query. One that ended otherwise may have been resumed
by another machine, which only its run directory tells. The others are checked in this order: the outcome of a submission that was cut off,
the provider's observation of the launch, and the attempt's status in the run directory.

A check may find work to do: an end that is not recorded yet, a launch that is missing from the ledger. That work is returned as data,
``Findings.pending``; only ``reconcile`` carries it out.
"""

import time
from contextlib import suppress
from dataclasses import replace
from typing import Any

from cloud_train import locks
from cloud_train.errors import CloudTrainError, CorruptError, MissingDependencyError, NotFoundError, ProviderError, StoreError
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
from cloud_train.orchestrator.ledgers import read_ledger
from cloud_train.orchestrator.polling import Observer, Poller
from cloud_train.orchestrator.run_directory import Found, newest_status, read_record, read_status
from cloud_train.providers.base import SHOWS_WITHIN_SECONDS, Capabilities, Handle, Observation, Provider
from cloud_train.run import layout
from cloud_train.run.ledger_entry import UNMANAGED, Entry
from cloud_train.run.ledger_file import DAMAGED
from cloud_train.run.ledger_reader import DamagedRecordError, LedgerReader
from cloud_train.run.record import AttemptStatus
from cloud_train.run.states import Cause, State
from cloud_train.run.view import RunView
from cloud_train.storage.base import ObjectInfo, ObjectMissingError, Store

_REASON_SECONDS = 150.0
"""How long after a worker's end a cloud may take to say why it stopped the job: SageMaker leaves 120 s to the containers."""
_CUT_OFF = "the submission was cut off before anything was started"


def read_run(home: Home, run_id: str) -> RunView:
    """The current state of one run. Raises NotFoundError."""
    with read_ledger(home) as ledger:
        return read(home, ledger, run_id)


def read(home: Home, ledger: LedgerReader, run_id: str, observer: Observer | None = None) -> RunView:
    """The current state of one run, through an open ledger. Raises NotFoundError."""
    findings = look(home, ledger, run_id, observer)
    if isinstance(findings.settlement, Forget):
        raise unknown_run(run_id)
    return findings.run


def look(home: Home, ledger: LedgerReader, run_id: str, observer: Observer | None = None) -> Findings:
    """The current state of one run, and the actions pending for it. Raises NotFoundError for a run that is not in the ledger.

    A caller that polls passes an ``observer``, which limits requests to the provider.
    """
    entry = ledger.get(run_id)
    if entry and entry.is_unlaunched and not locks.is_held(home.submission_lock(run_id)):
        # Read again: the submission may have finished between reading the entry and checking its lock.
        entry = ledger.get(run_id)
        if entry and entry.is_unlaunched:
            return _look_at_submission(home, entry, observer)
    if entry is None:
        raise unknown_run(run_id)
    return _look_at_attempt(home, entry, observer)


def unknown_run(run_id: str) -> NotFoundError:
    """The error for a run that is not in the ledger."""
    return NotFoundError(f"no run {run_id}", hint="list all runs with: cloud-train list --all")


def observed(observer: Observer, provider: Provider, launch: Handle) -> Observation:
    """The provider's observation of a launch in the ledger. Raises DamagedRecordError if the provider cannot read its own handle."""
    try:
        return observer.observe(provider, launch)
    except (KeyError, TypeError, AttributeError, ValueError) as error:  # every provider's handle has its own keys
        what = f"lacks {error}" if isinstance(error, KeyError) else f"is not one of {launch.provider!r}"
        raise DamagedRecordError(f"the ledger's record of {launch.run_id} is damaged: its handle {what}", hint=DAMAGED) from error


def launch_of(entry: Entry) -> Handle:
    """The launch that the entry's attempt belongs to."""
    return Handle(entry.run_id, entry.attempt, entry.provider, entry.store, entry.reference or {})


def end_without_worker(
    store: Store, run_id: str, number: int, status: AttemptStatus | None, observation: Observation, *, token: str = ""
) -> AttemptStatus:
    """The end of an attempt whose worker exited without writing one: cancelled, or else as the provider reports it.

    ``token`` is that of the launch, for an attempt that has not begun.
    """
    now = time.time()
    status = status or AttemptStatus(State.STARTING, started=now, heartbeat=now, host="", pid=0, token=token)
    cause, message = observation.cause or Cause.UNKNOWN, observation.message
    if cause is Cause.SUCCEEDED:  # the provider knows only about the machine
        cause, message = Cause.UNKNOWN, f"the provider reports success, but the worker never did; {message}".rstrip("; ")
    with suppress(StoreError):
        store.stat(f"{run_id}/{layout.cancel(number)}")
        cause, message = Cause.CANCELLED, "cancelled; the worker had to be killed"
    seen = time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime(status.heartbeat))
    return status.ended_with(cause, f"{message} (last heartbeat {seen})", now)


def _look_at_submission(home: Home, entry: Entry, observer: Observer | None) -> Findings:
    """The outcome of a submission whose process is gone: launched after all, not launched, or never written."""
    try:
        store_at(entry.store).stat(f"{entry.run_id}/{layout.RUN}")
    except ObjectMissingError:  # it is written before anything is launched
        return Findings(entry.view(), entry, Forget())
    try:
        launch = provider_at(home, entry.provider).find(entry.run_id, entry.attempt, entry.store, entry.settings)
    except (ProviderError, MissingDependencyError):  # whether the attempt was launched will be found out later
        return Findings(entry.view(), entry)
    if launch is not None:
        return _look_at_launched(home, entry, launch.reference, observer)
    if entry.started is not None and abs(time.time() - entry.started) < SHOWS_WITHIN_SECONDS:
        when = time.strftime("%H:%M:%SZ", time.gmtime(entry.started))
        message = f"{entry.provider} was asked to start the run at {when}, and does not list a job yet; check again later"
        return Findings(replace(entry, message=message).view(), entry)
    if entry.started is not None and read_status(store_at(entry.store), entry.run_id, entry.attempt) is not None:
        return _look_at_launched(home, entry, UNMANAGED, observer)  # its worker did start
    now = time.time()
    status = AttemptStatus(State.STARTING, started=now, heartbeat=now, host="", pid=0, token=entry.token)
    ended = status.ended_with(Cause.INFRASTRUCTURE, _CUT_OFF, now)
    settlement = RecordNeverLaunched(entry.attempt, ended, claims=entry.started is not None)
    cut_off = replace(entry, state=Cause.INFRASTRUCTURE.state, cause=Cause.INFRASTRUCTURE, message=_CUT_OFF, started=None, ended=now)
    return Findings(cut_off.view(is_recorded=False), entry, settlement)


def _look_at_launched(home: Home, entry: Entry, reference: dict[str, Any], observer: Observer | None) -> Findings:
    """As ``_look_at_attempt``, for an attempt whose launch is not in the ledger yet."""
    findings = _look_at_attempt(home, entry.launched(reference), observer)
    return replace(findings, entry=entry, settlement=RecordLaunch(entry.attempt, reference))


def _look_at_attempt(home: Home, entry: Entry, observer: Observer | None) -> Findings:
    if entry.state.is_end:
        return _look_after_the_end(home, entry, observer or Poller())
    if entry.reference is None:
        return Findings(entry.view(), entry)
    return _look_at_unmanaged(entry) if entry.is_unmanaged else _look_at_launch(home, entry, observer or Poller())


def _look_after_the_end(home: Home, entry: Entry, observer: Observer) -> Findings:
    """An attempt that the ledger says has ended: another machine may have resumed the run, or the worker may have taken the end back."""
    if entry.state is State.SUCCEEDED:
        return Findings(entry.view(), entry)
    try:
        found = newest_status(store_at(entry.store), entry)
    except CloudTrainError:  # the ledger is enough to show a run that has ended
        return Findings(entry.view(), entry)
    if found.status is None or not _is_newer(entry, found):
        return Findings(entry.view(), entry)
    is_own = found.is_of_launch and entry.reference is not None and not entry.is_unmanaged
    if is_own and not found.status.state.is_end:
        return _look_at_launch(home, entry, observer)
    return _shown_by(entry, found, is_unmanaged=not is_own)


def has_continued(store: Store, entry: Entry) -> bool:
    """Whether the run directory of a run that has ended shows more than the ledger: a further attempt, or that its worker lives after all.

    Uses neither the ledger nor the provider. Reads one or two small objects; raises StoreError.
    """
    return _is_newer(entry, newest_status(store, entry))


def _is_newer(entry: Entry, found: Found) -> bool:
    """Whether the newest attempt's status is not the end that the ledger has."""
    if found.status is None:
        return False
    return found.number != entry.attempt or not found.status.state.is_end or _is_corrected(entry, found.status)


def _is_corrected(entry: Entry, status: AttemptStatus) -> bool:
    """Whether the worker took back the end that the ledger has, and wrote its own. A worker that was told to stop does not know why."""
    return status.cause not in (entry.cause, Cause.PREEMPTED)


def _look_at_unmanaged(entry: Entry) -> Findings:
    """An attempt launched from another machine, known only by its worker's status. Its silence may mean anything, so it is not an end."""
    found = newest_status(store_at(entry.store), entry)
    if found.status is None:
        return Findings(replace(entry, message=found.damage or entry.message).view(), entry)
    return _shown_by(entry, found, is_unmanaged=True)


def _look_at_launch(home: Home, entry: Entry, observer: Observer) -> Findings:
    provider, launch = provider_at(home, entry.provider), launch_of(entry)
    # The provider first: a worker writes its end before it exits, so an attempt that is gone now has written its final status.
    observation = observed(observer, provider, launch)
    # Another machine started this attempt first, and the worker launched from here has left; or the provider cannot tell that from an end.
    if observation.is_elsewhere and not _has_own_end(entry):
        found = _look_at_unmanaged(entry)
        record = found.pending or (RecordLaunch(entry.attempt, UNMANAGED),)
        view = replace(found.run, is_unmanaged=True)
        return replace(found, run=view, launch=launch, observation=observation, pending=(CleanUp(launch), *record))
    if observer.is_listing and provider.capabilities.polling_costs and observation.state is entry.state is State.RUNNING:
        found = Findings(entry.view(), entry)  # unchanged, and reading the run directory would cost as much as the observation
    else:
        found, observation = _look_into_run_directory(provider, entry, launch, observation)
    return replace(found, launch=launch, observation=observation)


def _has_own_end(entry: Entry) -> bool:
    """Whether the run directory has an end that a worker of this very launch wrote."""
    found = newest_status(store_at(entry.store), entry)
    return bool(entry.token) and found.status is not None and found.status.state.is_end and found.status.token == entry.token


def _look_into_run_directory(provider: Provider, entry: Entry, launch: Handle, observation: Observation) -> tuple[Findings, Observation]:
    """The attempt's status, corrected by the provider's observation of its launch."""
    store, capabilities = store_at(entry.store), provider.capabilities
    newest = newest_status(store, entry)
    number, status = newest.number, newest.status
    pending: list[Pending] = []
    if not newest.is_of_launch:  # another machine has resumed the run, or began this attempt first
        return _overtaken(entry, launch, newest, observation, capabilities), observation
    if status and status.cause is Cause.PREEMPTED and capabilities.explains_stops:
        observation = provider.observe(launch)  # again: the worker was told to stop, and does not know why
        status, is_explained = _with_reason(status, observation, newest.seen)
        pending += [WriteStatus(launch, number, status, newest.seen)] if is_explained else []
    if observation.state.is_end and (status is None or not status.state.is_end):
        status = end_without_worker(store, entry.run_id, number, status, observation, token=entry.token)
        pending += [*([] if capabilities.leaves_no_processes else [StopLaunch(launch)]), WriteStatus(launch, number, status, newest.seen)]
    elif status is None:
        state = observation.state if newest.damage else _before_the_worker(observation.state)
        waiting = replace(entry, state=state, message=newest.damage or observation.message)
        return Findings(waiting.view(), entry), observation
    elif status.cause and not observation.state.is_end and _is_retried(store, entry.run_id, status.cause, number):
        message = f"attempt {number} ended ({status.cause}: {status.message}); attempt {number + 1} follows"
        status = replace(status, state=State.STARTING, cause=None, ended=None, message=message)
    found = _shown_by(entry, replace(newest, status=status), is_recorded=not pending)
    cleanup = [CleanUp(launch)] if status.state.is_end else []
    return replace(found, pending=(*pending, *found.pending, *cleanup)), observation


def _overtaken(entry: Entry, launch: Handle, newest: Found, observation: Observation, capabilities: Capabilities) -> Findings:
    """The attempt of another launch, of which the one that was observed knows nothing. What that one left running is stopped."""
    found = _shown_by(entry, newest, is_unmanaged=True)
    if not observation.state.is_end:  # its worker is about to leave; until then the ledger keeps the launch, which has to be cleaned up
        return replace(found, pending=())
    leftovers = () if capabilities.leaves_no_processes else (StopLaunch(launch),)
    return replace(found, pending=(*leftovers, *found.pending, CleanUp(launch)))


def _shown_by(entry: Entry, found: Found, is_recorded: bool = True, is_unmanaged: bool = False) -> Findings:
    """The run as the newest attempt's status shows it; ``found`` has one."""
    assert found.status is not None
    seen = entry.shown_by(found.number, found.status)
    if is_unmanaged:
        seen = replace(seen, is_unmanaged=True, reference=UNMANAGED, token="")
    pending = (RecordStatus(found.number, found.status, is_unmanaged),) if seen != entry else ()
    return Findings(seen.view(found.status, is_recorded), entry, pending=pending)


def _with_reason(status: AttemptStatus, observation: Observation, seen: ObjectInfo | None) -> tuple[AttemptStatus, bool]:
    """The end of a worker that was told to stop, with the reason from its cloud, and whether the cloud gave one.

    Until it does, the attempt counts as stopping, for a while after its end: by the worker's clock, or by the store's if that one is wrong.
    """
    now = time.time()
    ends = [status.ended or 0.0, *([seen.modified] if seen is not None else [])]
    if observation.state.is_end and observation.cause in (Cause.TIMED_OUT, Cause.CANCELLED):
        return replace(status, state=observation.cause.state, cause=observation.cause, message=observation.message), True
    if observation.state in (State.RUNNING, State.STOPPING) and min(abs(now - end) for end in ends) < _REASON_SECONDS:
        message = "the machine was told to stop, and the worker has ended; the cloud has not reported the reason yet"
        return replace(status, state=State.STOPPING, cause=None, ended=None, message=message), False
    return status, False


def _before_the_worker(state: State) -> State:
    """A provider also reports *running* while the machine pulls an image or starts a container."""
    return State.STARTING if state is State.RUNNING else state


def _is_retried(store: Store, run_id: str, cause: Cause, number: int) -> bool:
    try:
        return read_record(store, run_id).program.retries(cause, number)
    except (NotFoundError, CorruptError):
        return False

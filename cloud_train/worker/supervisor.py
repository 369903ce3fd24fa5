"""A worker's main loop: one attempt, and the retries that the job asks for, until the run ends or the worker is told to stop.

A platform may restart the worker of a job, and guarantees that the previous one has ended. That one's final status may be missing, because
a preempted machine cannot write it; then node 0 writes it. As everywhere, the job's ``retry`` decides whether another attempt follows.

Node 0 decides for all nodes what the attempt's cause is and whether another attempt follows.
"""

from __future__ import annotations  # for types that are imported only where they are used

import os
import time
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from time import monotonic
from typing import TYPE_CHECKING

from cloud_train.errors import CloudTrainError, StoreError
from cloud_train.exit_status import TAKEN
from cloud_train.run import layout
from cloud_train.run.record import AttemptStatus
from cloud_train.run.states import Cause
from cloud_train.storage.local import LocalStore
from cloud_train.worker.attempts.attempt import Attempt
from cloud_train.worker.context import AttemptContext, Timing
from cloud_train.worker.ending import Ending
from cloud_train.worker.lease import AttemptLease
from cloud_train.worker.nodes import NodeContext
from cloud_train.worker.processes.subprocesses import Signals
from cloud_train.worker.processes.tree import become_subreaper
from cloud_train.worker.status import NodeStatus

if TYPE_CHECKING:
    from cloud_train.worker.platforms import Platform
    from cloud_train.worker.remote import Remote


DEFAULT_TIMING = Timing()


def run_attempts(
    store: LocalStore,
    run_id: str,
    first: int,
    record_sha256: str,
    *,
    node: NodeContext,
    signals: Signals,
    timing: Timing = DEFAULT_TIMING,
    remote: Remote | None = None,
    platform: Platform | None = None,
    token: str = "",
    earlier: Sequence[Path] = (),
) -> int:
    """Run attempt ``first`` and the retries that the job asks for; returns the worker's exit status.

    That is ``TAKEN``, or the exit code of the last attempt's cause. ``store`` is the run's own, or with ``remote`` a workspace on this
    machine. ``record_sha256`` is the SHA-256 of the ``run.json`` to run. ``token`` is that of the launch; without one, it is drawn here.
    ``earlier`` are run directories that earlier workers left on this machine.
    Raises CorruptError, also for any other ``run.json``, or StoreError if nothing can be started.
    """
    become_subreaper()
    job = platform.job if platform else ""
    token = token or os.urandom(8).hex()
    lease = AttemptLease(
        store, run_id, first, record_sha256, node=node, signals=signals, timing=timing, remote=remote, token=token, job=job, earlier=earlier
    )
    try:
        start, exit_status = next_attempt(lease, first, platform.job) if platform else (first, None)
        last = _attempts(lease, start, node=node, signals=signals, timing=timing) if exit_status is None else _Last(exit_status)
    except CloudTrainError:  # a further attempt could not be claimed; the earlier ones are uploaded anyway
        lease.leave(0)
        raise
    exit_status = lease.leave(last.exit_status)
    if platform is None:
        return exit_status
    platform.tell(last.message)
    return platform.exit_status(exit_status, is_final=last.is_final and exit_status == last.exit_status)


@dataclass(frozen=True)
class _Last:
    """The result of the last attempt."""

    exit_status: int
    message: str = ""
    is_final: bool = True
    """Whether nothing is left to do for the run, even if the platform restarts the worker."""


def _attempts(lease: AttemptLease, first: int, *, node: NodeContext, signals: Signals, timing: Timing) -> _Last:
    program = lease.record.program
    number, is_noticed = first, False
    while (at := lease.take(number)) is not None:
        end = Attempt(number, at, heeds_notices=not is_noticed).run()  # the first notice counts: a second one is about the same event
        is_noticed = is_noticed or end.is_noticed
        if end.is_superseded:
            return _Last(TAKEN, end.message)
        cause = end.cause if node.rank == 0 else attempt_cause(end, at)
        is_retried = program.retries(cause, number)
        if node.rank > 0:
            if not is_retried or signals.stop_requested or at.is_cancelled() or not another_follows(at):
                return _Last(last_word(cause, at).exit_code, is_final=not is_retried)
        elif not is_retried:
            return _Last(cause.exit_code, at.status.status.message)
        else:
            delay = timing.retry[min(number - first, len(timing.retry) - 1)]
            if end.is_noticed:  # a worker that exited would look like a failure, after which the platform starts no other
                delay = max(delay, timing.reclaimed)
            at.worker_log.note(f"attempt {number + 1} of {program.attempts} follows in {delay:g} s")
            if not _wait(delay, at):
                lease.bring_marks()
                cause = _call_off(at, end).cause
                return _Last(cause.exit_code, at.status.status.message, is_final=not program.retries(cause, number))
        number += 1
    return _Last(TAKEN)


def _wait(seconds: float, at: AttemptContext) -> bool:
    """Wait before another attempt; False if the worker is told to stop, or the run is cancelled or resumed elsewhere meanwhile."""
    until = monotonic() + seconds
    while not at.signals.stop_requested and not at.is_cancelled() and at.superseded() is None:
        remaining = until - monotonic()
        if remaining <= 0:
            return True
        at.peers.announce()
        at.signals.wait(min(remaining, at.timing.heartbeat))
    return False


def _call_off(at: AttemptContext, end: Ending) -> Ending:
    """Record that no further attempt follows. A run that is cancelled between two attempts ends as cancelled, not as failed."""
    at.worker_log.note("no further attempt: told to stop")
    at.peers.withdraw()
    if not at.is_cancelled():
        return end
    cancelled = Ending(
        Cause.CANCELLED, f"cancelled before another attempt; this one ended with {end.cause.value}: {end.message}", end.exit_code
    )
    at.status.end(cancelled)
    return cancelled


def next_attempt(lease: AttemptLease, first: int, job: str) -> tuple[int, int | None]:
    """The attempt to claim, from ``first`` on, or an exit status if it belongs to another ``job`` or was the last one.

    Raises StoreError if the store cannot be reached.
    """
    number, program = first, lease.record.program
    while (text := lease.status_in_store(number)) is not None:
        status = (NodeStatus if lease.rank else AttemptStatus).from_json(text.encode(), layout.status(number, lease.rank))
        if status.launch != job:
            return number, TAKEN
        if lease.rank == 0 and status.cause is None:
            _end_predecessor(lease, number, text, status)
            continue  # another machine may have been faster
        cause = (status.cause if lease.rank == 0 else None) or Cause.PREEMPTED
        if not program.retries(cause, number):
            return number, cause.exit_code
        lease.skip(number)
        number += 1
    return number, None


def _end_predecessor(lease: AttemptLease, number: int, seen: str, status: AttemptStatus) -> None:
    """Record why an earlier attempt ended, since its worker did not, in the version of its status that was ``seen``."""
    is_cancelled = lease.is_marked_in_store(number)
    cause = Cause.CANCELLED if is_cancelled else Cause.PREEMPTED
    message = "cancelled; the machine was preempted" if is_cancelled else "the machine was preempted, and the worker restarted"
    try:
        # Closed: if the earlier worker lives after all, it has been overtaken.
        ended = replace(status.ended_with(cause, message, time.time()), closed=True)
        lease.end_for(number, seen, ended)
    except StoreError as error:
        raise StoreError(f"cannot record the end of attempt {number}: {error.message}", hint=error.hint) from error


def attempt_cause(end: Ending, at: AttemptContext) -> Cause:
    """Why the attempt ended, as node 0 recorded it; this node's own cause if node 0 never joined, is lost or takes too long."""
    patience = at.timing.lost if end.is_consequence else at.timing.silence
    since = monotonic()
    while True:
        at.peers.look()
        status = at.peers.statuses.get(0)
        if status is not None and status.cause is not None:
            return status.cause
        if at.peers.missing():
            return end.cause
        if at.peers.silent(patience):
            at.worker_log.note(f"no heartbeat from node 0: using this node's own cause, {end.cause.value}")
            return end.cause
        if at.signals.stop_requested and monotonic() - since > at.timing.farewell:
            return end.cause
        at.signals.wait(at.timing.look)


def another_follows(at: AttemptContext) -> bool:
    """Wait until node 0 has started another attempt; False if it does not, if it is lost, or if this node is told to stop."""
    said, changed, allowed = None, monotonic(), at.timing.farewell
    while not at.signals.stop_requested and not at.is_cancelled():
        if at.peers.has_begun_another():
            return True
        now_said = at.peers.announced()
        if now_said != said:
            said, changed, allowed = now_said, monotonic(), at.timing.silence
        if (said is None and allowed == at.timing.silence) or monotonic() - changed > allowed:
            break
        at.signals.wait(at.timing.look)
    at.worker_log.note("no further attempt")
    return False


def last_word(cause: Cause, at: AttemptContext) -> Cause:
    """The cause of the last attempt, which changes to cancelled if the run is cancelled between two attempts and node 0 records that."""
    give_up_at = monotonic() + at.timing.farewell
    while cause is not Cause.CANCELLED and 0 in at.peers.statuses and at.is_cancelled() and monotonic() < give_up_at:
        at.peers.look()
        cause = at.peers.statuses[0].cause or cause
        at.signals.wait(at.timing.join_look)
    return cause

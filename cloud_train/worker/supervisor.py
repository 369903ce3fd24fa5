"""A worker's life: one attempt, and the further ones that the job asks for, until the run has ended or somebody stops it."""

from __future__ import annotations  # what only some runs need is named here, and imported where it is needed

from dataclasses import dataclass
from time import monotonic
from typing import TYPE_CHECKING

from cloud_train.errors import CloudTrainError
from cloud_train.run.states import Cause
from cloud_train.storage.local import LocalStore
from cloud_train.worker import following
from cloud_train.worker.attempts.attempt import Attempt
from cloud_train.worker.context import AttemptContext, Timing
from cloud_train.worker.ending import Ending
from cloud_train.worker.lease import AttemptLease
from cloud_train.worker.nodes.node import NodeContext
from cloud_train.worker.processes.signals import Signals
from cloud_train.worker.processes.tree import become_subreaper
from cloud_train.worker.restarting import TAKEN, next_attempt

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
) -> int:
    """Run attempt ``first`` and those that follow from the job's ``retry``; returns the worker's exit status.

    That is ``TAKEN``, or the exit code of the last attempt's cause. ``store`` is the run's own; with ``remote`` the run is there, and
    ``store`` is a workspace on this machine. ``record_sha256`` is the SHA-256 of the ``run.json`` to carry out. Raises CorruptError, also
    for any other ``run.json``, or StoreError if nothing can be started.
    """
    become_subreaper()
    job = platform.job if platform else ""
    lease = AttemptLease(store, run_id, first, record_sha256, node=node, signals=signals, timing=timing, remote=remote, job=job)
    try:
        start, exit_status = next_attempt(lease, first, platform.job) if platform else (first, None)
        last = _attempts(lease, start, node=node, signals=signals, timing=timing) if exit_status is None else _Last(exit_status)
    except CloudTrainError:  # a further attempt could not be taken: those before it are shipped all the same
        lease.leave(0)
        raise
    exit_status = lease.leave(last.exit_status)
    if platform is None:
        return exit_status
    platform.tell(last.message)
    return platform.exit_status(exit_status, lease.record.program) if last.is_final and exit_status == last.exit_status else exit_status


@dataclass(frozen=True)
class _Last:
    """How a worker leaves."""

    exit_status: int
    message: str = ""
    is_final: bool = True
    """Whether there is nothing more to do for the run, however often the platform starts a worker."""


def _attempts(lease: AttemptLease, first: int, *, node: NodeContext, signals: Signals, timing: Timing) -> _Last:
    program = lease.record.program
    number = first
    while (at := lease.take(number)) is not None:
        end = Attempt(number, at).run()
        cause = end.cause if node.rank == 0 else following.attempt_cause(end, at)
        is_retried = program.retries(cause, number)
        if node.rank > 0:
            if not is_retried or signals.stop_requested or at.is_cancelled() or not following.another_follows(at):
                return _Last(following.last_word(cause, at).exit_code, is_final=not is_retried)
        elif not is_retried:
            return _Last(cause.exit_code, at.status.status.message)
        else:
            delay = timing.retry[min(number - first, len(timing.retry) - 1)]
            at.worker_log.note(f"attempt {number + 1} of {program.attempts} follows in {delay:g} s")
            if not _wait(delay, at):
                lease.bring_marks()
                cause = _call_off(at, end).cause
                return _Last(cause.exit_code, at.status.status.message, is_final=not program.retries(cause, number))
        number += 1
    return _Last(TAKEN)


def _wait(seconds: float, at: AttemptContext) -> bool:
    """Wait before another attempt; False if the run is told to stop meanwhile."""
    until = monotonic() + seconds
    while not at.signals.stop_requested and not at.is_cancelled():
        remaining = until - monotonic()
        if remaining <= 0:
            return True
        at.peers.announce()
        at.signals.wait(min(remaining, at.timing.heartbeat))
    return False


def _call_off(at: AttemptContext, end: Ending) -> Ending:
    """There will be no further attempt. Whoever cancels between two attempts gets a cancelled run, not a failed one."""
    at.worker_log.note("no further attempt: told to stop")
    at.peers.withdraw()
    if not at.is_cancelled():
        return end
    cancelled = Ending(Cause.CANCELLED, f"cancelled before another attempt; this one: {end.cause.value}: {end.message}", end.exit_code)
    at.status.end(cancelled)
    return cancelled

"""A worker's life: one attempt, and the further ones that the job asks for, until the run has ended or somebody stops it."""

import os
from time import monotonic

from cloud_train.errors import StoreError
from cloud_train.run import layout
from cloud_train.run.record import RunRecord
from cloud_train.run.states import Cause
from cloud_train.storage.base import Store
from cloud_train.worker import following
from cloud_train.worker.attempt import Attempt
from cloud_train.worker.ending import Ending
from cloud_train.worker.journal import Journal
from cloud_train.worker.node import NodeContext
from cloud_train.worker.peers import Peers
from cloud_train.worker.redaction import Redactor
from cloud_train.worker.signals import Signals
from cloud_train.worker.status import StatusFile
from cloud_train.worker.surroundings import Surroundings, Timing
from cloud_train.worker.tree import become_subreaper
from cloud_train.worker.workspace import Workspace

TAKEN = 3
"""Exit status of a worker that found its attempt in the hands of another one, and did nothing."""

DEFAULT_TIMING = Timing()


def run_attempts(store: Store, run_id: str, first: int, *, node: NodeContext, signals: Signals, timing: Timing = DEFAULT_TIMING) -> int:
    """Run attempt ``first`` and those that follow from the job's ``retry``; returns the worker's exit status.

    That is ``TAKEN``, or the exit code of the last attempt's cause. Raises CorruptError or StoreError if nothing can be started.
    """
    key = f"{run_id}/{layout.RUN}"
    record = RunRecord.from_json(store.get(key), f"{store.url}/{key}")
    become_subreaper()
    number = first
    while True:
        at = _surroundings(store, record, range(first, number + 1), node=node, signals=signals, timing=timing)
        if not at.status.claim():
            return TAKEN
        end = Attempt(number, at).run()
        cause = end.cause if node.rank == 0 else following.attempt_cause(end, at)
        is_retried = record.program.retries(cause, number)
        if node.rank > 0:
            if not is_retried or signals.stop_requested or at.is_cancelled() or not following.another_follows(at):
                return following.last_word(cause, at).exit_code
        elif not is_retried:
            return cause.exit_code
        else:
            delay = timing.retry[min(number - first, len(timing.retry) - 1)]
            at.journal.note(f"attempt {number + 1} of {record.program.attempts} follows in {delay:g} s")
            if not _wait(delay, at):
                return _call_off(at, end).cause.exit_code
        number += 1


def _surroundings(store: Store, record: RunRecord, attempts: range, *, node: NodeContext, signals: Signals, timing: Timing) -> Surroundings:
    number = attempts[-1]
    redactor = Redactor(os.environ.get(name, "") for name in record.job.get("secrets", ()))
    workspace = Workspace.in_store(store, record.run_id, number, node.rank)
    return Surroundings(
        record=record,
        workspace=workspace,
        node=node,
        status=StatusFile(store, f"{record.run_id}/{layout.status(number, node.rank)}", redactor, node.rank),
        journal=Journal(workspace.worker_log, redactor),
        signals=signals,
        peers=Peers(store, record.run_id, number, node),
        # Somebody who cancels while one attempt follows another may have marked the one before.
        is_cancelled=lambda: any(_exists(store, f"{record.run_id}/{layout.cancel(attempt)}") for attempt in attempts),
        timing=timing,
    )


def _wait(seconds: float, at: Surroundings) -> bool:
    """Wait before another attempt; False if the run is told to stop meanwhile."""
    until = monotonic() + seconds
    while not at.signals.stop_requested and not at.is_cancelled():
        remaining = until - monotonic()
        if remaining <= 0:
            return True
        at.peers.announce()
        at.signals.wait(min(remaining, at.timing.heartbeat))
    return False


def _call_off(at: Surroundings, end: Ending) -> Ending:
    """There will be no further attempt. Whoever cancels between two attempts gets a cancelled run, not a failed one."""
    at.journal.note("no further attempt: told to stop")
    at.peers.withdraw()
    if not at.is_cancelled():
        return end
    cancelled = Ending(Cause.CANCELLED, f"cancelled before another attempt; this one: {end.cause.value}: {end.message}", end.exit_code)
    at.status.end(cancelled)
    return cancelled


def _exists(store: Store, key: str) -> bool:
    try:
        store.stat(key)
    except StoreError:
        return False
    return True

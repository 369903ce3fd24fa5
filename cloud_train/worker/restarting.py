"""A worker that its platform may have started anew: what became of the attempt before, and which one comes next.

The platform promises that the worker before is gone. Its last word may be missing, because a machine that is taken back has none: node 0
writes it now. Whether another attempt follows is the job's ``retry``, as everywhere.
"""

import time

from cloud_train.errors import StoreError
from cloud_train.run import layout
from cloud_train.run.record import AttemptStatus
from cloud_train.run.states import Cause
from cloud_train.worker.lease import AttemptLease
from cloud_train.worker.status import NodeStatus

TAKEN = 3
"""Exit status of a worker that found its attempt in the hands of another one, and did nothing."""


def next_attempt(lease: AttemptLease, first: int, job: str) -> tuple[int, int | None]:
    """The attempt to take, from ``first`` on; with an exit status if there is none: it is that of another ``job``, or was the last one.

    Raises StoreError if the store cannot be asked.
    """
    number, program = first, lease.record.program
    while (text := lease.status_in_store(number)) is not None:
        status = (NodeStatus if lease.rank else AttemptStatus).from_json(text.encode(), layout.status(number, lease.rank))
        if status.launch != job:
            return number, TAKEN
        cause = _cause(lease, number, status) if lease.rank == 0 else Cause.PREEMPTED
        if not program.retries(cause, number):
            return number, cause.exit_code
        lease.skip(number)
        number += 1
    return number, None


def _cause(lease: AttemptLease, number: int, status: AttemptStatus) -> Cause:
    """Why the attempt before ended; written down now if it had no last word."""
    if status.cause is not None:
        return status.cause
    is_cancelled = lease.is_marked_in_store(number)
    cause = Cause.CANCELLED if is_cancelled else Cause.PREEMPTED
    message = "cancelled; the machine was gone" if is_cancelled else "the machine was taken back, and the worker started anew"
    try:
        lease.put_status(number, status.ended_with(cause, message, time.time()))
    except StoreError as error:
        raise StoreError(f"the end of attempt {number} cannot be written: {error.message}", hint=error.hint) from error
    return cause

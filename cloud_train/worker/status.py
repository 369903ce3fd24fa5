"""An attempt's status file, which its worker claims once and then keeps updating. A full disk does not stop the worker."""

import os
import time
from contextlib import suppress
from dataclasses import dataclass, replace
from typing import Any

from cloud_train.errors import StoreError
from cloud_train.run.documents import Fields
from cloud_train.run.fencing import Lease
from cloud_train.run.record import AttemptStatus
from cloud_train.run.states import State
from cloud_train.worker.ending import Ending, stopwatch
from cloud_train.worker.worker_log import Redactor


@dataclass(frozen=True)
class NodeStatus(AttemptStatus):
    """The status of one of several nodes; node 0 writes the attempt's own status instead."""

    is_consequence: bool = False
    """Whether this node ended because another one did, whose reason counts."""

    @classmethod
    def _read(cls, fields: Fields) -> dict[str, Any]:
        return {**super()._read(fields), "is_consequence": fields.flag("is_consequence", default=False)}


class StatusFile:
    """``status.json`` of one attempt, or of one of its nodes other than node 0. Nothing is written once the attempt was superseded."""

    def __init__(self, lease: Lease, redactor: Redactor, node_rank: int = 0, *, token: str = "", launch: str = "") -> None:
        """``token`` is that of the launch; ``launch`` is the platform's id of the worker's job."""
        self.lease = lease
        self._redactor = redactor
        self._began = stopwatch()
        now, host = time.time(), os.uname().nodename
        kind = NodeStatus if node_rank else AttemptStatus
        self.status = kind(State.STARTING, started=now, heartbeat=now, host=host, pid=os.getpid(), launch=launch, token=token, elapsed=0.0)

    def claim(self) -> bool:
        """Create it; False if another worker has claimed this attempt, or this node of it. Raises StoreError."""
        return self.lease.claim(self.status.to_json())

    def update(self, **changes: Any) -> bool:
        """Change these fields and renew the heartbeat; False if writing failed, which the next update makes up for."""
        return self._write(replace(self.status, heartbeat=time.time(), elapsed=self._until(stopwatch()), **changes))

    def end(self, end: Ending) -> bool:
        """Write the end; False if it could not be written."""
        elapsed = self._until(end.moment)
        measured = replace(self.status, heartbeat=end.time, elapsed=elapsed, ended=None)  # an end may be replaced by another one
        ended = measured.ended_with(end.cause, self._redactor.clean(end.message), end.time, end.exit_code)
        if isinstance(ended, NodeStatus):
            ended = replace(ended, is_consequence=end.is_consequence)
        if self.lease.superseded is None:
            return self._write(ended)
        self.status = ended = replace(ended, closed=True)
        with suppress(StoreError):  # another machine has written an end
            self.lease.conclude(ended.to_json())
        return True

    def _until(self, moment: float) -> float:
        return round(max(0.0, moment - self._began), 3)

    def _write(self, status: AttemptStatus) -> bool:
        self.status = status
        try:
            return self.lease.write(status.to_json())
        except StoreError:
            return False

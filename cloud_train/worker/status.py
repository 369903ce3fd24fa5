"""An attempt's status as its worker keeps it: claimed once, then written again and again. A full disk never stops the worker."""

import os
import time
from dataclasses import replace
from typing import Any

from cloud_train.errors import StoreError
from cloud_train.run.record import AttemptStatus
from cloud_train.run.states import State
from cloud_train.storage.base import ObjectExistsError, Store
from cloud_train.worker.ending import Ending
from cloud_train.worker.redaction import Redactor


class StatusFile:
    """``status.json`` of one attempt. Node 0 writes it; on the others it is kept in memory only."""

    def __init__(self, store: Store, key: str, redactor: Redactor, writes: bool) -> None:
        self._store = store
        self._key = key
        self._redactor = redactor
        self._writes = writes
        now = time.time()
        self.status = AttemptStatus(State.STARTING, started=now, heartbeat=now, host=os.uname().nodename, pid=os.getpid())

    def claim(self) -> bool:
        """Create it; False if another worker has this attempt. Raises StoreError."""
        if self._writes:
            try:
                self._store.create(self._key, self.status.to_json())
            except ObjectExistsError:
                return False
        return True

    def update(self, **changes: Any) -> bool:
        """Change these fields and give a sign of life; False if it could not be written: the next time brings it up to date."""
        return self._write(replace(self.status, heartbeat=time.time(), **changes))

    def end(self, end: Ending) -> bool:
        """Write the end; False if it could not be written."""
        return self._write(self.status.ended_with(end.cause, self._redactor.clean(end.message), time.time(), end.exit_code))

    def _write(self, status: AttemptStatus) -> bool:
        self.status = status
        try:
            if self._writes:
                self._store.put(self._key, status.to_json())
        except StoreError:
            return False
        return True

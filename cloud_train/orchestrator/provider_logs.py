"""A cloud's own log of an attempt: the only output until the worker starts, or if it never does."""

import time
from collections.abc import Callable
from contextlib import suppress

from cloud_train.errors import ProviderError
from cloud_train.orchestrator.connections import provider_at
from cloud_train.orchestrator.home import Home
from cloud_train.orchestrator.state import read_run
from cloud_train.providers.base import Handle
from cloud_train.run.ledger import LedgerReader
from cloud_train.run.states import State
from cloud_train.run.view import RunView

_PAUSE_SECONDS = 10.0
"""Pause between two requests for logs, which clouds limit."""


def read_provider_logs(home: Home, run_id: str) -> list[str]:
    """The lines of the cloud's own log of the newest attempt.

    Empty for a provider on this machine. Raises ProviderError.
    """
    lines: list[str] = []
    with LedgerReader(home.ledger_path) as ledger:
        ProviderLogs(home, lines.append).tell_all(read_run(home, run_id), ledger)
    return lines


class ProviderLogs:
    """Passes on the cloud's own log of an attempt until its worker starts, each line once."""

    def __init__(self, home: Home, note: Callable[[str], None], clock: Callable[[], float] = time.monotonic) -> None:
        self._home, self._note, self._clock = home, note, clock
        self._attempt, self._due = 0, clock()
        self._cursor: str | None = None
        self._begun = b""
        self._said = ""

    def tell(self, run: RunView, ledger: LedgerReader) -> None:
        """Pass on new lines, unless the worker has started or the next request is not due yet."""
        if run.message and run.message != self._said and run.state in (State.QUEUED, State.STARTING):
            self._said = run.message
            self._note(run.message)
        if run.heartbeat is not None or run.state.is_end or self._clock() < self._due:
            return
        self._due = self._clock() + _PAUSE_SECONDS
        with suppress(ProviderError):  # reported when the run itself is checked
            self.tell_all(run, ledger)

    def tell_all(self, run: RunView, ledger: LedgerReader) -> None:
        """Pass on every new line; raises ProviderError."""
        entry = ledger.get(run.run_id)
        if entry is None or entry.reference is None or run.is_unmanaged:
            return
        provider = provider_at(self._home, run.provider)
        if not provider.capabilities.starts_slowly:
            return
        if run.attempt != self._attempt:
            self._attempt, self._cursor, self._begun = run.attempt, None, b""
        handle = Handle(run.run_id, run.attempt, run.provider, run.store, entry.reference)
        while True:
            data, cursor = provider.logs(handle, self._cursor)
            *lines, self._begun = (self._begun + data).split(b"\n")
            for line in lines:
                self._note(f"{run.provider}: {line.decode(errors='replace')}")
            if cursor == self._cursor or not data:
                self._cursor = cursor
                return
            self._cursor = cursor

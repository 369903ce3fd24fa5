"""The ledger: this machine's record of runs and attempts, so that nothing started from here is ever lost.

A run is recorded as *submitting* before anything is sent, and as launched afterwards. ``orchestrator.state`` finds submissions that were
interrupted in between, and ``orchestrator.reconcile`` settles them.

The ledger also records what this machine trusts, which is never taken from a run directory: the SHA-256 of each ``run.json`` that was
written or accepted here, and the provider settings with which each attempt was started.
"""

import json
import sqlite3
from collections.abc import Iterator, Mapping
from contextlib import AbstractContextManager
from dataclasses import dataclass, field, fields, replace
from enum import Enum
from pathlib import Path
from typing import Any, Self

from cloud_train.errors import ConflictError
from cloud_train.run import ledger_file
from cloud_train.run.documents import LATEST
from cloud_train.run.record import AttemptStatus
from cloud_train.run.states import Cause, State
from cloud_train.run.view import RunView

_OF_RUN = ("run_id", "name", "store", "job_file", "created")
_OF_ATTEMPT = ("provider", "state", "cause", "message", "started", "ended", "host", "resumed_step", "reference", "settings", "token")
_COLUMNS = (*(f"runs.{name}" for name in _OF_RUN), "attempts.number", *(f"attempts.{name}" for name in _OF_ATTEMPT))
_FIELDS = (*_OF_RUN, "attempt", *_OF_ATTEMPT)
"""The field of ``Entry`` that each column becomes."""
_NEWEST = "attempts.number = (SELECT max(number) FROM attempts AS a WHERE a.run_id = runs.run_id)"

UNMANAGED: dict[str, Any] = {"elsewhere": True}
"""The reference of an attempt that was launched from another machine and that its provider cannot find from here."""


class RecordKind(Enum):
    """How this machine knows a ``run.json``."""

    OWN = "own"
    """This machine wrote it."""
    ACCEPTED = "accepted"
    """Another machine wrote it, and the user agreed to what it starts."""
    SEEN = "seen"
    """Another machine wrote it, and the user has not agreed to it."""


@dataclass(frozen=True)
class Entry(RunView):
    """One run with its newest attempt, as the ledger records it: a ``RunView`` and what only this machine knows."""

    reference: dict[str, Any] | None = None
    """The provider's handle of the attempt; None until it is launched."""
    settings: dict[str, Any] = field(default_factory=dict)
    """The provider settings from this machine's own configuration, for finding and resuming the attempt."""
    token: str = ""
    """The token with which the attempt was launched from here; empty without one, as for an attempt of another machine."""

    @property
    def is_unlaunched(self) -> bool:
        """Whether the attempt has neither a recorded launch nor an end: it is being submitted, or its submission was interrupted."""
        return self.reference is None and not self.state.is_end

    def launched(self, reference: dict[str, Any]) -> Self:
        """The run after its attempt was launched."""
        begins = self.state is State.SUBMITTING
        return replace(
            self,
            reference=reference,
            is_unmanaged=reference == UNMANAGED,
            state=State.STARTING if begins else self.state,
            started=None if begins else self.started,
        )

    def view(self, heartbeat: float | None = None, is_recorded: bool = True) -> RunView:
        """The run as shown to people."""
        shown = {each.name: getattr(self, each.name) for each in fields(RunView)}
        return RunView(**{**shown, "heartbeat": heartbeat, "is_recorded": is_recorded})


class LedgerReader:
    """The ledger, open for reading: nothing is created, migrated or changed. Use it as a context manager."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self._connection = self._connect(path)

    def _connect(self, path: Path) -> sqlite3.Connection:
        return ledger_file.connect_read_only(path)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *unused: object) -> None:
        self._connection.close()

    def records(self, run_id: str) -> dict[str, RecordKind]:
        """The SHA-256 of each ``run.json`` of this run known here; empty for an adopted run that was never resumed from here."""
        rows = self._rows("SELECT sha256, kind FROM records WHERE run_id = ?", (run_id,))
        return {sha256: RecordKind(kind) for sha256, kind in rows}

    def get(self, run_id: str) -> Entry | None:
        """One run with its newest attempt, or None."""
        return next(iter(self._entries("runs.run_id = ?", (run_id,))), None)

    def newest(self, limit: int | None = None) -> list[Entry]:
        """Runs with their newest attempt, newest run first."""
        return list(self._entries("1", (), limit))

    def matching(self, text: str, limit: int = 20) -> list[str]:
        """Ids of the runs that begin with ``text``, or failing that end with it, newest first."""
        for pattern in (f"{_escaped(text)}%", f"%-{_escaped(text)}"):
            rows = self._rows(
                "SELECT run_id FROM runs WHERE run_id LIKE ? ESCAPE '\\' ORDER BY created DESC, run_id DESC LIMIT ?", (pattern, limit)
            )
            if rows:
                return [row[0] for row in rows]
        return []

    def _entries(self, condition: str, values: tuple[object, ...], limit: int | None = None) -> Iterator[Entry]:
        rows = self._rows(
            f"SELECT {', '.join(_COLUMNS)} FROM runs JOIN attempts ON attempts.run_id = runs.run_id AND {_NEWEST} WHERE {condition}"
            " ORDER BY runs.created DESC, runs.run_id DESC LIMIT ?",
            (*values, -1 if limit is None else limit),
        )
        return map(_entry, rows)

    def _rows(self, query: str, values: tuple[object, ...]) -> list[tuple[Any, ...]]:
        with ledger_file.explained(self.path):
            return self._connection.execute(query, values).fetchall()


class Ledger(LedgerReader):
    """The ledger, open for changes; created if missing. Every change is one transaction."""

    def _connect(self, path: Path) -> sqlite3.Connection:
        return ledger_file.connect(path)

    def add(
        self,
        run_id: str,
        *,
        name: str,
        provider: str,
        store: str,
        job_file: str | None,
        created: float,
        settings: Mapping[str, Any],
        record_sha256: str,
        token: str = "",
    ) -> None:
        """Record a new run and its first attempt as *submitting*; raises ConflictError if the id is taken.

        ``record_sha256`` is the SHA-256 of the ``run.json`` about to be written.
        """
        with self._change():
            self._insert_run(run_id, name, provider, store, job_file, created)
            self._insert_attempt(run_id, 1, provider, settings, token)
            self._insert_record(run_id, record_sha256, RecordKind.OWN)

    def adopt(self, entry: Entry) -> None:
        """Record a run that was submitted from another machine; raises ConflictError if the id is taken."""
        with self._change() as connection:  # one transaction: a row without a reference would look like an interrupted submission
            self._insert_run(entry.run_id, entry.name, entry.provider, entry.store, entry.job_file, entry.created)
            connection.execute(
                "INSERT INTO attempts"
                " (run_id, number, provider, state, cause, message, started, ended, host, resumed_step, reference, settings)"
                " VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?)",
                (
                    entry.run_id,
                    entry.attempt,
                    entry.provider,
                    entry.state.value,
                    entry.cause.value if entry.cause else None,
                    entry.message,
                    entry.started,
                    entry.ended,
                    entry.host,
                    entry.resumed_step,
                    json.dumps(entry.reference) if entry.reference is not None else None,
                    json.dumps(entry.settings),
                ),
            )

    def know_record(self, run_id: str, sha256: str, kind: RecordKind) -> None:
        """Record another ``run.json`` by its SHA-256. One recorded as *seen* can be upgraded; the others cannot change."""
        with self._change():
            self._insert_record(run_id, sha256, kind)

    def distrust(self, run_id: str) -> None:
        """Forget every known ``run.json`` of the run: it must be accepted again before the run can be resumed."""
        with self._change() as connection:
            connection.execute("DELETE FROM records WHERE run_id = ?", (run_id,))

    def add_attempt(self, run_id: str, number: int, provider: str, settings: Mapping[str, Any], token: str = "") -> None:
        """Record a further attempt as *submitting*; raises ConflictError if the number is taken."""
        with self._change():
            self._insert_attempt(run_id, number, provider, settings, token)

    def move(
        self, run_id: str, number: int, provider: str, store: str, *, settings: Mapping[str, Any], record_sha256: str, token: str = ""
    ) -> None:
        """Record that the run continues with another provider or in another store, and its next attempt as *submitting*.

        From then on ``record_sha256`` is the only accepted ``run.json``. Raises ConflictError if the number is taken.
        """
        with self._change() as connection:  # one transaction, so that an interrupted attempt is looked for where it was started
            connection.execute("UPDATE runs SET provider = ?, store = ? WHERE run_id = ?", (provider, store, run_id))
            connection.execute("DELETE FROM records WHERE run_id = ?", (run_id,))
            self._insert_record(run_id, record_sha256, RecordKind.OWN)
            self._insert_attempt(run_id, number, provider, settings, token)

    def sending(self, run_id: str, number: int, now: float) -> None:
        """Record that the provider is asked at ``now`` to start the attempt, which is *submitting*."""
        with self._change() as connection:
            connection.execute("UPDATE attempts SET started = ? WHERE run_id = ? AND number = ?", (now, run_id, number))

    def launched(self, run_id: str, number: int, reference: dict[str, Any]) -> None:
        """Record that the provider started the attempt, with its reference."""
        with self._change() as connection:
            connection.execute(
                "UPDATE attempts SET started = CASE state WHEN 'submitting' THEN NULL ELSE started END,"
                " state = CASE state WHEN 'submitting' THEN 'starting' ELSE state END, reference = ? WHERE run_id = ? AND number = ?",
                (json.dumps(reference), run_id, number),
            )

    def observed(
        self,
        run_id: str,
        number: int,
        state: State,
        cause: Cause | None = None,
        message: str = "",
        *,
        started: float | None = None,
        ended: float | None = None,
        host: str = "",
        resumed_step: int | None = None,
    ) -> None:
        """Record the state of an attempt; a retry that the worker started is added."""
        times = (started, ended, host, resumed_step)
        with self._change() as connection:
            _observe(connection, (run_id, number, state.value, cause.value if cause else None, message, *times))

    def record(self, seen: Entry, number: int, status: AttemptStatus, *, is_unmanaged: bool) -> bool:
        """Record an attempt's status, and with ``is_unmanaged`` that another machine launched it.

        Nothing is recorded, and False is returned, if the run's row is no longer as ``seen``: then the status may be out of date.
        """
        with self._change() as connection:
            if self.get(seen.run_id) != seen:
                return False
            cause = status.cause.value if status.cause else None
            times = (status.started, status.ended, status.host, status.resumed_step)
            _observe(connection, (seen.run_id, number, status.state.value, cause, status.message, *times))
            if is_unmanaged:
                connection.execute(
                    "UPDATE attempts SET reference = ?, token = '' WHERE run_id = ? AND number = ?",
                    (json.dumps(UNMANAGED), seen.run_id, number),
                )
        return True

    def forget(self, run_id: str) -> None:
        """Remove a run whose submission failed."""
        with self._change() as connection:
            connection.execute("DELETE FROM runs WHERE run_id = ?", (run_id,))

    def _change(self) -> AbstractContextManager[sqlite3.Connection]:
        return ledger_file.change(self._connection, self.path)

    def _insert_run(self, *row: str | float | None) -> None:
        try:
            self._connection.execute("INSERT INTO runs (run_id, name, provider, store, job_file, created) VALUES (?, ?, ?, ?, ?, ?)", row)
        except sqlite3.IntegrityError as error:
            raise ConflictError(f"the run {row[0]} is already in the ledger") from error

    def _insert_record(self, run_id: str, sha256: str, kind: RecordKind) -> None:
        self._connection.execute(
            "INSERT INTO records (run_id, sha256, kind) VALUES (?, ?, ?)"
            " ON CONFLICT (run_id, sha256) DO UPDATE SET kind = excluded.kind WHERE kind = 'seen'",
            (run_id, sha256, kind.value),
        )

    def _insert_attempt(self, run_id: str, number: int, provider: str, settings: Mapping[str, Any], token: str) -> None:
        try:
            self._connection.execute(
                "INSERT INTO attempts (run_id, number, provider, state, settings, token) VALUES (?, ?, ?, ?, ?, ?)",
                (run_id, number, provider, State.SUBMITTING.value, json.dumps(dict(settings)), token),
            )
        except sqlite3.IntegrityError as error:
            raise ConflictError(f"attempt {number} of {run_id} is already in the ledger") from error


def _observe(connection: sqlite3.Connection, row: tuple[object, ...]) -> None:
    """Insert or update an attempt. A new one has the reference, the settings and the token of the one before: its worker started it."""
    before = "FROM attempts WHERE run_id = ?1 AND number < ?2 ORDER BY number DESC LIMIT 1"
    connection.execute(
        "INSERT INTO attempts"
        " (run_id, number, provider, state, cause, message, started, ended, host, resumed_step, reference, settings, token)"
        " SELECT ?1, ?2, provider, ?3, ?4, ?5, ?6, ?7, ?8, ?9,"
        f"  (SELECT reference {before}), (SELECT settings {before}), coalesce((SELECT token {before}), '')"
        " FROM runs WHERE run_id = ?1"
        " ON CONFLICT (run_id, number) DO UPDATE SET state = ?3, cause = ?4, message = ?5, started = ?6, ended = ?7, host = ?8,"
        "  resumed_step = ?9",
        row,
    )


def _entry(row: tuple[Any, ...]) -> Entry:
    values = dict(zip(_FIELDS, row, strict=True))
    reference = json.loads(values["reference"]) if values["reference"] else None
    return Entry(
        **{
            **values,
            "created": min(max(values["created"], 0.0), LATEST),
            "state": State(values["state"]),
            "cause": Cause(values["cause"]) if values["cause"] else None,
            "started": _time(values["started"]),
            "ended": _time(values["ended"]),
            "reference": reference,
            "settings": json.loads(values["settings"]) if values["settings"] else {},
            "is_unmanaged": reference == UNMANAGED,
        }
    )


def _time(seconds: float | None) -> float | None:
    """A valid time, or None. An earlier version recorded times from run directories unchecked."""
    return seconds if seconds is not None and 0 <= seconds <= LATEST else None


def _escaped(text: str) -> str:
    return text.replace("\\", "\\\\").replace("%", "\\%").replace("_", "\\_")

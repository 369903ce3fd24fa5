"""The ledger: this machine's record of runs and attempts, so that nothing started from here is ever lost.

A run is recorded as *submitting* before anything is sent, and as launched afterwards. ``orchestrator.state`` finds submissions that were
interrupted in between, and ``orchestrator.reconcile`` settles them.

The ledger also records what this machine trusts, which is never taken from a run directory: the SHA-256 of each ``run.json`` that was
written or accepted here, and the provider settings with which each attempt was started.
"""

import json
import sqlite3
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from cloud_train.errors import ConflictError, StoreError
from cloud_train.run import ledger_file
from cloud_train.run.ledger_entry import UNMANAGED, Entry, RecordKind, is_whole, with_readable_handle
from cloud_train.run.ledger_reader import LedgerReader
from cloud_train.run.ledger_salvage import Salvage
from cloud_train.run.record import AttemptStatus
from cloud_train.run.states import Cause, State


class Ledger(LedgerReader):
    """The ledger, open for changes; created if missing. Every change is one transaction."""

    def __init__(self, path: Path, unwritable: Callable[[str], None] | None = None) -> None:
        """``unwritable``: for commands that have to work without the ledger, such as *cancel*. If it cannot be written, because its disk is
        full for example, a copy in memory is changed instead, and ``unwritable`` is told once that nothing is recorded.
        """
        self._unwritable = unwritable
        super().__init__(path)

    def _connect(self, path: Path) -> sqlite3.Connection:
        if self._unwritable is None:
            return ledger_file.connect(path)
        try:
            return ledger_file.connect(path)
        except StoreError as error:
            return self._stand_in(path, error)

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
        self._change(
            _new_run(run_id, name, provider, store, job_file, created),
            _new_attempt(run_id, 1, provider, settings, token),
            _new_record(run_id, record_sha256, RecordKind.OWN),
        )

    def adopt(self, entry: Entry, *, replaces: bool = False) -> None:
        """Record a run that was submitted from another machine; raises ConflictError if the id is taken, unless the new entry ``replaces``
        it.
        """
        forgotten = _Statement("DELETE FROM runs WHERE run_id = ?", (entry.run_id,))
        lost = "DELETE FROM {} WHERE run_id = ? AND run_id NOT IN (SELECT run_id FROM {})"
        self._change(  # one transaction: a row without a reference would look like an interrupted submission
            *([forgotten] if replaces else []),
            *(_Statement(lost.format(*tables), (entry.run_id,)) for tables in (("runs", "attempts"), ("attempts", "runs"))),
            _new_run(entry.run_id, entry.name, entry.provider, entry.store, entry.job_file, entry.created),
            _Statement(
                "INSERT INTO attempts"
                " (run_id, number, provider, state, cause, message, started, ended, elapsed, host, resumed_step, reference, settings)"
                " VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?)",
                (
                    entry.run_id,
                    entry.attempt,
                    entry.provider,
                    entry.state.value,
                    entry.cause.value if entry.cause else None,
                    entry.message,
                    entry.started,
                    entry.ended,
                    entry.elapsed,
                    entry.host,
                    entry.resumed_step,
                    json.dumps(entry.reference) if entry.reference is not None else None,
                    json.dumps(entry.settings),
                ),
            ),
        )

    def know_record(self, run_id: str, sha256: str, kind: RecordKind) -> None:
        """Record another ``run.json`` by its SHA-256. One recorded as *seen* can be upgraded; the others cannot change."""
        self._change(_new_record(run_id, sha256, kind))

    def distrust(self, run_id: str) -> None:
        """Forget every known ``run.json`` of the run: it must be accepted again before the run can be resumed."""
        self._change(_Statement("DELETE FROM records WHERE run_id = ?", (run_id,)))

    def add_attempt(self, run_id: str, number: int, provider: str, settings: Mapping[str, Any], token: str = "") -> None:
        """Record a further attempt as *submitting*; raises ConflictError if the number is taken."""
        self._change(_new_attempt(run_id, number, provider, settings, token))

    def move(
        self, run_id: str, number: int, provider: str, store: str, *, settings: Mapping[str, Any], record_sha256: str, token: str = ""
    ) -> None:
        """Record that the run continues with another provider or in another store, and its next attempt as *submitting*.

        From then on ``record_sha256`` is the only accepted ``run.json``. What was seen of an attempt of that number in the old place, the
        claim of the move itself, is forgotten.
        """
        self._change(  # one transaction, so that an interrupted attempt is looked for where it was started
            _Statement("UPDATE runs SET provider = ?, store = ? WHERE run_id = ?", (provider, store, run_id)),
            _Statement("DELETE FROM records WHERE run_id = ?", (run_id,)),
            _Statement("DELETE FROM attempts WHERE run_id = ? AND number = ?", (run_id, number)),
            _new_record(run_id, record_sha256, RecordKind.OWN),
            _new_attempt(run_id, number, provider, settings, token),
        )

    def sending(self, run_id: str, number: int, now: float) -> None:
        """Record that the provider is asked at ``now`` to start the attempt, which is *submitting*."""
        self._change(_Statement("UPDATE attempts SET started = ? WHERE run_id = ? AND number = ?", (now, run_id, number)))

    def launched(self, run_id: str, number: int, reference: dict[str, Any]) -> None:
        """Record that the provider started the attempt, with its reference."""
        self._change(
            _Statement(
                "UPDATE attempts SET started = CASE state WHEN 'submitting' THEN NULL ELSE started END,"
                " state = CASE state WHEN 'submitting' THEN 'starting' ELSE state END, reference = ? WHERE run_id = ? AND number = ?",
                (json.dumps(reference), run_id, number),
            )
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
        more = (started, ended, host, resumed_step, None)
        self._change(_observed(run_id, number, state.value, cause.value if cause else None, message, *more))

    def record(self, seen: Entry, number: int, status: AttemptStatus, *, is_unmanaged: bool) -> bool:
        """Record an attempt's status, and with ``is_unmanaged`` that another machine launched it.

        Nothing is recorded, and False is returned, if the run's row is no longer as ``seen``: then the status may be out of date.
        """
        cause = status.cause.value if status.cause else None
        elapsed = status.elapsed if status.ended is not None else None
        more = (status.began, status.ended, status.host, status.resumed_step, elapsed)
        statements = [_observed(seen.run_id, number, status.state.value, cause, status.message, *more)]
        if is_unmanaged:
            values = (json.dumps(UNMANAGED), seen.run_id, number)
            statements.append(_Statement("UPDATE attempts SET reference = ?, token = '' WHERE run_id = ? AND number = ?", values))
        return self._change(*statements, expected=seen)

    def restore(self, rows: Salvage) -> list[str]:
        """Record the runs of another ledger that are whole there, with their attempts and records; returns their ids, in their order.

        They count as submitted before those that are in this ledger. All in one transaction.
        """
        attempts, records = _by_run([*map(with_readable_handle, rows.attempts)]), _by_run(rows.records)
        kept = []
        with ledger_file.change(self._connection, self.path) as connection:
            (first,) = connection.execute("SELECT coalesce(min(rowid), ?1 + 1) - ?1 FROM runs", (len(rows.runs),)).fetchone()
            columns = {table: _columns(connection, table) for table in ("runs", "attempts", "records")}
            for rowid, row in enumerate(rows.runs, first):
                run_id = row["run_id"]
                of_run = attempts.get(run_id, []), records.get(run_id, [])
                if not is_whole(row, *of_run):
                    continue
                connection.execute("SAVEPOINT run")
                try:
                    for table, group in zip(columns, ([{**row, "rowid": rowid}], *of_run), strict=True):
                        for each in group:
                            known = {name: value for name, value in each.items() if name in columns[table]}
                            connection.execute(*_insert(table, known))
                except sqlite3.IntegrityError:
                    connection.execute("ROLLBACK TO run")
                else:
                    kept.append(run_id)
                connection.execute("RELEASE run")
        return kept

    def forget(self, run_id: str) -> None:
        """Remove a run, such as one whose submission failed."""
        self._change(_Statement("DELETE FROM runs WHERE run_id = ?", (run_id,)))

    def _change(self, *statements: "_Statement", expected: Entry | None = None) -> bool:
        """Execute the statements in one transaction; False, and nothing is changed, if a run's row is not as ``expected``."""
        try:
            return self._execute(statements, expected)
        except StoreError as error:
            if self._unwritable is None or self._is_stand_in:
                raise
            self._connection.close()
            self._connection = self._stand_in(self.path, error)
            return self._execute(statements, expected)

    def _execute(self, statements: Sequence["_Statement"], expected: Entry | None) -> bool:
        with ledger_file.change(self._connection, self.path) as connection:
            if expected is not None and self.get(expected.run_id) != expected:
                return False
            for statement in statements:
                try:
                    connection.execute(statement.sql, statement.values)
                except sqlite3.IntegrityError as error:
                    if not statement.names:
                        raise
                    raise ConflictError(f"{statement.names} is already in the ledger") from error
        return True

    def _stand_in(self, path: Path, error: StoreError) -> sqlite3.Connection:
        if not path.exists():
            raise error
        connection = ledger_file.copy_in_memory(path)
        self._is_stand_in = True
        if self._unwritable is not None:
            self._unwritable(f"{error.message}; what this command finds is not recorded on this machine")
        return connection


class LedgerInMemory(Ledger):
    """An empty ledger in memory, which is there as long as the object. It may be opened as a context manager any number of times."""

    def __init__(self) -> None:
        super().__init__(Path(":memory:"))

    def _connect(self, path: Path) -> sqlite3.Connection:
        return ledger_file.in_memory(None, writable=True)

    def __exit__(self, *unused: object) -> None:
        """Leave the ledger open."""


@dataclass(frozen=True)
class _Statement:
    sql: str
    values: tuple[Any, ...]
    names: str = ""
    """What is recorded already if the row exists."""


def _by_run(rows: list[dict[str, Any]]) -> dict[str, list[dict[str, Any]]]:
    found: dict[str, list[dict[str, Any]]] = {}
    for row in rows:
        found.setdefault(row["run_id"], []).append(row)
    return found


def _columns(connection: sqlite3.Connection, table: str) -> set[str]:
    return {"rowid", *(row[1] for row in connection.execute(f"PRAGMA table_info({table})"))}


def _insert(table: str, row: Mapping[str, Any]) -> tuple[str, tuple[Any, ...]]:
    """The statement and its values. Attempts and records that are there without their run are replaced."""
    verb = "INSERT" if table == "runs" else "REPLACE"
    return f"{verb} INTO {table} ({', '.join(row)}) VALUES ({', '.join('?' * len(row))})", tuple(row.values())


def _new_run(*row: str | float | None) -> _Statement:
    """``row``: the columns of ``_OF_RUN`` with the provider as the third."""
    return _Statement(
        "INSERT INTO runs (run_id, name, provider, store, job_file, created) VALUES (?, ?, ?, ?, ?, ?)", row, f"the run {row[0]}"
    )


def _new_record(run_id: str, sha256: str, kind: RecordKind) -> _Statement:
    return _Statement(
        "INSERT INTO records (run_id, sha256, kind) VALUES (?, ?, ?)"
        " ON CONFLICT (run_id, sha256) DO UPDATE SET kind = excluded.kind WHERE kind = 'seen'",
        (run_id, sha256, kind.value),
    )


def _observed(*row: object) -> _Statement:
    """Insert or update an attempt. A new one has the reference, the settings and the token of the one before: its worker started it."""
    before = "FROM attempts WHERE run_id = ?1 AND number < ?2 ORDER BY number DESC LIMIT 1"
    return _Statement(
        "INSERT INTO attempts"
        " (run_id, number, provider, state, cause, message, started, ended, host, resumed_step, elapsed, reference, settings, token)"
        " SELECT ?1, ?2, provider, ?3, ?4, ?5, ?6, ?7, ?8, ?9, ?10,"
        f"  (SELECT reference {before}), (SELECT settings {before}), coalesce((SELECT token {before}), '')"
        " FROM runs WHERE run_id = ?1"
        " ON CONFLICT (run_id, number) DO UPDATE SET state = ?3, cause = ?4, message = ?5, started = ?6, ended = ?7, host = ?8,"
        "  resumed_step = ?9, elapsed = ?10",
        row,
    )


def _new_attempt(run_id: str, number: int, provider: str, settings: Mapping[str, Any], token: str) -> _Statement:
    return _Statement(
        "INSERT INTO attempts (run_id, number, provider, state, settings, token) VALUES (?, ?, ?, ?, ?, ?)",
        (run_id, number, provider, State.SUBMITTING.value, json.dumps(dict(settings)), token),
        f"attempt {number} of {run_id}",
    )

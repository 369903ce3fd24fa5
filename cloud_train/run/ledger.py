"""The ledger: this machine's record of runs and attempts, so that nothing started from here is ever lost.

A run is recorded as *submitting* before anything is sent, and as launched afterwards. ``orchestrator.state`` finds submissions that were
interrupted in between, and ``orchestrator.reconcile`` settles them.

The ledger also records what this machine trusts, which is never taken from a run directory: the SHA-256 of each ``run.json`` that was
written or accepted here, and the provider settings with which each attempt was started.
"""

import json
import sqlite3
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, fields, replace
from enum import Enum
from pathlib import Path
from typing import Any, Self

from cloud_train.errors import ConflictError, CorruptError, StoreError
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
_TEXTS_OR_NONE = ("job_file", "cause", "reference", "settings")
_NUMBERS = ("created", "started", "ended")
_TEXTS = ("run_id", "name", "store", "provider", "state", "message", "host", "token")
_NEWEST = "attempts.number = (SELECT max(number) FROM attempts AS a WHERE a.run_id = runs.run_id)"
_SELECT = f"SELECT {', '.join(_COLUMNS)} FROM runs JOIN attempts ON attempts.run_id = runs.run_id AND {_NEWEST}"
_NEWEST_FIRST = "ORDER BY runs.created DESC, runs.run_id DESC"
_BATCH = 1000

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
        """The run as it is displayed."""
        shown = {each.name: getattr(self, each.name) for each in fields(RunView)}
        return RunView(**{**shown, "heartbeat": heartbeat, "is_recorded": is_recorded})


class LedgerReader:
    """The ledger, open for reading: nothing is created, migrated or changed. Use it as a context manager."""

    _is_stand_in = False
    """Whether the connection is to a copy in memory."""

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
        """One run with its newest attempt, or None. Raises CorruptError if its row is damaged."""
        damaged: list[str] = []
        entry = next(self._entries("runs.run_id = ?", (run_id,), damaged), None)
        if damaged:
            raise CorruptError(f"the ledger's record of {run_id} is damaged", hint=ledger_file.REPAIR)
        return entry

    def newest(self, limit: int | None = None, damaged: list[str] | None = None) -> list[Entry]:
        """Runs with their newest attempt, newest run first. Rows that are damaged are left out, and their ids are added to ``damaged``."""
        return list(self.each(limit, damaged))

    def each(self, limit: int | None = None, damaged: list[str] | None = None) -> Iterator[Entry]:
        """As ``newest``, read as they are needed; the ledger may be changed meanwhile."""
        left = limit
        last: tuple[Any, ...] = ()
        while left is None or left > 0:
            batch_size = _BATCH if left is None else min(left, _BATCH)
            older = "WHERE (runs.created, runs.run_id) < (?, ?)" if last else ""
            rows = self._rows(f"{_SELECT} {older} {_NEWEST_FIRST} LIMIT ?", (*last, batch_size))
            if not rows:
                return
            last = rows[-1][_FIELDS.index("created")], rows[-1][0]
            for row in rows:
                if (entry := _entry_or_none(row, [] if damaged is None else damaged)) is not None:
                    yield entry
                    left = None if left is None else left - 1

    def unfinished(self) -> list[Entry]:
        """The runs whose newest attempt has no recorded end."""
        ends = ", ".join(f"'{state.value}'" for state in State if state.is_end)
        return list(self._entries(f"attempts.state NOT IN ({ends})", (), []))

    def lost_attempts(self) -> list[str]:
        """Ids of the runs of which no attempt is recorded: no submission leaves such a run."""
        rows = self._rows("SELECT run_id FROM runs WHERE run_id NOT IN (SELECT run_id FROM attempts)", ())
        return [str(row[0]) for row in rows]

    def last_submitted(self) -> str | None:
        """The id of the run that was submitted last from this machine, whatever its clock was then; failing that, of the newest one."""
        rows = self._rows(
            "SELECT run_id FROM runs WHERE EXISTS (SELECT 1 FROM attempts WHERE run_id = runs.run_id)"
            " ORDER BY EXISTS (SELECT 1 FROM records WHERE run_id = runs.run_id AND kind = 'own') DESC, rowid DESC LIMIT 1",
            (),
        )
        return rows[0][0] if rows else None

    def matching(self, text: str, limit: int = 20) -> list[str]:
        """Ids of the runs that begin with ``text``, or failing that end with it, newest first."""
        for pattern in (f"{_escaped(text)}%", f"%-{_escaped(text)}"):
            rows = self._rows(
                "SELECT run_id FROM runs WHERE run_id LIKE ? ESCAPE '\\' ORDER BY created DESC, run_id DESC LIMIT ?", (pattern, limit)
            )
            if rows:
                return [row[0] for row in rows]
        return []

    def _entries(self, condition: str, values: tuple[object, ...], damaged: list[str]) -> Iterator[Entry]:
        with ledger_file.explained(self.path):
            rows = self._connection.execute(f"{_SELECT} WHERE {condition} {_NEWEST_FIRST}", values).fetchall()
        yield from (entry for row in rows if (entry := _entry_or_none(row, damaged)) is not None)

    def _rows(self, query: str, values: tuple[object, ...]) -> list[tuple[Any, ...]]:
        with ledger_file.explained(self.path):
            return self._connection.execute(query, values).fetchall()


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

    def adopt(self, entry: Entry) -> None:
        """Record a run that was submitted from another machine; raises ConflictError if the id is taken."""
        lost = "DELETE FROM {} WHERE run_id = ? AND run_id NOT IN (SELECT run_id FROM {})"
        self._change(  # one transaction: a row without a reference would look like an interrupted submission
            *(_Statement(lost.format(*tables), (entry.run_id,)) for tables in (("runs", "attempts"), ("attempts", "runs"))),
            _new_run(entry.run_id, entry.name, entry.provider, entry.store, entry.job_file, entry.created),
            _Statement(
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

        From then on ``record_sha256`` is the only accepted ``run.json``. Raises ConflictError if the number is taken.
        """
        self._change(  # one transaction, so that an interrupted attempt is looked for where it was started
            _Statement("UPDATE runs SET provider = ?, store = ? WHERE run_id = ?", (provider, store, run_id)),
            _Statement("DELETE FROM records WHERE run_id = ?", (run_id,)),
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
        times = (started, ended, host, resumed_step)
        self._change(_observed(run_id, number, state.value, cause.value if cause else None, message, *times))

    def record(self, seen: Entry, number: int, status: AttemptStatus, *, is_unmanaged: bool) -> bool:
        """Record an attempt's status, and with ``is_unmanaged`` that another machine launched it.

        Nothing is recorded, and False is returned, if the run's row is no longer as ``seen``: then the status may be out of date.
        """
        cause = status.cause.value if status.cause else None
        times = (status.started, status.ended, status.host, status.resumed_step)
        statements = [_observed(seen.run_id, number, status.state.value, cause, status.message, *times)]
        if is_unmanaged:
            values = (json.dumps(UNMANAGED), seen.run_id, number)
            statements.append(_Statement("UPDATE attempts SET reference = ?, token = '' WHERE run_id = ? AND number = ?", values))
        return self._change(*statements, expected=seen)

    def restore(self, rows: ledger_file.Salvage) -> list[str]:
        """Record the runs of another ledger that are whole there, with their attempts and records; returns their ids, in their order.

        All in one transaction.
        """
        attempts, records = _by_run(rows.attempts), _by_run(rows.records)
        kept = []
        with ledger_file.change(self._connection, self.path) as connection:
            for row in sorted(rows.runs, key=lambda row: row["rowid"]):
                run, run_id = {name: value for name, value in row.items() if name != "rowid"}, row["run_id"]
                of_run = attempts.get(run_id, []), records.get(run_id, [])
                if not _is_whole(run, *of_run):
                    continue
                connection.execute("SAVEPOINT run")
                try:
                    for table, group in zip(("runs", "attempts", "records"), ([run], *of_run), strict=True):
                        for each in group:
                            statement = _insert(table, each)
                            connection.execute(statement.sql, statement.values)
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


def _is_whole(run: dict[str, Any], attempts: list[dict[str, Any]], records: list[dict[str, Any]]) -> bool:
    """Whether a run has attempts, and all its values can be read."""
    try:
        for attempt in attempts:
            _entry(tuple({"token": "", **run, **attempt}[name] for name in (*_OF_RUN, "number", *_OF_ATTEMPT)))
        for record in records:
            RecordKind(record["kind"])
    except (ValueError, TypeError, KeyError, RecursionError):
        return False
    return bool(attempts)


def _insert(table: str, row: Mapping[str, Any]) -> _Statement:
    columns = ", ".join(row)
    return _Statement(f"INSERT INTO {table} ({columns}) VALUES ({', '.join('?' * len(row))})", tuple(row.values()), str(row["run_id"]))


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
        " (run_id, number, provider, state, cause, message, started, ended, host, resumed_step, reference, settings, token)"
        " SELECT ?1, ?2, provider, ?3, ?4, ?5, ?6, ?7, ?8, ?9,"
        f"  (SELECT reference {before}), (SELECT settings {before}), coalesce((SELECT token {before}), '')"
        " FROM runs WHERE run_id = ?1"
        " ON CONFLICT (run_id, number) DO UPDATE SET state = ?3, cause = ?4, message = ?5, started = ?6, ended = ?7, host = ?8,"
        "  resumed_step = ?9",
        row,
    )


def _new_attempt(run_id: str, number: int, provider: str, settings: Mapping[str, Any], token: str) -> _Statement:
    return _Statement(
        "INSERT INTO attempts (run_id, number, provider, state, settings, token) VALUES (?, ?, ?, ?, ?, ?)",
        (run_id, number, provider, State.SUBMITTING.value, json.dumps(dict(settings)), token),
        f"attempt {number} of {run_id}",
    )


def _entry(row: tuple[Any, ...]) -> Entry:
    values = dict(zip(_FIELDS, row, strict=True))
    _check_types(values)
    reference = json.loads(values["reference"]) if values["reference"] else None
    settings = json.loads(values["settings"]) if values["settings"] else {}
    if not isinstance(reference, dict | None) or not isinstance(settings, dict):
        raise TypeError("a handle or the settings in the ledger are not a mapping")
    return Entry(
        **{
            **values,
            "created": min(max(values["created"], 0.0), LATEST),
            "state": State(values["state"]),
            "cause": Cause(values["cause"]) if values["cause"] else None,
            "started": _time(values["started"]),
            "ended": _time(values["ended"]),
            "reference": reference,
            "settings": settings,
            "is_unmanaged": reference == UNMANAGED,
        }
    )


def _check_types(values: Mapping[str, Any]) -> None:
    """Raise TypeError if a row has values that no version of cloud-train wrote, as a damaged file may."""
    kinds = {str: _TEXTS, int: ("attempt",), str | None: _TEXTS_OR_NONE, int | None: ("resumed_step",), float | int | None: _NUMBERS}
    for kind, names in kinds.items():
        for name in names:
            if not isinstance(values[name], kind):
                raise TypeError(f"the ledger has {type(values[name]).__name__} as {name}")


def _entry_or_none(row: tuple[Any, ...], damaged: list[str]) -> Entry | None:
    """The entry; None for a damaged row, whose run is added to ``damaged``."""
    try:
        return _entry(row)
    except (ValueError, TypeError, RecursionError):
        damaged.append(str(row[0]))
        return None


def _time(seconds: float | None) -> float | None:
    """A valid time, or None. An earlier version recorded times from run directories unchecked."""
    return seconds if seconds is not None and 0 <= seconds <= LATEST else None


def _escaped(text: str) -> str:
    return text.replace("\\", "\\\\").replace("%", "\\%").replace("_", "\\_")

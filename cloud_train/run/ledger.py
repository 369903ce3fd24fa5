"""The ledger: this machine's record of runs and attempts, one SQLite file in WAL mode, so that nothing that was started is ever forgotten.

A run is written down as *submitting* before anything is sent, and as launched after. What stands between the two is settled by whoever
looks next (``orchestrator.observing``). The schema's version is SQLite's ``user_version``.

The ledger is also what this machine's word is checked by: the SHA-256 of each ``run.json`` that was written or accepted here, and the
provider settings with which each attempt was started. Neither is ever taken from a run directory.
"""

import json
import sqlite3
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from enum import Enum
from pathlib import Path
from typing import Any, Self

from cloud_train import private
from cloud_train.errors import ConflictError, StoreError
from cloud_train.run.documents import LATEST
from cloud_train.run.record import AttemptStatus
from cloud_train.run.states import Cause, State

_VERSION = 2
_RECORDS = """
CREATE TABLE records (
    run_id TEXT NOT NULL REFERENCES runs (run_id) ON DELETE CASCADE,
    sha256 TEXT NOT NULL,
    kind   TEXT NOT NULL,
    PRIMARY KEY (run_id, sha256)
) STRICT, WITHOUT ROWID;
"""
_SCHEMA = f"""
CREATE TABLE runs (
    run_id   TEXT PRIMARY KEY,
    name     TEXT NOT NULL,
    provider TEXT NOT NULL,
    store    TEXT NOT NULL,
    job_file TEXT,
    created  REAL NOT NULL
) STRICT;
CREATE INDEX runs_by_time ON runs (created);
CREATE TABLE attempts (
    run_id       TEXT NOT NULL REFERENCES runs (run_id) ON DELETE CASCADE,
    number       INTEGER NOT NULL,
    provider     TEXT NOT NULL,
    state        TEXT NOT NULL,
    cause        TEXT,
    message      TEXT NOT NULL DEFAULT '',
    started      REAL,
    ended        REAL,
    host         TEXT NOT NULL DEFAULT '',
    resumed_step INTEGER,
    reference    TEXT,
    settings     TEXT,
    PRIMARY KEY (run_id, number)
) STRICT, WITHOUT ROWID;
{_RECORDS}"""
_MIGRATIONS = {1: f"ALTER TABLE attempts ADD COLUMN settings TEXT;{_RECORDS}"}
"""Version → what makes the next version of it. Of the runs of version 1 no record is known: resuming one asks once."""
_BUSY_SECONDS = 30.0
_COLUMNS = (
    "runs.run_id, runs.name, attempts.provider, runs.store, runs.job_file, runs.created, attempts.number, attempts.state, attempts.cause,"
    " attempts.message, attempts.started, attempts.ended, attempts.host, attempts.resumed_step, attempts.reference,"
    " attempts.settings"
)
_NEWEST = "attempts.number = (SELECT max(number) FROM attempts AS a WHERE a.run_id = runs.run_id)"


class RecordKind(Enum):
    """How a ``run.json`` is known to this machine."""

    OWN = "own"
    """This machine wrote it."""
    ACCEPTED = "accepted"
    """Another machine wrote it, and the caller accepted what it starts."""
    SEEN = "seen"
    """Another machine wrote it, and nobody has accepted it."""


@dataclass(frozen=True)
class Entry:
    """One run with its newest attempt, as the ledger has it."""

    run_id: str
    name: str
    provider: str
    store: str
    job_file: str | None
    created: float
    attempt: int
    state: State
    cause: Cause | None
    message: str
    started: float | None
    ended: float | None
    host: str
    resumed_step: int | None
    reference: dict[str, Any] | None
    """The provider's handle of the attempt; None until it is launched."""
    settings: dict[str, Any] = field(default_factory=dict)
    """The provider settings of this machine's own configuration with which the attempt was started, or may be looked for."""

    def shown_by(self, number: int, status: AttemptStatus) -> Self:
        """The run as the status of attempt ``number`` shows it."""
        return replace(
            self,
            attempt=number,
            state=status.state,
            cause=status.cause,
            message=status.message,
            started=status.started,
            ended=status.ended,
            host=status.host,
            resumed_step=status.resumed_step,
        )


ELSEWHERE: dict[str, Any] = {"elsewhere": True}
"""The reference of an attempt that was launched from another machine, and that its provider cannot find from here."""


class Ledger:
    """The open ledger. Use it as a context manager; every change is one transaction."""

    def __init__(self, path: Path) -> None:
        self.path = path
        try:
            private.make_folder(path.parent)
            private.make_file(path)  # SQLite gives the files beside it the same mode
            self._connection = sqlite3.connect(path, timeout=_BUSY_SECONDS, isolation_level=None)
            self._prepare()
        except (OSError, sqlite3.Error) as error:
            raise _explain(error, path) from error

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *unused: object) -> None:
        self._connection.close()

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
    ) -> None:
        """Write a new run down as *submitting*, with its first attempt; raises ConflictError if the id is taken.

        ``record_sha256`` is that of the ``run.json`` that is about to be written.
        """
        with self._change():
            self._insert_run(run_id, name, provider, store, job_file, created)
            self._insert_attempt(run_id, 1, provider, settings)
            self._insert_record(run_id, record_sha256, RecordKind.OWN)

    def adopt(self, entry: Entry) -> None:
        """Write down a run that was submitted elsewhere, as its run directory shows it; raises ConflictError if the id is taken."""
        with self._change() as connection:  # one change: a row without a reference would be taken for a submission that was cut off
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

    def records(self, run_id: str) -> dict[str, RecordKind]:
        """The SHA-256 of each ``run.json`` of this run that is known here; empty for an adopted run that was never resumed from here."""
        rows = self._rows("SELECT sha256, kind FROM records WHERE run_id = ?", (run_id,))
        return {sha256: RecordKind(kind) for sha256, kind in rows}

    def know_record(self, run_id: str, sha256: str, kind: RecordKind) -> None:
        """Write down a ``run.json`` by its SHA-256, beside those that are known already. One that is known as *seen* may become more."""
        with self._change():
            self._insert_record(run_id, sha256, kind)

    def distrust(self, run_id: str) -> None:
        """Forget every accepted ``run.json`` of the run: what is there now has to be accepted again before it is resumed."""
        with self._change() as connection:
            connection.execute("DELETE FROM records WHERE run_id = ?", (run_id,))

    def add_attempt(self, run_id: str, number: int, provider: str, settings: Mapping[str, Any]) -> None:
        """Write a further attempt down as *submitting*; raises ConflictError if there is one of this number."""
        with self._change():
            self._insert_attempt(run_id, number, provider, settings)

    def move(self, run_id: str, number: int, provider: str, store: str, *, settings: Mapping[str, Any], record_sha256: str) -> None:
        """Write down that the run goes on with another provider or in another store, and its next attempt as *submitting*; raises
        ConflictError if there is one of this number. From then on ``record_sha256`` is the only accepted ``run.json``.
        """
        with self._change() as connection:  # one change: an attempt that was cut off is looked for at its own place
            connection.execute("UPDATE runs SET provider = ?, store = ? WHERE run_id = ?", (provider, store, run_id))
            connection.execute("DELETE FROM records WHERE run_id = ?", (run_id,))
            self._insert_record(run_id, record_sha256, RecordKind.OWN)
            self._insert_attempt(run_id, number, provider, settings)

    def sending(self, run_id: str, number: int, now: float) -> None:
        """Write down that the provider is asked to start the attempt, which is *submitting*, from ``now`` on."""
        with self._change() as connection:
            connection.execute("UPDATE attempts SET started = ? WHERE run_id = ? AND number = ?", (now, run_id, number))

    def launched(self, run_id: str, number: int, reference: dict[str, Any]) -> None:
        """Write down that the provider started the attempt, and its handle."""
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
        """Write down where an attempt stands; an attempt that the worker began by itself (a retry) is added."""
        with self._change() as connection:
            connection.execute(
                "INSERT INTO attempts"
                " (run_id, number, provider, state, cause, message, started, ended, host, resumed_step, reference, settings)"
                " SELECT ?1, ?2, provider, ?3, ?4, ?5, ?6, ?7, ?8, ?9,"
                "  (SELECT reference FROM attempts WHERE run_id = ?1 AND number < ?2 ORDER BY number DESC LIMIT 1),"
                "  (SELECT settings FROM attempts WHERE run_id = ?1 AND number < ?2 ORDER BY number DESC LIMIT 1)"
                " FROM runs WHERE run_id = ?1"
                " ON CONFLICT (run_id, number) DO UPDATE SET state = ?3, cause = ?4, message = ?5, started = ?6, ended = ?7, host = ?8,"
                "  resumed_step = ?9",
                (run_id, number, state.value, cause.value if cause else None, message, started, ended, host, resumed_step),
            )

    def forget(self, run_id: str) -> None:
        """Remove a run that never came to be."""
        with self._change() as connection:
            connection.execute("DELETE FROM runs WHERE run_id = ?", (run_id,))

    def get(self, run_id: str) -> Entry | None:
        """One run with its newest attempt, or None."""
        return next(iter(self._entries("runs.run_id = ?", (run_id,))), None)

    def newest(self, limit: int | None = None) -> list[Entry]:
        """Runs with their newest attempt, the newest run first."""
        return list(self._entries("1", (), limit))

    def matching(self, text: str, limit: int = 20) -> list[str]:
        """Ids of the runs that begin with ``text``, newest first; where none does, of those that end with it."""
        for pattern in (f"{_escaped(text)}%", f"%-{_escaped(text)}"):
            rows = self._rows(
                "SELECT run_id FROM runs WHERE run_id LIKE ? ESCAPE '\\' ORDER BY created DESC, run_id DESC LIMIT ?", (pattern, limit)
            )
            if rows:
                return [row[0] for row in rows]
        return []

    def _insert_run(self, *row: str | float | None) -> None:
        try:
            self._connection.execute("INSERT INTO runs (run_id, name, provider, store, job_file, created) VALUES (?, ?, ?, ?, ?, ?)", row)
        except sqlite3.IntegrityError as error:
            raise ConflictError(f"the run {row[0]} is in the ledger already") from error

    def _insert_record(self, run_id: str, sha256: str, kind: RecordKind) -> None:
        self._connection.execute(
            "INSERT INTO records (run_id, sha256, kind) VALUES (?, ?, ?)"
            " ON CONFLICT (run_id, sha256) DO UPDATE SET kind = excluded.kind WHERE kind = 'seen'",
            (run_id, sha256, kind.value),
        )

    def _insert_attempt(self, run_id: str, number: int, provider: str, settings: Mapping[str, Any]) -> None:
        try:
            self._connection.execute(
                "INSERT INTO attempts (run_id, number, provider, state, settings) VALUES (?, ?, ?, ?, ?)",
                (run_id, number, provider, State.SUBMITTING.value, json.dumps(dict(settings))),
            )
        except sqlite3.IntegrityError as error:
            raise ConflictError(f"attempt {number} of {run_id} is in the ledger already") from error

    def _entries(self, condition: str, values: tuple[object, ...], limit: int | None = None) -> Iterator[Entry]:
        rows = self._rows(
            f"SELECT {_COLUMNS} FROM runs JOIN attempts ON attempts.run_id = runs.run_id AND {_NEWEST} WHERE {condition}"
            " ORDER BY runs.created DESC, runs.run_id DESC LIMIT ?",
            (*values, -1 if limit is None else limit),
        )
        for *identity, state, cause, message, started, ended, host, resumed_step, reference, settings in rows:
            run_id, name, provider, store, job_file, created, attempt = identity
            yield Entry(
                run_id=run_id,
                name=name,
                provider=provider,
                store=store,
                job_file=job_file,
                created=min(max(created, 0.0), LATEST),
                attempt=attempt,
                state=State(state),
                cause=Cause(cause) if cause else None,
                message=message,
                started=_time(started),
                ended=_time(ended),
                host=host,
                resumed_step=resumed_step,
                reference=json.loads(reference) if reference else None,
                settings=json.loads(settings) if settings else {},
            )

    def _rows(self, query: str, values: tuple[object, ...]) -> list[tuple[Any, ...]]:
        try:
            return self._connection.execute(query, values).fetchall()
        except sqlite3.Error as error:
            raise _explain(error, self.path) from error

    @contextmanager
    def _change(self) -> Iterator[sqlite3.Connection]:
        try:
            self._connection.execute("BEGIN IMMEDIATE")
            with self._connection:
                yield self._connection
        except sqlite3.Error as error:
            raise _explain(error, self.path) from error

    def _prepare(self) -> None:
        self._connection.execute(f"PRAGMA busy_timeout = {int(_BUSY_SECONDS * 1000)}")
        self._connection.execute("PRAGMA foreign_keys = ON")
        # A run must be in the ledger before it costs money, so a commit has to be on the disk, WAL or not.
        self._connection.execute("PRAGMA synchronous = FULL")
        version = self._read_version()
        if version > _VERSION:
            raise StoreError(
                f"the ledger {self.path} was written by a newer cloud-train (its version {version}, this one knows {_VERSION})",
                hint="upgrade cloud-train, or name another folder with CLOUD_TRAIN_HOME",
            )
        if version == 0:
            self._create_tables()
        elif version < _VERSION:
            self._migrate()

    def _read_version(self) -> int:
        return int(self._connection.execute("PRAGMA user_version").fetchone()[0])

    def _create_tables(self) -> None:
        # Of fifty first commands at once, SQLite lets one switch to WAL; it answers the others "locked" without waiting, so they wait here.
        deadline = time.monotonic() + _BUSY_SECONDS
        while True:
            try:
                self._connection.execute("PRAGMA journal_mode = WAL")
                break
            except sqlite3.OperationalError:
                if time.monotonic() > deadline:
                    raise
                time.sleep(0.01)
        with self._change() as connection:
            if self._read_version() == 0:
                for statement in _SCHEMA.split(";"):
                    connection.execute(statement)
                connection.execute(f"PRAGMA user_version = {_VERSION}")

    def _migrate(self) -> None:
        with self._change() as connection:
            for version in range(self._read_version(), _VERSION):  # read again: another command may have been quicker
                for statement in _MIGRATIONS[version].split(";"):
                    connection.execute(statement)
            connection.execute(f"PRAGMA user_version = {_VERSION}")


def _time(seconds: float | None) -> float | None:
    """A time that can be shown. An earlier version wrote down whatever a run directory said."""
    return seconds if seconds is not None and 0 <= seconds <= LATEST else None


def _escaped(text: str) -> str:
    return text.replace("\\", "\\\\").replace("%", "\\%").replace("_", "\\_")


def _explain(error: OSError | sqlite3.Error, path: Path) -> StoreError:
    return StoreError(
        f"cannot use the ledger {path}: {error}",
        hint="check that its folder is writable and the disk not full, or name another folder with CLOUD_TRAIN_HOME",
    )

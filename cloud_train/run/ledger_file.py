"""The ledger's file: SQLite in WAL mode, its schema, and migrations from earlier versions.

The schema's version is SQLite's ``user_version``.
"""

import sqlite3
import time
from collections.abc import Iterator
from contextlib import closing, contextmanager
from pathlib import Path

from cloud_train import private
from cloud_train.errors import StoreError

_VERSION = 3
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
    token        TEXT NOT NULL DEFAULT '',
    PRIMARY KEY (run_id, number)
) STRICT, WITHOUT ROWID;
{_RECORDS}"""
_MIGRATIONS = {
    1: f"ALTER TABLE attempts ADD COLUMN settings TEXT;{_RECORDS}",
    2: "ALTER TABLE attempts ADD COLUMN token TEXT NOT NULL DEFAULT ''",
}
"""Version → the statements that migrate it to the next. Version 1 has no records, so resuming one of its runs asks once for consent."""
_BUSY_SECONDS = 30.0


def connect(path: Path) -> sqlite3.Connection:
    """Open the ledger, creating or migrating it if necessary. Raises StoreError."""
    with explained(path):
        private.make_folder(path.parent)
        private.make_file(path)  # SQLite gives its auxiliary files the same mode
        connection = sqlite3.connect(path, timeout=_BUSY_SECONDS, isolation_level=None)
        connection.execute(f"PRAGMA busy_timeout = {int(_BUSY_SECONDS * 1000)}")
        connection.execute("PRAGMA foreign_keys = ON")
        # A run must be recorded before it costs money, so commits are synced, which WAL mode would not do by default.
        connection.execute("PRAGMA synchronous = FULL")
        version = _read_version(connection)
        _refuse_newer(version, path)
        if version == 0:
            _create_tables(connection)
        elif version < _VERSION:
            _migrate(connection)
        return connection


def connect_read_only(path: Path) -> sqlite3.Connection:
    """Open the ledger for reading only; a missing one counts as empty. Raises StoreError.

    A ledger of an earlier version is migrated in memory only.
    """
    with explained(path):
        if not path.exists():
            return _in_memory(None)
        connection = _open_read_only(path)
        version = _read_version(connection)
        _refuse_newer(version, path)
        if version < _VERSION:
            with closing(connection):
                return _in_memory(connection)
        return connection


@contextmanager
def change(connection: sqlite3.Connection, path: Path) -> Iterator[sqlite3.Connection]:
    """A transaction that locks out other writers from its beginning. Raises StoreError."""
    with explained(path):
        connection.execute("BEGIN IMMEDIATE")
        with connection:
            yield connection


@contextmanager
def explained(path: Path) -> Iterator[None]:
    """Turn errors of the system and of SQLite into a StoreError that names the ledger."""
    try:
        yield
    except (OSError, sqlite3.Error) as error:
        raise StoreError(
            f"cannot use the ledger {path}: {error}",
            hint="check that its folder is writable and the disk is not full, or set CLOUD_TRAIN_HOME to another folder",
        ) from error


def _open_read_only(path: Path) -> sqlite3.Connection:
    # mode=ro comes second: such a connection may not remove the auxiliary files of WAL mode, and leaves them there.
    for options in ("mode=rw", "mode=ro", "immutable=1"):
        if options == "immutable=1" and path.with_name(f"{path.name}-wal").exists():
            continue  # another process may be writing
        connection = sqlite3.connect(f"{path.absolute().as_uri()}?{options}", uri=True, timeout=_BUSY_SECONDS, isolation_level=None)
        try:
            connection.execute("PRAGMA query_only = ON")
            _read_version(connection)
        except sqlite3.OperationalError as error:  # SQLite cannot create those files in a read-only folder
            connection.close()
            refusal = error
        else:
            return connection
    raise refusal


def _in_memory(source: sqlite3.Connection | None) -> sqlite3.Connection:
    """A copy of the ledger in the current version; an empty ledger for None."""
    connection = sqlite3.connect(":memory:", isolation_level=None)
    if source is not None:
        source.backup(connection)
    if _read_version(connection) == 0:
        _execute_all(connection, _SCHEMA)
    else:
        _migrate(connection)
    connection.execute("PRAGMA query_only = ON")
    return connection


def _refuse_newer(version: int, path: Path) -> None:
    if version > _VERSION:
        raise StoreError(
            f"the ledger {path} was written by a newer cloud-train (ledger version {version}; this one supports up to {_VERSION})",
            hint="upgrade cloud-train, or set CLOUD_TRAIN_HOME to another folder",
        )


def _read_version(connection: sqlite3.Connection) -> int:
    return int(connection.execute("PRAGMA user_version").fetchone()[0])


def _create_tables(connection: sqlite3.Connection) -> None:
    # If several commands create the ledger at once, SQLite lets one switch to WAL and fails the others with "locked" without waiting.
    deadline = time.monotonic() + _BUSY_SECONDS
    while True:
        try:
            connection.execute("PRAGMA journal_mode = WAL")
            break
        except sqlite3.OperationalError:
            if time.monotonic() > deadline:
                raise
            time.sleep(0.01)
    connection.execute("BEGIN IMMEDIATE")
    with connection:
        if _read_version(connection) == 0:
            _execute_all(connection, _SCHEMA)
            connection.execute(f"PRAGMA user_version = {_VERSION}")


def _migrate(connection: sqlite3.Connection) -> None:
    connection.execute("BEGIN IMMEDIATE")
    with connection:
        for version in range(_read_version(connection), _VERSION):  # read again: another command may have migrated it first
            _execute_all(connection, _MIGRATIONS[version])
        connection.execute(f"PRAGMA user_version = {_VERSION}")


def _execute_all(connection: sqlite3.Connection, statements: str) -> None:
    for statement in statements.split(";"):
        connection.execute(statement)

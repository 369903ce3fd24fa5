"""The ledger's file: SQLite in WAL mode, its schema, and migrations from earlier versions.

The schema's version is SQLite's ``user_version``.
"""

import sqlite3
import time
from collections.abc import Iterator
from contextlib import closing, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from cloud_train import private
from cloud_train.errors import StoreError

_VERSION = 4
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
    elapsed      REAL,
    PRIMARY KEY (run_id, number)
) STRICT, WITHOUT ROWID;
{_RECORDS}"""
_MIGRATIONS = {
    1: f"ALTER TABLE attempts ADD COLUMN settings TEXT;{_RECORDS}",
    2: "ALTER TABLE attempts ADD COLUMN token TEXT NOT NULL DEFAULT ''",
    3: "ALTER TABLE attempts ADD COLUMN elapsed REAL",
}
"""Version → the statements that migrate it to the next. Version 1 has no records, so resuming one of its runs asks once for consent."""
_KEYS = {"runs": ("rowid",), "attempts": ("run_id", "number"), "records": ("run_id", "sha256")}
"""Table → the columns by which its rows are ordered in the file."""
_OF_THE_SURROUNDINGS = {
    *(sqlite3.SQLITE_PERM, sqlite3.SQLITE_BUSY, sqlite3.SQLITE_LOCKED, sqlite3.SQLITE_NOMEM, sqlite3.SQLITE_READONLY),
    *(sqlite3.SQLITE_IOERR, sqlite3.SQLITE_FULL, sqlite3.SQLITE_CANTOPEN, sqlite3.SQLITE_AUTH, sqlite3.SQLITE_INTERRUPT),
}
"""SQLite's error codes that say nothing about the file's content (https://sqlite.org/rescode.html)."""
_BUSY_SECONDS = 30.0
REPAIR = "restore it with: cloud-train doctor --repair"
_NOT_WRITABLE = "check that its folder is writable and the disk is not full, or set CLOUD_TRAIN_HOME to another folder"


def connect(path: Path) -> sqlite3.Connection:
    """Open the ledger, creating or migrating it if necessary. Raises StoreError."""
    with explained(path):
        private.make_folder(path.parent)
        private.make_file(path)  # SQLite gives its auxiliary files the same mode
        connection = sqlite3.connect(path, timeout=_BUSY_SECONDS, isolation_level=None)
        connection.text_factory = _text
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


def copy_in_memory(path: Path) -> sqlite3.Connection:
    """A writable copy of the ledger in memory, for commands that work without recording anything. Raises StoreError."""
    with explained(path), closing(_open_read_only(path)) as source:
        _refuse_newer(_read_version(source), path)
        return _in_memory(source, writable=True)


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
    except (OSError, sqlite3.Error, UnicodeError) as error:
        raise StoreError(f"cannot use the ledger {path}: {error}", hint=REPAIR if _is_damage(error) else _NOT_WRITABLE) from error


def _is_damage(error: Exception) -> bool:
    """Whether the file's content is at fault, and not its disk, its permissions or another process."""
    code = getattr(error, "sqlite_errorcode", None)
    if code is None or code == sqlite3.SQLITE_IOERR_SHORT_READ:  # sqlite3 itself found it, or the file is too short
        return isinstance(error, sqlite3.Error | UnicodeError)
    return code & 0xFF not in _OF_THE_SURROUNDINGS


@dataclass(frozen=True)
class Salvage:
    """The rows that can still be read from a ledger: values by column."""

    runs: list[dict[str, Any]]
    attempts: list[dict[str, Any]]
    records: list[dict[str, Any]]
    is_whole: bool
    """Whether SQLite finds no damage. The values may still be wrong."""


def salvage(path: Path) -> Salvage:
    """Everything readable in a ledger, however damaged.

    Raises StoreError if it is of a newer version, or cannot be opened for another reason than damage.
    """
    with explained(path):
        try:
            with closing(_open_read_only(path)) as connection:
                _refuse_newer(version := _read_version(connection), path)
                is_whole = _has_integrity(connection)
                if is_whole and 0 < version < _VERSION:
                    with closing(_in_memory(connection)) as migrated:
                        tables = [_readable_rows(migrated, table, key) for table, key in _KEYS.items()]
                else:
                    tables = [_readable_rows(connection, table, key) for table, key in _KEYS.items()]
        except (sqlite3.DatabaseError, UnicodeError) as error:
            if not _is_damage(error):
                raise
            return Salvage([], [], [], is_whole=False)
    runs, attempts, records = (rows for rows, _ in tables)
    return Salvage(runs, attempts, records, is_whole and all(is_all for _, is_all in tables))


def _has_integrity(connection: sqlite3.Connection) -> bool:
    """Whether SQLite finds no damage; the check itself fails on some of it."""
    try:
        return bool(connection.execute("PRAGMA integrity_check").fetchall() == [("ok",)])
    except (sqlite3.DatabaseError, UnicodeError):
        return False


def _readable_rows(connection: sqlite3.Connection, table: str, key: tuple[str, ...]) -> tuple[list[dict[str, Any]], bool]:
    """The rows that can be read from the beginning and from the end of the table, and whether these are all."""
    found: dict[tuple[Any, ...], dict[str, Any]] = {}
    columns = "rowid, *" if key == ("rowid",) else "*"
    is_all = True
    for direction in ("ASC", "DESC"):
        order = ", ".join(f"{name} {direction}" for name in key)
        try:
            cursor = connection.execute(f"SELECT {columns} FROM {table} NOT INDEXED ORDER BY {order}")
            names = [column[0] for column in cursor.description]
            for row in cursor:
                values = dict(zip(names, row, strict=True))
                found[tuple(values[name] for name in key)] = values
        except (sqlite3.DatabaseError, UnicodeError):
            is_all = False
        else:
            break
    return list(found.values()), is_all


def _open_read_only(path: Path) -> sqlite3.Connection:
    # mode=ro comes second: such a connection may not remove the auxiliary files of WAL mode, and leaves them there.
    for options, locking in (("mode=rw", "NORMAL"), ("mode=ro", "NORMAL"), ("immutable=1", "NORMAL"), ("mode=rw", "EXCLUSIVE")):
        if options == "immutable=1" and _has_log(path):
            continue  # another process may be writing, and the newest changes are in the log
        connection = sqlite3.connect(f"{path.absolute().as_uri()}?{options}", uri=True, timeout=_BUSY_SECONDS, isolation_level=None)
        connection.text_factory = _text
        try:
            connection.execute(f"PRAGMA locking_mode = {locking}")  # an exclusive connection needs no file for shared memory
            connection.execute("PRAGMA query_only = ON")
            _read_version(connection)
        except sqlite3.OperationalError as error:  # SQLite cannot create those files in a read-only folder or on a full disk
            connection.close()
            refusal = error
        else:
            return connection
    raise refusal


def _has_log(path: Path) -> bool:
    """Whether SQLite's write-ahead log holds anything."""
    try:
        return path.with_name(f"{path.name}-wal").stat().st_size > 0
    except FileNotFoundError:
        return False


def _in_memory(source: sqlite3.Connection | None, *, writable: bool = False) -> sqlite3.Connection:
    """A copy of the ledger in the current version; an empty ledger for None."""
    connection = sqlite3.connect(":memory:", isolation_level=None)
    connection.text_factory = _text
    if source is not None:
        source.backup(connection)
    if _read_version(connection) == 0:
        _execute_all(connection, _SCHEMA)
    else:
        _migrate(connection)
    connection.execute(f"PRAGMA {'foreign_keys' if writable else 'query_only'} = ON")
    return connection


def _text(data: bytes) -> str:
    return data.decode(errors="replace")  # a damaged text, which sqlite3 would refuse together with all rows that follow


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

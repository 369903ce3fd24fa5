"""The ledger's file: SQLite in WAL mode, its schema, and migrations from earlier versions.

The schema's version is SQLite's ``user_version``.
"""

import os
import sqlite3
from collections.abc import Iterator
from contextlib import closing, contextmanager, suppress
from functools import partial
from pathlib import Path

from cloud_train import private
from cloud_train.errors import StoreError

VERSION = 4
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
_OF_THE_SURROUNDINGS = {
    *(sqlite3.SQLITE_PERM, sqlite3.SQLITE_BUSY, sqlite3.SQLITE_LOCKED, sqlite3.SQLITE_NOMEM, sqlite3.SQLITE_READONLY),
    *(sqlite3.SQLITE_IOERR, sqlite3.SQLITE_FULL, sqlite3.SQLITE_CANTOPEN, sqlite3.SQLITE_AUTH, sqlite3.SQLITE_INTERRUPT),
}
"""SQLite's error codes that say nothing about the file's content (https://sqlite.org/rescode.html)."""
_MOST_VERSIONS = 1000
"""No version of cloud-train will have a schema's version above this: such a number is damage."""
FILES = ("-wal", "-shm", "")
"""What SQLite appends to the ledger's name."""
text_of = partial(str, encoding="utf-8", errors="replace")
"""A text in the database; a damaged one too, which sqlite3 would refuse together with all rows that follow."""
_BUSY_SECONDS = 30.0
_BRIEFLY_BUSY_SECONDS = 5.0
REPAIR = "restore it with: cloud-train doctor --repair"
DAMAGED = f"{REPAIR}; until then, name runs by the URLs of their run directories"
_NOT_A_FILE = "move the folder away, or set CLOUD_TRAIN_HOME to another folder"
_NOT_WRITABLE = "check that its folder is writable and the disk is not full, or set CLOUD_TRAIN_HOME to another folder"


def connect(path: Path) -> sqlite3.Connection:
    """Open the ledger, creating or migrating it if necessary. Raises StoreError."""
    with explained(path):
        private.make_folder(path.parent)
        if is_missing(path):
            _create(path)
        refuse_emptied(path)
        private.make_file(path)  # SQLite gives its auxiliary files the same mode
        connection = sqlite3.connect(path, timeout=_BUSY_SECONDS, isolation_level=None)
        connection.text_factory = text_of
        connection.execute(f"PRAGMA busy_timeout = {int(_BUSY_SECONDS * 1000)}")
        connection.execute("PRAGMA foreign_keys = ON")
        # A run must be recorded before it costs money, so commits are synced, which WAL mode would not do by default.
        connection.execute("PRAGMA synchronous = FULL")
        if checked_version(connection, path) < VERSION:
            _migrate(connection)
        return connection


def connect_read_only(path: Path) -> sqlite3.Connection:
    """Open the ledger for reading only; a missing one counts as empty. Raises StoreError.

    A ledger of an earlier version is migrated in memory only.
    """
    with explained(path):
        if is_missing(path):
            return in_memory(None)
        connection = open_read_only(path)
        if checked_version(connection, path) < VERSION:
            with closing(connection):
                return in_memory(connection)
        return connection


def copy_in_memory(path: Path) -> sqlite3.Connection:
    """A writable copy of the ledger in memory, for commands that work without recording anything. Raises StoreError."""
    with explained(path), closing(open_read_only(path)) as source:
        checked_version(source, path)
        return in_memory(source, writable=True)


def check_writable(path: Path) -> None:
    """Write to the ledger, and take it back. Raises StoreError, also if another process keeps writing to it for some seconds."""
    with explained(path), closing(sqlite3.connect(path, timeout=_BRIEFLY_BUSY_SECONDS, isolation_level=None)) as connection:
        connection.execute("BEGIN IMMEDIATE")
        connection.execute("CREATE TABLE probe (number INTEGER)")
        connection.execute("ROLLBACK")


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
        if path.is_dir():
            raise StoreError(f"cannot use the ledger {path}: it is a folder", hint=_NOT_A_FILE) from error
        reason = error.strerror.lower() if isinstance(error, OSError) and error.strerror else error
        raise StoreError(f"cannot use the ledger {path}: {reason}", hint=DAMAGED if is_damage(error) else _NOT_WRITABLE) from error


def is_damage(error: Exception) -> bool:
    """Whether the file's content is at fault, and not its disk, its permissions or another process."""
    code = getattr(error, "sqlite_errorcode", None)
    if code is None or code == sqlite3.SQLITE_IOERR_SHORT_READ:  # sqlite3 itself found it, or the file is too short
        return isinstance(error, sqlite3.Error | UnicodeError)
    return code & 0xFF not in _OF_THE_SURROUNDINGS


def is_missing(path: Path) -> bool:
    """Whether there is no ledger yet. Raises DatabaseError if there was one: its log is left, which SQLite would add to a new one."""
    if path.exists():
        return False
    if has_log(path) and not path.exists():  # another command may have created both meanwhile
        raise sqlite3.DatabaseError("the file is gone, but its log is there")
    return not path.exists()


def refuse_emptied(path: Path) -> None:
    """Raise DatabaseError for an empty file. SQLite would take it for a new database, and delete the log that belongs to it."""
    if path.stat().st_size == 0:
        raise sqlite3.DatabaseError("the file is empty")


def open_read_only(path: Path) -> sqlite3.Connection:
    """A connection that changes nothing, also in a folder or on a disk that cannot be written. Raises OSError and sqlite3's errors."""
    refuse_emptied(path)
    # mode=ro comes second: such a connection may not remove the auxiliary files of WAL mode, and leaves them there.
    for options, locking in (("mode=rw", "NORMAL"), ("mode=ro", "NORMAL"), ("immutable=1", "NORMAL"), ("mode=rw", "EXCLUSIVE")):
        if options == "immutable=1" and has_log(path):
            continue  # another process may be writing, and the newest changes are in the log
        connection = sqlite3.connect(f"{path.absolute().as_uri()}?{options}", uri=True, timeout=_BUSY_SECONDS, isolation_level=None)
        connection.text_factory = text_of
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


def has_log(path: Path) -> bool:
    """Whether SQLite's write-ahead log holds anything."""
    try:
        return path.with_name(f"{path.name}-wal").stat().st_size > 0
    except (FileNotFoundError, NotADirectoryError):
        return False


def in_memory(source: sqlite3.Connection | None, *, writable: bool = False) -> sqlite3.Connection:
    """A copy of the ledger in the current version; an empty ledger for None."""
    connection = sqlite3.connect(":memory:", isolation_level=None, check_same_thread=False)
    connection.text_factory = text_of
    if source is None:
        _execute_all(connection, _SCHEMA)
    else:
        source.backup(connection)
        _migrate(connection)
    connection.execute(f"PRAGMA {'foreign_keys' if writable else 'query_only'} = ON")
    return connection


def checked_version(connection: sqlite3.Connection, path: Path) -> int:
    """The version of the schema, from 1. Raises StoreError for a newer one, DatabaseError for one that no cloud-train has written."""
    version = _read_version(connection)
    if not 0 < version <= _MOST_VERSIONS:
        raise sqlite3.DatabaseError(f"{version} is not the version of a ledger")
    if version > VERSION:
        raise StoreError(
            f"the ledger {path} was written by a newer cloud-train (ledger version {version}; this one supports up to {VERSION})",
            hint="upgrade cloud-train, or set CLOUD_TRAIN_HOME to another folder",
        )
    return version


def _read_version(connection: sqlite3.Connection) -> int:
    return int(connection.execute("PRAGMA user_version").fetchone()[0])


def _create(path: Path) -> None:
    """Create the ledger. It is complete before it gets its name, so that an empty or incomplete one is always damaged, and of several
    commands that create it at once, one wins.
    """
    fresh = path.with_name(f"{path.name}.new-{os.urandom(4).hex()}")
    try:
        private.make_file(fresh)
        with closing(sqlite3.connect(fresh, isolation_level=None)) as connection:
            connection.execute("PRAGMA journal_mode = WAL")
            connection.execute("PRAGMA synchronous = FULL")
            connection.execute("BEGIN")
            with connection:
                _execute_all(connection, _SCHEMA)
                connection.execute(f"PRAGMA user_version = {VERSION}")
        with suppress(FileExistsError):
            os.link(fresh, path)
    finally:
        for suffix in FILES:
            fresh.with_name(fresh.name + suffix).unlink(missing_ok=True)


def _migrate(connection: sqlite3.Connection) -> None:
    connection.execute("BEGIN IMMEDIATE")
    with connection:
        for version in range(_read_version(connection), VERSION):  # read again: another command may have migrated it first
            _execute_all(connection, _MIGRATIONS[version])
        connection.execute(f"PRAGMA user_version = {VERSION}")


def _execute_all(connection: sqlite3.Connection, statements: str) -> None:
    for statement in statements.split(";"):
        connection.execute(statement)

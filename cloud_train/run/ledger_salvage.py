"""What can still be read from a damaged ledger.

A ledger that SQLite finds whole is read where it is. Any other is copied, and the copy put into a form that SQLite can open: the pages
that a truncated file has lost are added as empty ones, and a first page that is lost is taken from a new ledger. Rows are then read
around the damaged pages. The format of the file: https://sqlite.org/fileformat2.html.
"""

import shutil
import sqlite3
import tempfile
from collections.abc import Iterator, Sequence
from contextlib import closing, suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from cloud_train.run import ledger_file

_KEYS = {"runs": ("rowid",), "attempts": ("run_id", "number"), "records": ("run_id", "sha256")}
"""Table → the columns by which its rows are ordered in the file."""
_PAGE_BYTES = 4096
"""The size of the pages of every ledger: SQLite's default."""
_PAGE_COUNT = slice(28, 32)
"""Where the header has the number of pages, big-endian."""
_LOG_HEADER_BYTES, _FRAME_HEADER_BYTES = 32, 24
_COMMIT_PAGES = slice(4, 8)
"""Where the header of a frame of the write-ahead log has the number of pages after its transaction; 0 if it does not end one."""
_MOST_PAGES = 1 << 22
_LARGEST_ROWID = 1 << 62
_WIDEST_GAP = 10_000
"""After so many lost runs in a row, no more are looked for one by one: half a second."""

Row = dict[str, Any]


@dataclass(frozen=True)
class Salvage:
    """The rows that can still be read from a ledger: values by column."""

    runs: list[Row] = field(default_factory=list)
    attempts: list[Row] = field(default_factory=list)
    """Those of a run are all there, or none is."""
    records: list[Row] = field(default_factory=list)
    is_whole: bool = False
    """Whether SQLite finds no damage. The values may still be wrong."""

    def without(self, known: set[str]) -> "Salvage":
        """The rows of other runs than these."""
        runs, attempts, records = ([row for row in rows if row["run_id"] not in known] for rows in (self.runs, self.attempts, self.records))
        return Salvage(runs, attempts, records)

    def __add__(self, later: "Salvage") -> "Salvage":
        """The rows of both; the runs of ``later`` were submitted later."""
        return Salvage(self.runs + later.runs, self.attempts + later.attempts, self.records + later.records)


def salvage(path: Path) -> Salvage:
    """Everything readable in a ledger, however damaged.

    Raises StoreError if it is of a newer version, or cannot be read or copied for another reason than damage.
    """
    with ledger_file.explained(path):
        try:
            if not _is_cut(path) and (whole := _whole(path)) is not None:
                return whole
        except (sqlite3.DatabaseError, UnicodeError) as error:
            if not ledger_file.is_damage(error):
                raise
        with tempfile.TemporaryDirectory(prefix="cloud-train-ledger-") as folder:
            return _around_the_damage(path, Path(folder))


def _whole(path: Path) -> Salvage | None:
    """All rows of a ledger that is not damaged."""
    with closing(ledger_file.open_read_only(path)) as connection:
        version = ledger_file.checked_version(connection, path)
        if not _has_integrity(connection):
            return None
        if version == ledger_file.VERSION:
            return _all_rows(connection)
        with closing(ledger_file.in_memory(connection)) as migrated:
            return _all_rows(migrated)


def _has_integrity(connection: sqlite3.Connection) -> bool:
    """Whether SQLite finds no damage; the check itself fails on some of it."""
    try:
        return bool(connection.execute("PRAGMA integrity_check").fetchall() == [("ok",)])
    except (sqlite3.DatabaseError, UnicodeError):
        return False


def _all_rows(connection: sqlite3.Connection) -> Salvage:
    runs, attempts, records = (list(_rows(connection, table, f"ORDER BY {', '.join(key)}")) for table, key in _KEYS.items())
    return Salvage(runs, attempts, records, is_whole=True)


def _around_the_damage(path: Path, folder: Path) -> Salvage:
    """The rows that are readable in a copy of the ledger in ``folder``: as it is, or failing that with the first page of a new one."""
    copy, best, most = folder / path.name, Salvage(), -1
    for first_page in (None, _first_page(folder / "new")):
        for suffix in ("", "-wal"):
            with suppress(FileNotFoundError):
                shutil.copyfile(path.with_name(path.name + suffix), copy.with_name(copy.name + suffix))
        _complete(copy, first_page)
        found = _readable(copy, path)
        complete = len({row["run_id"] for row in found.runs} & {row["run_id"] for row in found.attempts})
        if complete > most:
            best, most = found, complete
    return best


def _first_page(path: Path) -> bytes:
    """The header and the schema of a new ledger."""
    ledger_file.connect(path).close()
    return path.read_bytes()[:_PAGE_BYTES]


def _is_cut(path: Path) -> bool:
    """Whether the file has fewer pages than its header says, or none. SQLite must not open it: it may delete the log of such a file."""
    try:
        with path.open("rb") as file:
            header = file.read(_PAGE_COUNT.stop)
        size = path.stat().st_size
    except FileNotFoundError:
        return True
    return size == 0 or (not _pages_in_log(path) and size < int.from_bytes(header[_PAGE_COUNT], "big") * _PAGE_BYTES)


def _complete(copy: Path, first_page: bytes | None) -> None:
    """Extend the copy to its number of pages, with empty ones, and replace its first page by ``first_page``, if there is one."""
    copy.touch()
    with copy.open("r+b") as file:
        header = file.read(_PAGE_COUNT.stop)
        in_file = -(-copy.stat().st_size // _PAGE_BYTES)
        claimed = int.from_bytes(header[_PAGE_COUNT], "big") if header.startswith(b"SQLite format 3\0") else 0
        pages = min(max(in_file, claimed, _pages_in_log(copy)), _MOST_PAGES)
        if first_page is not None:
            file.seek(0)
            file.write(first_page[: _PAGE_COUNT.start] + pages.to_bytes(4, "big") + first_page[_PAGE_COUNT.stop :])
        elif in_file:
            file.seek(_PAGE_COUNT.start)
            file.write(pages.to_bytes(4, "big"))
        file.truncate(pages * _PAGE_BYTES)


def _pages_in_log(path: Path) -> int:
    """The number of pages of the ledger after the last transaction in its write-ahead log; 0 without one."""
    pages = 0
    with suppress(FileNotFoundError), path.with_name(f"{path.name}-wal").open("rb") as file:
        file.seek(_LOG_HEADER_BYTES)
        while len(header := file.read(_FRAME_HEADER_BYTES)) == _FRAME_HEADER_BYTES:
            pages = int.from_bytes(header[_COMMIT_PAGES], "big") or pages
            file.seek(_PAGE_BYTES, 1)
    return pages


def _readable(copy: Path, original: Path) -> Salvage:
    try:
        with closing(sqlite3.connect(copy, isolation_level=None)) as connection:
            connection.text_factory = ledger_file.text_of
            with suppress(sqlite3.DatabaseError):
                ledger_file.checked_version(connection, original)
            runs = _runs(connection)
            ids = list(dict.fromkeys(run["run_id"] for run in runs if isinstance(run["run_id"], str)))
            return Salvage(runs, _of_runs(connection, "attempts", ids), _of_runs(connection, "records", ids))
    except (sqlite3.DatabaseError, UnicodeError) as error:
        if not ledger_file.is_damage(error):
            raise
        return Salvage()


def _runs(connection: sqlite3.Connection) -> list[Row]:
    """The rows of the runs: from the beginning, from the end, and one by one in between."""
    found: dict[int, Row] = {}
    limits = []
    for direction in ("ASC", "DESC"):
        last = None
        try:
            for row in _rows(connection, "runs", f"ORDER BY rowid {direction}"):
                last = row["rowid"]
                found[last] = row
        except (sqlite3.DatabaseError, UnicodeError):
            limits.append(last)
        else:
            return [found[rowid] for rowid in sorted(found)]
    low, high = limits
    if low is None and high is None:
        return []
    lost = 0
    for rowid in range(1 if low is None else low + 1, _LARGEST_ROWID if high is None else high):
        lost += 1
        with suppress(sqlite3.DatabaseError, UnicodeError):
            for row in _rows(connection, "runs", "WHERE rowid = ?", (rowid,)):
                found[rowid] = row
                lost = 0
        if lost > _WIDEST_GAP:
            break
    return [found[rowid] for rowid in sorted(found)]


def _of_runs(connection: sqlite3.Connection, table: str, ids: Sequence[str]) -> list[Row]:
    """The rows of these runs; if not all can be read, those of the runs of which all can."""
    with suppress(sqlite3.DatabaseError, UnicodeError):
        return list(_rows(connection, table, f"ORDER BY {', '.join(_KEYS[table])}"))
    found: list[Row] = []
    for run_id in ids:
        with suppress(sqlite3.DatabaseError, UnicodeError):
            found += list(_rows(connection, table, "WHERE run_id = ?", (run_id,)))
    return found


def _rows(connection: sqlite3.Connection, table: str, rest: str, values: tuple[object, ...] = ()) -> Iterator[Row]:
    columns = "rowid, *" if table == "runs" else "*"
    cursor = connection.execute(f"SELECT {columns} FROM {table} NOT INDEXED {rest}", values)
    names = [column[0] for column in cursor.description]
    if "run_id" not in names:
        raise sqlite3.DatabaseError(f"the table {table} is not that of a ledger")
    for row in cursor:
        yield dict(zip(names, row, strict=True))

"""The ledger's questions: the runs and attempts that this machine has recorded. Nothing here changes the ledger."""

import sqlite3
from collections.abc import Iterator
from pathlib import Path
from typing import Any, Self

from cloud_train.errors import CorruptError
from cloud_train.run import ledger_file
from cloud_train.run.ledger_entry import COLUMNS, FIELDS, Entry, RecordKind, entry_or_none
from cloud_train.run.states import State

_NEWEST = "attempts.number = (SELECT max(number) FROM attempts AS a WHERE a.run_id = runs.run_id)"
_SELECT = f"SELECT {', '.join(COLUMNS)} FROM runs JOIN attempts ON attempts.run_id = runs.run_id AND {_NEWEST}"
_NEWEST_FIRST = "ORDER BY runs.created DESC, runs.run_id DESC"
_BATCH = 1000


class DamagedRecordError(CorruptError):
    """The ledger's record of a run is damaged."""


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
        """The SHA-256 of each ``run.json`` of this run known here; empty for an adopted run that was never resumed from here.

        Raises DamagedRecordError.
        """
        rows = self._rows("SELECT sha256, kind FROM records WHERE run_id = ?", (run_id,))
        try:
            return {sha256: RecordKind(kind) for sha256, kind in rows}
        except ValueError as error:
            raise _damaged(run_id) from error

    def get(self, run_id: str) -> Entry | None:
        """One run with its newest attempt, or None. Raises CorruptError if its row is damaged."""
        damaged: list[str] = []
        entry = next(self._entries("runs.run_id = ?", (run_id,), damaged), None)
        if damaged:
            raise _damaged(run_id)
        return entry

    def without_handle(self, run_id: str) -> Entry | None:
        """As ``get``, but without the provider's handle; None also if more than the handle is damaged."""
        rows = self._rows(f"{_SELECT} WHERE runs.run_id = ?", (run_id,))
        handle = FIELDS.index("reference")
        return next((entry_or_none((*row[:handle], None, *row[handle + 1 :]), []) for row in rows), None)

    def run_directory(self, run_id: str) -> str | None:
        """The URL of the run's directory, also if the rest of its record is damaged; None if that is damaged too, or missing."""
        rows = self._rows("SELECT store FROM runs WHERE run_id = ?", (run_id,))
        return f"{rows[0][0].rstrip('/')}/{run_id}" if rows and isinstance(rows[0][0], str) else None

    def count(self) -> int:
        """The number of runs."""
        return int(self._rows("SELECT count(*) FROM runs", ())[0][0])

    def newest(self, limit: int | None = None, damaged: list[str] | None = None) -> list[Entry]:
        """Runs with their newest attempt, newest run first. Rows that are damaged are left out, and their ids are added to ``damaged``."""
        return list(self.each(limit, damaged))

    def each(self, limit: int | None = None, damaged: list[str] | None = None, *, name: str | None = None) -> Iterator[Entry]:
        """As ``newest``, read as they are needed; the ledger may be changed meanwhile. With ``name``, only the runs of that job."""
        left = limit
        last: tuple[Any, ...] = ()
        named = () if name is None else (name,)
        while left is None or left > 0:
            batch_size = _BATCH if left is None else min(left, _BATCH)
            conditions = [*(["runs.name = ?"] if named else []), *(["(runs.created, runs.run_id) < (?, ?)"] if last else [])]
            where = f"WHERE {' AND '.join(conditions)}" if conditions else ""
            rows = self._rows(f"{_SELECT} {where} {_NEWEST_FIRST} LIMIT ?", (*named, *last, batch_size))
            if not rows:
                return
            last = rows[-1][FIELDS.index("created")], rows[-1][0]
            for row in rows:
                if (entry := entry_or_none(row, [] if damaged is None else damaged)) is not None:
                    yield entry
                    left = None if left is None else left - 1

    def unfinished(self) -> list[Entry]:
        """The runs whose newest attempt has no recorded end."""
        ends = ", ".join(f"'{state.value}'" for state in State if state.is_end)
        return list(self._entries(f"attempts.state NOT IN ({ends})", (), []))

    def inconsistent(self) -> list[str]:
        """Ids of the runs that no command leaves like that: without an attempt, with one at another provider, with an unknown kind of
        ``run.json``.
        """
        kinds = ", ".join(f"'{kind.value}'" for kind in RecordKind)
        rows = self._rows(
            f"SELECT run_id FROM runs WHERE NOT EXISTS (SELECT 1 FROM attempts WHERE run_id = runs.run_id AND {_NEWEST}"
            f" AND attempts.provider = runs.provider) UNION SELECT run_id FROM records WHERE kind NOT IN ({kinds})",
            (),
        )
        return [str(row[0]) for row in rows]

    def last_submitted(self) -> str | None:
        """The id of the run that was submitted last from this machine, whatever its clock was then; failing that, of the newest one."""
        rows = self._rows(
            "SELECT run_id FROM runs WHERE EXISTS (SELECT 1 FROM attempts WHERE run_id = runs.run_id)"
            " ORDER BY EXISTS (SELECT 1 FROM records WHERE run_id = runs.run_id AND kind = 'own') DESC, rowid DESC LIMIT 1",
            (),
        )
        return rows[0][0] if rows else None

    def newest_called(self, name: str) -> str | None:
        """The id of the newest run of the job with exactly this name, in the order in which this ledger got them; None if there is none."""
        rows = self._rows("SELECT run_id FROM runs WHERE name = ? ORDER BY rowid DESC LIMIT 1", (name,))
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
        yield from (entry for row in rows if (entry := entry_or_none(row, damaged)) is not None)

    def _rows(self, query: str, values: tuple[object, ...]) -> list[tuple[Any, ...]]:
        with ledger_file.explained(self.path):
            return self._connection.execute(query, values).fetchall()


def _damaged(run_id: str) -> DamagedRecordError:
    return DamagedRecordError(f"the ledger's record of {run_id} is damaged", hint=ledger_file.DAMAGED)


def _escaped(text: str) -> str:
    return text.replace("\\", "\\\\").replace("%", "\\%").replace("_", "\\_")

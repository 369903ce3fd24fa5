"""Restoring a damaged ledger: what it still holds is kept, and runs that it lost are found again in their stores."""

import socket
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

from cloud_train import locks
from cloud_train.errors import CloudTrainError, ConflictError
from cloud_train.orchestrator.adopting import adopt, runs_in
from cloud_train.orchestrator.connections import store_at
from cloud_train.orchestrator.home import Home
from cloud_train.orchestrator.run_directory import read_record
from cloud_train.run import ledger_file
from cloud_train.run.ledger import Ledger
from cloud_train.storage.registry import check_url

_FILES = ("-wal", "-shm", "")
"""What SQLite appends to the ledger's name."""


@dataclass(frozen=True)
class Repair:
    """What a repair did."""

    kept: list[str]
    """Ids of the runs whose records were whole."""
    adopted: list[str]
    """Ids of the runs that were found again in a store. ``resume`` shows what it starts, and asks, as for any adopted run."""
    others: dict[str, int]
    """Store → the runs there that other machines submitted; they are left alone."""
    moved_to: Path | None
    """Where the damaged ledger is now; None if there was no damage."""


def repair(home: Home, stores: Sequence[str] = (), note: Callable[[str], None] = lambda _: None) -> Repair:
    """Restore the ledger if it is damaged: move it aside, keep its whole records, and adopt this machine's other runs from their stores.

    A sound ledger stays, and only the runs that it lacks of ``stores`` are adopted.

    The stores searched are ``stores``, those that the damaged ledger names, and for the default home the default store; ``note`` is told of
    one that cannot be read. Raises ConflictError while a run is being submitted, StoreError if the ledger is of a newer version or
    cannot be moved.
    """
    path = home.ledger_path
    rows = ledger_file.salvage(path) if path.exists() else ledger_file.Salvage([], [], [], is_whole=False)
    is_sound = rows.is_whole and _is_consistent(home, rows)
    if is_sound and not stores:
        return Repair([run["run_id"] for run in rows.runs], [], {}, None)
    if busy := [lock.stem for lock in path.parent.glob("submitting/*.lock") if locks.is_held(lock)]:
        raise ConflictError(f"{busy[0]} is being submitted right now", hint="retry when the submission has finished")
    if is_sound:
        moved_to, kept = None, [run["run_id"] for run in rows.runs]
    else:
        moved_to, kept = _replaced(path, rows)
    adopted, others = [], {}
    usual = Path("~/.cloud-train").expanduser()  # where runs are kept by default, whatever the home
    for url in dict.fromkeys([*stores, *_stores(rows), *([str(usual / "runs")] if home.folder == usual else [])]):
        found, others[url] = _adopt_own(home, url, note)
        adopted += found
    return Repair(kept, adopted, {url: count for url, count in others.items() if count}, moved_to)


def _is_consistent(home: Home, rows: ledger_file.Salvage) -> bool:
    """Whether every run has its attempts and every value can be read."""
    damaged: list[str] = []
    with Ledger(home.ledger_path) as ledger:
        listed = ledger.newest(damaged=damaged)
    return not damaged and len(listed) == len(rows.runs) == len({row["run_id"] for row in rows.attempts})


def _replaced(path: Path, rows: ledger_file.Salvage) -> tuple[Path | None, list[str]]:
    """Put a new ledger with these rows in the place of the damaged one, whose new path is returned, with the ids of the runs kept.

    The new one is complete before the old one moves: a repair that is interrupted or meets a full disk loses nothing.
    """
    fresh = path.with_name(f"{path.name}.repairing")
    for suffix in _FILES:
        with ledger_file.explained(fresh):
            path.with_name(fresh.name + suffix).unlink(missing_ok=True)
    with Ledger(fresh) as ledger:
        kept = ledger.restore(rows)
    aside = _move_aside(path) if path.exists() and path.stat().st_size else None
    with ledger_file.explained(path):
        fresh.replace(path)
    return aside, kept


def _move_aside(path: Path) -> Path:
    aside = path.with_name(f"{path.name}.damaged-{time.strftime('%Y%m%dT%H%M%SZ', time.gmtime())}")
    with ledger_file.explained(path):
        for suffix in _FILES:
            with suppress(FileNotFoundError):
                path.with_name(path.name + suffix).rename(aside.with_name(aside.name + suffix))
    return aside


def _stores(rows: ledger_file.Salvage) -> Iterator[str]:
    """The stores that the readable records name, as far as they are stores."""
    for url in dict.fromkeys(row["store"] for row in rows.runs):
        with suppress(CloudTrainError, AttributeError):
            check_url(url)
            yield url


def _adopt_own(home: Home, url: str, note: Callable[[str], None]) -> tuple[list[str], int]:
    """Adopt the runs in a store that this machine submitted and the ledger lacks; returns their ids, and the number of other runs."""
    try:
        listed = runs_in(url)
    except CloudTrainError as error:
        note(f"cannot look for runs in {url}: {error.message}")
        return [], 0
    adopted, others = [], 0
    for run in reversed(listed.runs):  # the oldest first, so that the newest is the last one recorded
        with Ledger(home.ledger_path) as ledger:
            if ledger.get(run.run_id) is not None:
                continue
        try:
            if read_record(store_at(url), run.run_id).provenance.get("host") == socket.gethostname():
                adopt(home, run.run_directory, note=note)
                adopted.append(run.run_id)
            else:
                others += 1
        except CloudTrainError as error:
            note(f"cannot adopt {run.run_id}: {error.message}")
    return adopted, others

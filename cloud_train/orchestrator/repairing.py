"""Restoring a damaged ledger: what it still holds is kept, and runs that it lost are found again in their stores."""

import socket
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

from cloud_train import locks
from cloud_train.errors import CloudTrainError, ConflictError, StoreError
from cloud_train.orchestrator.adopting import adopt, found_reference, runs_in
from cloud_train.orchestrator.connections import provider_at, store_at
from cloud_train.orchestrator.home import Home
from cloud_train.orchestrator.polling import Poller
from cloud_train.orchestrator.run_directory import read_record
from cloud_train.orchestrator.state import launch_of, observed
from cloud_train.run import ledger_file
from cloud_train.run.ledger import Ledger
from cloud_train.run.ledger_entry import Entry
from cloud_train.run.ledger_file import FILES
from cloud_train.run.ledger_reader import DamagedRecordError, LedgerReader
from cloud_train.run.ledger_salvage import Salvage, salvage
from cloud_train.storage.registry import check_url


@dataclass(frozen=True)
class Repair:
    """What a repair did."""

    kept: list[str]
    """Ids of the runs whose records were whole."""
    returned: list[str]
    """Ids of the runs that only a ledger still had that an earlier repair moved aside."""
    handles: list[str]
    """Ids of the runs whose handle could not be read, and was found again at their provider or left out."""
    adopted: list[str]
    """Ids of the runs that were found again in a store. ``resume`` shows what it starts, and asks, as for any adopted run."""
    others: dict[str, int]
    """Store → the runs there that other machines submitted; they are left alone."""
    moved_to: Path | None
    """Where the damaged ledger is now; None if there was no damage."""


def repair(home: Home, stores: Sequence[str] = (), note: Callable[[str], None] = lambda _: None) -> Repair:
    """Restore the ledger if it is damaged: move it aside, keep its whole records, and adopt this machine's other runs from their stores.

    Runs that only a ledger has that an earlier repair moved aside are taken from there. A sound ledger stays, and only the runs that it
    lacks are added. A handle that its provider cannot read is replaced by the one that the provider finds.

    The stores searched are ``stores``, those that the damaged ledger names, and for the default home the default store; ``note`` is told of
    one that cannot be read. Raises ConflictError while a run is being submitted, StoreError if the ledger is of a newer version or
    cannot be moved.
    """
    path = home.ledger_path
    is_there = path.exists() or ledger_file.has_log(path)
    rows = salvage(path) if is_there else Salvage()
    is_sound = is_there and not _damage_of_file(home, rows)
    earlier = _earlier(path, {row["run_id"] for row in rows.runs} if is_sound else set(), note)
    if is_sound and not stores and not earlier.runs:
        return Repair([run["run_id"] for run in rows.runs], [], _find_handles(home), [], {}, None)
    if busy := [lock.stem for lock in path.parent.glob("submitting/*.lock") if locks.is_held(lock)]:
        raise ConflictError(f"{busy[0]} is being submitted right now", hint="retry when the submission has finished")
    if is_sound:
        moved_to, kept, returned = None, [run["run_id"] for run in rows.runs], _added(path, earlier)
    else:
        moved_to, kept, returned = _replaced(path, rows, earlier)
    handles = _find_handles(home)
    adopted: list[str] = []
    others: dict[str, int] = {}
    usual = Path("~/.cloud-train").expanduser()  # where runs are kept by default, whatever the home
    searched = [*stores, *_stores(rows + earlier), *([str(usual / "runs")] if home.folder == usual else [])]
    for url in dict.fromkeys(searched if stores or not is_sound else ()):
        found, others[url] = _adopt_own(home, url, note)
        adopted += found
    return Repair(kept, returned, handles, adopted, {url: count for url, count in others.items() if count}, moved_to)


def damage_of(home: Home, rows: Salvage | None = None) -> str:
    """What is damaged in the ledger, in a few words; empty for a sound one. ``rows`` are what is readable in it, if that is known already.

    Raises StoreError if it is of a newer version, or cannot be read for another reason than damage.
    """
    return _damage_of_file(home, rows or salvage(home.ledger_path)) or next(
        (f"the provider {entry.provider!r} cannot read the handle of {entry.run_id}" for entry in _with_damaged_handles(home)), ""
    )


def _damage_of_file(home: Home, rows: Salvage) -> str:
    path = home.ledger_path
    if not path.exists():
        return "the file is gone, but its log is there"
    if not rows.is_whole:
        return "the file is damaged" if path.stat().st_size else "the file is empty"
    damaged: list[str] = []
    try:
        with LedgerReader(path) as ledger:
            listed = len(ledger.newest(damaged=damaged))
            damaged += ledger.inconsistent()
    except StoreError as error:
        return error.message
    if damaged:
        return f"the record of {damaged[0]} is damaged"
    if listed != len(rows.runs):
        return "attempts are recorded of runs that are not"
    return ""


def _with_damaged_handles(home: Home) -> Iterator[Entry]:
    """The runs whose provider cannot read its handle, as far as that can be found out."""
    with LedgerReader(home.ledger_path) as ledger:
        entries = list(ledger.each())
    for entry in entries:
        if entry.reference == {}:
            yield entry
        elif entry.reference and not entry.is_unmanaged and not entry.state.is_end:
            try:
                observed(Poller(), provider_at(home, entry.provider), launch_of(entry))
            except DamagedRecordError:
                yield entry
            except CloudTrainError:
                continue


def _find_handles(home: Home) -> list[str]:
    """Replace handles that their providers cannot read by those that the providers find; returns the ids of these runs."""
    damaged = list(_with_damaged_handles(home))
    with Ledger(home.ledger_path) as ledger:
        for entry in damaged:
            ledger.launched(entry.run_id, entry.attempt, found_reference(home, entry, entry.settings))
    return [entry.run_id for entry in damaged]


def _earlier(path: Path, known: set[str], note: Callable[[str], None]) -> Salvage:
    """What the ledgers have that earlier repairs moved aside, without runs that are ``known``; of each run, the newest record."""
    found, known = Salvage(), set(known)
    for aside in sorted(_moved_aside(path), key=lambda each: each.stat().st_mtime, reverse=True):
        try:
            rows = salvage(aside).without(known)
        except CloudTrainError as error:
            note(f"cannot read {aside}: {error.message}")
            continue
        known |= {row["run_id"] for row in rows.runs}
        found = rows + found
    return found


def _moved_aside(path: Path) -> list[Path]:
    return [each for each in path.parent.glob(f"{path.name}.damaged-*") if not each.name.endswith(("-wal", "-shm"))]


def _added(path: Path, rows: Salvage) -> list[str]:
    """Add these rows to a sound ledger; returns the ids of the runs that were whole."""
    with Ledger(path) as ledger:
        return ledger.restore(rows)


def _replaced(path: Path, rows: Salvage, earlier: Salvage) -> tuple[Path | None, list[str], list[str]]:
    """Put a new ledger with these rows in the place of the damaged one.

    Returns the new path of that one, and the ids of the runs kept from ``rows`` and from ``earlier``.

    The new one is complete before the old one moves: a repair that is interrupted or meets a full disk loses nothing.
    """
    fresh = path.with_name(f"{path.name}.repairing")
    for suffix in FILES:
        with ledger_file.explained(fresh):
            path.with_name(fresh.name + suffix).unlink(missing_ok=True)
    with Ledger(fresh) as ledger:
        kept = ledger.restore(rows)
        returned = ledger.restore(earlier.without(set(kept)))
    aside = _move_aside(path) if path.exists() or ledger_file.has_log(path) else None
    with ledger_file.explained(path):
        fresh.replace(path)
    return aside, kept, returned


def _move_aside(path: Path) -> Path:
    when = time.strftime("%Y%m%dT%H%M%SZ", time.gmtime())
    names = (f"{path.name}.damaged-{when}{number}" for number in ("", *(f"-{count}" for count in range(2, 1000))))
    aside = next(place for name in names if not (place := path.with_name(name)).exists())
    with ledger_file.explained(path):
        for suffix in FILES:
            with suppress(FileNotFoundError):
                path.with_name(path.name + suffix).rename(aside.with_name(aside.name + suffix))
    return aside


def _stores(rows: Salvage) -> Iterator[str]:
    """The stores that the readable records name, as far as they are stores."""
    for url in dict.fromkeys(row["store"] for row in rows.runs):
        with suppress(CloudTrainError):
            if isinstance(url, str):
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

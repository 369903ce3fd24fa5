"""Runs from other machines: listing those in a store, and tracking them in this machine's ledger.

A run directory describes its run completely, so any machine with access to the store can continue it.
"""

import shlex
from collections.abc import Callable, Mapping
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from cloud_train.errors import CloudTrainError, ConflictError, CorruptError, NotFoundError, StoreError, UsageError
from cloud_train.orchestrator.configs import Configs
from cloud_train.orchestrator.connections import provider_at, store_at
from cloud_train.orchestrator.consent import refuse
from cloud_train.orchestrator.home import Home
from cloud_train.orchestrator.ledgers import open_ledger
from cloud_train.orchestrator.moving import finish, new_place
from cloud_train.orchestrator.run_directory import read_record, read_record_bytes, read_status
from cloud_train.orchestrator.state import read
from cloud_train.run import documents, layout
from cloud_train.run.documents import Fields
from cloud_train.run.ledger import Ledger
from cloud_train.run.ledger_entry import UNMANAGED, Entry
from cloud_train.run.record import sha256_of
from cloud_train.run.states import State
from cloud_train.run.view import RunView
from cloud_train.storage.base import ObjectMissingError, Store
from cloud_train.storage.registry import absolute_url, scheme_of

_AT_ONCE = 8
_LIST = "cloud-train list --store"


@dataclass(frozen=True)
class Unreadable:
    """A run directory that cannot be read."""

    run_id: str
    """Name of the folder in the store; not necessarily a valid run id."""
    why: str


@dataclass(frozen=True)
class Listed:
    """The runs in a store."""

    runs: list[RunView]
    """Newest first."""
    unreadable: list[Unreadable]


def runs_in(url: str) -> Listed:
    """The runs in a store, as their run directories describe them; the unreadable ones are listed separately."""
    store = store_at(url)
    with ThreadPoolExecutor(_AT_ONCE) as pool:
        found = list(pool.map(lambda name: _read(store, url, name), store.folders()))
    runs = [run for run in found if isinstance(run, RunView)]
    unreadable = [run for run in found if isinstance(run, Unreadable)]
    return Listed(sorted(runs, key=lambda run: (run.created, run.run_id), reverse=True), unreadable)


def adopt(
    home: Home,
    url: str,
    config: str | None = None,
    configs: Configs | None = None,
    note: Callable[[str], None] = lambda _: None,
    *,
    needs_status: bool = True,
) -> RunView:
    """Track the run whose directory is at ``url``; for a run that is already tracked, return its current state.

    Nothing in the run directory is executed: its provider is asked with the settings from this machine's own ``config``, and ``resume``
    will show what it would start. If the ``run.json`` of a tracked run has changed, ``note`` is told, and ``resume`` will ask again.

    Raises NotFoundError if there is no run directory, CorruptError if it is malformed, ConflictError if the ledger has the run in another
    store. Without ``needs_status``, a malformed status is not an error: a run has to be stopped all the same.
    """
    store_url, run_id = place_of(url)
    try:
        entry = _entry(store_at(store_url), store_url, run_id, needs_status=needs_status)
    except NotFoundError as error:
        if not isinstance(error.__cause__, ObjectMissingError):
            raise
        raise NotFoundError(f"no run directory at {url}", hint=f"list them with: {_LIST} {shlex.quote(store_url)}") from error
    with open_ledger(home) as ledger:
        known = _known(ledger, run_id)
        replaces = known is not None and _is_elsewhere(known, store_url)
        if known is not None and replaces and has_directory(known.store, run_id):
            finish(store_at(known.store), store_at(store_url), run_id, f"{store_url}/{run_id}")
        if known is None or replaces:
            settings = _own_settings(home, entry, config, configs or Configs(home, refuse))
            ledger.adopt(replace(entry, settings=settings).launched(found_reference(home, entry, settings)), replaces=replaces)
        elif known.store.rstrip("/") != store_url:
            raise tracked_in(known.store, run_id)
        elif _is_changed(ledger, store_url, run_id):
            ledger.distrust(run_id)
            note(f"run.json of {run_id} has changed since this machine recorded it: resume will show what it starts, and ask")
        return read(home, ledger, run_id)


def place_of(url: str) -> tuple[str, str]:
    """The URL of the store of a run directory, absolute, and the run's id. Raises UsageError."""
    store_url, _, run_id = (absolute_url(url.rstrip("/"), Path.cwd()) if "/" in url else url).rpartition("/")
    if not store_url or not run_id or scheme_of(store_url) != scheme_of(url):
        raise UsageError(f"{url!r} is not the URL of a run directory", hint=f"list them with: {_LIST} STORE")
    return store_url, run_id


def _is_elsewhere(known: Entry, store_url: str) -> bool:
    """Whether the run is not where the ledger has it: it was moved to ``store_url``, or it has no directory there."""
    if known.store.rstrip("/") == store_url:
        return False
    if not has_directory(known.store, known.run_id):
        return True
    return known.state.is_end and new_place(known.store, known.run_id) == f"{store_url}/{known.run_id}"


def has_directory(store_url: str, run_id: str) -> bool:
    """Whether the run has a directory in this store; also if the store cannot be reached."""
    try:
        store_at(store_url).stat(f"{run_id}/{layout.RUN}")
    except (ObjectMissingError, UsageError):  # the latter for what is not the URL of a store
        return False
    except StoreError:
        return True
    return True


def tracked_in(store_url: str, run_id: str) -> ConflictError:
    """The error for a run that this machine tracks in another store than the one that was named."""
    hint = f"see it with: cloud-train status {run_id}"
    return ConflictError(f"{run_id} is already tracked here, with its run directory in {store_url}", hint=hint)


def _known(ledger: Ledger, run_id: str) -> Entry | None:
    """The ledger's entry of the run; a damaged one is removed."""
    try:
        return ledger.get(run_id)
    except CorruptError:
        ledger.forget(run_id)
        return None


def _is_changed(ledger: Ledger, store_url: str, run_id: str) -> bool:
    """Whether the run's present ``run.json`` is unknown to this machine."""
    written, _ = read_record_bytes(store_at(store_url), run_id)
    return sha256_of(written) not in ledger.records(run_id)


def _own_settings(home: Home, entry: Entry, config: str | None, configs: Configs) -> dict[str, Any]:
    """This machine's settings for the run's provider; empty if it has none."""
    if config is not None:
        return dict(configs.named(config, Path.cwd()).settings.get(entry.provider, {}))
    with suppress(CloudTrainError):  # without settings, only the run directory is read
        usual = configs.usual(provider_at(home, entry.provider), Path.cwd())
        return dict(usual.settings.get(entry.provider, {})) if usual else {}
    return {}


def found_reference(home: Home, entry: Entry, settings: Mapping[str, Any]) -> dict[str, Any]:
    """The provider's handle of the newest attempt, if the provider can find it from here. Attempts that a worker started share a handle."""
    with suppress(CloudTrainError):
        first = _first_of_launch(store_at(entry.store), entry)
        handle = provider_at(home, entry.provider).find(entry.run_id, first, entry.store, settings)
        if handle is not None:
            return handle.reference
    return UNMANAGED


def _first_of_launch(store: Store, entry: Entry) -> int:
    """The number of the attempt as which the newest one was launched; its worker started those that follow, with the same token."""
    number = entry.attempt
    with suppress(CorruptError):
        newest = read_status(store, entry.run_id, number) if number > 1 else None
        while newest is not None and newest.token and number > 1:
            before = read_status(store, entry.run_id, number - 1)
            if before is None or before.token != newest.token:
                break
            number -= 1
    return number


def _read(store: Store, url: str, run_id: str) -> RunView | Unreadable | None:
    try:
        return _entry(store, url, run_id).view()
    except NotFoundError as error:
        # A folder without a record is not a run directory.
        return None if isinstance(error.__cause__, ObjectMissingError) else Unreadable(run_id, error.message)
    except CloudTrainError as error:
        return Unreadable(run_id, error.message)


def _entry(store: Store, url: str, run_id: str, *, needs_status: bool = True) -> Entry:
    """The run as its run directory describes it. Raises CorruptError, for a damaged status only with ``needs_status``."""
    record = read_record(store, run_id)
    if record.run_id != run_id:
        raise NotFoundError(f"{url}/{run_id} contains the run.json of another run, {record.run_id!r}")
    documents.check_run_id(run_id)
    number = max((documents.attempt_number(name) or 1 for name in store.folders(f"{run_id}/{layout.ATTEMPTS}/")), default=1)
    provenance = Fields(record.provenance)
    entry = Entry(
        run_id=run_id,
        name=Fields(record.job).text("name", default=run_id),
        provider=Fields(record.plan).text("provider", default="local"),
        store=url,
        job_file=None if provenance.is_null("job_file") else provenance.text("job_file"),
        created=record.created,
        attempt=number,
        state=State.STARTING,
    )
    try:
        status = read_status(store, run_id, number)
    except CorruptError:
        if needs_status:
            raise
        status = None
    return entry.shown_by(number, status) if status else entry

"""Runs of which this machine's ledger knows nothing: found in a store, shown, and taken into the ledger.

A run directory says everything about its run, so any machine that reaches the store can go on with it.
"""

import shlex
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from dataclasses import replace
from typing import Any

from cloud_train.errors import CloudTrainError, NotFoundError, UsageError
from cloud_train.orchestrator.home import Home
from cloud_train.orchestrator.moving import new_place
from cloud_train.orchestrator.observing import RunView, look, read_record, read_status
from cloud_train.orchestrator.places import provider_at
from cloud_train.orchestrator.stores import store_at
from cloud_train.run import layout
from cloud_train.run.ledger import ELSEWHERE, Entry, Ledger
from cloud_train.run.states import State
from cloud_train.storage.base import ObjectMissingError, Store
from cloud_train.storage.registry import scheme_of

_AT_ONCE = 8
_LIST = "cloud-train list --store"


def runs_in(url: str, note: Callable[[str], None]) -> list[RunView]:
    """The runs in a store as their run directories show them, the newest first; ``note`` is told of those that cannot be read."""
    store = store_at(url)
    with ThreadPoolExecutor(_AT_ONCE) as pool:
        found = list(pool.map(lambda name: _read(store, url, name, note), store.folders()))
    return sorted((run for run in found if run is not None), key=lambda run: (run.created, run.run_id), reverse=True)


def adopt(home: Home, url: str) -> RunView:
    """Take the run whose directory is ``url`` into the ledger; one that is there already is only looked at.

    Raises NotFoundError if there is no run directory, CorruptError if it holds something else.
    """
    store_url, _, run_id = url.rstrip("/").rpartition("/")
    if not store_url or not run_id or scheme_of(store_url) != scheme_of(url):
        raise UsageError(f"{url!r} is not the URL of a run directory", hint=f"see which there are with: {_LIST} STORE")
    try:
        entry = _entry(store_at(store_url), store_url, run_id)
    except NotFoundError as error:
        if not isinstance(error.__cause__, ObjectMissingError):
            raise
        raise NotFoundError(
            f"there is no run directory at {url}", hint=f"see which there are with: {_LIST} {shlex.quote(store_url)}"
        ) from error
    with Ledger(home.ledger_path) as ledger:
        known = ledger.get(run_id)
        if known is not None and known.state.is_end and new_place(known.store, run_id) == f"{store_url}/{run_id}":
            ledger.forget(run_id)  # it goes on here, and what is known of it is what it was there
            known = None
        if known is None:
            reference = _reference(home, store_at(store_url), entry)
            ledger.adopt(replace(entry, reference=reference))
        return look(home, ledger, run_id)


def _reference(home: Home, store: Store, entry: Entry) -> dict[str, Any]:
    """The provider's handle of the newest attempt, where it can be found from here."""
    with suppress(CloudTrainError):
        settings = read_record(store, entry.run_id).plan.get("provider_settings", {})
        handle = provider_at(home, entry.provider).find(entry.run_id, entry.attempt, entry.store, settings)
        if handle is not None:
            return handle.reference
    return ELSEWHERE


def _read(store: Store, url: str, run_id: str, note: Callable[[str], None]) -> RunView | None:
    try:
        return RunView.of(_entry(store, url, run_id))
    except NotFoundError:
        return None  # a folder that is no run directory
    except CloudTrainError as error:
        note(f"{run_id}: {error.message}")
        return None


def _entry(store: Store, url: str, run_id: str) -> Entry:
    record = read_record(store, run_id)
    if record.run_id != run_id:
        raise NotFoundError(f"{url}/{run_id} holds the record of another run, {record.run_id}")
    numbers = [int(name) for name in store.folders(f"{run_id}/{layout.ATTEMPTS}/") if name.isdecimal()]
    number = max(numbers, default=1)
    entry = Entry(
        run_id=run_id,
        name=str(record.job.get("name", run_id)),
        provider=str(record.plan.get("provider", "local")),
        store=url,
        job_file=record.provenance.get("job_file"),
        created=record.created,
        attempt=number,
        state=State.STARTING,
        cause=None,
        message="",
        started=None,
        ended=None,
        host="",
        resumed_step=None,
        reference=None,
    )
    status = read_status(store, run_id, number)
    return entry.shown_by(number, status) if status else entry

"""Reading a run directory: the run's record, and the status of its newest attempt."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from cloud_train.errors import CorruptError, NotFoundError
from cloud_train.run import documents, layout
from cloud_train.run.ledger_entry import Entry
from cloud_train.run.record import AttemptStatus, RunRecord
from cloud_train.run.states import State
from cloud_train.storage.base import ObjectInfo, ObjectMissingError, Store

CHANGES = "changes"
"""The key of a run's provenance that has what ``resume`` changed: a list of ``{"attempt", "set", "code"}``."""
_MOST_FOLLOWING = 32
"""Attempts read at once beyond the one in the ledger: a run directory may hold any number of them. The next read continues from there."""


def is_there(store: Store, run_id: str) -> bool:
    """Whether the run directory has the run's record. Raises StoreError."""
    try:
        store.stat(f"{run_id}/{layout.RUN}")
    except ObjectMissingError:
        return False
    return True


def check_there(store: Store, run_id: str) -> None:
    """Raise NotFoundError if the run directory was deleted: then nothing that is missing says anything about the run."""
    if not is_there(store, run_id):
        raise _gone(store, run_id)


def _gone(store: Store, run_id: str) -> NotFoundError:
    return NotFoundError(
        f"the run directory {store.url}/{run_id} is gone", hint="nothing can be read from it; `cloud-train list` still shows the run"
    )


def read_record(store: Store, run_id: str) -> RunRecord:
    """The run's ``run.json``, for display only: to act on it, use ``trust``. Raises NotFoundError or CorruptError."""
    return read_record_bytes(store, run_id)[1]


def read_record_bytes(store: Store, run_id: str) -> tuple[bytes, RunRecord]:
    """The bytes of the run's ``run.json``, and the parsed record. Raises NotFoundError or CorruptError."""
    key = f"{run_id}/{layout.RUN}"
    try:
        written = documents.read(store, key, documents.LARGEST_RECORD)
        return written, RunRecord.from_json(written, f"{store.url}/{key}")
    except ObjectMissingError as error:
        raise _gone(store, run_id) from error


def read_status(store: Store, run_id: str, number: int) -> AttemptStatus | None:
    """The status of an attempt in the run directory; None if it has not started. Raises CorruptError."""
    key = f"{run_id}/{layout.status(number)}"
    try:
        return AttemptStatus.from_json(documents.read(store, key, documents.LARGEST_STATUS), f"{store.url}/{key}")
    except ObjectMissingError:
        return None


@dataclass(frozen=True)
class Found:
    """The newest attempt in a run directory."""

    number: int
    status: AttemptStatus | None = None
    """None if it has not begun, and for a status that cannot be read."""
    seen: ObjectInfo | None = None
    """The version of the status."""
    is_of_launch: bool = True
    """Whether it belongs to the launch that the ledger has; otherwise that launch says nothing about it."""
    damage: str = ""
    """Why the status cannot be read. A worker that is alive replaces it with its next heartbeat."""


def newest_status(store: Store, entry: Entry) -> Found:
    """The newest attempt: the worker may have started further ones itself, and another machine may have resumed the run."""
    newest = _found(store, entry, entry.attempt, entry.token)
    token = entry.token or (newest.status.token if newest.status else "")
    for following in range(newest.number + 1, newest.number + 1 + _MOST_FOLLOWING):
        if newest.status is None or not newest.status.state.is_end or newest.status.state is State.SUCCEEDED:
            break
        found = _found(store, entry, following, token)
        if found.status is None:
            break
        newest = found
    return newest


def _found(store: Store, entry: Entry, number: int, token: str) -> Found:
    key = f"{entry.run_id}/{layout.status(number)}"
    try:
        seen, data = store.read(key, documents.LARGEST_STATUS + 1)
    except ObjectMissingError:
        return Found(number)
    try:
        status = AttemptStatus.from_json(data, f"{store.url}/{key}")
    except CorruptError as error:
        return Found(number, seen=seen, damage=error.message)
    # A worker of an earlier version writes no token, and then none of its further attempts has one.
    is_of_launch = status.token == token if number > entry.attempt else not token or status.token in ("", token)
    return Found(number, status, seen, is_of_launch)


def changes_in(provenance: Mapping[str, Any]) -> list[dict[str, Any]]:
    """What ``resume`` changed, for display: the entries that are well-formed."""
    entries = provenance.get(CHANGES)
    return [entry for entry in entries if _is_whole(entry)] if isinstance(entries, list) else []


def _is_whole(entry: object) -> bool:
    if not isinstance(entry, dict) or not isinstance(entry.get("attempt"), int) or not isinstance(entry.get("set"), list):
        return False
    code = entry.get("code")
    is_code = code is None or (isinstance(code, dict) and all(isinstance(code.get(name), str) for name in ("sha256", "commit")))
    return is_code and all(isinstance(text, str) for text in entry["set"])

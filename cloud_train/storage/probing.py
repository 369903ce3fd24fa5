"""Tests a store: every operation that runs need, with a small object that is deleted afterwards."""

import secrets
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass
from time import perf_counter

from cloud_train.errors import CloudTrainError, StoreError
from cloud_train.storage.base import AccessDeniedError, ObjectExistsError, ObjectMissingError, Store

_CONTENT = b"cloud-train checked whether it can write here; this object may be deleted\n"


@dataclass(frozen=True)
class Step:
    """One operation: 'list', 'write', 'read', 'upload' (in parts) or 'delete'."""

    name: str
    detail: str
    """The result, or the error's message."""
    error: CloudTrainError | None = None
    """The error, whose hint is the next step."""


def probe(store: Store) -> list[Step]:
    """List, create, read, upload in parts and delete, as far as permitted; steps that cannot succeed are skipped.

    Writes ``cloud-train-probe-<random>`` under the store's prefix and deletes it. Never raises CloudTrainError.
    """
    key = f"cloud-train-probe-{secrets.token_hex(8)}"
    listed = _step("list", lambda: _list(store))
    if not (listed.error is None or isinstance(listed.error, AccessDeniedError)):
        return [listed]  # no connection, no such bucket, wrong region: the other steps would fail in the same way
    written = _step("write", lambda: _create(store, key))
    if written.error and listed.error and written.error.hint == listed.error.hint:
        return [listed, written]  # credentials are missing, not a permission
    read = _step("read", lambda: _find_nothing(store, key) if written.error else _read(store, key))
    uploaded = [] if written.error else [_step("upload", lambda: _upload(store, key))]
    # Deleting is tried even if writing failed: the object may exist all the same, and permissions are checked without one.
    return [listed, written, read, *uploaded, _step("delete", lambda: _delete(store, key))]


def _step(name: str, attempt: Callable[[], str]) -> Step:
    begun = perf_counter()
    try:
        detail = attempt()
    except CloudTrainError as error:
        return Step(name, error.message, error)
    return Step(name, f"{detail} ({(perf_counter() - begun) * 1000:,.0f} ms)")


def _list(store: Store) -> str:
    return "has objects" if next(iter(store.list()), None) is not None else "is empty"


def _create(store: Store, key: str) -> str:
    store.create(key, _CONTENT)
    try:
        store.create(key, _CONTENT[::-1])
    except ObjectExistsError:
        return "created an object; creating it again was refused, as it should be"
    raise StoreError(
        f"{store.url} allowed the same object to be created twice",
        hint="use a server with conditional writes, without which two workers could run the same attempt",
    )


def _read(store: Store, key: str) -> str:
    if store.get(key) != _CONTENT or store.stat(key).size != len(_CONTENT):
        raise StoreError(f"{store.url}/{key} returned different bytes than were written", hint="check for a proxy or a cache in between")
    _find_nothing(store, f"{key}-missing")
    return "read it back; a missing object is distinguished from a forbidden one"


def _find_nothing(store: Store, key: str) -> str:
    with suppress(ObjectMissingError):  # without permission, reading is refused whether or not the object exists
        store.get(key)
    return "reading is permitted"


def _upload(store: Store, key: str) -> str:
    parts = store.multipart()
    token = parts.begin(key, len(_CONTENT), "")
    parts.send(key, token, 0, 0, _CONTENT)
    parts.abort(key, token)
    return "started an upload in parts and aborted it"


def _delete(store: Store, key: str) -> str:
    store.delete(key)
    return "deleted it"

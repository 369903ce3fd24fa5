"""One writer at a time: claiming an attempt, keeping it, and finding out that another one has overtaken it.

An attempt belongs to the launch whose token is in its ``status.json``. The status is created by the worker that claims the attempt and
replaced only in the version that its writer saw, so a writer notices every other one. Attempts are numbered, and a higher number wins: a
worker that finds a newer attempt of another launch has been superseded, and writes no results any more. docs/design.md has the protocol.
"""

from __future__ import annotations  # the worker also runs on Python 3.10, in users' images

from collections.abc import Callable, Mapping
from contextlib import suppress
from dataclasses import dataclass
from typing import Protocol

from cloud_train.errors import CorruptError, StoreError
from cloud_train.run import documents, layout
from cloud_train.run.succession import Ancestor, SupersededError, superseded_by
from cloud_train.storage.base import ObjectChangedError, ObjectExistsError, ObjectInfo, ObjectMissingError


class Register(Protocol):
    """The part of ``storage.base.Store`` that the protocol needs."""

    url: str

    def create(self, key: str, data: bytes) -> ObjectInfo:
        """Write an object that must not exist yet."""

    def replace(self, seen: ObjectInfo, data: bytes) -> ObjectInfo:
        """Write an object only in the version that was seen."""

    def read(self, key: str, end: int | None = None) -> tuple[ObjectInfo, bytes]:
        """The first bytes of an object, with its version."""

    def stat(self, key: str) -> ObjectInfo:
        """An object's version."""


@dataclass(frozen=True)
class Written:
    """A status as it is in the store."""

    info: ObjectInfo
    data: bytes
    token: str
    is_end: bool
    is_closed: bool
    """Whether a resume has followed the end."""


def find(store: Register, run_id: str, name: str) -> Written | None:
    """The status ``name`` of a run, or None. A damaged one has no token and counts as not ended. Raises StoreError."""
    try:
        info, data = store.read(f"{run_id}/{name}", documents.LARGEST_STATUS)
    except ObjectMissingError:
        return None
    fields: Mapping[str, object] = {}
    with suppress(ValueError):
        fields = documents.load(data, documents.LARGEST_STATUS)
    is_end = fields.get("ended") is not None
    return Written(info, data, str(fields.get("token") or "")[:64], is_end, is_end and fields.get("closed") is True)


def newer_attempt(store: Register, run_id: str, number: int, token: str) -> int | None:
    """The attempt of another launch that follows attempt ``number``; None if there is none. Raises StoreError. One small read."""
    following = find(store, run_id, layout.status(number + 1))
    return number + 1 if following is not None and following.token != token else None


class Lease:
    """The claim of one attempt by the launch ``token``, as its worker keeps it with every heartbeat.

    A heartbeat is one conditional write and, at ``look``, one small read.
    """

    def __init__(self, store: Register, run_id: str, number: int, token: str, name: str = "") -> None:
        """``name``: the status that this worker writes, by default the attempt's own."""
        self._store, self._run_id, self.number, self._token = store, run_id, number, token
        self._name = name or layout.status(number)
        self._seen: ObjectInfo | None = None
        self.superseded: int | None = None
        """The attempt that has overtaken this one, once that is known."""

    def claim(self, status: bytes) -> bool:
        """Create the status; False if another worker has claimed the attempt. Raises StoreError."""
        try:
            self._seen = self._store.create(f"{self._run_id}/{self._name}", status)
        except ObjectExistsError:
            return False
        return True

    def write(self, status: bytes) -> bool:
        """Replace the status; False if the attempt was superseded, and nothing was written. Raises StoreError.

        An end that another machine wrote in this worker's place is taken back, since the worker is alive, unless a resume has followed it.
        """
        for _ in range(_TRIES):
            if self._seen is None and not self._look_at_status():
                return False
            try:
                if self._seen is None:
                    self._seen = self._store.create(f"{self._run_id}/{self._name}", status)
                else:
                    self._seen = self._store.replace(self._seen, status)
            except (ObjectChangedError, ObjectExistsError):
                self._seen = None
            else:
                return True
        raise StoreError(
            f"{self._store.url}/{self._run_id}/{self._name} is being changed by another writer", hint="find out who writes there"
        )

    def conclude(self, status: bytes) -> None:
        """After the attempt was superseded: write its last status, with ``closed`` set, unless another launch has it. Raises StoreError."""
        there = find(self._store, self._run_id, self._name)
        if there is not None and there.token == self._token:
            with suppress(ObjectChangedError):
                self._store.replace(there.info, status)

    def look(self) -> int | None:
        """Whether a newer attempt has begun: ``superseded`` after looking for it. Raises StoreError."""
        if self.superseded is None:
            self.superseded = newer_attempt(self._store, self._run_id, self.number, self._token)
        return self.superseded

    def check(self) -> None:
        """Raise SupersededError if a newer attempt has begun: called before results are written. Raises StoreError."""
        if (newer := self.look()) is not None:
            raise SupersededError(superseded_by(newer))

    def _look_at_status(self) -> bool:
        """Learn the status's version, at first and after another writer has changed it; False if the attempt was superseded."""
        there = find(self._store, self._run_id, self._name)
        if there is not None and there.token not in ("", self._token):
            self.superseded = self.superseded or self.number
        if there is not None and there.is_closed:  # a newer attempt is about to begin
            self.superseded = self.superseded or self.number + 1
        if there is None or there.is_end:
            self.look()
        self._seen = there.info if there else None
        return self.superseded is None


def publish(store: Register, key: str, data: bytes, check: Callable[[], None]) -> None:
    """Write an object that makes results valid: a manifest. A writer that stalls after its check can no longer replace a newer one's.

    ``check`` raises SupersededError if a newer attempt has begun. Raises StoreError.
    """
    for _ in range(_TRIES):
        try:
            seen: ObjectInfo | None = store.stat(key)
        except ObjectMissingError:
            seen = None
        check()
        with suppress(ObjectExistsError, ObjectChangedError, ObjectMissingError):
            written = store.create(key, data) if seen is None else store.replace(seen, data)
            there = store.stat(key)  # an acknowledged write may have been lost
            if (there.sha256 == written.sha256) if written.sha256 else (there.version == written.version):
                return
    raise StoreError(f"{store.url}/{key} is being changed by another writer", hint="find out who writes there")


_TRIES = 5


def ancestor_in(store: Register, run_id: str) -> Callable[[int], Ancestor | None]:
    """Reads what the statuses of a run say; a damaged one says nothing. Raises StoreError."""

    def ancestor(number: int) -> Ancestor | None:
        there = find(store, run_id, layout.status(number))
        if there is None:
            return None
        with suppress(ValueError, CorruptError):
            fields = documents.Fields(documents.load(there.data, documents.LARGEST_STATUS))
            origin = fields.whole_or_none("origin", 0, documents.MOST_ATTEMPTS)
            return Ancestor(origin, fields.whole_or_none("resumed_step", 0, documents.LARGEST_STEP))
        return None

    return ancestor

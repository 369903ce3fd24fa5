"""Trying again, where that may help: a store around another one, with waits that grow and that differ between callers.

Only ``TransientStoreError`` is tried again: a refusal (403) or a missing object (404) is an answer. One refusal is not the last word: that
of credentials which have ended, where the store has found others since. It is tried once more, and at once.

The waits are "full jitter": a random part of a time that doubles, so that many clients which were throttled together do not come back
together (https://aws.amazon.com/blogs/architecture/exponential-backoff-and-jitter/).
"""

import random
import time
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import TypeVar

from cloud_train.errors import StoreError
from cloud_train.storage.base import Buffer, CredentialsEndedError, Multipart, ObjectExistsError, ObjectInfo, Store, TransientStoreError

Result = TypeVar("Result")


@dataclass(frozen=True)
class RetryPolicy:
    """How often, how long and with what waits a call is tried. The clock, the waiting and the dice come from outside."""

    first_wait: float = 0.25
    """The longest first wait, in seconds; it doubles each time."""
    longest_wait: float = 8.0
    """In seconds."""
    time_limit: float = 120.0
    """No further try begins after so many seconds."""
    sleep: Callable[[float], None] = time.sleep
    clock: Callable[[], float] = time.monotonic
    dice: Callable[[], float] = field(default=random.random)
    """From 0 to 1."""

    def call(self, action: Callable[[], Result]) -> Result:
        """The result of the first try that does not fail for a moment only; raises the last try's error when the time is up."""
        give_up_at = self.clock() + self.time_limit
        longest, renewed = self.first_wait, False
        while True:
            try:
                return action()
            except CredentialsEndedError as error:
                if renewed or not error.renewed:
                    raise
                renewed = True
            except TransientStoreError as error:
                wait = longest * self.dice()
                if self.clock() + wait >= give_up_at:
                    raise StoreError(f"{error.message} (tried for {self.time_limit:g} s)", hint=error.hint) from error
                self.sleep(wait)
                longest = min(self.longest_wait, longest * 2)


DEFAULT_POLICY = RetryPolicy()


class RetryingStore:
    """A store that tries again."""

    def __init__(self, store: Store, policy: RetryPolicy = DEFAULT_POLICY) -> None:
        self.url = store.url
        self._store = store
        self._policy = policy

    def put(self, key: str, data: bytes) -> ObjectInfo:
        """Write an object whole."""
        return self._policy.call(lambda: self._store.put(key, data))

    def create(self, key: str, data: bytes) -> None:
        """Write an object that must not exist yet. If an answer was lost and the object is there with these very bytes, it was ours."""
        unanswered = False

        def attempt() -> None:
            nonlocal unanswered
            try:
                self._store.create(key, data)
            except TransientStoreError:
                unanswered = True
                raise
            except ObjectExistsError:
                if not unanswered or self._store.get(key) != data:
                    raise

        self._policy.call(attempt)

    def get(self, key: str, start: int = 0, end: int | None = None, *, version: str | None = None) -> bytes:
        """Bytes of an object."""
        return self._policy.call(lambda: self._store.get(key, start, end, version=version))

    def read(self, key: str) -> tuple[ObjectInfo, bytes]:
        """A whole object, and what is known of it."""
        return self._policy.call(lambda: self._store.read(key))

    def pieces(self, key: str, start: int, end: int, *, version: str | None = None) -> Iterator[Buffer]:
        """The bytes of a range; where it breaks off, it goes on behind the last piece that came."""
        at = start
        coming: Iterator[Buffer] | None = None

        def step() -> Buffer | None:
            nonlocal coming
            if coming is None:
                coming = iter(self._store.pieces(key, at, end, version=version)) if at < end else iter(())
            try:
                return next(coming, None)
            except TransientStoreError:
                coming = None
                raise

        while (piece := self._policy.call(step)) is not None:
            at += len(memoryview(piece))
            yield piece

    def stat(self, key: str) -> ObjectInfo:
        """What is known of one object."""
        return self._policy.call(lambda: self._store.stat(key))

    def list(self, prefix: str = "", after: str = "") -> Iterator[ObjectInfo]:
        """Every object under ``prefix``, in order; a listing that breaks off goes on behind the last key that came."""
        last = after
        listing: Iterator[ObjectInfo] | None = None

        def step() -> ObjectInfo | None:
            nonlocal listing
            if listing is None:
                listing = self._store.list(prefix, last)
            try:
                return next(listing, None)
            except TransientStoreError:
                listing = None
                raise

        while (info := self._policy.call(step)) is not None:
            last = info.key
            yield info

    def folders(self, prefix: str = "") -> Iterator[str]:
        """The names of the folders directly under ``prefix``."""
        return iter(self._policy.call(lambda: list(self._store.folders(prefix))))

    def delete(self, key: str) -> None:
        """Remove an object."""
        self._policy.call(lambda: self._store.delete(key))

    def multipart(self) -> Multipart:
        """Parts, each of them tried again."""
        return _RetryingMultipart(self._store.multipart(), self._policy)

    def local_path(self, key: str) -> Path | None:
        """Where this object lies as a local file."""
        return self._store.local_path(key)


class _RetryingMultipart:
    def __init__(self, inner: Multipart, policy: RetryPolicy) -> None:
        self._inner = inner
        self._policy = policy

    @property
    def in_order(self) -> bool:
        return self._inner.in_order

    def part_bytes(self, size: int) -> int:
        return self._inner.part_bytes(size)

    def begin(self, key: str, size: int, sha256: str) -> str:
        return self._policy.call(lambda: self._inner.begin(key, size, sha256))

    def sent(self, key: str, token: str) -> Mapping[int, str]:
        return self._policy.call(lambda: self._inner.sent(key, token))

    def is_part(self, receipt: str, data: bytes) -> bool:
        return self._inner.is_part(receipt, data)

    def send(self, key: str, token: str, number: int, offset: int, data: bytes) -> str:
        return self._policy.call(lambda: self._inner.send(key, token, number, offset, data))

    def finish(self, key: str, token: str, receipts: Mapping[int, str]) -> None:
        """Finish; whether an end whose answer was lost came about shows in the object, which the caller looks at anyway."""
        self._policy.call(lambda: self._inner.finish(key, token, receipts))

    def abort(self, key: str, token: str) -> None:
        self._policy.call(lambda: self._inner.abort(key, token))

"""A wrapper that adds retries to a store, which attempts each request once.

Only ``TransientStoreError`` is retried; errors such as 403 and 404 are final. The exception is a refusal of expired credentials if the
store has found new ones since: that request is repeated once, immediately.
"""

from collections.abc import Callable, Iterator, Mapping
from contextlib import suppress
from pathlib import Path
from typing import TypeVar

from cloud_train.errors import StoreError
from cloud_train.retry import RetryPolicy
from cloud_train.storage.base import (
    Buffer,
    CredentialsEndedError,
    Multipart,
    ObjectChangedError,
    ObjectExistsError,
    ObjectInfo,
    ObjectMissingError,
    RetriesExhaustedError,
    Store,
    TransientStoreError,
)

Result = TypeVar("Result")

DEFAULT_POLICY = RetryPolicy()


def retrying(policy: RetryPolicy, action: Callable[[], Result]) -> Result:
    """Call a store with retries by ``policy``, and return the result.

    Raises the call's errors, but RetriesExhaustedError instead of TransientStoreError, so that callers do not retry again.
    """
    renewed = False

    def with_valid_credentials() -> Result:
        nonlocal renewed
        try:
            return action()
        except CredentialsEndedError as error:
            if renewed or not error.renewed:
                raise
            renewed = True
            return action()

    try:
        return policy.call(
            with_valid_credentials,
            lambda error: isinstance(error, TransientStoreError),
            lambda error: error.retry_after if isinstance(error, TransientStoreError) else None,
        )
    except TransientStoreError as error:
        tried = f"for {policy.time_limit:g} s" if policy.attempts is None else f"{policy.attempts} times"
        raise RetriesExhaustedError(f"{error.message} (tried {tried})", hint=error.hint) from error


class RetryingStore:
    """A store that retries transient errors."""

    def __init__(self, store: Store, policy: RetryPolicy = DEFAULT_POLICY) -> None:
        self.url = store.url
        self._store = store
        self._policy = policy

    def put(self, key: str, data: bytes) -> ObjectInfo:
        """Write an object."""
        return retrying(self._policy, lambda: self._store.put(key, data))

    def create(self, key: str, data: bytes) -> ObjectInfo:
        """Write an object that must not exist yet. After a lost response, an existing object with the same bytes counts as ours."""
        return self._conditionally(key, data, lambda: self._store.create(key, data), ObjectExistsError)

    def replace(self, seen: ObjectInfo, data: bytes) -> ObjectInfo:
        """Write an object that must not have changed. After a lost response, one with the same bytes counts as ours."""
        return self._conditionally(seen.key, data, lambda: self._store.replace(seen, data), ObjectChangedError)

    def _conditionally(self, key: str, data: bytes, write: Callable[[], ObjectInfo], refusal: type[StoreError]) -> ObjectInfo:
        unanswered = False

        def attempt() -> ObjectInfo:
            nonlocal unanswered
            try:
                return write()
            except TransientStoreError:
                unanswered = True
                raise
            except refusal:
                if unanswered:
                    with suppress(ObjectMissingError):
                        info, there = self._store.read(key, len(data) + 1)
                        if there == data:
                            return info
                raise

        return retrying(self._policy, attempt)

    def get(self, key: str, start: int = 0, end: int | None = None, *, version: str | None = None) -> bytes:
        """Bytes of an object."""
        return retrying(self._policy, lambda: self._store.get(key, start, end, version=version))

    def read(self, key: str, end: int | None = None) -> tuple[ObjectInfo, bytes]:
        """A whole object, or its first bytes, with its information."""
        return retrying(self._policy, lambda: self._store.read(key, end))

    def pieces(self, key: str, start: int, end: int | None, *, version: str | None = None) -> Iterator[Buffer]:
        """A range of an object; after an interruption, it resumes after the last piece."""
        at = start
        coming: Iterator[Buffer] | None = None

        def step() -> Buffer | None:
            nonlocal coming
            if coming is None:
                coming = iter(self._store.pieces(key, at, end, version=version)) if end is None or at < end else iter(())
            try:
                return next(coming, None)
            except TransientStoreError:
                coming = None
                raise

        while (piece := retrying(self._policy, step)) is not None:
            at += len(memoryview(piece))
            yield piece

    def stat(self, key: str) -> ObjectInfo:
        """Information about one object."""
        return retrying(self._policy, lambda: self._store.stat(key))

    def list(self, prefix: str = "", after: str = "") -> Iterator[ObjectInfo]:
        """Every object under ``prefix``, sorted by key; after an interruption, the listing resumes after the last key."""
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

        while (info := retrying(self._policy, step)) is not None:
            last = info.key
            yield info

    def folders(self, prefix: str = "") -> Iterator[str]:
        """The names of the folders directly under ``prefix``."""
        return iter(retrying(self._policy, lambda: list(self._store.folders(prefix))))

    def delete(self, key: str) -> None:
        """Delete an object."""
        retrying(self._policy, lambda: self._store.delete(key))

    def multipart(self) -> Multipart:
        """Multipart uploads with retries."""
        return _RetryingMultipart(self._store.multipart(), self._policy)

    def local_path(self, key: str) -> Path | None:
        """The object's path in a local folder, or None."""
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
        return retrying(self._policy, lambda: self._inner.begin(key, size, sha256))

    def send(self, key: str, token: str, number: int, offset: int, data: bytes) -> str:
        return retrying(self._policy, lambda: self._inner.send(key, token, number, offset, data))

    def finish(self, key: str, token: str, receipts: Mapping[int, str]) -> None:
        """Finish the upload. If a response was lost, the caller finds out when it verifies the object."""
        retrying(self._policy, lambda: self._inner.finish(key, token, receipts))

    def abort(self, key: str, token: str) -> None:
        retrying(self._policy, lambda: self._inner.abort(key, token))

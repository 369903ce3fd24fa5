"""A store that retries: an adapter around a store that attempts each request once.

Only ``TransientStoreError`` is retried: 403 and 404 are answers. The exception is a refusal of credentials that have expired, where the
store has found new ones since: that request is sent once more, at once.
"""

from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import TypeVar

from cloud_train.retry import RetryPolicy
from cloud_train.storage.base import (
    Buffer,
    CredentialsEndedError,
    Multipart,
    ObjectExistsError,
    ObjectInfo,
    RetriesExhaustedError,
    Store,
    TransientStoreError,
)

Result = TypeVar("Result")

DEFAULT_POLICY = RetryPolicy()


def retrying(policy: RetryPolicy, action: Callable[[], Result]) -> Result:
    """The result of a call to a store, retried as the policy says.

    Raises what the call raises, and RetriesExhaustedError in place of a TransientStoreError, so that no caller retries it at once.
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
    """A store that tries again."""

    def __init__(self, store: Store, policy: RetryPolicy = DEFAULT_POLICY) -> None:
        self.url = store.url
        self._store = store
        self._policy = policy

    def put(self, key: str, data: bytes) -> ObjectInfo:
        """Write an object whole."""
        return retrying(self._policy, lambda: self._store.put(key, data))

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

        retrying(self._policy, attempt)

    def get(self, key: str, start: int = 0, end: int | None = None, *, version: str | None = None) -> bytes:
        """Bytes of an object."""
        return retrying(self._policy, lambda: self._store.get(key, start, end, version=version))

    def read(self, key: str) -> tuple[ObjectInfo, bytes]:
        """A whole object, and what is known of it."""
        return retrying(self._policy, lambda: self._store.read(key))

    def pieces(self, key: str, start: int, end: int | None, *, version: str | None = None) -> Iterator[Buffer]:
        """The bytes of a range; where it breaks off, it continues after the last piece that came."""
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
        """What is known of one object."""
        return retrying(self._policy, lambda: self._store.stat(key))

    def list(self, prefix: str = "", after: str = "") -> Iterator[ObjectInfo]:
        """Every object under ``prefix``, in order; a listing that breaks off continues after the last key that came."""
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
        """Remove an object."""
        retrying(self._policy, lambda: self._store.delete(key))

    def multipart(self) -> Multipart:
        """Parts, each of them tried again."""
        return _RetryingMultipart(self._store.multipart(), self._policy)

    def local_path(self, key: str) -> Path | None:
        """Where this object is as a local file."""
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
        """Finish; whether an end whose answer was lost came about shows in the object, which the caller looks at anyway."""
        retrying(self._policy, lambda: self._inner.finish(key, token, receipts))

    def abort(self, key: str, token: str) -> None:
        retrying(self._policy, lambda: self._inner.abort(key, token))

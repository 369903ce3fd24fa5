"""The store protocol: what the rest of cloud-train may ask of object storage, and no more.

A key is a relative path with '/' between its parts. A store shows an object whole or not at all: a reader never sees half of a ``put``.
Every method may be called from several threads at once. A store tries once; ``storage.retrying`` tries again.

The errors, a branch of ``cloud_train.errors``::

    StoreError                       6
    ├── ObjectMissingError           6   there is no object under this key
    ├── ObjectExistsError            6   a conditional create found the key taken
    ├── ObjectChangedError           6   the object is not the version that was asked for any more
    ├── InvalidKeyError              6   a key that would leave the store, or that no store can hold
    ├── UploadGoneError              6   an upload in parts, or one of its parts, is not in the store any more
    ├── NotPlainError                6   a link, a pipe or a device of a local folder in the place of an object; a CorruptError too
    ├── AccessDeniedError            6   who asks has no permission, or no valid credentials
    │   └── CredentialsEndedError    6   the credentials were valid once, and are not any more
    ├── TransientStoreError          6   throttled, a server error, a connection that broke: trying again may help
    └── RetriesExhaustedError        6   the same, still so when the retries were used up
"""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol, Union

from cloud_train.errors import CorruptError, StoreError


class ObjectMissingError(StoreError):
    """There is no object under this key."""

    code = "object-missing"


class ObjectExistsError(StoreError):
    """A conditional create found the key taken."""

    code = "object-exists"


class ObjectChangedError(StoreError):
    """The object is not the version that was asked for any more."""

    code = "object-changed"


class InvalidKeyError(StoreError):
    """A key that would leave the store's folder, or that no store can hold."""

    code = "invalid-key"


class UploadGoneError(StoreError):
    """An upload in parts, or one of its parts, is not in the store any more: it has to be sent again from the beginning."""

    code = "upload-gone"


class NotPlainError(StoreError, CorruptError):
    """In a local folder: a link, a pipe, a device or a folder in the place of an object, or a link in the place of a folder."""

    code = "not-plain"


class AccessDeniedError(StoreError):
    """Who asks has no permission, or no valid credentials. Trying again at once does not help."""

    code = "access-denied"


class CredentialsEndedError(AccessDeniedError):
    """The credentials are not valid, or not any more."""

    renewed = False
    """Whether the store has found others by now, so that the same call is worth another try."""


class TransientStoreError(StoreError):
    """Throttled, a server error, or a connection that broke. Trying again may help."""

    code = "store-unavailable"
    retry_after: float | None = None
    """Seconds that the server asks to wait before the next attempt."""


class RetriesExhaustedError(StoreError):
    """A request still failed transiently when its retries were used up. Trying again much later may help."""


Buffer = Union[bytes, bytearray, memoryview]  # noqa: UP007 - the worker runs on Python 3.10 as well, where a class has no | at run time
"""Bytes, without a copy where that can be had."""


UNKNOWN_SIZE = -1


@dataclass(frozen=True)
class ObjectInfo:
    """One object."""

    key: str
    size: int
    """In bytes; ``UNKNOWN_SIZE`` where a web server does not tell."""
    modified: float
    """Time of its last write by the store's clock, in seconds since the epoch; for showing, never for comparing."""
    version: str = ""
    """Changes whenever the content does (an ETag, a generation)."""
    sha256: str | None = None
    """In hexadecimal, where the object was written with one; ``stat`` brings it, ``list`` need not."""


class Multipart(Protocol):
    """Writing one large object in parts, by one process. What arrived takes space, which some stores charge for, until ``finish`` or
    ``abort``.
    """

    def part_bytes(self, size: int) -> int:
        """The size of every part but the last, for an object of ``size`` bytes."""

    @property
    def in_order(self) -> bool:
        """Whether parts must be sent one after another."""

    def begin(self, key: str, size: int, sha256: str) -> str:
        """Begin an upload; returns its token, which may be worth a password: keep it private."""

    def send(self, key: str, token: str, number: int, offset: int, data: bytes) -> str:
        """Send part ``number`` (from 0), which begins at ``offset``; returns its receipt. Sending it again replaces it.

        Raises UploadGoneError.
        """

    def finish(self, key: str, token: str, receipts: Mapping[int, str]) -> None:
        """Make the object of all its parts, number → receipt: only now can it be seen.

        Raises UploadGoneError if a part is missing in the store, or the upload was finished before.
        """

    def abort(self, key: str, token: str) -> None:
        """Give the upload up and free what it takes; no error if it is gone."""


class Store(Protocol):
    """Object storage. Every method raises StoreError, with the place and the next step, when the store cannot be used."""

    url: str

    def put(self, key: str, data: bytes) -> ObjectInfo:
        """Write an object whole, with its SHA-256, replacing what was there; tells its version as ``list`` shows it."""

    def create(self, key: str, data: bytes) -> None:
        """Write an object that must not exist yet; raises ObjectExistsError. Of several callers at once exactly one succeeds."""

    def get(self, key: str, start: int = 0, end: int | None = None, *, version: str | None = None) -> bytes:
        """Bytes ``start`` to ``end`` (exclusive, None for the rest) of an object; nothing where it is shorter.

        Raises ObjectMissingError, and ObjectChangedError if ``version`` is given and is not the object's.
        """

    def read(self, key: str) -> tuple[ObjectInfo, bytes]:
        """A whole object, and what is known of it, its SHA-256 too, in one request; raises ObjectMissingError."""

    def pieces(self, key: str, start: int, end: int | None, *, version: str | None = None) -> Iterator[Buffer]:
        """The bytes of a range inside the object (``end`` None: to its end), piece by piece; raises as ``get`` does, also in the middle."""

    def stat(self, key: str) -> ObjectInfo:
        """What is known of one object; raises ObjectMissingError."""

    def list(self, prefix: str = "", after: str = "") -> Iterator[ObjectInfo]:
        """Every object whose key starts with ``prefix`` (a folder ends with '/') and is greater than ``after``, in the order of the keys.

        Keys are whatever is there, whoever wrote it: they may be unsafe as paths.
        """

    def folders(self, prefix: str = "") -> Iterator[str]:
        """The names of the folders directly under the folder ``prefix``, in order."""

    def delete(self, key: str) -> None:
        """Delete an object; no error if it does not exist."""

    def multipart(self) -> Multipart:
        """How large objects are written; ``storage.transfer`` uses it."""

    def local_path(self, key: str) -> Path | None:
        """Where this object is as a local file, or None if the store is not a local folder: then no program can write to it."""

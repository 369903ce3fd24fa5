"""The store protocol: everything that cloud-train needs of object storage.

A key is a relative path with '/' between its parts. Writes are atomic: a reader never sees half of a ``put``. All methods are
thread-safe. A store attempts each request once; ``storage.retrying`` retries.

The errors, a branch of ``cloud_train.errors``::

    StoreError                       6
    ├── ObjectMissingError           6   no object has this key
    ├── ObjectExistsError            6   a conditional create found an existing object
    ├── ObjectChangedError           6   the object no longer has the requested version
    ├── InvalidKeyError              6   a key outside the store, or one that stores cannot represent
    ├── UploadGoneError              6   a multipart upload, or one of its parts, is no longer in the store
    ├── NotPlainError                6   in a local folder, a link, a pipe or a device instead of an object; also a CorruptError
    ├── AccessDeniedError            6   the caller is not authorized
    │   └── CredentialsEndedError    6   the credentials are invalid or have expired
    ├── TransientStoreError          6   throttled, a server error, a broken connection: a retry may help
    └── RetriesExhaustedError        6   a transient error that outlasted all retries
"""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol, Union

from cloud_train.errors import CorruptError, StoreError


class ObjectMissingError(StoreError):
    """No object has this key."""

    code = "object-missing"


class ObjectExistsError(StoreError):
    """A conditional create found an existing object."""

    code = "object-exists"


class ObjectChangedError(StoreError):
    """The object no longer has the requested version."""

    code = "object-changed"


class InvalidKeyError(StoreError):
    """A key outside the store, or one that stores cannot represent."""

    code = "invalid-key"


class UploadGoneError(StoreError):
    """A multipart upload, or one of its parts, is no longer in the store, so the object has to be uploaded again."""

    code = "upload-gone"


class NotPlainError(StoreError, CorruptError):
    """In a local folder: a link, a pipe, a device or a folder instead of an object, or a link instead of a folder."""

    code = "not-plain"


class AccessDeniedError(StoreError):
    """The caller is not authorized. Retrying does not help."""

    code = "access-denied"


class CredentialsEndedError(AccessDeniedError):
    """The credentials are invalid or have expired."""

    renewed = False
    """Whether the store has found new credentials since, so that a retry may succeed."""


class TransientStoreError(StoreError):
    """Throttled, a server error, or a broken connection. A retry may help."""

    code = "store-unavailable"
    retry_after: float | None = None
    """The wait that the server requested before the next attempt, in seconds."""


class RetriesExhaustedError(StoreError):
    """A transient error outlasted all retries. Trying again much later may help."""


Buffer = Union[bytes, bytearray, memoryview]  # noqa: UP007 - the worker also runs on Python 3.10, where a class does not support |
"""Bytes, without a copy where possible."""


UNKNOWN_SIZE = -1


@dataclass(frozen=True)
class ObjectInfo:
    """One object."""

    key: str
    size: int
    """In bytes; ``UNKNOWN_SIZE`` if a web server does not report it."""
    modified: float
    """Time of its last write by the store's clock, in seconds since the epoch; for display, not for comparisons."""
    version: str = ""
    """An ETag or a generation, which changes whenever the content does."""
    sha256: str | None = None
    """In hexadecimal, if the object was written with one; ``stat`` returns it, ``list`` may not."""
    generation: str = ""
    """What Google's conditional writes compare instead of the version; empty in other stores and in listings."""


class Multipart(Protocol):
    """Multipart uploads of large objects, each by one process. Until ``finish`` or ``abort``, parts take (and may cost) space."""

    def part_bytes(self, size: int) -> int:
        """The size of every part but the last, for an object of ``size`` bytes."""

    @property
    def in_order(self) -> bool:
        """Whether parts must be sent one after another."""

    def begin(self, key: str, size: int, sha256: str) -> str:
        """Begin an upload; returns its token, which must be kept private, because it may allow anyone to write."""

    def send(self, key: str, token: str, number: int, offset: int, data: bytes) -> str:
        """Send part ``number`` (from 0), which begins at ``offset``; returns its receipt. Sending it again replaces it.

        Raises UploadGoneError.
        """

    def finish(self, key: str, token: str, receipts: Mapping[int, str]) -> None:
        """Create the object from its parts, number → receipt; only then does it become visible.

        Raises UploadGoneError if a part is missing in the store, or the upload was finished before.
        """

    def abort(self, key: str, token: str) -> None:
        """Abort the upload and free its space; no error if it does not exist any more."""


class Store(Protocol):
    """Object storage. Every method may raise StoreError."""

    url: str

    def put(self, key: str, data: bytes) -> ObjectInfo:
        """Write an object with its SHA-256, replacing an existing one; returns its version as ``list`` shows it."""

    def create(self, key: str, data: bytes) -> ObjectInfo:
        """Write an object that must not exist yet; raises ObjectExistsError. If several callers compete, exactly one succeeds."""

    def replace(self, seen: ObjectInfo, data: bytes) -> ObjectInfo:
        """Write an object only if it is still as ``seen`` (from ``put``, ``create``, ``replace``, ``read`` or ``stat``) describes it.

        If several callers compete, exactly one succeeds. Raises ObjectChangedError, also if the object no longer exists. In a folder, this
        holds between callers of ``replace`` on file systems whose ``flock`` works; ``put`` takes no part in it.
        """

    def get(self, key: str, start: int = 0, end: int | None = None, *, version: str | None = None) -> bytes:
        """Bytes ``start`` to ``end`` (exclusive; None for the rest) of an object; fewer or none if it is shorter.

        Raises ObjectMissingError, and ObjectChangedError if ``version`` is given and the object has another one.
        """

    def read(self, key: str, end: int | None = None) -> tuple[ObjectInfo, bytes]:
        """A whole object, or its first ``end`` bytes, with its information, including its SHA-256, in one request.

        Raises ObjectMissingError.
        """

    def pieces(self, key: str, start: int, end: int | None, *, version: str | None = None) -> Iterator[Buffer]:
        """A range of an object (``end`` None: to its end), piece by piece; raises like ``get``, also between pieces."""

    def stat(self, key: str) -> ObjectInfo:
        """Information about one object; raises ObjectMissingError."""

    def list(self, prefix: str = "", after: str = "") -> Iterator[ObjectInfo]:
        """Every object whose key starts with ``prefix`` (a folder ends with '/') and is greater than ``after``, sorted by key.

        Keys are untrusted: they may be unsafe as paths.
        """

    def folders(self, prefix: str = "") -> Iterator[str]:
        """The names of the folders directly under the folder ``prefix``, in order."""

    def delete(self, key: str) -> None:
        """Delete an object; no error if it does not exist."""

    def multipart(self) -> Multipart:
        """The multipart uploads of this store, which ``storage.transfer`` uses for large objects."""

    def local_path(self, key: str) -> Path | None:
        """The object's path in a local folder; None for other stores, to which programs cannot write directly."""

"""The store protocol: what the rest of cloud-train may ask of object storage, and no more.

A key is a relative path with '/' between its parts. A store shows an object whole or not at all: a reader never sees half of a ``put``.
"""

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

from cloud_train.errors import StoreError


class ObjectMissingError(StoreError):
    """There is no object under this key."""

    code = "object-missing"


class ObjectExistsError(StoreError):
    """A conditional create found the key taken."""

    code = "object-exists"


class InvalidKeyError(StoreError):
    """A key that would leave the store's folder, or that no store can hold."""

    code = "invalid-key"


@dataclass(frozen=True)
class ObjectInfo:
    """One object: its key, its size in bytes and the time of its last write (seconds since the epoch)."""

    key: str
    size: int
    modified: float


class Store(Protocol):
    """Object storage. Every method raises StoreError, with the place and the next step, when the store cannot be used."""

    url: str

    def put(self, key: str, data: bytes) -> None:
        """Write an object whole, replacing what was there."""

    def create(self, key: str, data: bytes) -> None:
        """Write an object that must not exist yet; raises ObjectExistsError. Of several callers at once exactly one succeeds."""

    def get(self, key: str, start: int = 0, end: int | None = None) -> bytes:
        """Bytes ``start`` to ``end`` (exclusive, None for the rest) of an object; raises ObjectMissingError."""

    def stat(self, key: str) -> ObjectInfo:
        """Size and time of one object; raises ObjectMissingError."""

    def list(self, prefix: str = "") -> Iterator[ObjectInfo]:
        """Every object whose key starts with ``prefix`` (a folder ends with '/'), in the order of the keys."""

    def folders(self, prefix: str = "") -> Iterator[str]:
        """The names of the folders directly under the folder ``prefix``, in order."""

    def delete(self, key: str) -> None:
        """Remove an object; it is no error if it is gone already."""

    def put_file(self, key: str, path: Path) -> None:
        """Write a local file as an object, whole."""

    def get_file(self, key: str, path: Path) -> None:
        """Write an object to a local file, under a temporary name first, then renamed; raises ObjectMissingError."""

    def local_path(self, key: str) -> Path | None:
        """Where this object lies as a local file, or None if the store is not a local folder: then no program can write to it."""

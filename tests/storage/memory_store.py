"""A store in memory that keeps versions and SHA-256s as the clouds do, and a store around any other that fails in seeded ways."""

import hashlib
import random
import threading
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from itertools import count
from pathlib import Path
from typing import TypeVar

from cloud_train.storage.base import (
    Multipart,
    ObjectChangedError,
    ObjectExistsError,
    ObjectInfo,
    ObjectMissingError,
    Store,
    TransientStoreError,
    UploadGoneError,
)

Result = TypeVar("Result")


@dataclass
class MemoryStore:
    """Objects in memory. ``calls`` counts what was asked; ``before`` is called with the name and the key first, and may do anything."""

    url: str = "memory://store"
    part: int = 1000
    in_order: bool = False
    before: Callable[[str, str], None] = lambda name, key: None
    objects: dict[str, tuple[bytes, ObjectInfo]] = field(default_factory=dict)
    uploads: dict[str, tuple[int, str, dict[int, bytes]]] = field(default_factory=dict)
    calls: list[tuple[str, str]] = field(default_factory=list)
    _numbers: Iterator[int] = field(default_factory=lambda: count(1))
    _lock: threading.RLock = field(default_factory=threading.RLock)

    def asked(self, *names: str) -> int:
        """How often one of these methods was called."""
        return sum(name in names for name, _ in self.calls)

    def put(self, key: str, data: bytes) -> ObjectInfo:
        self._ask("put", key)
        with self._lock:
            self.place(key, data)
            return self.objects[key][1]

    def read(self, key: str, end: int | None = None) -> tuple[ObjectInfo, bytes]:
        self._ask("read", key)
        data, info = self._object(key)
        return info, data[:end]

    def pieces(self, key: str, start: int, end: int | None, *, version: str | None = None) -> Iterator[bytes]:
        self._ask("get", key)
        end = len(self._object(key)[0]) if end is None else end
        for begin in range(start, end, 300):
            data, info = self._object(key)
            if version not in (None, info.version):
                raise ObjectChangedError(f"{key} is another one")
            yield data[begin : min(end, begin + 300)]

    def place(self, key: str, data: bytes, sha256: str | None = "") -> None:
        """Write an object as somebody else does: with another SHA-256, or with None."""
        with self._lock:
            version = f"v{next(self._numbers)}"
            digest = hashlib.sha256(data).hexdigest() if sha256 == "" else sha256
            self.objects[key] = (data, ObjectInfo(key, len(data), 0.0, version, digest))

    def create(self, key: str, data: bytes) -> ObjectInfo:
        self._ask("create", key)
        with self._lock:
            if key in self.objects:
                raise ObjectExistsError(f"{key} exists")
            self.place(key, data)
            return self.objects[key][1]

    def replace(self, seen: ObjectInfo, data: bytes) -> ObjectInfo:
        self._ask("replace", seen.key)
        with self._lock:
            if seen.key not in self.objects or self.objects[seen.key][1].version != seen.version:
                raise ObjectChangedError(f"{seen.key} is another one")
            self.place(seen.key, data)
            return self.objects[seen.key][1]

    def get(self, key: str, start: int = 0, end: int | None = None, *, version: str | None = None) -> bytes:
        self._ask("get", key)
        data, info = self._object(key)
        if version not in (None, info.version):
            raise ObjectChangedError(f"{key} is another one")
        return data[start:end]

    def stat(self, key: str) -> ObjectInfo:
        self._ask("stat", key)
        return self._object(key)[1]

    def list(self, prefix: str = "", after: str = "") -> Iterator[ObjectInfo]:
        self._ask("list", prefix)
        with self._lock:
            found = sorted(self.objects.items())
        for key, (_, info) in found:
            if key.startswith(prefix) and key > after:
                yield ObjectInfo(key, info.size, info.modified, info.version)

    def folders(self, prefix: str = "") -> Iterator[str]:
        inside = [key[len(prefix) :] for key in list(self.objects) if key.startswith(prefix)]
        return iter(sorted({name.split("/")[0] for name in inside if "/" in name}))

    def delete(self, key: str) -> None:
        self._ask("delete", key)
        self.objects.pop(key, None)

    def multipart(self) -> Multipart:
        return _MemoryParts(self)

    def local_path(self, key: str) -> Path | None:
        return None

    def _object(self, key: str) -> tuple[bytes, ObjectInfo]:
        try:
            return self.objects[key]
        except KeyError as error:
            raise ObjectMissingError(f"there is no {key}") from error

    def _ask(self, name: str, key: str) -> None:
        with self._lock:
            self.calls.append((name, key))
        self.before(name, key)


class _MemoryParts:
    def __init__(self, store: MemoryStore) -> None:
        self._store = store

    @property
    def in_order(self) -> bool:
        return self._store.in_order

    def part_bytes(self, size: int) -> int:
        return self._store.part

    def begin(self, key: str, size: int, sha256: str) -> str:
        self._store._ask("begin", key)
        token = f"{key}-{next(self._store._numbers)}"
        self._store.uploads[token] = (size, sha256, {})
        return token

    def send(self, key: str, token: str, number: int, offset: int, data: bytes) -> str:
        self._store._ask("send", key)
        parts = self._parts(token)
        assert not self.in_order or number <= len(parts), "parts come in order, or again"
        parts[number] = data
        return _receipt(data)

    def finish(self, key: str, token: str, receipts: Mapping[int, str]) -> None:
        self._store._ask("finish", key)
        parts = self._parts(token)
        if {number: _receipt(data) for number, data in parts.items()} != receipts:
            raise UploadGoneError("a part is missing")
        size, sha256, _ = self._store.uploads.pop(token)
        data = b"".join(parts[number] for number in sorted(parts))
        assert len(data) == size
        self._store.place(key, data, sha256)

    def abort(self, key: str, token: str) -> None:
        self._store._ask("abort", key)
        self._store.uploads.pop(token, None)

    def _parts(self, token: str) -> dict[int, bytes]:
        try:
            return self._store.uploads[token][2]
        except KeyError as error:
            raise UploadGoneError("it is gone") from error


def _receipt(data: bytes) -> str:
    return hashlib.md5(data).hexdigest()


class FaultyStore:
    """Around any store: calls that fail before or after they were carried out, answers with a flipped bit, writes that are lost."""

    def __init__(self, store: Store, seed: int, chance: float) -> None:
        self.url = store.url
        self.faults = 0
        self._store = store
        self._chance = chance
        self._dice = random.Random(seed)
        self._lock = threading.Lock()

    def put(self, key: str, data: bytes) -> ObjectInfo:
        written = self._perhaps(lambda: self._store.put(key, data), may_be_lost=True)
        return written or ObjectInfo(key, len(data), 0.0, "of a write that was lost", hashlib.sha256(data).hexdigest())

    def create(self, key: str, data: bytes) -> ObjectInfo:
        written = self._perhaps(lambda: self._store.create(key, data))
        assert written is not None
        return written

    def replace(self, seen: ObjectInfo, data: bytes) -> ObjectInfo:
        written = self._perhaps(lambda: self._store.replace(seen, data))
        assert written is not None
        return written

    def read(self, key: str, end: int | None = None) -> tuple[ObjectInfo, bytes]:
        return self.stat(key), self.get(key, 0, end)

    def pieces(self, key: str, start: int, end: int | None, *, version: str | None = None) -> Iterator[bytes]:
        end = self._store.stat(key).size if end is None else end
        middle = (start + end) // 2
        yield self.get(key, start, middle, version=version)
        yield self.get(key, middle, end, version=version)

    def get(self, key: str, start: int = 0, end: int | None = None, *, version: str | None = None) -> bytes:
        data = self._perhaps(lambda: self._store.get(key, start, end, version=version))
        assert data is not None
        if data and self._falls(self._chance / 4):
            place = self._draw() % len(data)
            return data[:place] + bytes([data[place] ^ 1]) + data[place + 1 :]
        return data

    def stat(self, key: str) -> ObjectInfo:
        info = self._perhaps(lambda: self._store.stat(key))
        assert info is not None
        return info

    def list(self, prefix: str = "", after: str = "") -> Iterator[ObjectInfo]:
        for info in self._store.list(prefix, after):
            if self._falls(self._chance / 4):
                raise TransientStoreError("the listing broke off")
            yield info

    def folders(self, prefix: str = "") -> Iterator[str]:
        return self._store.folders(prefix)

    def delete(self, key: str) -> None:
        self._perhaps(lambda: self._store.delete(key))

    def multipart(self) -> Multipart:
        return _FaultyParts(self, self._store.multipart())

    def local_path(self, key: str) -> Path | None:
        return None

    def _perhaps(self, action: Callable[[], Result], *, may_be_lost: bool = False) -> Result | None:
        if self._falls(self._chance):
            raise TransientStoreError("the connection broke before")
        if may_be_lost and self._falls(self._chance / 4):
            return None
        result = action()
        if self._falls(self._chance):
            raise TransientStoreError("the connection broke behind")
        return result

    def _falls(self, chance: float) -> bool:
        with self._lock:
            fell = self._dice.random() < chance
            self.faults += fell
            return fell

    def _draw(self) -> int:
        with self._lock:
            return self._dice.randrange(1 << 30)


class _FaultyParts:
    def __init__(self, faulty: FaultyStore, inner: Multipart) -> None:
        self._faulty = faulty
        self._inner = inner

    @property
    def in_order(self) -> bool:
        return self._inner.in_order

    def part_bytes(self, size: int) -> int:
        return self._inner.part_bytes(size)

    def begin(self, key: str, size: int, sha256: str) -> str:
        return self._faulty._perhaps(lambda: self._inner.begin(key, size, sha256)) or ""

    def send(self, key: str, token: str, number: int, offset: int, data: bytes) -> str:
        return self._faulty._perhaps(lambda: self._inner.send(key, token, number, offset, data)) or ""

    def finish(self, key: str, token: str, receipts: Mapping[int, str]) -> None:
        self._faulty._perhaps(lambda: self._inner.finish(key, token, receipts))

    def abort(self, key: str, token: str) -> None:
        self._faulty._perhaps(lambda: self._inner.abort(key, token))

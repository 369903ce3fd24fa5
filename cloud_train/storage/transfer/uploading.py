"""Uploads: a small file is sent whole, a large one in parts, and the object is verified afterwards in either case.

The SHA-256 of a large file is needed before its first part is sent, because stores take an object's metadata at the beginning. If the
caller knows it, such as from a manifest, the file is read once and the hash is verified on the way; otherwise it is read twice, first for
the hash, which is cheap compared to the network. A file that changes meanwhile is detected and uploaded again.
"""

import hashlib
import os
import threading
import time
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path

from cloud_train.beneath import open_within
from cloud_train.errors import CorruptError
from cloud_train.storage.base import ObjectInfo, ObjectMissingError, Store, UploadGoneError
from cloud_train.storage.transfer.engine import Engine, Identity, Known, Options, Summary, check_tries
from cloud_train.storage.transfer.local_files import StoppedError, hash_file
from cloud_train.storage.transfer.paths import explained
from cloud_train.storage.transfer.pool import Step


@dataclass(frozen=True)
class Upload:
    """A local file and the key of the object to write."""

    path: Path
    key: str
    sha256: str | None = None
    """The file's SHA-256 in hexadecimal, if known: the file is then read only once, and refused on a mismatch."""
    below: Path | None = None
    """For a file that another program may replace: an ancestor of ``path``, below which no link is followed."""


_WHOLE_BYTES = 8 << 20
"""Largest file that is sent whole to every store, because none uses smaller parts."""


def upload(store: Store, files: Iterable[Upload], options: Options | None = None) -> Summary:
    """Upload local files, each with its SHA-256, replacing existing objects.

    Raises the first error once all transfers have stopped: StoreError, or CorruptError for a file that does not match the given SHA-256.
    Files uploaded by then are complete in the store; the next call sends the others.
    """
    engine = Engine(store, options or Options())
    todo = list(files)
    sizes = []
    for file in todo:
        with explained(f"read {file.path}"):
            sizes.append(file.path.stat().st_size)
    engine.meter.expect(len(todo), sum(sizes))
    engine.run(upload_step(engine, file, size) for file, size in zip(todo, sizes, strict=True))
    return engine.summary()


def upload_step(engine: Engine, file: Upload, size: int) -> Step:
    """The first step of uploading a file; it returns the steps that follow."""
    if engine.options.part_bytes is None and size <= _WHOLE_BYTES:  # without the store's part size, for which some stores import an SDK
        return Step(partial(_send_whole, engine, file, 1), size)
    part_bytes = engine.options.part_bytes or engine.multipart.part_bytes(size)
    if size <= 2 * part_bytes:
        return Step(partial(_send_whole, engine, file, 1), size)
    return Step(_Parts(engine, file, part_bytes).prepare, part_bytes)


def holds(info: ObjectInfo | None, size: int, sha256: str) -> bool:
    """Whether an object matches what was sent, by size and, if the store keeps it, SHA-256."""
    return info is not None and info.size == size and info.sha256 in (None, sha256)


def _send_whole(engine: Engine, file: Upload, tries: int) -> Sequence[Step]:
    looked_ns = time.time_ns()
    with explained(f"read {file.path}"):
        descriptor = open_within(file.path, file.below)
        with os.fdopen(descriptor, "rb", buffering=0) as opened:
            before = Identity.of(os.fstat(descriptor))
            data = opened.read(before.size + 1) or b""
            after = Identity.of(os.fstat(descriptor))
    sha256 = hashlib.sha256(data).hexdigest()
    if after != before or len(data) != before.size:
        check_tries(tries, f"{file.path} changed while being read")
        return [Step(partial(_send_whole, engine, file, tries + 1), after.size)]
    if file.sha256 not in (None, sha256):
        raise _unexpected(file)
    engine.store.put(file.key, data)
    info = _look(engine, file.key)
    if not holds(info, before.size, sha256):
        check_tries(tries, _lost(engine, file.key))
        return [Step(partial(_send_whole, engine, file, tries + 1), before.size)]
    engine.meter.add(before.size)
    engine.meter.finish_file()
    engine.done.append(Known(file.key, sha256, info.version if info else "", before, looked_ns))
    return ()


class _Parts:
    """The upload of one large file. Parts are read, and hashed if necessary, one after another, but sent in parallel."""

    def __init__(self, engine: Engine, file: Upload, part_bytes: int) -> None:
        self._engine = engine
        self._file = file
        self._part_bytes = part_bytes
        self._tries = 0
        self._lock = threading.Lock()
        self._descriptor = -1
        engine.open_files.append(self)

    def prepare(self) -> Sequence[Step]:
        """Hash the file, begin the upload, and create a step for each part."""
        self._tries += 1
        with explained(f"read {self._file.path}"):
            self._descriptor = open_within(self._file.path, self._file.below)
            self._identity = Identity.of(os.fstat(self._descriptor))
            self._looked_ns = time.time_ns()
            self._sha256 = self._file.sha256 or hash_file(self._descriptor, self._identity.size, self._engine.stopped)
        # Hashing the sent bytes detects changes that do not show in the file's timestamps.
        sure = self._file.sha256 is None and self._identity.is_settled(self._looked_ns)
        self._sent_hash = None if sure else hashlib.sha256()
        self._token = self._engine.begin_upload(self._file.key, self._identity.size, self._sha256)
        self._count = -(-self._identity.size // self._part_bytes)
        self._next = self._finished = self._added = 0
        self._receipts: dict[int, str] = {}
        if self._engine.multipart.in_order:
            return [Step(self._send_one_after_another, self._part_bytes)]
        return [Step(self._send_next, self._part_bytes)] * self._count

    def _send_one_after_another(self) -> Sequence[Step]:
        """Send all parts on one thread, because the C library keeps the memory of a part for each thread that held one."""
        while not (following := self._send_next()):
            if self._engine.stopped.is_set():
                raise StoppedError
        return following

    def _send_next(self) -> Sequence[Step]:
        with self._lock, explained(f"read {self._file.path}"):
            number = self._next
            self._next += 1
            offset = number * self._part_bytes
            size = min(self._part_bytes, self._identity.size - offset)
            data = os.pread(self._descriptor, size, offset)
            if self._sent_hash is not None:
                self._sent_hash.update(data)
        try:
            # A file that became shorter is detected at the end, like any other change.
            receipt = "" if len(data) < size else self._engine.multipart.send(self._file.key, self._token, number, offset, data)
        except UploadGoneError:
            receipt = ""  # handled at the end, when no other part is in flight
        with self._lock:
            self._finished += 1
            self._added += len(data)
            self._receipts[number] = receipt
            complete = self._finished == self._count
        self._engine.meter.add(len(data))
        return [Step(self._finish)] if complete else ()

    def _finish(self) -> Sequence[Step]:
        engine, key = self._engine, self._file.key
        with explained(f"read {self._file.path}"):
            unchanged = Identity.of(os.fstat(self._descriptor)) == self._identity
        self.close()
        if not unchanged or (self._sent_hash is not None and self._sent_hash.hexdigest() != self._sha256):
            if unchanged and self._file.sha256 is not None:
                raise _unexpected(self._file)
            return self._begin_again(f"{self._file.path} changed while being read")
        finished = self._make_object()
        info = _look(engine, key)
        if info is None or not holds(info, self._identity.size, self._sha256) or (not finished and info.sha256 is None):
            return self._begin_again(_lost(engine, key))
        engine.end_upload(self._token)
        engine.meter.finish_file()
        engine.done.append(Known(key, self._sha256, info.version, self._identity, self._looked_ns))
        return ()

    def _make_object(self) -> bool:
        """Finish the upload; False if that failed, although an earlier request with a lost response may have succeeded."""
        if "" in self._receipts.values():
            return False
        try:
            self._engine.multipart.finish(self._file.key, self._token, self._receipts)
        except UploadGoneError:
            return False
        return True

    def _begin_again(self, why: str) -> Sequence[Step]:
        check_tries(self._tries, why)
        self._engine.meter.add(-self._added)
        self._engine.abort_upload(self._token)
        return [Step(self.prepare, self._part_bytes)]

    def close(self) -> None:
        """Close the file."""
        if self._descriptor >= 0:
            os.close(self._descriptor)
            self._descriptor = -1


def _look(engine: Engine, key: str) -> ObjectInfo | None:
    try:
        return engine.store.stat(key)
    except ObjectMissingError:
        return None


def _lost(engine: Engine, key: str) -> str:
    return f"{engine.store.url}/{key} was written, but was missing or different afterwards"


def _unexpected(file: Upload) -> CorruptError:
    return CorruptError(
        f"checksum mismatch for {file.path}: expected the SHA-256 {file.sha256}", hint="check whether it was damaged or rewritten"
    )

"""Downloads: each object is written to a temporary file next to its target, verified, synced, and only then renamed.

Small objects are downloaded in one request, large ones in parallel ranges of the same version. The SHA-256 is computed while the parts
arrive, so that little is left to read at the end. An interrupted download of a large object resumes with the missing parts.
"""

import hashlib
import os
import threading
import time
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path

from cloud_train.errors import CorruptError, StoreError
from cloud_train.storage.base import UNKNOWN_SIZE, InvalidKeyError, ObjectChangedError, ObjectInfo, ObjectMissingError, Store
from cloud_train.storage.transfer.engine import Engine, Identity, Known, Options, Summary, check_tries
from cloud_train.storage.transfer.local_files import Hasher, PartialFile, Source, StoppedError
from cloud_train.storage.transfer.paths import explain, explained, open_folder
from cloud_train.storage.transfer.pool import Step
from cloud_train.storage.transfer.remembered import Memory

PART_BYTES = 16 << 20
"""Default size of a range; it is streamed, so its size does not cost memory."""

ONE_PART_BYTES = 1 << 40
"""Part size that covers any file, for servers that do not support ranges or do not report sizes."""

_WHOLE_BYTES = 8 << 20  # largest object that is downloaded in one request
_COPIES = 2  # of such an object in memory: the client library's and ours
_STREAMED_BYTES = 2 << 20  # memory for a streamed range

_FETCHES = 2  # how often an object with a checksum mismatch is downloaded


@dataclass(frozen=True)
class Download:
    """An object and the local file to write."""

    key: str
    path: Path
    size: int
    """In bytes, from a listing or a manifest, or ``UNKNOWN_SIZE``; the size that the store reports during the download counts."""
    sha256: str | None = None
    """In hexadecimal, from a manifest; by default that of the object's metadata."""
    version: str | None = None
    """The version in a listing. If the object has changed since, the newer version is downloaded."""
    below: Path | None = None
    """For untrusted keys from a listing: an ancestor of ``path``, below which no link is followed. An object that cannot be written
    there or no longer exists is then skipped and reported in the summary; otherwise that is an error."""


def download(store: Store, files: Iterable[Download], options: Options | None = None, memory: Memory | None = None) -> Summary:
    """Download objects to local files, each verified first, replacing existing files; folders are created as needed.

    ``memory`` records the finished ones. Raises the first error: StoreError, or CorruptError if an object's checksum mismatched twice. Even
    then only complete and verified files have their names, and the next call resumes.
    """
    engine = Engine(store, options or Options())
    todo = list(files)
    engine.meter.expect(len(todo), sum(max(0, file.size) for file in todo))
    try:
        engine.run(download_step(engine, file) for file in todo)
    finally:
        if memory is not None:
            memory.learn(engine.done)
    return engine.summary()


def download_step(engine: Engine, file: Download) -> Step:
    """The first step of downloading an object; it returns the steps that follow."""
    part_bytes = engine.options.part_bytes or PART_BYTES
    if file.size != UNKNOWN_SIZE and file.size <= min(2 * part_bytes, _WHOLE_BYTES):
        return Step(partial(_fetch_whole, engine, file, 1), _COPIES * file.size)
    return Step(_Ranges(engine, file, part_bytes).prepare)


def _fetch_whole(engine: Engine, file: Download, tries: int) -> Sequence[Step]:
    try:
        info, data = engine.store.read(file.key)
    except ObjectChangedError as error:
        check_tries(tries, error.message)
        return [Step(partial(_fetch_whole, engine, file, tries + 1), _COPIES * file.size)]
    except ObjectMissingError as error:
        return _skip(engine, file, error)
    sha256 = hashlib.sha256(data).hexdigest()
    expected = file.sha256 or info.sha256
    if len(data) != info.size or expected not in (None, sha256):
        if tries >= _FETCHES:
            raise _corrupt(engine, file.key, expected, sha256)
        return [Step(partial(_fetch_whole, engine, file, tries + 1), _COPIES * file.size)]
    try:
        status = engine.small_files.write(*_folder(file), file.path.name, data, durable=engine.options.durable)
    except InvalidKeyError as error:
        return _skip(engine, file, error)
    except OSError as error:
        raise explain(error, f"write {file.path}") from error
    engine.meter.add(len(data))
    _finished(engine, file, info, sha256 if expected else None, Identity.of(status))
    return ()


class _Ranges:
    """The download of one large object."""

    def __init__(self, engine: Engine, file: Download, part_bytes: int) -> None:
        self._engine = engine
        self._file = file
        self._part_bytes = part_bytes
        self._tries = self._fetches = 0
        self._lock = threading.Lock()
        self._hashing = threading.Lock()
        self._directory = -1
        self._partial: PartialFile | None = None
        engine.open_files.append(self)

    def prepare(self) -> Sequence[Step]:
        """Look up the object, find the parts that arrived earlier, and create a step for each missing part."""
        self._tries += 1
        try:
            self._info = info = self._engine.store.stat(self._file.key)
            self._directory = open_folder(*_folder(self._file))
        except (InvalidKeyError, ObjectMissingError) as error:
            return _skip(self._engine, self._file, error)
        if info.size == UNKNOWN_SIZE:
            self._info, self._part_bytes = replace(info, size=self._file.size), ONE_PART_BYTES
        self._expected = self._file.sha256 or info.sha256
        source = Source(self._engine.store.url, self._file.key, info.version, max(0, self._info.size), self._part_bytes)
        with explained(f"write {self._file.path}"):
            self._partial = PartialFile(self._directory, self._file.path.name, source)
        return self._fetch(self._partial)

    def _fetch(self, file: PartialFile) -> Sequence[Step]:
        self._fetches += 1
        self._count = 1 if self._info.size == UNKNOWN_SIZE else -(-self._info.size // self._part_bytes)
        self._hasher = Hasher(file.descriptor)
        self._changed = False
        arrived = [number for number in range(self._count) if self._arrived_whole(file, number)]
        self._arrived = set(arrived)
        self._missing = self._count - len(arrived)
        self._added = sum(self._end(number) - number * self._part_bytes for number in arrived)
        self._engine.resumed.extend(arrived)
        self._engine.meter.add(self._added, 0)
        if not self._missing:
            return [Step(self._finish)]
        missing = sorted(set(range(self._count)) - self._arrived)
        memory_bytes = min(self._part_bytes, _STREAMED_BYTES)
        return [Step(partial(self._fetch_part, file, number), memory_bytes) for number in missing]

    def _fetch_part(self, file: PartialFile, number: int) -> Sequence[Step]:
        begin, end = number * self._part_bytes, None if self._info.size == UNKNOWN_SIZE else self._end(number)
        # Without a checksum of the whole object, each part gets one, to verify it after a crash.
        own_hash = None if self._expected else hashlib.sha256()
        at = begin
        if not self._changed:
            try:
                for piece in self._engine.store.pieces(self._file.key, begin, end, version=self._info.version or None):
                    with explained(f"write {self._file.path}"):
                        file.write(at, piece)
                    if own_hash is not None:
                        own_hash.update(piece)
                    at += len(piece)
                    self._engine.meter.add(len(piece))
                    if self._engine.stopped.is_set():
                        raise StoppedError
            except ObjectChangedError:
                self._changed = True
        if end is None and not self._changed:
            self._info, end = replace(self._info, size=at), at
        if at == end:
            with explained(f"write {self._file.path}"):
                file.note(number, own_hash.hexdigest() if own_hash else "")
        else:
            self._changed = True
        with self._lock:
            self._missing -= 1
            self._added += at - begin
            if not self._changed:
                self._arrived.add(number)
            last = not self._missing
        if not self._changed and self._expected:
            self._hash_on(file, wait=False)
        return [Step(self._finish)] if last else ()

    def _hash_on(self, file: PartialFile, *, wait: bool) -> None:
        """Continue the hash with the parts that have arrived in sequence; only one thread at a time does this."""
        if not self._hashing.acquire(blocking=wait):
            return
        try:
            while (number := self._hasher.at // self._part_bytes) in self._arrived and self._hasher.at < self._info.size:
                at = self._hasher.at
                self._hasher.advance(self._end(number), self._engine.stopped)
                if self._hasher.at == at:
                    return
        finally:
            self._hashing.release()

    def _finish(self) -> Sequence[Step]:
        file = self._partial
        assert file is not None  # for the type checker: ``prepare`` created it
        if self._changed:
            self._engine.meter.add(-self._added)
            self.close()
            check_tries(self._tries, f"{self._engine.store.url}/{self._file.key} changed while being read")
            return [Step(self.prepare)]
        with explained(f"write {self._file.path}"):
            if self._expected:
                self._hash_on(file, wait=True)
                if self._hasher.at < self._info.size:
                    raise StoppedError
                if self._hasher.hexdigest() != self._expected:
                    return self._fetch_again(file)
            if self._engine.options.durable:
                os.fsync(file.descriptor)
            try:
                file.publish(self._file.path.name)
            except IsADirectoryError as error:
                file.discard()
                return _skip(self._engine, self._file, InvalidKeyError("a folder with its name is in the way"), error)
            identity = Identity.of(os.fstat(file.descriptor))
        self.close()
        _finished(self._engine, self._file, self._info, self._expected, identity)
        return ()

    def _fetch_again(self, file: PartialFile) -> Sequence[Step]:
        self._engine.meter.add(-self._added)
        if self._fetches >= _FETCHES:
            file.discard()
            raise _corrupt(self._engine, self._file.key, self._expected, self._hasher.hexdigest())
        file.restart()
        return self._fetch(file)

    def _arrived_whole(self, file: PartialFile, number: int) -> bool:
        noted = file.arrived.get(number)
        if noted is None or self._info.size == UNKNOWN_SIZE:
            return False
        if self._expected:
            return True
        begin = number * self._part_bytes
        return hashlib.sha256(os.pread(file.descriptor, self._end(number) - begin, begin)).hexdigest() == noted

    def _end(self, number: int) -> int:
        return min(self._info.size, (number + 1) * self._part_bytes)

    def close(self) -> None:
        """Close the file and its folder; the parts that arrived stay."""
        if self._partial is not None:
            self._partial.close()
            self._partial = None
        if self._directory >= 0:
            os.close(self._directory)
            self._directory = -1


def _folder(file: Download) -> tuple[Path, tuple[str, ...]]:
    if file.below is None:
        return file.path.parent, ()
    return file.below, file.path.parts[len(file.below.parts) : -1]


def _finished(engine: Engine, file: Download, info: ObjectInfo, sha256: str | None, identity: Identity) -> None:
    engine.meter.finish_file()
    if sha256 is None:
        engine.unverified.append(file.key)
    engine.done.append(Known(file.key, sha256, info.version, identity, time.time_ns()))


def _skip(engine: Engine, file: Download, why: StoreError, cause: OSError | None = None) -> Sequence[Step]:
    if file.below is None:
        raise why from cause
    engine.meter.finish_file()
    engine.skipped.append((file.key, why.message))
    return ()


def _corrupt(engine: Engine, key: str, expected: str | None, found: str) -> CorruptError:
    return CorruptError(
        f"checksum mismatch for {engine.store.url}/{key} (downloaded twice): its SHA-256 is {found}, expected {expected or 'another size'}",
        hint="check the URL and the SHA-256; if the object is damaged, upload it again",
    )

"""The fetcher: a forked process that downloads the shards of an attempt's data in the order in which the program needs them.

It is a separate process for the same reasons as the uploader. Unlike the uploader, it ends with the attempt, and immediately if the worker
dies. Only one process at a time, of any run, downloads a shard: it holds a record lock (fcntl(2)) on the shard's byte of a shared file,
which the kernel releases however the process ends. The next one resumes the download.
"""

from __future__ import annotations  # the worker also runs on Python 3.10, in users' own images

import fcntl
import os
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import TYPE_CHECKING

from cloud_train.data.shards import INDEX, read_index
from cloud_train.errors import CloudTrainError
from cloud_train.run.cached import open_lock
from cloud_train.run.shard_exchange import ShardExchange
from cloud_train.storage.registry import bucket_and_prefix, open_store
from cloud_train.worker.data import Note, Teller, below

if TYPE_CHECKING:
    from cloud_train.data.shards import Shard
    from cloud_train.storage.base import Store

_LOCKS = ".cloud-train-shards.lock"
_LOOK_SECONDS = 0.2  # between checks for shards that other processes are downloading
_MOST_STARTS = 3  # if the process is killed

_ALL_THERE, _FAILED = 0, 1  # its exit statuses


class Fetcher:
    """Starts, restarts and ends the process."""

    def __init__(self, exchange: ShardExchange, note: Note, in_child: Callable[[], None]) -> None:
        """Start it; ``in_child`` closes the descriptors of the worker and the attempt."""
        self._exchange, self._note, self._in_child = exchange, note, in_child
        self._starts, self._writing = 0, -1
        exchange.forget()
        self._start()

    def restarted(self, exit_code: int) -> bool:
        """After the process was reaped, restart it if it was killed; returns whether there is a new one, with another ``pid``."""
        if exit_code in (_ALL_THERE, _FAILED):
            return False
        self.close()
        if self._starts < _MOST_STARTS:
            self._note("data: the process that downloads shards was killed; starting another one")
            self._start()
            return True
        with suppress(OSError):
            self._exchange.fail(f"the process that downloads shards was killed {self._starts} times (exit status {exit_code})")
        return False

    def tell_to_stop(self) -> None:
        """Tell the program to stop waiting for shards."""
        with suppress(OSError):  # on a full disk, the wait ends with the grace period
            self._exchange.stop()

    def end(self) -> None:
        """After the attempt: end the process, and remove its messages to and from the program."""
        self.close()
        self._exchange.forget()

    def close(self) -> None:
        """Close the pipe: in the worker this ends the process; in a forked child it leaves the worker as the only owner."""
        if self._writing >= 0:
            os.close(self._writing)
            self._writing = -1

    def _start(self) -> None:
        reading, self._writing = os.pipe()
        self._starts += 1
        self.pid = os.fork()
        if self.pid == 0:
            code = _FAILED
            try:
                self.close()
                self._in_child()
                os.setsid()  # leave the worker's process group, which may be stopped as a whole
                threading.Thread(target=_end_with, args=(reading,), daemon=True).start()
                code = _ALL_THERE if _bring_or_say_why(self._exchange, self._note) else _FAILED
            finally:
                os._exit(code)  # never return into the worker's code, nor wait for a client library's threads
        os.close(reading)


def _end_with(reading: int) -> None:
    """End this process when the worker closes the pipe or dies. Partial downloads stay, to be resumed by another process."""
    with suppress(OSError):
        os.read(reading, 1)
    os._exit(_FAILED)


def _bring_or_say_why(exchange: ShardExchange, note: Note) -> bool:
    try:
        bring_shards(exchange, note)
    except Exception as error:  # noqa: BLE001 -- a client library may raise anything, and the program waiting for a shard has to be told
        said = f"{error}" or type(error).__name__
        hint = f" ({error.hint})" if isinstance(error, CloudTrainError) and error.hint else ""
        note(f"data: {said}{hint}")
        exchange.fail(said + hint)
        return False
    return True


def bring_shards(exchange: ShardExchange, note: Note) -> None:
    """Download every missing shard, or wait for another process to do so. Raises StoreError, and CorruptError that names the shard."""
    url = exchange.source or ""
    bucket, prefix = bucket_and_prefix(url)
    store, shards = open_store(bucket), read_index(exchange.folder / INDEX).shards
    missing = {number for number, shard in enumerate(shards) if not (exchange.folder / shard.name).exists()}
    brought, descriptor = 0, open_lock(exchange.folder / _LOCKS)
    try:
        while missing:
            for number in exchange.in_order(missing):
                with _locked(descriptor, number) as is_ours:
                    if is_ours:
                        brought += _bring(store, below(prefix, shards[number].name), shards[number], exchange.folder, note)
                if is_ours:
                    exchange.arrived(number)
                    missing.remove(number)
                    break  # the program may need another one first by now
            else:
                time.sleep(_LOOK_SECONDS)
    finally:
        os.close(descriptor)
    note(f"data: all {len(shards):,} shards of {url} are here; this attempt downloaded {brought:,} of them")


def _bring(store: Store, key: str, shard: Shard, folder: Path, note: Note) -> int:
    """Download one shard, verified against the index; returns 1, or 0 if it was already here."""
    from cloud_train.storage.transfer.downloading import Download, download
    from cloud_train.storage.transfer.engine import Options

    path = folder / shard.name
    if path.exists():
        return 0
    download(store, [Download(key, path, shard.size, sha256=shard.sha256)], Options(report=Teller(note)))
    return 1


@contextmanager
def _locked(descriptor: int, number: int) -> Iterator[bool]:
    """Hold a shard's lock for a block; yields False if another process holds it."""
    try:
        fcntl.lockf(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB, 1, number)
    except (BlockingIOError, PermissionError):  # depending on the system
        yield False
        return
    try:
        yield True
    finally:
        fcntl.lockf(descriptor, fcntl.LOCK_UN, 1, number)

"""The fetcher: a forked process beside an attempt that brings the shards of its data, in the order in which the program needs them.

A process of its own for the reasons that the uploader is one. Unlike it, it lives no longer than the attempt, and not a moment longer than
the worker. Each shard is fetched by one process at a time, whichever run it belongs to: a record lock (fcntl(2)) on the shard's own byte of
a common file says by which, and the kernel releases it however that process ends. The next one continues with what arrived.
"""

from __future__ import annotations  # the worker runs on Python 3.10 as well, in images of the user's

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
from cloud_train.worker.data import Note, Teller, below

if TYPE_CHECKING:
    from cloud_train.data.shards import Shard
    from cloud_train.storage.base import Store

_LOCKS = ".cloud-train-shards.lock"
_LOOK_SECONDS = 0.2  # between two looks at what other processes are fetching
_MOST_STARTS = 3  # of a process that is killed

_ALL_THERE, _FAILED = 0, 1  # its exit statuses


class Fetcher:
    """The attempt's hold on it."""

    def __init__(self, exchange: ShardExchange, note: Note, in_child: Callable[[], None]) -> None:
        """Start it; ``in_child`` lets go of what belongs to the worker and the attempt."""
        self._exchange, self._note, self._in_child = exchange, note, in_child
        self._starts, self._writing = 0, -1
        exchange.forget()
        self._start()

    def goes_on(self, exit_code: int) -> bool:
        """Its process was reaped: whether another one, with another ``pid``, has taken over."""
        if exit_code in (_ALL_THERE, _FAILED):
            return False
        self.close()
        if self._starts < _MOST_STARTS:
            self._note("data: the process that fetches shards was gone; another one takes over")
            self._start()
            return True
        with suppress(OSError):
            self._exchange.fail(f"the process that fetches shards was ended {self._starts} times (exit status {exit_code})")
        return False

    def tell_to_stop(self) -> None:
        """Let nobody wait any longer for a shard."""
        with suppress(OSError):  # the disk is full: then waiting ends with the grace period
            self._exchange.stop()

    def end(self) -> None:
        """The attempt is over: end the process, and forget what program and process said to each other."""
        self.close()
        self._exchange.forget()

    def close(self) -> None:
        """Let go of the pipe: in the worker that ends the process, in a forked child it lets only the worker hold it."""
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
                os.setsid()  # out of the worker's process group, which may be stopped as a whole
                threading.Thread(target=_end_with, args=(reading,), daemon=True).start()
                code = _ALL_THERE if _bring_or_say_why(self._exchange, self._note) else _FAILED
            finally:
                os._exit(code)  # never back into the worker's own code, and past what a client's threads do at an interpreter's end
        os.close(reading)


def _end_with(reading: int) -> None:
    """End this process when the attempt lets go of the pipe, or is gone. What has arrived of a shard stays for who comes next."""
    with suppress(OSError):
        os.read(reading, 1)
    os._exit(_FAILED)


def _bring_or_say_why(exchange: ShardExchange, note: Note) -> bool:
    try:
        bring_shards(exchange, note)
    except Exception as error:  # noqa: BLE001 -- whatever a client may raise: the program that waits for a shard has to be told
        said = f"{error}" or type(error).__name__
        hint = f" ({error.hint})" if isinstance(error, CloudTrainError) and error.hint else ""
        note(f"data: {said}{hint}")
        exchange.fail(said + hint)
        return False
    return True


def bring_shards(exchange: ShardExchange, note: Note) -> None:
    """Bring every shard that is not there, or wait until another process has. Raises StoreError, and CorruptError that names the shard."""
    from cloud_train.storage.registry import bucket_and_prefix, open_store

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
                    break  # by now the program may need another one first
            else:
                time.sleep(_LOOK_SECONDS)
    finally:
        os.close(descriptor)
    note(f"data: all {len(shards):,} shards of {url} are there, {brought:,} of them fetched by this attempt")


def _bring(store: Store, key: str, shard: Shard, folder: Path, note: Note) -> int:
    """Bring one shard, checked against the index; returns whether that was still to be done, as 1 or 0."""
    from cloud_train.storage.transfer.downloading import Download, download
    from cloud_train.storage.transfer.engine import Options

    path = folder / shard.name
    if path.exists():
        return 0
    download(store, [Download(key, path, shard.size, sha256=shard.sha256)], Options(report=Teller(note)))
    return 1


@contextmanager
def _locked(descriptor: int, number: int) -> Iterator[bool]:
    """Hold the lock of a shard for a block, if no other process has it."""
    try:
        fcntl.lockf(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB, 1, number)
    except (BlockingIOError, PermissionError):  # which of the two is up to the system
        yield False
        return
    try:
        yield True
    finally:
        fcntl.lockf(descriptor, fcntl.LOCK_UN, 1, number)

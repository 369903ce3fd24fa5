"""Uploading an attempt's files into the store while it runs, and downloading the marks of others.

The worker and its program know only their workspace, a folder laid out like the run directory. The uploader copies from there:

- output, the worker's log and metrics in segments (``run.streams``), each at most every two seconds and only if there is new data;
- checkpoints once they are sealed, the newest first and the manifest last; then the store is pruned, but never of its last complete one;
- the final model, its manifest last, and everything else in the attempt's folder (TensorBoard files, the reason for a failure);
- the status, at every change of state and as a heartbeat. The final status comes last of all, once everything else is in the store.

Only node 0 uploads checkpoints and the model. Downloads are the cancel marks and, with several nodes, the others' statuses.
"""

import json
import time
from collections.abc import Callable
from contextlib import suppress
from time import monotonic
from typing import Any

from cloud_train.errors import StoreError
from cloud_train.run import documents, layout
from cloud_train.run.fencing import Lease
from cloud_train.run.states import State
from cloud_train.storage.base import ObjectMissingError, Store
from cloud_train.storage.local import LocalStore
from cloud_train.worker.nodes import NodeContext
from cloud_train.worker.status import NodeStatus
from cloud_train.worker.uploads.streams import StreamUpload

_LIFE_SIGN_SECONDS = 10.0
_CANCEL_SECONDS = 4.0
_PEERS_SECONDS = 1.0


class AttemptUploads:
    """Uploads one run's workspace, for the attempts from ``first`` on. Call ``look`` repeatedly, and once more after the last end."""

    def __init__(
        self,
        workspace: LocalStore,
        store: Store,
        run_id: str,
        first: int,
        *,
        node: NodeContext,
        token: str = "",
        again: bool = False,
        clock: Callable[[], float] = monotonic,
    ) -> None:
        """``token`` is that of the launch. ``again``: an earlier process may have uploaded a part already."""
        self._token = token
        self._workspace, self._store, self._run_id, self._first = workspace, store, run_id, first
        self._node, self._again, self._clock = node, again, clock
        self._attempts: dict[int, _AttemptUpload] = {}
        self._has_worker = True

    def look(self) -> bool:
        """Upload what is due; returns whether every attempt that began has ended and is completely uploaded."""
        number = self._first
        while self._workspace.path_of(f"{self._run_id}/{layout.status(number, self._node.rank)}").exists():
            if number not in self._attempts:
                streams = self._streams(number)
                self._attempts[number] = _AttemptUpload(
                    self._workspace, self._lease(number), self._store, self._run_id, node=self._node, streams=streams, clock=self._clock
                )
            number += 1
        # A mark may still arrive for the second newest attempt, from a machine that has not seen the newest.
        done = [attempt.look(self._has_worker, listens=number - attempt.number <= 2) for attempt in self._attempts.values()]
        return all(done)

    @property
    def is_superseded(self) -> bool:
        """Whether an attempt of another launch has overtaken this worker's: then no results are uploaded any more."""
        return any(attempt.lease.superseded is not None for attempt in list(self._attempts.values()))

    def check(self) -> None:
        """Raise SupersededError if an attempt of another launch has overtaken this worker's; asks the store. Raises StoreError."""
        self._lease(self.newest).check()

    def _lease(self, number: int) -> Lease:
        return Lease(self._store, self._run_id, number, self._token, layout.status(number, self._node.rank))

    @property
    def newest(self) -> int:
        """The newest attempt that has begun."""
        return max(list(self._attempts), default=self._first)

    def begun(self) -> list[int]:
        """The attempts that have begun and are not done."""
        return [number for number, attempt in list(self._attempts.items()) if not attempt.is_done]

    def waiting(self) -> list[int]:
        """The attempts that have ended, so that their folders no longer change, but whose folders are not completely uploaded."""
        return [number for number, attempt in list(self._attempts.items()) if attempt.waits]

    def expect_no_end(self) -> None:
        """After the worker died: an attempt is done once all its files are uploaded, although its end will never be recorded."""
        self._has_worker = False

    def folders_arrived(self, attempts: list[int]) -> None:
        """Record that the folders of these attempts, which were ``waiting`` before the upload began, are completely uploaded."""
        for number in attempts:
            self._attempts[number].waits, self._attempts[number].has_folders = False, True

    def _streams(self, number: int) -> list[StreamUpload]:
        rank = self._node.rank
        by_line = {layout.output_log(number, rank): False, layout.worker_log(number, rank): False, layout.metrics(number, rank): True}
        streams = []
        for name, lines in by_line.items():
            key = f"{self._run_id}/{name}"
            path, root = self._workspace.path_of(key), self._workspace.folder
            streams.append(StreamUpload(path, self._store, key, by_line=lines, clock=self._clock, root=root))
            if self._again:
                streams[-1].resume()
        return streams


class _AttemptUpload:
    """The uploads of one attempt, or of one node of it."""

    def __init__(
        self,
        workspace: LocalStore,
        lease: Lease,
        store: Store,
        run_id: str,
        *,
        node: NodeContext,
        streams: list[StreamUpload],
        clock: Callable[[], float],
    ) -> None:
        self.lease, self.number = lease, (number := lease.number)
        self._workspace, self._store, self._run_id = workspace, store, run_id
        self._node, self._streams, self._clock = node, streams, clock
        self._status_key = self._key(layout.status(number, node.rank))
        self._uploaded: dict[str, Any] = {}
        self._end: bytes | None = None
        self._notices: dict[str, bytes] = {}
        self._life_sign = self._next_cancel = self._next_peers = clock()
        self.is_done = self.waits = self.has_folders = False

    def look(self, has_worker: bool, listens: bool) -> bool:
        """Upload what is due; True once everything is in the store, the end last. ``listens``: also download marks."""
        if listens:
            self._fetch_marks()
            self._upload_notices()
        written = self._workspace.get(self._status_key)
        status: dict[str, Any] = json.loads(written)
        is_end = State(status["state"]).is_end
        if self.is_done:
            self._upload_afterthoughts(written if is_end else None)
            return True
        if self.has_folders:
            for stream in self._streams:
                stream.finish()
            self._upload_end(written if is_end else None)
            self.is_done = True
            return True
        for stream in self._streams:
            stream.look()
        self.waits = is_end or not has_worker
        if is_end:
            self._give_sign_of_life()
        else:
            self._upload_status(status)
        return False

    def _upload_afterthoughts(self, end: bytes | None) -> None:
        """After the end: upload the log's last lines, and the end again if the run was cancelled before another attempt."""
        for stream in self._streams:
            stream.flush()
        self._upload_end(end)

    def _upload_end(self, end: bytes | None) -> None:
        if end == self._end or end is None:
            return
        if self.lease.superseded is not None or not self.lease.write(end):
            self._give_way()
            self.lease.conclude(json.dumps({**json.loads(end), "closed": True}).encode() + b"\n")
        elif self._store.get(self._status_key) != end:  # unlike heartbeats, it is not written again
            raise StoreError(f"{self._store.url}/{self._status_key} was written, but reads back differently")
        self._end = end

    def _give_sign_of_life(self) -> None:
        """Renew the heartbeat of the state before the end, because the uploads before the end may take long."""
        if not self._uploaded:  # uploaded by an earlier process, or when the attempt was claimed
            with suppress(ObjectMissingError):
                self._uploaded = self._status_there()
        if self._uploaded:
            passed = self._clock() - self._life_sign
            elapsed = {"elapsed": self._uploaded["elapsed"] + passed} if self._uploaded.get("elapsed") is not None else {}
            self._upload_status({**self._uploaded, "heartbeat": time.time(), **elapsed})

    def _upload_status(self, status: dict[str, Any]) -> None:
        changed = any(status.get(name) != self._uploaded.get(name) for name in status.keys() - {"heartbeat", "elapsed"})
        is_due = self._clock() - self._life_sign >= _LIFE_SIGN_SECONDS
        if self.lease.superseded is not None or not (changed or is_due):
            return
        if self.lease.write(json.dumps(status).encode() + b"\n"):
            self._uploaded, self._life_sign = status, self._clock()
        if is_due:
            with suppress(StoreError):  # the heartbeat has arrived; the next one looks again
                self.lease.look()
        self._give_way()

    def _give_way(self) -> None:
        """Tell the worker that a newer attempt has begun, if so: it kills its program, and nothing but its log is uploaded any more."""
        if self.lease.superseded is not None:
            self._workspace.put(self._key(layout.superseded(self.number)), b"%d\n" % self.lease.superseded)

    def _status_there(self) -> dict[str, Any]:
        """The fields of this status in the store; raises CorruptError if it is not a status."""
        data = documents.read(self._store, self._status_key, documents.LARGEST_STATUS)
        NodeStatus.from_json(data, f"{self._store.url}/{self._status_key}")
        return documents.load(data, documents.LARGEST_STATUS)

    def _fetch_marks(self) -> None:
        now, number = self._clock(), self.number
        if now >= self._next_cancel:
            self._next_cancel = now + _CANCEL_SECONDS
            self._fetch(layout.cancel(number))
        if self._node.nodes > 1 and now >= self._next_peers:
            self._next_peers = now + _PEERS_SECONDS
            for rank in self._node.others:
                self._fetch(layout.status(number, rank))
            if self._node.rank > 0:
                self._fetch(layout.start(number))
                self._fetch(layout.following(number))
                self._fetch(layout.status(number + 1))  # its existence means that another attempt has started

    def _fetch(self, name: str) -> None:
        key = self._key(name)
        try:
            data = documents.read(self._store, key, documents.LARGEST_STATUS)
        except ObjectMissingError:
            if name == layout.following(self.number):
                self._workspace.delete(key)
            return
        with suppress(ObjectMissingError):
            if self._workspace.get(key) == data:
                return
        self._workspace.put(key, data)

    def _upload_notices(self) -> None:
        """Upload node 0's messages to the others: which checkpoint to start from, and that another attempt follows."""
        if self._node.rank > 0 or self._node.nodes == 1:
            return
        for key in (self._key(layout.start(self.number)), self._key(layout.following(self.number))):
            try:
                data = self._workspace.get(key)
            except ObjectMissingError:
                if self._notices.pop(key, None) is not None:
                    self._store.delete(key)
                continue
            if data != self._notices.get(key):
                self._store.put(key, data)
                self._notices[key] = data

    def _key(self, name: str) -> str:
        return f"{self._run_id}/{name}"

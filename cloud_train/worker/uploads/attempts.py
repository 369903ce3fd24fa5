"""Bringing what an attempt writes on its machine into the store while it runs, and the few marks of others from the store to the machine.

The worker and its program know only their workspace, a folder laid out like the run directory. The uploader copies from there:

- output, worker's log and metrics in segments (``run.streams``): at most one write in two seconds each, none where nothing is new;
- checkpoints once they are sealed, the newest first and the manifest last; then the store is pruned, never of its last complete one;
- the final model, its manifest last, and everything else in the attempt's folder (TensorBoard's files, the reason of a failure);
- the status, at every change of state and as a sign of life. An *end* goes last of all: who reads it finds everything else.

Only node 0 uploads checkpoints and the model. In the other direction come cancellation marks and, of several nodes, what the
others say of themselves.
"""

import json
import time
from collections.abc import Callable
from contextlib import suppress
from time import monotonic
from typing import Any

from cloud_train.errors import StoreError
from cloud_train.run import documents, layout
from cloud_train.run.states import State
from cloud_train.storage.base import ObjectMissingError, Store
from cloud_train.storage.local import LocalStore
from cloud_train.worker.nodes import NodeContext
from cloud_train.worker.status import NodeStatus
from cloud_train.worker.uploads.streams import StreamUpload

_LIFE_SIGN_SECONDS = 10.0
_SILENCE_SECONDS = 20.0  # after which the store is asked first whether the attempt was given up
_CANCEL_SECONDS = 4.0
_PEERS_SECONDS = 1.0


class AttemptUploads:
    """Ships one run's workspace, for the attempts from ``first`` on. ``look`` again and again, and once more after the last end."""

    def __init__(
        self,
        workspace: LocalStore,
        store: Store,
        run_id: str,
        first: int,
        *,
        node: NodeContext,
        again: bool = False,
        clock: Callable[[], float] = monotonic,
    ) -> None:
        """``again``: an earlier process may have sent a part already."""
        self._workspace, self._store, self._run_id, self._first = workspace, store, run_id, first
        self._node, self._again, self._clock = node, again, clock
        self._attempts: dict[int, _AttemptShipper] = {}
        self._has_worker = True

    def look(self) -> bool:
        """Ship what is due; returns whether every attempt that began has ended, and all of it is in the store."""
        number = self._first
        while self._workspace.path_of(f"{self._run_id}/{layout.status(number, self._node.rank)}").exists():
            if number not in self._attempts:
                streams = self._streams(number)
                self._attempts[number] = _AttemptShipper(
                    self._workspace, self._store, self._run_id, number, node=self._node, streams=streams, clock=self._clock
                )
            number += 1
        # A mark may still arrive for the attempt before the newest one, from a machine that saw no other.
        done = [attempt.look(self._has_worker, listens=number - attempt.number <= 2) for attempt in self._attempts.values()]
        return all(done)

    @property
    def newest(self) -> int:
        """The newest attempt that has begun."""
        return max(list(self._attempts), default=self._first)

    def begun(self) -> list[int]:
        """The attempts that have begun and are not done."""
        return [number for number, attempt in list(self._attempts.items()) if not attempt.is_done]

    def waiting(self) -> list[int]:
        """Those of them that have ended, so that nothing is added to their folders any more, and wait for these to arrive."""
        return [number for number, attempt in list(self._attempts.items()) if attempt.waits]

    def expect_no_end(self) -> None:
        """The worker is gone: an attempt is done once everything here has arrived, though its end will never be written."""
        self._has_worker = False

    def folders_arrived(self, attempts: list[int]) -> None:
        """Everything in the folders of these attempts, which were ``waiting`` before it was looked for, is in the store."""
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
                streams[-1].go_on()
        return streams


class _AttemptShipper:
    """One attempt, or one node of it."""

    def __init__(
        self,
        workspace: LocalStore,
        store: Store,
        run_id: str,
        number: int,
        *,
        node: NodeContext,
        streams: list[StreamUpload],
        clock: Callable[[], float],
    ) -> None:
        self._workspace, self._store, self._run_id, self.number = workspace, store, run_id, number
        self._node, self._streams, self._clock = node, streams, clock
        self._status_key = self._key(layout.status(number, node.rank))
        self._shipped: dict[str, Any] = {}
        self._end: bytes | None = None
        self._given_up = False
        self._notices: dict[str, bytes] = {}
        self._life_sign = self._next_cancel = self._next_peers = clock()
        self.is_done = self.waits = self.has_folders = False

    def look(self, has_worker: bool, listens: bool) -> bool:
        """Ship what is due; True once all is in the store, the end last. ``listens``: marks may still come, also after the end."""
        if listens:
            self._fetch_marks()
            self._ship_notices()
        written = self._workspace.get(self._status_key)
        status: dict[str, Any] = json.loads(written)
        is_end = State(status["state"]).is_end
        if self.is_done:
            self._ship_afterthoughts(written if is_end else None)
            return True
        if self.has_folders:
            for stream in self._streams:
                stream.finish()
            self._ship_end(written if is_end else None)
            self.is_done = True
            return True
        for stream in self._streams:
            stream.look()
        self.waits = is_end or not has_worker
        if is_end:
            self._give_sign_of_life()
        else:
            self._ship_status(status)
        return False

    def _ship_afterthoughts(self, end: bytes | None) -> None:
        """That another attempt follows, or that it was called off and the run cancelled."""
        for stream in self._streams:
            stream.flush()
        self._ship_end(end)

    def _ship_end(self, end: bytes | None) -> None:
        if end != self._end and end is not None and not self._is_given_up():
            self._store.put(self._status_key, end)
            if self._store.get(self._status_key) != end:  # nobody writes it again later, as a sign of life is
                raise StoreError(f"{self._store.url}/{self._status_key} was written, and is not what was written")
            self._end = end

    def _give_sign_of_life(self) -> None:
        """With the state before the end: what arrives before the end may take long."""
        if not self._shipped:  # by an earlier process, or when the attempt was claimed
            with suppress(ObjectMissingError):
                self._shipped = self._status_there()
        if self._shipped:
            self._ship_status({**self._shipped, "heartbeat": time.time()})

    def _ship_status(self, status: dict[str, Any]) -> None:
        changed = any(status.get(name) != self._shipped.get(name) for name in status.keys() - {"heartbeat"})
        if (changed or self._clock() - self._life_sign >= _LIFE_SIGN_SECONDS) and not self._is_given_up():
            self._store.put(self._status_key, json.dumps(status).encode() + b"\n")
            self._shipped, self._life_sign = status, self._clock()

    def _is_given_up(self) -> bool:
        """Whether another machine, after a long silence, ended the attempt and may have started another: then this one must stop."""
        if not self._given_up and self._clock() - self._life_sign >= _SILENCE_SECONDS:
            with suppress(ObjectMissingError):
                self._given_up = State(self._status_there().get("state")).is_end
            if self._given_up:
                self._workspace.put(self._key(layout.cancel(self.number)), b"")
        return self._given_up

    def _status_there(self) -> dict[str, Any]:
        """What the store has of this status, field by field; raises CorruptError if it is not a status."""
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
                self._fetch(layout.status(number + 1))  # that it is there tells that another attempt has begun

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

    def _ship_notices(self) -> None:
        """What node 0 tells the others: which checkpoint to start from, and that another attempt follows."""
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

"""The other nodes of an attempt, seen through what each of them writes into the run directory.

Nodes agree on little: that all are there, where they start, that one of them ends, and whether another attempt follows. All of it fits into
files that node 0 or each node alone writes, so nothing here needs a connection, and a script in any language has it as well.
"""

import time
from collections.abc import Callable
from contextlib import suppress
from time import monotonic

from cloud_train.errors import CorruptError, StoreError
from cloud_train.run import documents, layout
from cloud_train.storage.base import ObjectMissingError, Store
from cloud_train.worker.nodes.node import NodeContext
from cloud_train.worker.nodes.verdict import is_leaving
from cloud_train.worker.status import NodeStatus


class Peers:
    """What the nodes of one attempt know of each other. Node 0 watches all the others, and each of them node 0; a single node nobody."""

    def __init__(self, store: Store, run_id: str, attempt: int, node: NodeContext, clock: Callable[[], float] = monotonic) -> None:
        self._store, self._run_id, self._attempt, self._clock = store, run_id, attempt, clock
        self._watched = node.others if node.nodes > 1 else ()
        self._written: dict[int, bytes] = {}
        self._changed = dict.fromkeys(self._watched, clock())
        self.statuses: dict[int, NodeStatus] = {}
        """The newest status of each node that has one, by rank."""

    def __bool__(self) -> bool:
        """Whether there are other nodes."""
        return bool(self._watched)

    def look(self) -> None:
        """Read the statuses again. What cannot be read now stays as it was."""
        for rank in self._watched:
            key = f"{self._run_id}/{layout.status(self._attempt, rank)}"
            with suppress(StoreError, CorruptError):
                written = documents.read(self._store, key, documents.LARGEST_STATUS)
                if written != self._written.get(rank):
                    self.statuses[rank] = NodeStatus.from_json(written, key)
                    self._written[rank], self._changed[rank] = written, self._clock()

    def missing(self) -> list[int]:
        """The nodes that have not come yet."""
        return [rank for rank in self._watched if rank not in self.statuses]

    def working(self) -> list[int]:
        """The nodes that have not ended yet, those that never came among them."""
        return [rank for rank in self._watched if rank not in self.statuses or not self.statuses[rank].state.is_end]

    def silent(self, seconds: float) -> list[int]:
        """The nodes that have neither ended nor given a sign of life for so long. By this machine's clock: those of others may be wrong."""
        return [rank for rank in self.working() if self._clock() - self._changed[rank] > seconds]

    def leaving(self) -> list[int]:
        """The nodes that end, or have ended, otherwise than well."""
        return [rank for rank, status in self.statuses.items() if is_leaving(status)]

    def choose_start(self, checkpoint: str) -> None:
        """Node 0: let the others start from this checkpoint, the name of a folder, or afresh; raises StoreError."""
        if self._watched:
            self._store.put(f"{self._run_id}/{layout.start(self._attempt)}", checkpoint.encode())

    def start(self) -> str | None:
        """The other nodes: the name of the checkpoint to start from, empty for a fresh start; None as long as node 0 has not chosen."""
        try:
            return documents.read_text(self._store, f"{self._run_id}/{layout.start(self._attempt)}")
        except ObjectMissingError:
            return None

    def announce(self) -> None:
        """Node 0: another attempt follows; said again and again, as a sign of life."""
        if self._watched:
            with suppress(StoreError):
                self._store.put(self._following, f"{time.time():.3f}\n".encode())

    def withdraw(self) -> None:
        """Node 0: no other attempt follows after all."""
        if self._watched:
            with suppress(StoreError):
                self._store.delete(self._following)

    def announced(self) -> bytes | None:
        """The other nodes: what node 0 said last of another attempt; None if it says nothing of the kind."""
        try:
            return self._store.get(self._following, 0, documents.LARGEST_MARK)
        except StoreError:
            return None

    def has_begun_another(self) -> bool:
        """Whether node 0 has begun the next attempt."""
        try:
            self._store.stat(f"{self._run_id}/{layout.status(self._attempt + 1)}")
        except StoreError:
            return False
        return True

    @property
    def _following(self) -> str:
        return f"{self._run_id}/{layout.following(self._attempt)}"

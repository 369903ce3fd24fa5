"""Several nodes of one attempt: this node's rank, the state of the others, and why the attempt ended.

Nodes have to agree on little: that all have joined, from which checkpoint they start, that one of them is ending, and whether another
attempt follows. Each file for this has a single writer, so no connections are needed, and scripts in any language benefit as well.
"""

import os
import time
from collections.abc import Callable, Collection, Mapping
from contextlib import suppress
from dataclasses import dataclass
from time import monotonic

from cloud_train.errors import CorruptError, StoreError, UsageError
from cloud_train.run import documents, layout
from cloud_train.run.states import Cause, State
from cloud_train.storage.base import ObjectMissingError, Store
from cloud_train.worker import contract
from cloud_train.worker.ending import Ending
from cloud_train.worker.status import NodeStatus

DEFAULT_PORT = 29500
"""Default rendezvous port on node 0, the same as torch's."""

_FIRST_PAUSE_SECONDS, _LONGEST_PAUSE_SECONDS = 0.1, 15.0
"""Between two attempts to resolve a name."""

_PORT_VARIABLES = ("CLOUD_TRAIN_MASTER_PORT", contract.MASTER_PORT)


@dataclass(frozen=True)
class NodeContext:
    """One machine of an attempt."""

    rank: int = 0
    """From 0; node 0 writes the attempt's status."""
    nodes: int = 1
    """Number of machines in the attempt."""
    master_address: str = "127.0.0.1"
    """Host name or address of node 0."""
    master_port: int = DEFAULT_PORT
    """Rendezvous port on node 0."""

    def __post_init__(self) -> None:
        if not 0 <= self.rank < self.nodes:
            raise UsageError(f"node {self.rank} of {self.nodes} does not exist: ranks go from 0 to {self.nodes - 1}")

    @property
    def others(self) -> tuple[int, ...]:
        """The nodes that this one watches: node 0 watches all others, and they watch node 0."""
        return tuple(range(1, self.nodes)) if self.rank == 0 else (0,)


def from_variables(environment: Mapping[str, str] = os.environ, *, rank: int | None = None, nodes: int | None = None) -> NodeContext:
    """The node described by CLOUD_TRAIN_NODE_RANK, CLOUD_TRAIN_NODES and MASTER_ADDR; a single node if they are not set.

    ``rank`` and ``nodes`` override the first two. The port is CLOUD_TRAIN_MASTER_PORT, MASTER_PORT or ``DEFAULT_PORT``.
    """
    if rank is None and nodes is None:
        rank, nodes = _number(environment, contract.NODE_RANK), _number(environment, contract.NODES)
    port = next((number for name in _PORT_VARIABLES if (number := _number(environment, name)) is not None), DEFAULT_PORT)
    address = environment.get(contract.MASTER_ADDRESS) or "127.0.0.1"
    return NodeContext(0 if rank is None else rank, 1 if nodes is None else nodes, address, port)


def _number(environment: Mapping[str, str], name: str) -> int | None:
    text = environment.get(name)
    try:
        return int(text) if text else None
    except ValueError as error:
        raise UsageError(f"{name} must be a number, not {text!r}") from error


def wait_for_name(
    host: str,
    seconds: float,
    *,
    resolve: Callable[[str], object] | None = None,
    sleep: Callable[[float], None] = time.sleep,
    clock: Callable[[], float] = monotonic,
) -> str:
    """Wait until the name ``host`` can be resolved, for at most ``seconds``; raises the resolver's OSError. Returns an empty string.

    On a platform, a name may appear many minutes after its machine: AWS's own toolkit waits 15 minutes
    (``_wait_hostname_resolution`` in https://github.com/aws/sagemaker-training-toolkit, src/sagemaker_training/entry_point.py).
    """
    find = resolve or _resolver()
    give_up_at, pause = clock() + seconds, _FIRST_PAUSE_SECONDS
    while True:
        try:
            find(host)
        except OSError:
            if clock() + pause > give_up_at:
                raise
            sleep(pause)
            pause = min(2 * pause, _LONGEST_PAUSE_SECONDS)
        else:
            return ""


def _resolver() -> Callable[[str], object]:
    import socket  # takes 2 ms, which a run of one node saves

    return socket.gethostbyname


class Peers:
    """What a node knows of the others: node 0 watches all others, and they watch node 0; a single node watches none."""

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
        """Read the statuses again. One that cannot be read keeps its last value."""
        for rank in self._watched:
            key = f"{self._run_id}/{layout.status(self._attempt, rank)}"
            with suppress(StoreError, CorruptError):
                written = documents.read(self._store, key, documents.LARGEST_STATUS)
                if written != self._written.get(rank):
                    self.statuses[rank] = NodeStatus.from_json(written, key)
                    self._written[rank], self._changed[rank] = written, self._clock()

    def missing(self) -> list[int]:
        """The nodes that have not joined yet."""
        return [rank for rank in self._watched if rank not in self.statuses]

    def working(self) -> list[int]:
        """The nodes that have not ended yet, including those that never joined."""
        return [rank for rank in self._watched if rank not in self.statuses or not self.statuses[rank].state.is_end]

    def silent(self, seconds: float) -> list[int]:
        """The running nodes without a heartbeat for this long, by this machine's clock, because others' clocks may be wrong."""
        return [rank for rank in self.working() if self._clock() - self._changed[rank] > seconds]

    def leaving(self) -> list[int]:
        """The nodes that are stopping or have ended unsuccessfully."""
        return [rank for rank, status in self.statuses.items() if is_leaving(status)]

    def choose_start(self, checkpoint: str) -> None:
        """Node 0: tell the others the name of the checkpoint to start from, empty for a fresh start; raises StoreError."""
        if self._watched:
            self._store.put(f"{self._run_id}/{layout.start(self._attempt)}", checkpoint.encode())

    def start(self) -> str | None:
        """Other nodes: the name of the checkpoint to start from, empty for a fresh start; None until node 0 has chosen."""
        try:
            return documents.read_text(self._store, f"{self._run_id}/{layout.start(self._attempt)}")
        except ObjectMissingError:
            return None

    def announce(self) -> None:
        """Node 0: announce that another attempt follows; repeat it as a heartbeat."""
        if self._watched:
            with suppress(StoreError):
                self._store.put(self._following, f"{time.time():.3f}\n".encode())

    def withdraw(self) -> None:
        """Node 0: withdraw the announcement of another attempt."""
        if self._watched:
            with suppress(StoreError):
                self._store.delete(self._following)

    def announced(self) -> bytes | None:
        """Other nodes: node 0's latest announcement of another attempt, if any."""
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


_STOPS = frozenset({Cause.CANCELLED, Cause.PREEMPTED, Cause.TIMED_OUT})


def verdict(own: Ending, others: Mapping[int, NodeStatus], lost: Collection[int]) -> Ending:
    """The attempt's end, as node 0 records it, if not every node succeeded.

    ``own`` is node 0's end, ``others`` are the statuses of the other nodes by rank, ``lost`` the ranks without a heartbeat. The earliest
    end that was not a consequence of another one counts; if there is none, a lost node must have been the reason.
    """
    endings = {0: own} | {rank: _ending(status) for rank, status in others.items() if status.state.is_end}
    bad = sorted((end.time, rank) for rank, end in endings.items() if end.cause is not Cause.SUCCEEDED)
    at_fault = [rank for _, rank in bad if not endings[rank].is_consequence]
    if own.cause in _STOPS and not own.is_consequence and all(endings[rank].cause is own.cause for rank in at_fault):
        return own  # all nodes were stopped for the same reason
    if at_fault:
        return _named(endings[at_fault[0]], at_fault[0], own)
    asked = [rank for _, rank in bad if endings[rank].cause is Cause.PREEMPTED]
    if asked:  # they saved and stopped together, and the node that was told to stop was lost before it could report that
        return _named(endings[asked[0]], asked[0], own)
    if lost:
        return Ending(Cause.INFRASTRUCTURE, f"lost contact with {nodes_named(lost)}", own.exit_code)
    return _named(endings[bad[0][1]], bad[0][1], own)


def nodes_named(ranks: Collection[int]) -> str:
    """``node 2``, or ``nodes 1, 2 and 5``."""
    names = [str(rank) for rank in sorted(ranks)]
    return f"node {names[0]}" if len(names) == 1 else f"nodes {', '.join(names[:-1])} and {names[-1]}"


def is_leaving(status: NodeStatus) -> bool:
    """Whether a node is stopping or has ended unsuccessfully, so that the others have nothing left to do."""
    return status.state is State.STOPPING or (status.state.is_end and status.cause is not Cause.SUCCEEDED)


def _ending(status: NodeStatus) -> Ending:
    cause = status.cause or Cause.UNKNOWN
    return Ending(cause, status.message, status.program_exit_code, status.is_consequence, status.ended or status.heartbeat)


def _named(end: Ending, rank: int, own: Ending) -> Ending:
    message = f"node {rank}: {end.message}" if rank else end.message
    return Ending(end.cause, message, end.exit_code if rank else own.exit_code)

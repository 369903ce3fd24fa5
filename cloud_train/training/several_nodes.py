"""The launchers of several nodes meet at node 0, by torch's *static* rendezvous, and take leave of each other after a successful training.

torch's own has no such leave: node 0's launcher drops its store as soon as it has passed the barrier at the end, and a launcher that still
waits for the answer writes warnings and a traceback into its log, although the training succeeded.
"""

from collections.abc import Iterator
from contextlib import contextmanager, suppress
from datetime import timedelta
from typing import Any

from torch.distributed import DistError
from torch.distributed.elastic.rendezvous import RendezvousInfo, RendezvousParameters, rendezvous_handler_registry
from torch.distributed.elastic.rendezvous.static_tcp_rendezvous import StaticTCPRendezvous

SEVERAL_NODES_BACKEND = "cloud-train-several-nodes"
_MEETING_SECONDS = 300
"""How long the launchers may take to find each other; their workers have already done so."""
_LEAVE_SECONDS = 10.0
"""How long node 0's launcher keeps its store for the others. Only a node that is lost in just this moment makes it wait that long."""


class SeveralNodesRendezvous(StaticTCPRendezvous):
    """The rendezvous of one node's launcher, with the rank of its worker."""

    def __init__(self, parameters: RendezvousParameters) -> None:
        address, _, port = parameters.endpoint.rpartition(":")
        rank, nodes = parameters.config["rank"], parameters.max_nodes
        super().__init__(address, int(port), rank, nodes, parameters.run_id, _MEETING_SECONDS)
        self._info: RendezvousInfo | None = None
        _made.append(self)

    def get_backend(self) -> str:
        """Its name."""
        return SEVERAL_NODES_BACKEND

    def next_rendezvous(self) -> RendezvousInfo:
        """Meet the other launchers at node 0's store."""
        self._info = super().next_rendezvous()
        return self._info

    def take_leave(self) -> None:
        """Node 0 keeps its store until every other launcher has said that it no longer needs it."""
        if self._info is None:
            return
        with suppress(DistError):  # the training has succeeded, whatever becomes of the others
            if self._info.rank == 0:
                left = [f"left/{rank}" for rank in range(1, self._info.world_size)]
                self._info.store.wait(left, timedelta(seconds=_LEAVE_SECONDS))
            else:
                self._info.store.set(f"left/{self._info.rank}", "")


_made: list[SeveralNodesRendezvous] = []
"""torch's launcher makes it, and holds it no longer than it needs it itself."""


@contextmanager
def several_nodes_rendezvous(address: str, port: int, rank: int) -> Iterator[dict[str, Any]]:
    """The rendezvous settings for torch's launcher. After a training that did not fail, the launchers take leave of each other.

    Args:
        address: of node 0, by name or number.
        port: at which node 0's launcher listens.
        rank: this node's.
    """
    rendezvous_handler_registry.register(SEVERAL_NODES_BACKEND, SeveralNodesRendezvous)
    yield {"rdzv_backend": SEVERAL_NODES_BACKEND, "rdzv_endpoint": f"{address}:{port}", "rdzv_configs": {"rank": rank}}
    _made.pop().take_leave()

"""The processes of a single-node training meet without a network: at a file in a private folder, and then over the loopback interface.

torch's own rendezvous for this ("c10d") listens on all interfaces, without authentication, and unpickles what it receives
(``torch/distributed/elastic/rendezvous/dynamic_rendezvous.py``): anyone who can reach the port can run code as the user. A single node has
no others to wait for, so its launcher needs no network at all.
"""

import os
import socket
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from torch.distributed import HashStore  # type: ignore[attr-defined]  # torch does not mark it as exported
from torch.distributed.elastic.rendezvous import (
    RendezvousHandler,
    RendezvousInfo,
    RendezvousParameters,
    RendezvousStoreInfo,
    rendezvous_handler_registry,
)

from cloud_train.training.processes import MEETING

SINGLE_NODE_BACKEND = "cloud-train-single-node"
_LOOPBACK_INTERFACES = ("lo", "lo0")
_INTERFACE_VARIABLES = ("GLOO_SOCKET_IFNAME", "NCCL_SOCKET_IFNAME")


class SingleNodeRendezvous(RendezvousHandler):
    """The rendezvous of a single node's launcher, which waits for no others."""

    def __init__(self, parameters: RendezvousParameters) -> None:
        self._run_id = parameters.run_id
        self._store = HashStore()
        self._is_closed = False

    def get_backend(self) -> str:
        """Its name."""
        return SINGLE_NODE_BACKEND

    def next_rendezvous(self) -> RendezvousInfo:
        """One launcher, with rank 0. torch puts the address into MASTER_ADDR; nothing listens there."""
        return RendezvousInfo(self._store, 0, 1, RendezvousStoreInfo("127.0.0.1", 0))

    def is_closed(self) -> bool:
        """Whether ``set_closed`` was called."""
        return self._is_closed

    def set_closed(self) -> None:
        """Close the rendezvous."""
        self._is_closed = True

    def num_nodes_waiting(self) -> int:
        """No other node ever waits."""
        return 0

    def get_run_id(self) -> str:
        """The run's id."""
        return self._run_id

    def shutdown(self) -> bool:
        """Nothing has to be closed."""
        return True


@contextmanager
def single_node_rendezvous(folder: Path) -> Iterator[dict[str, Any]]:
    """The rendezvous settings for torch's launcher. ``folder`` is private; the training processes meet at a file in it."""
    rendezvous_handler_registry.register(SINGLE_NODE_BACKEND, SingleNodeRendezvous)
    known = {name for _, name in socket.if_nameindex()}
    for interface in _LOOPBACK_INTERFACES:
        if interface in known:
            for name in _INTERFACE_VARIABLES:
                os.environ.setdefault(name, interface)
    os.environ[MEETING] = str(folder / "meeting")
    try:
        yield {"rdzv_backend": SINGLE_NODE_BACKEND, "local_addr": "127.0.0.1"}
    finally:
        del os.environ[MEETING]

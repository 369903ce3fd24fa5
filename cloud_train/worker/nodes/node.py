"""The node's place among others, from plain variables; a platform with a way of its own comes beside them."""

import os
from collections.abc import Mapping
from dataclasses import dataclass

from cloud_train.errors import UsageError
from cloud_train.worker import contract

DEFAULT_PORT = 29500
"""Where the processes of several nodes meet on node 0; torch's own default."""

_PORT_VARIABLES = ("CLOUD_TRAIN_MASTER_PORT", contract.MASTER_PORT)


@dataclass(frozen=True)
class NodeContext:
    """One machine of an attempt."""

    rank: int = 0
    """From 0; node 0 keeps the attempt's status."""
    nodes: int = 1
    """Machines in the attempt."""
    master_address: str = "127.0.0.1"
    """Host name or address at which the others reach node 0."""
    master_port: int = DEFAULT_PORT
    """Port at which they do."""

    def __post_init__(self) -> None:
        if not 0 <= self.rank < self.nodes:
            raise UsageError(f"node {self.rank} of {self.nodes} does not exist: ranks go from 0 to {self.nodes - 1}")

    @property
    def others(self) -> tuple[int, ...]:
        """The nodes that this one watches: node 0 all others, and each of them node 0."""
        return tuple(range(1, self.nodes)) if self.rank == 0 else (0,)


def from_variables(environment: Mapping[str, str] = os.environ, *, rank: int | None = None, nodes: int | None = None) -> NodeContext:
    """The place that CLOUD_TRAIN_NODE_RANK, CLOUD_TRAIN_NODES and MASTER_ADDR say; the only node where they say nothing.

    ``rank`` and ``nodes`` go before the first two. The port is that of CLOUD_TRAIN_MASTER_PORT or MASTER_PORT, or else ``DEFAULT_PORT``.
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

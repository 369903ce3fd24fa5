"""The node's place among others, from plain variables; a platform with a way of its own comes beside them."""

import os
from collections.abc import Mapping
from dataclasses import dataclass

from cloud_train.errors import UsageError
from cloud_train.worker import contract


@dataclass(frozen=True)
class NodeContext:
    """One machine of an attempt."""

    rank: int = 0
    """From 0; node 0 keeps the attempt's status."""
    nodes: int = 1
    """Machines in the attempt."""
    master_address: str = "127.0.0.1"
    """Host name or address at which the others reach node 0."""

    def __post_init__(self) -> None:
        if not 0 <= self.rank < self.nodes:
            raise UsageError(f"node {self.rank} of {self.nodes} does not exist: ranks go from 0 to {self.nodes - 1}")


def from_variables(environment: Mapping[str, str] = os.environ) -> NodeContext:
    """The place that CLOUD_TRAIN_NODE_RANK, CLOUD_TRAIN_NODES and MASTER_ADDR say; the only node where they say nothing."""
    try:
        rank, nodes = (int(environment.get(name) or default) for name, default in ((contract.NODE_RANK, 0), (contract.NODES, 1)))
    except ValueError as error:
        raise UsageError(f"{contract.NODE_RANK} and {contract.NODES} must be numbers: {error}") from error
    return NodeContext(rank, nodes, environment.get("MASTER_ADDR") or "127.0.0.1")

"""Training in several processes that share each step: each has a copy of the network and learns from its part of the batch, and the
gradients are averaged (torch's DistributedDataParallel).

They may be on several nodes: the launcher's environment variables hold their ranks and their meeting point. They exchange only tensors:
torch's object collectives are not used, because those unpickle what comes from a socket.

Decisions are exchanged through gloo on the CPU, gradients through NCCL if there are GPUs.
"""

import os
from collections.abc import Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager, nullcontext
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

import torch
from torch import Tensor, distributed, nn

from cloud_train.training.processes import MEETING, is_launched

if TYPE_CHECKING:
    from cloud_train.training.gradients import GradientWatch

CPU = torch.device("cpu")


@dataclass
class World:
    """This process's place among those that train together."""

    rank: int = 0
    """From 0; process 0 logs and saves."""
    size: int = 1
    device: torch.device = CPU
    """Where this process computes."""
    _watch: "GradientWatch | None" = field(default=None, repr=False)

    @property
    def is_main(self) -> bool:
        """Whether this is the process that writes."""
        return self.rank == 0

    def share(self, count: int) -> slice:
        """This process's part of ``count`` items: nearly equal parts, the first ones larger by one."""
        part, more = divmod(count, self.size)
        start = self.rank * part + min(self.rank, more)
        return slice(start, start + part + (self.rank < more))

    def gathered(self, values: Sequence[float]) -> list[list[float]]:
        """The ``values`` of every process, by rank."""
        mine = torch.tensor(values, dtype=torch.float64)
        if self.size == 1:
            return [mine.tolist()]
        everyone = [torch.empty_like(mine) for _ in range(self.size)]
        distributed.all_gather(everyone, mine)
        return [values.tolist() for values in everyone]

    def total(self, values: Sequence[float]) -> list[float]:
        """The sum of each of the ``values`` over all processes."""
        return list(values) if self.size == 1 else [sum(column) for column in zip(*self.gathered(values), strict=True)]

    def any(self, *facts: bool) -> list[bool]:
        """For each of the ``facts``, whether it holds in any process."""
        return [bool(count) for count in self.total(facts)]

    def together(self, tensors: tuple[Tensor, ...]) -> tuple[Tensor, ...]:
        """Whole tensors, of which each process has an equal part along the first axis."""
        if self.size == 1:
            return tensors
        whole = []
        for mine in tensors:
            parts = [torch.empty_like(mine) for _ in range(self.size)]
            distributed.all_gather(parts, mine.contiguous())
            whole.append(torch.cat(parts))
        return tuple(whole)

    def wrap(self, network: nn.Module) -> nn.Module:
        """The network with its gradients averaged over all processes at the end of ``backward``."""
        if self.size == 1:
            return network
        from cloud_train.training.gradients import GradientWatch, averaged

        self._watch = GradientWatch()
        return averaged(network, self._watch)

    def without_averaging(self, network: nn.Module) -> AbstractContextManager[None]:
        """The context for all parts of a batch but the last one, whose gradients are only added up."""
        return nullcontext() if self.size == 1 else network.no_sync()  # type: ignore[operator]  # of DistributedDataParallel

    def own_gradient_was_finite(self) -> bool:
        """Whether this process's own gradient in the last averaging was finite; True if nothing is averaged."""
        return self._watch is None or self._watch.was_finite()

    def share_buffers(self, network: nn.Module) -> None:
        """Give every process the buffers of process 0: batch normalization's means depend on what each has seen."""
        if self.size == 1:
            return
        for buffer in network.buffers():
            distributed.broadcast(buffer, src=0)


ALONE = World()
"""One process, on the CPU."""


@contextmanager
def connected(device: torch.device) -> Iterator[World]:
    """The world that torch's launcher describes in the environment; a process that it did not start trains alone."""
    if not is_launched():
        yield World(device=device)
        return
    backend = "cpu:gloo,cuda:nccl" if device.type == "cuda" else "gloo"
    if MEETING in os.environ:
        rank, size = int(os.environ["RANK"]), int(os.environ["WORLD_SIZE"])
        store = distributed.FileStore(os.environ[MEETING], size)  # type: ignore[attr-defined]  # torch does not mark it as exported
        distributed.init_process_group(backend, store=store, rank=rank, world_size=size)
    else:
        distributed.init_process_group(backend)
    try:
        yield World(distributed.get_rank(), distributed.get_world_size(), device)
    finally:
        distributed.destroy_process_group()

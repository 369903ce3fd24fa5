"""Averaging gradients over processes, and remembering whose were not finite. Imported only where there is more than one process."""

from dataclasses import dataclass, field

import torch
from torch import Tensor, nn
from torch.distributed import GradBucket  # type: ignore[attr-defined]  # torch does not list it among what it exports
from torch.distributed.algorithms.ddp_comm_hooks.default_hooks import allreduce_hook
from torch.nn.parallel import DistributedDataParallel


@dataclass
class GradientWatch:
    """What this process gave to the averaging since the last look."""

    _finite: list[Tensor] = field(default_factory=list)

    def was_finite(self) -> bool:
        """Whether all of it was finite since the last call."""
        finite, self._finite = self._finite, []
        return all(bool(one) for one in finite)

    def gave(self, gradients: Tensor) -> None:
        """Look at what is about to be averaged: afterwards it is everybody's."""
        self._finite.append(gradients.isfinite().all())


def averaged(network: nn.Module, watch: GradientWatch) -> DistributedDataParallel:
    """The network with its gradients averaged over all processes at the end of ``backward``."""
    # Looking for unused parameters keeps the buckets of gradients as they are. Otherwise they are rebuilt after the first step, and with
    # three processes or more a resumed run would then add in another order than one that was never stopped (pytorch#30509).
    parallel = DistributedDataParallel(network, find_unused_parameters=True)
    parallel.register_comm_hook(watch, _average)
    return parallel


def _average(watch: GradientWatch, bucket: GradBucket) -> torch.futures.Future[Tensor]:
    watch.gave(bucket.buffer())
    return allreduce_hook(None, bucket)  # type: ignore[arg-type]  # None is the group of all processes

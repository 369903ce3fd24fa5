"""Averages gradients over processes and records whose were not finite. Imported only if there are several processes."""

from dataclasses import dataclass, field

import torch
from torch import Tensor, nn
from torch.distributed import GradBucket  # type: ignore[attr-defined]  # torch does not list it among what it exports
from torch.distributed.algorithms.ddp_comm_hooks.default_hooks import allreduce_hook
from torch.nn.parallel import DistributedDataParallel


@dataclass
class GradientWatch:
    """Whether this process's own gradients were finite before they were averaged."""

    _finite: list[Tensor] = field(default_factory=list)

    def was_finite(self) -> bool:
        """Whether all gradients since the last call were finite."""
        finite, self._finite = self._finite, []
        return all(bool(one) for one in finite)

    def record(self, gradients: Tensor) -> None:
        """Check gradients that are about to be averaged in place."""
        self._finite.append(gradients.isfinite().all())


def averaged(network: nn.Module, watch: GradientWatch) -> DistributedDataParallel:
    """The network with its gradients averaged over all processes at the end of ``backward``."""
    # find_unused_parameters keeps DDP from rebuilding its gradient buckets after the first step. With three or more processes, a resumed
    # run would then add in a different order from one that never stopped (pytorch#30509).
    parallel = DistributedDataParallel(network, find_unused_parameters=True)
    parallel.register_comm_hook(watch, _average)
    return parallel


def _average(watch: GradientWatch, bucket: GradBucket) -> torch.futures.Future[Tensor]:
    watch.record(bucket.buffer())
    return allreduce_hook(None, bucket)  # type: ignore[arg-type]  # None is the group of all processes

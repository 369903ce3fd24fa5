"""Validation: the metrics over all samples, shared among the processes."""

from collections.abc import Callable, Iterable, Iterator
from contextlib import closing, nullcontext

import torch
from torch import Tensor, nn

from cloud_train.training.data.dataset import Batch, Pick, Samples, ToldToStopError
from cloud_train.training.device import Precision
from cloud_train.training.distributed import ALONE, World
from cloud_train.training.measures import Measure
from cloud_train.training.models.rnn import LanguageModel

State = tuple[Tensor, ...]


def forward(network: nn.Module, batch: Batch, state: State | None = None) -> tuple[Tensor, State | None]:
    """Scores with the classes as the last axis, and a language model's state after the batch; without a ``state`` it starts from zeros."""
    inner = getattr(network, "module", network)  # inside DistributedDataParallel
    if isinstance(inner, LanguageModel):
        scores, after = network(batch.inputs, state)
        return scores, after
    return (network(batch.inputs) if batch.lengths is None else network(batch.inputs, batch.lengths)), None


@torch.no_grad()
def evaluate(
    network: nn.Module,
    samples: Samples,
    picks: Iterable[Pick],
    measure: Measure,
    *,
    world: World = ALONE,
    precision: Precision | None = None,
    told_to_stop: Callable[[], bool] = lambda: False,
) -> dict[str, float]:
    """The metrics of ``measure`` over all samples that the processes pick.

    A language model carries its state from batch to batch; a batch that is shorter than the previous one has lost its last rows.
    Empty if any process is asked to stop before the end. Every process gets the same metrics.
    """
    was_training = network.training
    network.eval()
    sums = [0.0] * len(measure.names)
    stopped = False
    state: State | None = None
    with closing(samples.batches(picks)) as batches:
        for batch in _as_they_come(batches, told_to_stop):
            if stopped := batch is None or told_to_stop():
                break
            if not len(batch):  # none of its images could be read
                continue
            before = tuple(tensor[: len(batch)] for tensor in state) if state is not None else None
            with precision.arithmetic() if precision else nullcontext():
                scores, state = forward(network, batch, before)
            sums = [total + value for total, value in zip(sums, measure.sums(network, scores, batch), strict=True)]
    network.train(was_training)
    *sums, stops = world.total([*sums, stopped])
    totals = dict(zip(measure.names, sums, strict=True))
    return {} if stops or not totals["count"] else measure.metrics(totals)


def _as_they_come(batches: Iterator[Batch], told_to_stop: Callable[[], bool]) -> Iterator[Batch | None]:
    """The batches; None as the last one if the run is asked to stop before the next batch has arrived."""
    try:
        yield from batches
    except ToldToStopError:
        if not told_to_stop():  # the validation should be completed, but cannot be
            raise
        yield None

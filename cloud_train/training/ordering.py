"""Which samples each step learns from: a function of the seed and the position, independent of the number of processes.

A step's batch is a slice of its epoch's order, and each process takes a share of the slice. So a run that continues elsewhere, with a
different number of processes, sees the same samples in the same steps.
"""

from collections.abc import Iterator
from dataclasses import dataclass
from itertools import chain, repeat
from math import ceil
from typing import Self

import torch
from torch import Tensor

from cloud_train.errors import JobError
from cloud_train.job.training import TrainSpec
from cloud_train.spec.types import Cadence
from cloud_train.training.data.dataset import Pick, Samples
from cloud_train.training.distributed import World
from cloud_train.training.randomness import permutation


@dataclass(frozen=True)
class Position:
    """A point between two steps."""

    step: int = 0
    """Steps taken."""
    epoch: int = 0
    """Complete passes over the training data."""
    consumed: int = 0
    """Samples of the current pass that have been learned from, across all processes."""

    def after(self, samples: int, of: int) -> Self:
        """The position one step later, after ``samples`` of an epoch of ``of`` samples."""
        consumed = self.consumed + samples
        return type(self)(self.step + 1, self.epoch + consumed // of, consumed % of)

    def within(self, samples: int) -> Self:
        """This position in an epoch of ``samples`` samples: the start of the next epoch if data has gone and so many are not there."""
        return self if self.consumed < samples else type(self)(self.step, self.epoch + 1, 0)

    def meets(self, every: Cadence) -> bool:
        """Whether something with the cadence ``every``, in epochs or steps, is due here; nothing is due before the first step."""
        if not self.step or every.unit == "second":
            return False
        if every.unit == "epoch":
            return self.consumed == 0 and self.epoch % every.count == 0
        return self.step % every.count == 0


_GROUPS_IN_A_WINDOW = 4
"""Number of groups whose samples are shuffled together, if samples arrive in groups."""
_FIRST_WINDOWS = (1, 1, 2)
"""The same for the first windows of the first epoch, so that training begins as soon as one group has arrived."""
_CHARACTERS_IN_A_STREAM = 2048
"""Fewest characters of text that validation reads one after the other. Each stream begins without a context, which makes its first
characters harder to predict: bits per character are 0.0014 higher than in one pass (2.968, an LSTM of 128 units on python-docs); with 512
characters, 0.0028.
"""
_MOST_STREAMS = 64
_BATCHES_IN_A_BUCKET = 50  # few enough to keep an epoch's order random, enough to make the lines of a batch nearly equal in length


class TrainingOrder:
    """The order of the training samples, epoch by epoch, and their division into batches.

    An epoch is divided evenly: its batches differ by at most one sample, and none is larger than ``batch_size``. A small batch at the end
    would be a full step for each epoch's last few samples.

    By default shuffled. If samples arrive in groups, the groups are shuffled (but not in the first epoch), and then the samples of a few
    groups at a time, so that the first batches need only the first groups. With ``bucketing``, the lines of a batch have similar lengths.
    With ``carry_state``, the samples are read as ``batch_size`` streams, so that each row of a batch continues that row of the previous
    one.
    """

    def __init__(self, samples: Samples, train: TrainSpec, bucketing: bool = False) -> None:
        self._samples = samples
        self._count, self._batch_size, self._seed = len(samples), train.batch_size, train.seed
        self._lengths = samples.lengths if bucketing else None
        self._streams = train.carry_state
        if self._streams and self._count < self._batch_size:
            raise JobError(
                f"train.carry_state reads train.batch_size = {self._batch_size:,} sequences in parallel,"
                f" but the text has {self._count:,} training sequences",
                hint="lower train.batch_size or data.sequence_length, or use more text",
            )

    @property
    def samples(self) -> int:
        """Samples in an epoch; streams leave out those that do not fill a batch."""
        return self._count - self._count % self._batch_size if self._streams else self._count

    @property
    def steps_per_epoch(self) -> int:
        """Steps in an epoch."""
        return ceil(self.samples / self._batch_size)

    def batch_size_at(self, position: Position) -> int:
        """Samples in the step after ``position``, across all processes."""
        steps = self.steps_per_epoch
        batches = ceil((position.consumed + 1) * steps / self.samples)  # that will be done
        return self.samples * batches // steps - position.consumed

    def picks(self, position: Position, last_step: int, world: World) -> Iterator[Pick]:
        """This process's samples in each step from ``position`` to the last.

        If a batch has fewer samples than there are processes, those without one pick the first: it keeps them in step and gets no weight.
        """
        order = self.of_epoch(position.epoch)
        self._samples.expect(order[position.consumed :])
        while position.step < last_step:
            rows = order[position.consumed : position.consumed + self.batch_size_at(position)]
            mine = rows[world.share(len(rows))]
            yield Pick(mine if len(mine) else rows[:1], position.epoch)
            epoch, position = position.epoch, position.after(len(rows), self.samples)
            if position.epoch != epoch:
                order = self.of_epoch(position.epoch)
                self._samples.expect(order)

    def of_epoch(self, epoch: int) -> Tensor:
        """The numbers of the samples, int64 (samples,), in the order of an epoch."""
        if self._streams:
            return torch.arange(self.samples).view(self._batch_size, -1).t().flatten()
        if self._samples.groups is not None:
            return self._grouped(self._samples.groups, epoch)
        order = permutation(self._count, self._seed, "order", epoch)
        return order if self._lengths is None else self._bucketed(order, self._lengths, epoch)

    def _grouped(self, sizes: Tensor, epoch: int) -> Tensor:
        ends = sizes.cumsum(0)
        # The first epoch follows the groups' numbers, the order in which they arrive until the needed order is known.
        groups = permutation(len(sizes), self._seed, "groups", epoch) if epoch else torch.arange(len(sizes))
        order = []
        for number, window in enumerate(_windows(groups, epoch)):
            rows = torch.cat([torch.arange(int(ends[group] - sizes[group]), int(ends[group])) for group in window])
            order.append(rows[permutation(len(rows), self._seed, "order", epoch, number)])
        return torch.cat(order)

    def _bucketed(self, order: Tensor, lengths: Tensor, epoch: int) -> Tensor:
        """``order`` in batches of similar lengths, which are shuffled among those of their size."""
        ends = torch.arange(self.steps_per_epoch + 1) * self._count // self.steps_per_epoch
        parts = order.tensor_split(ends[_BATCHES_IN_A_BUCKET:-1:_BATCHES_IN_A_BUCKET])
        sorted_order = torch.cat([part[lengths[part].argsort(stable=True)] for part in parts])
        begins, sizes = ends[:-1], ends.diff()
        source = torch.arange(len(sizes))
        for size in sorted(set(sizes.tolist())):
            places = (sizes == size).nonzero().flatten()
            source[places] = places[permutation(len(places), self._seed, "batches", epoch, size)]
        moved = (begins[source] - begins).repeat_interleave(sizes)
        return sorted_order[torch.arange(self._count) + moved]


def _windows(groups: Tensor, epoch: int) -> Iterator[Tensor]:
    """The groups of an epoch, in order, in windows whose samples are shuffled together."""
    begin = 0
    sizes = chain(_FIRST_WINDOWS if epoch == 0 else (), repeat(_GROUPS_IN_A_WINDOW))
    while begin < len(groups):
        size = next(sizes)
        yield groups[begin : begin + size]
        begin += size


def validation_picks(samples: Samples, batch_size: int, world: World) -> Iterator[Pick]:
    """This process's share of all ``samples``, in batches that have ``batch_size`` samples across all processes.

    Text is read as streams, whose number depends on the text alone: each row of a batch continues that row of the previous one, and a batch
    may be shorter than the previous one.
    """
    count = len(samples)
    if samples.is_text:
        length = ceil(count / min(max(1, samples.targets.numel() // _CHARACTERS_IN_A_STREAM), _MOST_STREAMS, count))
        begins = torch.arange(0, count, length)
        begins = begins[world.share(len(begins))]
        for place in range(length):
            rows = begins + place
            if len(rows := rows[rows < count]):
                yield Pick(rows, None)
        return
    rows = torch.arange(count) if samples.lengths is None else samples.lengths.argsort(stable=True)
    mine = rows[world.rank :: world.size] if samples.lengths is not None else rows[world.share(count)]
    for start in range(0, len(mine), size := ceil(batch_size / world.size)):
        yield Pick(mine[start : start + size], None)

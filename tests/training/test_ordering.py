"""Which samples each step learns from."""

from collections.abc import Generator, Iterable
from itertools import islice
from typing import Self

import pytest
import torch
from torch import Tensor

from cloud_train.errors import JobError
from cloud_train.job.training import TrainSpec
from cloud_train.training.data.dataset import Batch, Pick, Samples
from cloud_train.training.distributed import World
from cloud_train.training.ordering import Position, TrainingOrder, validation_picks


class Numbers(Samples):
    """Samples that are their own numbers; only how many there are, and how long, matters here."""

    def __init__(self, count: int, lengths: Tensor | None = None, characters: int = 0) -> None:
        self.targets, self.lengths = torch.arange(count), lengths
        if characters:  # in each sample: it is text
            self.targets = self.targets.unsqueeze(1).expand(count, characters)

    def batches(self, picks: Iterable[Pick]) -> Generator[Batch]:
        for rows, _ in picks:
            yield Batch(rows, rows)

    def to(self, device: torch.device) -> Self:
        return self


def settings(batch_size: int = 4, *, carry_state: bool = False, seed: int = 0) -> TrainSpec:
    return TrainSpec(batch_size=batch_size, carry_state=carry_state, seed=seed)


def rows_of(picks: Iterable[Pick]) -> list[list[int]]:
    return [pick.rows.tolist() for pick in picks]


def test_an_epoch_is_every_sample_once_in_an_order_of_its_own() -> None:
    order = TrainingOrder(Numbers(10), settings())
    first, second = order.of_epoch(0).tolist(), order.of_epoch(1).tolist()
    assert sorted(first) == sorted(second) == list(range(10))
    assert first != second
    assert first == TrainingOrder(Numbers(10), settings()).of_epoch(0).tolist()
    assert first != TrainingOrder(Numbers(10), settings(seed=1)).of_epoch(0).tolist()
    assert (order.samples, order.steps_per_epoch) == (10, 3)


def test_the_steps_go_through_the_epochs_in_batches_of_nearly_one_size() -> None:
    order = TrainingOrder(Numbers(10), settings())
    picks = list(order.picks(Position(), 6, World()))
    assert [len(pick.rows) for pick in picks] == [3, 3, 4, 3, 3, 4]
    assert [pick.epoch for pick in picks] == [0, 0, 0, 1, 1, 1]
    assert torch.cat([pick.rows for pick in picks[3:]]).tolist() == order.of_epoch(1).tolist()


@pytest.mark.parametrize("count", [1, 4, 5, 7, 8, 9, 101, 127, 128, 129, 1438])
def test_no_batch_is_larger_than_the_job_says_nor_much_smaller_than_the_others(count: int) -> None:
    for batch_size in (1, 4, 16, 100):
        order, position, sizes = TrainingOrder(Numbers(count), settings(batch_size)), Position(), []
        while not position.epoch:
            sizes.append(order.batch_size_at(position))
            position = position.after(sizes[-1], order.samples)
        assert (sum(sizes), len(sizes)) == (count, order.steps_per_epoch)
        assert max(sizes) <= batch_size
        assert max(sizes) - min(sizes) <= 1


def test_a_position_that_another_division_reached_is_continued_to_the_end_of_the_epoch() -> None:
    order = TrainingOrder(Numbers(10), settings())
    assert [order.batch_size_at(Position(1, 0, consumed)) for consumed in (0, 2, 3, 4, 8)] == [3, 1, 3, 2, 2]


@pytest.mark.parametrize("done", [0, 1, 2, 3, 5])
def test_going_on_from_a_position_picks_what_would_have_come(done: int) -> None:
    order = TrainingOrder(Numbers(10), settings())
    position = Position()
    for _ in range(done):
        position = position.after(order.batch_size_at(position), order.samples)
    assert rows_of(order.picks(position, 6, World())) == rows_of(order.picks(Position(), 6, World()))[done:]


@pytest.mark.parametrize("size", [1, 2, 3, 5])
def test_the_shares_of_all_processes_are_the_batch_of_one(size: int) -> None:
    order = TrainingOrder(Numbers(10), settings())
    alone = rows_of(order.picks(Position(), 6, World()))
    shares = [rows_of(order.picks(Position(), 6, World(rank, size))) for rank in range(size)]
    for step, whole in enumerate(alone):
        parts = [share[step] for rank, share in enumerate(shares) if rank < len(whole)]
        assert [row for part in parts for row in part] == whole
        assert max(map(len, parts)) - min(map(len, parts)) <= 1
        assert all(share[step] == whole[:1] for share in shares[len(whole) :])  # nothing is left for them: they keep in step


def test_bucketing_puts_lines_of_similar_lengths_together_and_still_takes_each_once() -> None:
    generator = torch.Generator().manual_seed(0)
    lengths = torch.randint(1, 100, (1003,), generator=generator)
    order = TrainingOrder(Numbers(1003, lengths), settings(10), bucketing=True)
    epoch = order.of_epoch(0)
    assert sorted(epoch.tolist()) == list(range(1003))
    assert epoch.tolist() == order.of_epoch(0).tolist() != order.of_epoch(1).tolist()
    assert padding(lengths, order) < padding(lengths, TrainingOrder(Numbers(1003), settings(10))) / 4
    means = [lengths[rows].float().mean().item() for rows in batches_of(order)]
    assert means != sorted(means)  # not from short to long: the batches are shuffled


def padding(lengths: Tensor, order: TrainingOrder) -> int:
    return sum(int((lengths[rows].max() - lengths[rows]).sum()) for rows in batches_of(order))


def batches_of(order: TrainingOrder) -> list[Tensor]:
    """The samples of each batch of the first epoch."""
    return [pick.rows for pick in order.picks(Position(), order.steps_per_epoch, World())]


def test_in_streams_each_row_of_a_batch_goes_on_where_the_row_before_it_ended() -> None:
    order = TrainingOrder(Numbers(14), settings(carry_state=True))
    assert (order.samples, order.steps_per_epoch) == (12, 3)
    assert [order.batch_size_at(Position(0, 0, consumed)) for consumed in (0, 4, 8)] == [4, 4, 4]
    assert rows_of(order.picks(Position(), 4, World())) == [[0, 3, 6, 9], [1, 4, 7, 10], [2, 5, 8, 11], [0, 3, 6, 9]]
    assert rows_of(order.picks(Position(), 2, World(1, 2))) == [[6, 9], [7, 10]]


def test_more_streams_than_sequences_are_refused_with_both_numbers() -> None:
    with pytest.raises(JobError, match=r"batch_size = 8 sequences .* 7 training sequences") as caught:
        TrainingOrder(Numbers(7), settings(8, carry_state=True))
    assert caught.value.hint is not None


@pytest.mark.parametrize("size", [1, 2, 3])
@pytest.mark.parametrize("count", [1, 2, 7, 12])
@pytest.mark.parametrize("kind", ["plain", "lines", "streams"])
def test_all_processes_together_validate_every_sample_once(kind: str, count: int, size: int) -> None:
    samples = Numbers(count, torch.arange(count).flip(0) if kind == "lines" else None, 700 if kind == "streams" else 0)
    picks = [pick for rank in range(size) for pick in validation_picks(samples, 4, World(rank, size))]
    assert sorted(row for pick in picks for row in pick.rows.tolist()) == list(range(count))
    assert all(pick.epoch is None and len(pick.rows) <= 4 for pick in picks)


def test_streams_of_validation_go_on_from_batch_to_batch_and_only_lose_rows_at_the_end() -> None:
    samples = Numbers(11, characters=750)  # 4 streams of at least 2,048 characters
    assert rows_of(validation_picks(samples, 4, World())) == [[0, 3, 6, 9], [1, 4, 7, 10], [2, 5, 8]]
    assert rows_of(validation_picks(samples, 1, World())) == [[0, 3, 6, 9], [1, 4, 7, 10], [2, 5, 8]]


def test_a_long_text_is_validated_in_64_streams_and_a_short_one_in_one() -> None:
    assert len(next(validation_picks(Numbers(10_000, characters=128), 4, World())).rows) == 64
    assert len(next(validation_picks(Numbers(30, characters=128), 4, World())).rows) == 1


def test_nothing_is_read_ahead_of_its_time() -> None:
    picks = TrainingOrder(Numbers(10), settings()).picks(Position(), 10**9, World())
    assert len(list(islice(picks, 5))) == 5


@pytest.mark.parametrize(
    ("every", "met"),
    [("1 epoch", [3, 6]), ("2 epochs", [6]), ("2 steps", [2, 4, 6]), ("5 s", [])],
)
def test_a_position_meets_what_happens_every_so_often(every: str, met: list[int]) -> None:
    from cloud_train.spec.types import Cadence

    position, seen = Position(), []
    for _ in range(6):
        position = position.after(min(4, 10 - position.consumed), 10)
        if position.meets(Cadence.parse(every)):
            seen.append(position.step)
    assert seen == met
    assert not Position().meets(Cadence.parse(every))


# Samples that arrive in groups

SIZES = [5, 7, 6, 0, 8, 5, 9, 4, 6, 7]


class Grouped(Numbers):
    def __init__(self, sizes: list[int]) -> None:
        super().__init__(sum(sizes))
        self.groups = torch.tensor(sizes)
        self.expected: list[list[int]] = []
        self.group_of = torch.arange(len(sizes)).repeat_interleave(self.groups)

    def expect(self, rows: Tensor) -> None:
        self.expected.append(rows.tolist())


def groups_of(samples: Grouped, rows: Tensor) -> list[int]:
    """The groups, in the order in which they are first met."""
    return list(dict.fromkeys(samples.group_of[rows].tolist()))


def test_in_groups_an_epoch_is_every_sample_once_in_an_order_of_its_own() -> None:
    order = TrainingOrder(Grouped(SIZES), settings())
    epochs = [order.of_epoch(epoch).tolist() for epoch in range(3)]
    assert all(sorted(epoch) == list(range(sum(SIZES))) for epoch in epochs)
    assert epochs[0] != epochs[1] != epochs[2]
    assert epochs == [TrainingOrder(Grouped(SIZES), settings()).of_epoch(epoch).tolist() for epoch in range(3)]
    assert epochs[0] != TrainingOrder(Grouped(SIZES), settings(seed=1)).of_epoch(0).tolist()


def test_the_first_batches_need_the_first_groups_only() -> None:
    samples = Grouped(SIZES)
    order = TrainingOrder(samples, settings())
    groups = groups_of(samples, order.of_epoch(0))
    assert groups[:3] == [0, 1, 2]
    assert set(groups) == set(range(len(SIZES))) - {3}
    first = order.of_epoch(0)[: SIZES[groups[0]]]
    assert set(samples.group_of[first].tolist()) == {groups[0]}
    assert sorted(first.tolist()) != first.tolist()
    later = order.of_epoch(1)
    shuffled = groups_of(samples, later)
    window = sum(SIZES[group] for group in shuffled[:4])
    assert len(set(samples.group_of[later[:window]].tolist())) in (3, 4)  # one of the four may be empty
    assert len(set(samples.group_of[later[:12]].tolist())) > 1


def test_what_will_be_picked_is_said_at_the_beginning_and_with_each_epoch() -> None:
    samples = Grouped(SIZES)
    order = TrainingOrder(samples, settings())
    position = Position().after(4, order.samples)
    list(order.picks(position, order.steps_per_epoch + 1, World()))
    assert samples.expected == [order.of_epoch(0).tolist()[4:], order.of_epoch(1).tolist()]


@pytest.mark.parametrize("done", [0, 1, 5, 14, 15, 20])
def test_in_groups_going_on_from_a_position_picks_what_would_have_come(done: int) -> None:
    order = TrainingOrder(Grouped(SIZES), settings())
    position = Position()
    for _ in range(done):
        position = position.after(order.batch_size_at(position), order.samples)
    assert rows_of(order.picks(position, 25, World())) == rows_of(order.picks(Position(), 25, World()))[done:]


def test_without_groups_the_order_is_what_it_always_was() -> None:
    order = TrainingOrder(Numbers(10), settings())
    assert [order.of_epoch(epoch).tolist() for epoch in (0, 1)] == [
        [1, 6, 0, 8, 7, 9, 5, 3, 2, 4],
        [0, 2, 6, 8, 7, 3, 9, 1, 5, 4],
    ]

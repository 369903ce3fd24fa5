"""The schedules against torch's own."""

from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch.optim import lr_scheduler

from cloud_train.job.optimizers import Optimizer
from cloud_train.job.schedules import Schedule
from cloud_train.job.training import TrainSpec
from cloud_train.spec.types import Interval

LR = 0.5
STEPS_PER_EPOCH = 5


def test_a_constant_rate_is_that_of_the_job() -> None:
    assert rates("constant", 10) == [LR] * 10


@pytest.mark.parametrize("name", ["constant", "cosine", "step", "one-cycle"])
def test_a_name_is_short_for_a_section_of_that_name(name: Any) -> None:
    assert rates(name, 20) == rates(Schedule(name=name), 20)


def test_a_cosine_is_torchs() -> None:
    ours = rates("cosine", 40)
    assert ours == pytest.approx(torchs(lambda optimizer: lr_scheduler.CosineAnnealingLR(optimizer, T_max=40), 40))
    assert ours[0] == LR
    assert ours[20] == LR / 2


def test_a_cosine_falls_to_a_part_of_the_rate_as_torchs_does() -> None:
    ours = rates(Schedule(name="cosine", min_factor=0.1), 40)
    assert ours == pytest.approx(torchs(lambda optimizer: lr_scheduler.CosineAnnealingLR(optimizer, T_max=40, eta_min=LR / 10), 40))


@pytest.mark.parametrize(("restart", "steps"), [(Interval(4, "step"), 4), (Interval(1, "epoch"), 5)])
@pytest.mark.parametrize("growth", [1, 2])
def test_restarts_are_torchs(restart: Interval, steps: int, growth: int) -> None:
    ours = rates(Schedule(name="cosine", restart=restart, growth=float(growth), min_factor=0.2), 43)
    reference = torchs(lambda optimizer: lr_scheduler.CosineAnnealingWarmRestarts(optimizer, steps, growth, eta_min=LR / 5), 43)
    assert ours == pytest.approx(reference)
    assert ours.count(LR) == (sum(1 for step in range(43) if step % steps == 0) if growth == 1 else 4)


def test_periods_count_from_the_end_of_the_warm_up() -> None:
    ours = rates(Schedule(name="cosine", restart=Interval(10, "step"), warmup=Interval(5, "step")), 30)
    assert [step for step, rate in enumerate(ours) if rate == LR] == [4, 5, 15, 25]


def test_a_warm_up_and_a_cosine_over_the_rest_are_torchs() -> None:
    def reference(optimizer: torch.optim.Optimizer) -> lr_scheduler.LRScheduler:
        rise = lr_scheduler.LinearLR(optimizer, start_factor=1 / 8, total_iters=7)
        return lr_scheduler.SequentialLR(optimizer, [rise, lr_scheduler.CosineAnnealingLR(optimizer, T_max=32)], milestones=[8])

    assert rates(Schedule(name="cosine", warmup=Interval(8, "step")), 40) == pytest.approx(torchs(reference, 40))


@pytest.mark.parametrize(("every", "steps"), [(Interval(3, "step"), 3), (Interval(2, "epoch"), 10)])
def test_steps_are_torchs(every: Interval, steps: int) -> None:
    ours = rates(Schedule(name="step", every=every, factor=0.25), 35)
    assert ours == pytest.approx(torchs(lambda optimizer: lr_scheduler.StepLR(optimizer, steps, gamma=0.25), 35))


@pytest.mark.parametrize("count", [2, 3, 7, 40, 1001])
@pytest.mark.parametrize("peak_at", [0.3, 0.45, 0.99])
def test_one_cycle_is_torchs(count: int, peak_at: float) -> None:
    ours = rates(Schedule(name="one-cycle", peak_at=peak_at), count)
    reference = torchs(lambda optimizer: lr_scheduler.OneCycleLR(optimizer, max_lr=LR, total_steps=count, pct_start=peak_at), count)
    assert ours == pytest.approx(reference)


def test_one_cycle_reaches_the_jobs_rate_where_the_job_wants_it() -> None:
    ours = rates(Schedule(name="one-cycle", peak_at=0.5), 41)
    assert ours[0] == pytest.approx(LR / 25)
    assert max(ours) == pytest.approx(LR, rel=1e-2)
    assert ours.index(max(ours)) in (19, 20)
    assert ours[-1] == pytest.approx(LR / 250_000)


def test_one_cycle_has_a_rate_where_its_peak_is_at_the_first_step() -> None:
    assert rates(Schedule(name="one-cycle", peak_at=0.25), 4)[0] == LR
    assert rates("one-cycle", 1) == [pytest.approx(LR / 250_000)]


@pytest.mark.parametrize("warmup", [Interval(10, "step"), Interval(2, "epoch")])
def test_a_warm_up_rises_from_a_part_of_the_rate_to_the_whole_rate(warmup: Interval) -> None:
    ours = rates(Schedule(warmup=warmup), 30)
    assert ours[:10] == pytest.approx([LR * part / 10 for part in range(1, 11)])
    assert ours[10:] == [LR] * 20


def test_the_periods_of_steps_count_from_the_start_of_the_run_and_not_from_the_end_of_the_warm_up() -> None:
    ours = rates(Schedule(name="step", every=Interval(4, "step"), factor=0.5, warmup=Interval(6, "step")), 10)
    assert ours == pytest.approx([LR / 6, LR / 3, LR / 2, LR * 2 / 3, LR * 5 / 6, LR, LR / 2, LR / 2, LR / 4, LR / 4])


def test_a_run_may_end_within_its_warm_up() -> None:
    assert rates(Schedule(name="cosine", warmup=Interval(8, "step")), 4) == pytest.approx([LR / 8, LR / 4, LR * 3 / 8, LR / 2])


def rates(schedule: Any, count: int) -> list[float]:
    train = TrainSpec(optimizer=Optimizer(lr=LR), schedule=schedule)
    return [LR * train.schedule_section.multiplier(step, count, STEPS_PER_EPOCH) for step in range(count)]


def torchs(make: Callable[[torch.optim.Optimizer], lr_scheduler.LRScheduler], count: int) -> list[float]:
    optimizer = torch.optim.SGD([torch.zeros(1)], lr=LR)
    scheduler = make(optimizer)
    found = []
    for _ in range(count):
        found.append(float(optimizer.param_groups[0]["lr"]))
        optimizer.step()
        if len(found) < count:
            scheduler.step()
    return found

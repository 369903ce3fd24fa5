from typing import Any

import pytest

from cloud_train.job.training import TrainSpec


def test_the_last_batch_of_an_epoch_may_be_smaller() -> None:
    assert [TrainSpec(batch_size=size).steps_per_epoch(1438) for size in (1, 64, 1437, 1438, 5000)] == [1438, 23, 2, 1, 1]


def test_where_a_state_is_carried_every_batch_is_whole() -> None:
    assert [TrainSpec(batch_size=size, carry_state=True).steps_per_epoch(3270) for size in (1, 64, 3270)] == [3270, 51, 1]


def test_the_steps_of_data_that_is_not_there_are_not_known() -> None:
    assert TrainSpec().steps_per_epoch(None) is None
    assert TrainSpec(epochs=5).total_steps(None) is None
    assert TrainSpec(steps=7).total_steps(None) == 7


def test_a_job_takes_its_steps_or_its_epochs() -> None:
    assert TrainSpec(steps=7).total_steps(23) == 7
    assert TrainSpec(epochs=5).total_steps(23) == 115


@pytest.mark.parametrize(
    ("train", "per_epoch", "steps"),
    [({"epochs": 5}, 23, 2), ({"epochs": 1}, 1, 1), ({"steps": 7}, 23, 2), ({"steps": 1}, 23, 1), ({"epochs": 5}, None, 2)],
)
def test_a_fast_dev_run_takes_two_steps_at_most(train: dict[str, Any], per_epoch: int | None, steps: int) -> None:
    assert TrainSpec(**train, fast_dev_run=True).total_steps(per_epoch) == steps

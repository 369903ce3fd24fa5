import pytest

from cloud_train.job.models import Optimizer, TrainSpec
from cloud_train.training.schedules import learning_rate


def test_a_constant_rate_is_that_of_the_job() -> None:
    train = TrainSpec(optimizer=Optimizer(lr=0.5))
    assert [learning_rate(train, step, 10) for step in range(10)] == [0.5] * 10


def test_a_cosine_begins_at_the_jobs_rate_is_half_of_it_in_the_middle_and_falls_to_nearly_nothing() -> None:
    train = TrainSpec(optimizer=Optimizer(lr=0.5), schedule="cosine")
    rates = [learning_rate(train, step, 100) for step in range(100)]
    assert rates[0] == 0.5
    assert rates[50] == pytest.approx(0.25)
    assert rates[99] < 0.001
    assert rates == sorted(rates, reverse=True)

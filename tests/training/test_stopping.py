"""Early stopping."""

import math

from cloud_train.job.training import EarlyStopping
from cloud_train.run.ranking import Ranking
from cloud_train.training.standing import Patience


def test_the_training_ends_after_so_many_validations_that_were_not_better() -> None:
    patience = Patience(EarlyStopping(patience=2), Ranking())
    assert over_after(patience, [0.5, 0.6, 0.6, 0.7, 0.6, 0.65, 0.9]) == 6


def test_less_of_a_loss_is_better_and_more_if_the_job_says_so() -> None:
    losses = [3.0, 2.0, 1.0, 1.5]
    assert over_after(Patience(EarlyStopping(patience=1), Ranking("validation/loss")), losses, "loss") == 4
    assert over_after(Patience(EarlyStopping(patience=1), Ranking("validation/loss", "max")), losses, "loss") == 2


def test_a_change_that_is_too_small_is_no_progress() -> None:
    assert over_after(Patience(EarlyStopping(patience=2, min_delta=0.1), Ranking()), [0.5, 0.55, 0.59, 0.9]) == 3


def test_what_is_not_a_number_is_not_better_and_neither_is_a_validation_without_the_metric() -> None:
    patience = Patience(EarlyStopping(patience=3), Ranking("validation/f1"))
    for metrics in ({"validation/f1": math.nan}, {}, {"validation/f1": 0.1}):
        patience.validated(metrics)
    assert (patience.best, patience.since) == (0.1, 0)


def over_after(patience: Patience, values: list[float], name: str = "accuracy") -> int:
    """After how many validations the training ends."""
    for number, value in enumerate(values, start=1):
        patience.validated({f"validation/{name}": value})
        if patience.is_over:
            return number
    return 0

"""Which checkpoint is the best."""

import pytest

from cloud_train.run.ranking import Ranking, goal_of

ACCURATE = {"validation/accuracy": 0.9, "validation/loss": 0.5}
SURE = {"validation/accuracy": 0.8, "validation/loss": 0.1}


def test_without_a_metric_accuracy_decides_then_loss_then_the_step() -> None:
    assert best(Ranking(), [ACCURATE, SURE]) == 0
    assert best(Ranking(), [{"validation/loss": 0.5}, {"validation/loss": 0.1}, {"validation/loss": 0.2}]) == 1
    assert best(Ranking(), [{"validation/loss": 0.1}, {"validation/accuracy": 0.1}]) == 1
    assert best(Ranking(), [{}, {}]) == 1
    assert best(Ranking(), [SURE, SURE]) == 1


def test_a_metric_that_is_named_decides() -> None:
    assert best(Ranking("validation/loss"), [ACCURATE, SURE]) == 1
    assert best(Ranking("validation/loss", "max"), [ACCURATE, SURE]) == 0
    assert best(Ranking("validation/f1"), [{"validation/f1": 0.1}, ACCURATE]) == 0


def test_the_value_of_a_validation_is_greater_where_it_is_better_and_none_where_the_metric_is_missing() -> None:
    assert Ranking().value(ACCURATE) == 0.9
    assert Ranking().value({"validation/loss": 0.5}) == -0.5
    assert Ranking("validation/loss").value(SURE) == -0.1
    assert Ranking("validation/f1").value(SURE) is None


@pytest.mark.parametrize("name", ["validation/loss", "validation/bits_per_character", "validation/error_rate", "train/perplexity"])
def test_less_of_a_loss_is_better(name: str) -> None:
    assert goal_of(name) == "min"


@pytest.mark.parametrize("name", ["validation/accuracy", "validation/f1", "loss/accuracy"])
def test_more_of_everything_else_is_better(name: str) -> None:
    assert goal_of(name) == "max"


@pytest.mark.parametrize("ranking", [Ranking(), Ranking(keep=3), Ranking("validation/loss", "min", 2), Ranking("validation/f1", "max")])
def test_a_ranking_passes_through_an_environment_variable(ranking: Ranking) -> None:
    assert Ranking.from_text(ranking.to_text()) == ranking


@pytest.mark.parametrize("text", ["", "0", "many", "1:validation/loss", "1::min", "1:validation/loss:least"])
def test_a_text_that_is_no_ranking_is_refused(text: str) -> None:
    with pytest.raises(ValueError, match=r"is not a checkpoint ranking|invalid literal"):
        Ranking.from_text(text)


def best(ranking: Ranking, metrics: list[dict[str, float]]) -> int:
    return max(range(len(metrics)), key=lambda step: ranking.quality(metrics[step], step))

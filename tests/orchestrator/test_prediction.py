"""Predictions with invalid input."""

from pathlib import Path

import pytest

from cloud_train.errors import NotFoundError, UsageError
from cloud_train.orchestrator.home import Home
from cloud_train.orchestrator.prediction import continue_text, predict_images, predict_lines


@pytest.mark.parametrize("prompt", ["a\0b", "a" * 200_000])
def test_a_prompt_that_cannot_be_an_argument_is_refused(tmp_path: Path, prompt: str) -> None:
    with pytest.raises(UsageError, match="the prompt must not contain NUL"):
        continue_text(Home(tmp_path), "run", prompt)


@pytest.mark.parametrize("texts", [["good", "b\0d"], ["a" * 60_000, "b" * 60_000]])
def test_lines_that_cannot_be_arguments_are_refused(tmp_path: Path, texts: list[str]) -> None:
    with pytest.raises(UsageError, match="the texts must not contain NUL"):
        predict_lines(Home(tmp_path), "run", texts)


def test_a_missing_image_is_reported_before_torch_is_loaded(tmp_path: Path) -> None:
    with pytest.raises(NotFoundError, match=r"seven\.png"):
        predict_images(Home(tmp_path), "run", [tmp_path / "seven.png"])

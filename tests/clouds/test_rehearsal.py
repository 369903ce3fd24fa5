"""The headline: one run over three clouds, interrupted twice."""

from pathlib import Path

import pytest

from tests.clouds.rehearsal import rehearse


def test_a_run_that_is_interrupted_on_two_clouds_ends_on_a_third_with_the_bytes_of_one_that_was_never_disturbed(
    shared_clouds: Path, trainer_base: str, tmp_path: Path
) -> None:
    pytest.importorskip("torch")
    told: list[str] = []
    result = rehearse(shared_clouds, tmp_path, told.append)
    assert result.weights == result.untouched, "\n".join(told)
    first, second = result.resumed_steps
    assert 0 < first < second

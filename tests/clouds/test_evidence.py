"""The evidence for what the adapters assume of the services."""

import pytest
from pydantic import ValidationError

from tests.clouds import evidence


def test_the_page_is_written_from_the_rows() -> None:
    assert evidence.PAGE.read_text(encoding="utf-8") == evidence.page(), "run: python -m tests.clouds.evidence"


def test_each_row_names_a_test_that_exists() -> None:
    assert list(evidence.mistakes()) == []


@pytest.mark.parametrize(
    ("changed", "said"),
    [
        ({"held_by": None}, "neither a test nor a check holds it"),
        ({"source": "assumption"}, "an assumption needs a check on a real account"),
        ({"source": "hearsay"}, "should match"),
    ],
)
def test_a_row_that_nothing_holds_is_refused(changed: dict[str, str | None], said: str) -> None:
    row = {"id": "a-row", "behaviour": "It answers with 201.", "source": "report", "where": "a thread", "held_by": "tests/x.py::test_y"}
    assert evidence.Evidence.model_validate(row).id == "a-row"
    with pytest.raises(ValidationError, match=said):
        evidence.Evidence.model_validate(row | changed)

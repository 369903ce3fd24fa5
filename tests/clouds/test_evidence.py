"""The evidence for what the adapters assume of the services."""

import re

import pytest
from pydantic import ValidationError

from tests.clouds import evidence
from tools.cloud_check.checks.catalogue import NAMES


def test_the_page_is_written_from_the_rows() -> None:
    assert evidence.PAGE.read_text(encoding="utf-8") == evidence.page(), "run: python -m tests.clouds.evidence"


def test_each_row_names_a_test_that_exists() -> None:
    assert list(evidence.mistakes()) == []


def test_a_check_and_a_row_that_do_not_know_each_other_are_mistakes(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(evidence, "NAMES", (*(name for name in NAMES if name != "cancel"), "nothing"))
    assert list(evidence.mistakes()) == ["no check of cloud-check is called cancel", "the check nothing of cloud-check belongs to no row"]


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


def test_no_row_is_cut_off_where_yaml_sees_a_comment() -> None:
    lines = [line for file in sorted(evidence.DATA.glob("*.yaml")) for line in file.read_text(encoding="utf-8").splitlines()]
    assert [line for line in lines if re.match(r"  \w+: [^'\"].* #", line)] == []

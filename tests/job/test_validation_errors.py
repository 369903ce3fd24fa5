"""The words for pydantic's errors."""

from collections import Counter
from datetime import date
from decimal import Decimal
from typing import Annotated, Any, get_args

import pytest
from pydantic import AnyUrl, BaseModel, ConfigDict, Field, ValidationError, field_validator
from pydantic_core import core_schema

from cloud_train.job.validation_errors import explain, has_words
from cloud_train.spec.problems import Place, Problem

UNREACHABLE = {
    "no_such_attribute": "a document's mappings are read by key, not by attribute",
    "get_attribute_error": "a document's mappings are read by key, not by attribute",
    "needs_python_object": "documents are validated as Python objects",
    "frozen_field": "nothing assigns to a section's fields",
    "frozen_instance": "nothing assigns to a section's fields",
    "multiple_argument_values": "a mapping has each key once",
}
"""Type of error → why no model that reads a document can raise it."""
PYDANTIC_WORDS = ("Input", "should", "unable to", "required", "permitted", "dictionary", "tuple", "integer", "Value error")


class Lenient(BaseModel):
    """A section as a plugin may write one: not strict, and with types that the package itself does not use."""

    model_config = ConfigDict(extra="forbid")

    count: int = 0
    rate: float = 0
    flag: bool = False
    day: date = date(2026, 1, 1)
    price: Annotated[Decimal, Field(max_digits=3)] = Decimal(0)
    page: AnyUrl | None = None
    names: Annotated[set[str], Field(max_length=1)] = set()
    histogram: Counter[str] = Counter()
    code: Annotated[str, Field(min_length=2, max_length=3)] = "ab"
    even: Annotated[int, Field(multiple_of=2)] = 0
    odd: int = 1
    label: Annotated[str, Field(pattern="^x")] = "x"
    needed: str

    @field_validator("odd")
    @classmethod
    def _is_odd(cls, value: int) -> int:
        if value % 2 == 0:
            raise ValueError("an even number does not work")
        return value


def problems(data: dict[str, Any]) -> dict[str, Problem]:
    with pytest.raises(ValidationError) as caught:
        Lenient.model_validate(data)
    found = explain(caught.value.errors(include_url=False), Lenient, data, {(): Place("file", 1, 1)}, {})
    return {".".join(map(str, path)): problem for path, problem in found.items()}


@pytest.mark.parametrize("kind", get_args(core_schema.ErrorType))
def test_every_type_of_error_has_words_or_a_reason_why_it_cannot_occur(kind: str) -> None:
    assert has_words(kind) != (kind in UNREACHABLE)


@pytest.mark.parametrize(
    ("field", "value", "message", "expected"),
    [
        ("count", "three", "count cannot be 'three'", "a whole number"),
        ("count", 1.5, "count cannot be 1.5", "a whole number"),
        ("count", "9" * 5000, f"count cannot be '{'9' * 59}…'", "a whole number with fewer digits"),
        ("rate", "fast", "rate cannot be 'fast'", "a number"),
        ("flag", "maybe", "flag cannot be 'maybe'", "true or false"),
        ("day", "soon", "day cannot be 'soon'", "a date, such as 2026-01-31"),
        ("price", "12345", "price cannot be '12345'", "a number of at most 3 digits"),
        ("page", "nowhere", "page cannot be 'nowhere'", "a URL, such as https://example.com"),
        ("names", ("a", "b"), "names cannot be a list", "at most 1 items"),
        ("names", "a", "names cannot be 'a'", "a list, such as [a, b]"),
        ("histogram", 3, "histogram cannot be 3", "keys and values"),
        ("code", "a", "code cannot be 'a'", "text of at least 2 characters"),
        ("code", "abcd", "code cannot be 'abcd'", "text of at most 3 characters"),
        ("even", 3, "even cannot be 3", "a multiple of 2"),
        ("odd", 2, "odd: an even number does not work", ""),
        ("label", "y", "label cannot be 'y'", "text that matches ^x"),
    ],
)
def test_an_error_that_only_a_plugins_section_can_raise_has_words_of_ours(field: str, value: object, message: str, expected: str) -> None:
    problem = problems({"needed": "x", field: value})[field]
    assert (problem.message, problem.expected) == (message, expected)


def test_missing_and_unknown_keys_are_named() -> None:
    found = problems({"cuont": 1})
    assert found["needed"].message == "'needed' is missing"
    assert (found["cuont"].message, found["cuont"].suggestion) == ("unknown key 'cuont'", "count")


def test_no_words_of_pydantic_are_in_a_problem() -> None:
    values = {name: (1, {"a": None}) for name in Lenient.model_fields}
    shown = "\n".join(problem.render() for problem in problems({**values, "extra": 1}).values())
    assert not [word for word in PYDANTIC_WORDS if word in shown], shown

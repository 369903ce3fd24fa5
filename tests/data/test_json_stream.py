"""A large JSON document read piece by piece: the same values as json.loads gives, and every malformed byte refused."""

import io
import json
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from cloud_train.data.json_stream import JsonStream


def stream(text: str | bytes) -> JsonStream:
    return JsonStream(io.BytesIO(text if isinstance(text, bytes) else text.encode()))


@given(st.lists(st.text(st.characters(exclude_categories=["Cs"]), max_size=50)), st.booleans(), st.sampled_from([None, 1, "\t"]))
def test_texts_are_those_that_json_reads(texts: list[str], ascii_only: bool, indent: int | str | None) -> None:
    document = json.dumps(texts, ensure_ascii=ascii_only, indent=indent)
    read = stream(document)
    assert list(read.texts()) == texts
    read.finish()


@given(st.lists(st.integers(0, 10**19 - 1)))
def test_whole_numbers_are_those_that_json_reads(numbers: list[int]) -> None:
    assert list(stream(json.dumps(numbers)).wholes()) == numbers


def test_what_is_longer_than_the_buffer_is_read_whole() -> None:
    texts = [f"name {number} é" for number in range(300_000)]
    read = stream(json.dumps({"first": texts, "second": 7}, ensure_ascii=False))
    assert {key: list(read.texts()) if key == "first" else read.whole() for key in read.fields()} == {"first": texts, "second": 7}


ANYTHING: list[Any] = [None, True, -1.5e3, "text", [], {}, [1, [2, {"a": []}]], {"a": {"b": [{}]}}]


@pytest.mark.parametrize("value", ANYTHING)
def test_any_value_can_be_skipped(value: Any) -> None:
    read = stream(json.dumps({"before": value, "after": "seen"}))
    found = []
    for key in read.fields():
        if key == "before":
            read.skip()
        else:
            found.append(read.text())
    read.finish()
    assert found == ["seen"]


MALFORMED: dict[str, str | bytes] = {
    "a text without an end": '["abc',
    "a text that is too long": json.dumps(["x" * 2049]),
    "a raw control character": '["a\nb"]',
    "bytes that are not UTF-8": b'["\xff"]',
    "a missing comma": '["a" "b"]',
    "a comma at the end": '["a",]',
    "another kind of value": "[1]",
    "an array that is cut off": '["a",',
    "nothing": "",
}


@pytest.mark.parametrize("what", MALFORMED)
def test_malformed_texts_are_refused(what: str) -> None:
    with pytest.raises(ValueError, match=r"expected .* at byte|can't decode"):
        list(stream(MALFORMED[what]).texts())


@pytest.mark.parametrize("number", ["-1", "1.0", "1e3", "01", "true", '"1"', "9" * 20])
def test_what_is_not_a_whole_number_is_refused_with_its_position(number: str) -> None:
    with pytest.raises(ValueError, match=r"expected (a whole number from 0|a comma or \]) at byte"):
        list(stream(f"[{number}]").wholes())


def test_a_key_that_repeats_is_refused() -> None:
    with pytest.raises(ValueError, match="duplicate key 'a'"):
        stream('{"a":1,"a":2}').skip()


def test_nesting_and_keys_are_limited() -> None:
    with pytest.raises(ValueError, match="nested more than 32 deep"):
        stream("[" * 100_000).skip()
    with pytest.raises(ValueError, match="more than 100 keys"):
        stream(json.dumps({str(number): 0 for number in range(101)})).skip()


def test_nothing_may_follow() -> None:
    read = stream("{} {")
    read.skip()
    with pytest.raises(ValueError, match="expected the end at byte 2"):
        read.finish()

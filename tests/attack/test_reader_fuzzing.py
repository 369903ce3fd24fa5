"""Every reader of bytes from a store, with bytes that nobody wrote: no exception but CloudTrainError, no hang, no flood of memory.

``fuzz_readers.py`` beside this does the same for as long as one likes, led by the branches that are taken.
"""

import json
import tracemalloc
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from cloud_train.data.shards import INDEX, read_index
from cloud_train.errors import CloudTrainError, CorruptError
from cloud_train.run import documents, layout
from cloud_train.run.manifest import LARGEST, parse_manifest
from cloud_train.run.metrics import MetricsReader
from cloud_train.run.record import AttemptStatus, RunRecord
from tests.attack.doubling import seconds_of
from tests.attack.readers import EXAMPLES, HOSTILE, READERS
from tests.storage.memory_store import MemoryStore

SECOND = 1.0  # of the processor, for one input: a busy machine does not count
MOST_MEMORY = 64 << 20

json_values = st.recursive(
    st.sampled_from(HOSTILE) | st.text(max_size=20) | st.integers() | st.floats(),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(max_size=10), inner, max_size=4),
    max_leaves=8,
)


@st.composite
def documents_like(draw: st.DrawFn, examples: list[bytes]) -> bytes:
    """A document as it is written, with a few values in it replaced, dropped or added, or a few bytes."""
    data = draw(st.sampled_from(examples))
    with suppress(ValueError):
        document = json.loads(data)
        for _ in range(draw(st.integers(0, 3))):
            document = draw(changed(document))
        data = json.dumps(document, ensure_ascii=draw(st.booleans())).encode(errors="surrogatepass")
    for _ in range(draw(st.integers(0, 2))):
        at = draw(st.integers(0, len(data)))
        data = data[:at] + draw(st.binary(max_size=4)) + data[at + draw(st.integers(0, 4)) :]
    return data


@st.composite
def changed(draw: st.DrawFn, value: Any) -> Any:
    if isinstance(value, dict) and value and draw(st.integers(0, 9)):
        key = draw(st.sampled_from(list(value)))
        if draw(st.integers(0, 9)):
            return {**value, key: draw(changed(value[key]))}
        return {name: kept for name, kept in value.items() if name != key}
    if isinstance(value, list) and value and draw(st.integers(0, 9)):
        at = draw(st.integers(0, len(value) - 1))
        return [*value[:at], draw(changed(value[at])), *value[at + draw(st.integers(0, 1)) :]]
    return draw(json_values)


fuzzed = settings(max_examples=150, deadline=None, suppress_health_check=[HealthCheck.too_slow], derandomize=True, database=None)


@pytest.mark.slow
@pytest.mark.parametrize("name", READERS)
def test_no_bytes_bring_about_anything_but_an_error_of_our_own(name: str) -> None:
    reader = READERS[name]

    @fuzzed
    @given(st.binary(max_size=300) | documents_like(EXAMPLES[name]))
    def read(data: bytes) -> None:
        with suppress(CloudTrainError):
            assert seconds_of(reader, data, name) <= SECOND

    read()


@pytest.mark.parametrize("name", READERS)
def test_what_is_written_is_read(name: str) -> None:
    for example in EXAMPLES[name]:
        READERS[name](example)


def filled(size: int, begin: bytes, piece: bytes, end: bytes) -> bytes:
    """``begin``, as many pieces as fit, ``end``."""
    return begin + piece * ((size - len(begin) - len(end)) // len(piece)) + end


def with_keys(size: int) -> bytes:
    keys = b",".join(b'"%06x":256' % number for number in range(size // 14))
    return b'{"format":1,"files":{' + keys + b"}}"


SHAPES: dict[str, Callable[[int], bytes]] = {
    "empty_lists": lambda size: filled(size, b'{"format":1,"files":[', b"[],", b"[]]}"),
    "empty_objects": lambda size: filled(size, b'{"format":1,"files":[', b"{},", b"{}]}"),
    "nested_pairs": lambda size: filled(size, b'{"format":1,"files":[', b'{"a":{"b":[]}},', b"{}]}"),
    "short_texts": lambda size: filled(size, b'{"format":1,"files":[', b'"ab",', b'"ab"]}'),
    "numbers": lambda size: filled(size, b'{"format":1,"files":[', b"257,", b"1]}"),
    "fractions": lambda size: filled(size, b'{"format":1,"files":[', b".5,".replace(b".", b"1."), b"1]}"),
    "keys": with_keys,
    "one_text": lambda size: filled(size, b'{"format":1,"run_id":"', b"x", b'"}'),
    "escapes": lambda size: filled(size, b'{"format":1,"run_id":"', b"\\ud83d\\ude42", b'"}'),
    "wide_text": lambda size: filled(size, b'{"format":1,"run_id":"', "🙂".encode(), b'"}'),
    "one_wide_character": lambda size: filled(size, b'{"format":1,"run_id":"' + "🙂".encode(), b"x", b'"}'),
    "digits": lambda size: filled(size, b'{"format":1,"created":', b"9", b"}"),
    "brackets": lambda size: filled(size, b'{"format":1,"files":', b"[", b"}"),
    "spaces": lambda size: filled(size, b'{"format":1', b" ", b"}"),
    "lines": lambda size: filled(size, b"{", b"\n", b"}"),
    "nuls": bytes,
    "not_utf_8": lambda size: b"\xff" * size,
}

LIMITED: dict[str, tuple[Callable[[bytes, str], object], int]] = {
    "record": (RunRecord.from_json, documents.LARGEST_RECORD),
    "status": (AttemptStatus.from_json, documents.LARGEST_STATUS),
    "manifest": (parse_manifest, LARGEST),
}


@pytest.mark.parametrize("shape", SHAPES)
@pytest.mark.parametrize("name", LIMITED)
def test_a_document_at_its_limit_takes_no_more_than_64_mb_beside_it(name: str, shape: str) -> None:
    read, limit = LIMITED[name]
    for size in (limit, limit // 5, limit // 12):  # a smaller one may hold as many values as are read
        data = SHAPES[shape](size)
        assert peak_of(lambda data=data: read(data, name)) <= MOST_MEMORY  # type: ignore[misc]  # mypy infers no lambda with a default


@pytest.mark.slow
def test_a_manifest_of_a_hundred_thousand_files_is_read_in_little_memory() -> None:
    entries = ",".join(f'"folder/{number:06}.bin":{{"size":{number},"sha256":"{number:064x}"}}' for number in range(100_000))
    data = f'{{"format":1,"step":null,"metrics":{{}},"fingerprint":{{}},"files":{{{entries}}}}}'.encode()
    assert len(parse_manifest(data, "m").files) == 100_000
    assert peak_of(lambda: parse_manifest(data, "m")) <= MOST_MEMORY
    more = data.replace(b'"files":{', b'"files":{' + b'"x/%d":{"size":1,"sha256":""},' % 1 * 11_000)
    with pytest.raises(CorruptError, match="more than 330,000 values"):
        parse_manifest(more, "m")


@pytest.mark.parametrize("shape", SHAPES)
def test_metrics_that_are_none_take_no_more_memory_than_a_piece_of_them(shape: str) -> None:
    store = MemoryStore()
    store.place(f"run/{layout.metrics(1)}.000000000000000", SHAPES[shape](32 << 20))
    assert peak_of(lambda: list(MetricsReader(store, "run", 1).read())) <= MOST_MEMORY


def peak_of(act: Callable[[], object]) -> int:
    """The most bytes that Python held at once during a call, beyond those before it."""
    tracemalloc.start()
    try:
        with suppress(CloudTrainError):
            act()
        return tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()


INDEX_OF_ONE = (
    '{"format":1,"classes":["a"],"shards":[{"name":"s.tar","part":"train","size":1125899906842624,"sha256":"' + "a" * 64 + '","members":['
)
ONE_SHARD = '{"name":"s%d.tar","part":"train","size":0,"sha256":"' + "a" * 64 + '","members":[],"offsets":[],"sizes":[]}'


def index_shapes(size: int) -> dict[str, bytes]:
    """Indexes of about ``size`` bytes, which as Python's own lists and texts would take up to twelve times as much."""
    images = size // 24
    members = ",".join(['"a/b"'] * images)
    offsets = ",".join(str(512 + 1024 * number) for number in range(images))
    return {
        "valid": f'{INDEX_OF_ONE}{members}],"offsets":[{offsets}],"sizes":[{",".join("1" * images)}]}}]}}'.encode(),
        "members": filled(size, INDEX_OF_ONE.encode(), b'"a/b",', b'"a/b"]}]}'),
        "numbers": filled(size, INDEX_OF_ONE.encode() + b'],"sizes":[', b"0,", b"0]}]}"),
        "large_numbers": filled(size, INDEX_OF_ONE.encode() + b'],"offsets":[', b"99999999999,", b"0]}]}"),
        "classes": filled(size, b'{"format":1,"classes":[', b'"ab",', b'"ab"]}'),
        "shards": f'{{"format":1,"classes":[],"shards":[{",".join(ONE_SHARD % number for number in range(size // 160))}]}}'.encode(),
        "unknown": filled(size, b'{"format":1,"more":[', b"[],", b"[]]}"),
        "keys": with_keys(size),
    }


@pytest.mark.slow
@pytest.mark.parametrize("shape", index_shapes(0))
def test_an_index_of_shards_takes_little_more_than_its_size(tmp_path: Path, shape: str) -> None:
    size = 4 << 20
    data = index_shapes(size)[shape]
    (tmp_path / INDEX).write_bytes(data)
    assert peak_of(lambda: read_index(tmp_path / INDEX)) <= len(data) + MOST_MEMORY // 2

"""Reading logs."""

from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from cloud_train.run.streams import LogReader
from cloud_train.storage.local import LocalStore


def tail(store: LocalStore, lines: int) -> bytes:
    reader = LogReader(store, "log")
    reader.skip_to_tail(lines)
    return b"".join(reader.read())


@settings(suppress_health_check=[HealthCheck.function_scoped_fixture], max_examples=60, deadline=None)
@given(text=st.lists(st.sampled_from([b"a", b"\n", b"\r", b"\xff", b"word " * 9000]), max_size=30).map(b"".join), lines=st.integers(0, 12))
def test_a_tail_is_the_last_lines(tmp_path: Path, text: bytes, lines: int) -> None:
    store = LocalStore(tmp_path)
    store.put("log", text)
    wanted = b"".join(_lines(text)[-lines:]) if lines else b""
    assert tail(store, lines) == wanted


def _lines(text: bytes) -> list[bytes]:
    pieces = text.split(b"\n")
    return [piece + b"\n" for piece in pieces[:-1]] + ([pieces[-1]] if pieces[-1] else [])


def test_a_log_that_is_not_there_yet_is_empty(tmp_path: Path) -> None:
    store = LocalStore(tmp_path)
    assert tail(store, 5) == b""
    reader = LogReader(store, "log")
    assert list(reader.read()) == []
    store.put("log", b"one\n")
    assert list(reader.read()) == [b"one\n"]
    store.put("log", b"one\ntwo")
    assert list(reader.read()) == [b"two"]


@pytest.mark.parametrize("size", [0, 1, (1 << 20) - 1, 1 << 20, (1 << 20) + 1, 3 << 20])
def test_every_byte_is_read_once_whatever_the_size(tmp_path: Path, size: int) -> None:
    store = LocalStore(tmp_path)
    data = bytes(number % 251 for number in range(size))
    store.put("log", data)
    pieces = list(LogReader(store, "log").read())
    assert b"".join(pieces) == data
    assert all(len(piece) <= 1 << 20 for piece in pieces)

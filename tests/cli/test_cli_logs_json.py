"""A log as JSON: every byte comes back, and what is held is bounded, also for a line that is longer than memory."""

import json
import tracemalloc
from collections.abc import Iterator

import pytest
from hypothesis import given
from hypothesis import strategies as st

from cloud_train.cli.verbs import logs


class Printed:
    """What ``_print_json`` printed, and the length of the longest piece."""

    def __init__(self, patch: pytest.MonkeyPatch) -> None:
        self.texts: list[str] = []
        patch.setattr(logs, "say_bare", self.texts.append)

    def lines(self) -> list[bytes]:
        return [line.encode("utf-8", "surrogateescape") for line in json.loads("".join(self.texts))["lines"]]


@given(
    st.lists(st.binary(max_size=12) | st.sampled_from([b"\n", b"\xe2\x82", b"\xac", b"\xff", b'"\\', b"\0"]), max_size=30),
    st.integers(0, 20),
)
def test_the_lines_are_those_of_the_log_however_it_arrives(pieces: list[bytes], longest: int) -> None:
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(logs, "_LONGEST_HELD", longest)
        printed = Printed(patch)
        logs._print_json("run", 1, 0, pieces)
    log = b"".join(pieces)
    assert printed.lines() == (log.removesuffix(b"\n").split(b"\n") if log else [])


def test_a_line_of_40_megabytes_is_never_held(monkeypatch: pytest.MonkeyPatch) -> None:
    longest = 0

    def say(text: str) -> None:
        nonlocal longest
        longest = max(longest, len(text))

    def pieces() -> Iterator[bytes]:
        for _ in range(40):
            yield bytes(1 << 20)

    monkeypatch.setattr(logs, "say_bare", say)
    tracemalloc.start()
    logs._print_json("run", 1, 0, pieces())
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert longest < 10 << 20
    assert peak < 25 << 20


def test_a_log_that_breaks_off_is_still_one_json_document(monkeypatch: pytest.MonkeyPatch) -> None:
    def pieces() -> Iterator[bytes]:
        yield b"one\n" + b"x" * (1 << 17)
        raise KeyboardInterrupt

    printed = Printed(monkeypatch)
    with pytest.raises(KeyboardInterrupt):
        logs._print_json("run", 1, 0, pieces())
    assert printed.lines() == [b"one", b"x" * (1 << 17)]

"""A program's output made safe for a terminal: complete however it is split, and without control sequences."""

import re
from itertools import pairwise

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from cloud_train.cli.output.terminal import SafeForTerminal

PASSES = re.compile(r"\x1b\[[0-9;:]{0,64}m|\x1b\[[0-2]?K|[\n\r\t]")
PARTS = ["\x1b", "[", "]", "3", "1;", "m", "K", "2J", "\r", "\n", "\t", "ä", "→", "\x9b", "\x07", "text", "\u202e"]
TEXTS = st.lists(st.one_of(st.sampled_from([part.encode() for part in PARTS]), st.binary(max_size=3))).map(b"".join)


def shown(*pieces: bytes) -> str:
    safe = SafeForTerminal()
    return "".join(map(safe.add, pieces)) + safe.end()


@given(TEXTS, st.lists(st.integers(0, 60)))
@example(b"\x1b[31mred\x1b[0m \xc3\xa4 \x1b]52;c;x\x07", [1, 2, 3, 4, 12, 13, 15])
def test_the_boundaries_of_pieces_make_no_difference(text: bytes, cuts: list[int]) -> None:
    places = [0, *sorted(min(cut, len(text)) for cut in cuts), len(text)]
    pieces = [text[start:end] for start, end in pairwise(places)]
    assert shown(*pieces) == shown(text)


@given(TEXTS)
def test_only_colours_line_erasing_and_line_ends_drive_the_terminal(text: bytes) -> None:
    left = PASSES.sub("", shown(text))
    assert not re.search("[\x00-\x1f\x7f-\x9f\u202a-\u202e\u2066-\u2069]", left)


def test_progress_bars_colours_and_every_alphabet_pass_unchanged() -> None:
    bar = "\r 50%|█████     | 5/10 [00:01<00:01]\x1b[K"
    for text in (bar, "\x1b[1;31mloss\x1b[0m\t0.5\r\n", "\x1b[38;2;1;2;3mä→漢\x1b[m", "عربي, עברית, हिन्दी, 👩‍🔬"):
        assert shown(text.encode()) == text


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        (b"\x1b]52;c;eA==\x07", "\\x1b]52;c;eA==\\x07"),
        (b"\x1b[2J", "\\x1b[2J"),
        (b"\x1b[1A", "\\x1b[1A"),
        (b"\xc2\x9b2J\x9b2J", "\\x9b2J\\x9b2J"),
        (b"a\x1b", "a\\x1b"),
        (b"a\xc3", "a\\xc3"),
        (b"\x1b[" + b"1;" * 40 + b"m", "\\x1b[" + "1;" * 40 + "m"),
    ],
)
def test_control_sequences_are_shown_as_text(text: bytes, expected: str) -> None:
    assert shown(text) == expected


def test_a_colour_left_on_by_the_program_is_reset() -> None:
    assert shown(b"\x1b[8mhidden") == "\x1b[8mhidden\x1b[0m"
    assert shown(b"\x1b[31mred\x1b[0m") == "\x1b[31mred\x1b[0m"
    safe = SafeForTerminal()
    assert [safe.add(b"\x1b[31mred\n"), safe.plain(), safe.plain()] == ["\x1b[31mred\n", "\x1b[0m", ""]

"""The picture in README.md shows what the program prints today, whatever the numbers are."""

import re

import pytest

from tools import terminal_picture
from tools.terminal_picture import ROOT, lines_of, screen, shown

PICTURE = ROOT / "docs" / "images" / "run.svg"


@pytest.mark.slow
def test_the_picture_has_the_lines_of_a_run_of_today() -> None:
    pytest.importorskip("torch")
    today = [_without_numbers(line) for line in screen()]
    assert [_without_numbers(line) for line in lines_of(PICTURE)] == [
        line for line in today if not line.endswith(" left")
    ]  # slow machines only


def test_the_picture_shows_the_commands_and_loads_nothing_from_elsewhere() -> None:
    lines = lines_of(PICTURE)
    assert [line.removeprefix("$ ") for line in lines if line.startswith("$ ")] == list(terminal_picture.COMMANDS)
    assert set(re.findall(r"https?://[^\"' )]+", PICTURE.read_text())) == {"http://www.w3.org/2000/svg"}


def test_of_a_line_that_is_drawn_again_the_last_state_is_shown() -> None:
    assert shown("id\r\n\r\x1b[Kstep 1\r\x1b[K\x1b[1mstep 2\x1b[0m\r\n50%\r\n\x1b[?25h\r\x1b[1A\x1b[2Kdone\r\n") == [
        "id",
        "\x1b[1mstep 2\x1b[0m",
        "done",
    ]


def _without_numbers(line: str) -> str:
    line = re.sub(r"\x1b\[[0-9;]*m", "", line)
    line = re.sub(r"(digits-cnn-\d+-\d+)-\w{4}", r"\1-id", line)
    line = line.replace(" threads;", " thread;")  # as many as this machine has
    line = re.sub(r"(\d+ (h|min) )*\d+(\.\d+)? s\b", "N s", line)
    return re.sub(r"\s+", " ", re.sub(r"\d+(,\d{3})*(\.\d+)?", "N", line)).strip()

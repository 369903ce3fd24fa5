"""The program's output on the worker's own standard output, where platforms keep it."""

import os
from collections.abc import Mapping
from pathlib import Path

import pytest

from cloud_train.run.states import Cause
from cloud_train.worker.console import Copying, wanted
from tests.support import wait_until
from tests.worker.launching import Launched

PLATFORM = {"_CLOUD_TRAIN_PLATFORM": "vertex"}


class Copied:
    """A log that grows, what is copied of it, and a clock."""

    def __init__(self) -> None:
        self.log, self.shown, self.now = b"", b"", 0.0
        self._copying = Copying(lambda start, size: self.log[start : start + size], self._show, lambda: self.now)

    def add(self, data: bytes, after: float = 1.0, *, is_last: bool = False) -> bytes:
        """What is shown at the next look, ``after`` so many seconds, if the program prints ``data`` before."""
        self.log, self.now, self.shown = self.log + data, self.now + after, b""
        self._copying.look(len(self.log), is_last=is_last)
        return self.shown

    def _show(self, data: bytes) -> None:
        self.shown += data


@pytest.mark.parametrize(
    ("environment", "pid", "expected"),
    [({}, 77, False), ({}, 1, True), (PLATFORM, 77, True), ({**PLATFORM, "CLOUD_TRAIN_CONSOLE_OUTPUT": "0"}, 1, False)],
)
def test_it_is_shown_on_platforms_and_in_containers_unless_it_is_turned_off(
    environment: Mapping[str, str], pid: int, expected: bool
) -> None:
    assert wanted(environment, pid) is expected


def test_whole_lines_are_shown_as_they_are_printed() -> None:
    copied = Copied()
    assert copied.add(b"one\ntw") == b"one\n"
    assert copied.add(b"o\n10%\r20%") == b"two\n10%\r"
    assert copied.add(b" \xff", is_last=True) == b"20% \xff\n"
    assert copied.add(b"", is_last=True) == b""


@pytest.mark.slow
def test_a_program_that_prints_without_end_is_cut_short_with_a_word_about_it() -> None:
    copied = Copied()
    line = b"x" * 99 + b"\n"
    assert copied.add(line * 10_000) == line * 10_000, "a megabyte at once is fine"
    shown = copied.add(line * 100_000)
    assert len(shown) < 200_000
    assert b"bytes of output were left out here; see them with: cloud-train logs]\n" in shown
    assert sum(len(copied.add(line * 100_000)) for _ in range(60)) < 60 * (16 * 1024 + 200), "16 kB/s in the long run"
    last = copied.add(b"Traceback: the reason\n", is_last=True)
    assert last.endswith(line + b"Traceback: the reason\n"), "the end is shown in any case"


def test_a_line_without_end_is_shown_in_pieces() -> None:
    copied = Copied()
    assert copied.add(b"x" * 200_000) == b"x" * (3 * 65536)


def test_the_output_is_in_the_log_of_the_platform_too_and_byte_for_byte_in_its_own(launched: Launched) -> None:
    launched.shell("printf 'early\\n'; printf 'late \\377'")
    assert launched.run(environment=PLATFORM).cause is Cause.SUCCEEDED
    assert launched.output() == b"early\nlate \xff"
    assert launched.console.read_bytes() == b"early\nlate \xff\n"


def test_the_output_is_shown_while_the_program_runs(launched: Launched) -> None:
    launched.shell("echo early; until test -e go; do sleep 0.05; done")
    worker = launched.start(environment=PLATFORM)
    wait_until(lambda: launched.console.read_bytes() == b"early\n", "it is shown")
    assert worker.poll() is None
    (launched.work / "go").touch()
    assert worker.wait(60) == 0


@pytest.mark.parametrize("environment", [{}, {**PLATFORM, "CLOUD_TRAIN_CONSOLE_OUTPUT": "0"}])
def test_elsewhere_and_where_it_is_turned_off_nothing_is_shown(launched: Launched, environment: Mapping[str, str]) -> None:
    launched.shell("echo early")
    assert launched.run(environment=environment).cause is Cause.SUCCEEDED
    assert launched.console.read_bytes() == b""


@pytest.mark.slow
def test_a_platform_whose_log_is_stuck_delays_neither_the_program_nor_its_end(launched: Launched, tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "stuck")
    reading = os.open(tmp_path / "stuck", os.O_RDONLY | os.O_NONBLOCK)  # nobody reads from it
    try:
        launched.console = tmp_path / "stuck"
        launched.shell("head -c 500000 /dev/zero | tr '\\0' '\\n'")
        assert launched.run(environment=PLATFORM).cause is Cause.SUCCEEDED
        assert len(launched.output()) == 500_000
    finally:
        os.close(reading)

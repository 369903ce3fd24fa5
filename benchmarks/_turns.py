"""Programs that take turns: each is started once, and then runs for a moment while all the others are stopped (SIGSTOP, SIGCONT).

The load of a machine changes within seconds, but adjacent measurements remain comparable. Starting a program, or
compiling a network, is paid for only once. Each program records the end of each step; steps that a turn interrupts are left out.
"""

import os
import signal
import statistics
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import dataclass, field
from pathlib import Path

from benchmarks._measure import ROOT

WARM_UP_STEPS = 30
_LOOK_SECONDS = 0.05
_START_SECONDS = 300.0
_END_SECONDS = 30.0


def printed_times(output: Path) -> list[float]:
    """The end of each step, in seconds since 1970: the lines of a program's output that are numbers."""
    whole_lines = output.read_text(errors="replace").rpartition("\n")[0].splitlines()
    return [float(line) for line in whole_lines if line.replace(".", "", 1).isdigit()]


@dataclass(frozen=True)
class Contender:
    """A program that trains endlessly, and whose steps are counted."""

    name: str
    command: Sequence[str]
    folder: Path
    """The folder for its output; created if missing."""
    environment: Mapping[str, str] = field(default_factory=dict)
    times: Callable[[], list[float]] | None = None
    """The end of each step so far, in seconds since 1970; by default a program prints one line per step."""

    @property
    def output(self) -> Path:
        """The file with its output."""
        return self.folder / "output.txt"

    def step_times(self) -> list[float]:
        """The end of each step so far, in seconds since 1970."""
        return printed_times(self.output) if self.times is None else self.times()


@dataclass(frozen=True)
class Turn:
    """One turn of a program: its number of whole steps, and their seconds."""

    steps: int
    seconds: float

    @property
    def step_seconds(self) -> float:
        """Seconds of a step."""
        return self.seconds / self.steps


@dataclass(frozen=True)
class Played:
    """All turns of one program, and its peak resident memory in MiB."""

    turns: tuple[Turn, ...]
    peak_mib: float

    @property
    def median(self) -> float:
        """Seconds per step, median over the turns."""
        return statistics.median(turn.step_seconds for turn in self.turns)

    @property
    def best(self) -> float:
        """Seconds per step in the fastest turn."""
        return min(turn.step_seconds for turn in self.turns)

    def slowness(self, other: "Played") -> list[float]:
        """Seconds per step as a multiple of the ``other`` program's in the same round, for each round."""
        return [mine.step_seconds / its.step_seconds for mine, its in zip(self.turns, other.turns, strict=True)]


def take_turns(contenders: Sequence[Contender], rounds: int, seconds: float) -> dict[str, Played]:
    """Let each contender run ``rounds`` times for ``seconds``, after a warm-up; raises RuntimeError if one ends in its warm-up."""
    spans: dict[str, list[tuple[float, float]]] = {contender.name: [] for contender in contenders}
    peaks: dict[str, float] = {}
    signal.signal(signal.SIGTERM, signal.default_int_handler)  # ended by SIGTERM, it leaves no stopped programs behind either
    with ExitStack() as opened:
        processes = [opened.enter_context(_started(contender, peaks)) for contender in contenders]
        for _ in range(rounds):
            for contender, process in zip(contenders, processes, strict=True):
                begin = time.time()
                os.killpg(process.pid, signal.SIGCONT)
                time.sleep(seconds)
                os.killpg(process.pid, signal.SIGSTOP)
                spans[contender.name].append((begin, time.time()))
    played = {}
    for contender in contenders:
        times = contender.step_times()
        played[contender.name] = Played(tuple(_turn(times, span) for span in spans[contender.name]), peaks[contender.name])
    return played


@contextmanager
def _started(contender: Contender, peaks: dict[str, float]) -> Iterator[subprocess.Popen[bytes]]:
    """The program, stopped after its warm-up; leaving the block ends it and records its peak memory under its name in ``peaks``."""
    contender.folder.mkdir(parents=True, exist_ok=True)
    environment = {**os.environ, "CUDA_VISIBLE_DEVICES": "", **contender.environment}
    with contender.output.open("wb") as output:
        process = subprocess.Popen(
            contender.command,
            cwd=ROOT,
            env=environment,
            stdin=subprocess.DEVNULL,
            stdout=output,
            stderr=subprocess.STDOUT,
            start_new_session=True,  # its children are stopped with it
        )
    try:
        _warm_up(contender, process)
        yield process
    finally:
        peaks[contender.name] = _end(process)


def _warm_up(contender: Contender, process: subprocess.Popen[bytes]) -> None:
    deadline = time.monotonic() + _START_SECONDS
    while len(contender.step_times()) < WARM_UP_STEPS:
        if process.poll() is not None or time.monotonic() > deadline:
            raise RuntimeError(f"{contender.name} does not train:\n{contender.output.read_text(errors='replace')[-2000:]}")
        time.sleep(_LOOK_SECONDS)
    os.killpg(process.pid, signal.SIGSTOP)


def _end(process: subprocess.Popen[bytes]) -> float:
    """End the program, which may still write its measurements; returns its peak memory in MiB."""
    if process.returncode is not None:
        return 0.0
    deadline = time.monotonic() + _END_SECONDS
    for number in (signal.SIGTERM, signal.SIGCONT):  # in this order, so that it does not make another step
        os.killpg(process.pid, number)
    pid = 0
    while not pid:
        if time.monotonic() > deadline:
            os.killpg(process.pid, signal.SIGKILL)
        pid, status, usage = os.wait4(process.pid, os.WNOHANG)
        time.sleep(_LOOK_SECONDS)
    process.returncode = os.waitstatus_to_exitcode(status)
    with suppress(ProcessLookupError):  # usually no process is left
        os.killpg(process.pid, signal.SIGKILL)
    return usage.ru_maxrss * (1 if sys.platform == "darwin" else 1024) / 2**20


def _turn(times: Sequence[float], span: tuple[float, float]) -> Turn:
    """The whole steps between the start and end of ``span``; if there is none, one step that takes all of it, which favours the program."""
    inside = [moment for moment in times if span[0] < moment <= span[1]]
    if len(inside) < 2:
        return Turn(1, span[1] - span[0])
    return Turn(len(inside) - 1, inside[-1] - inside[0])

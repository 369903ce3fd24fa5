"""Measuring: commands run alternately, so that a noisy moment of the machine affects all of them, and medians are compared.

Seconds differ between machines; ratios of commands that ran in the same minute hardly do. This module imports little on purpose:
Linux counts the memory of a process at the start of a child towards the child's peak memory, so the measuring process has to stay small.
"""

import os
import platform
import shutil
import statistics
import subprocess
import sys
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime
from pathlib import Path

BIN = Path(sys.executable).parent
"""The folder of this environment's commands."""
CLOUD_TRAIN = str(BIN / "cloud-train")
ROOT = Path(__file__).resolve().parent.parent
"""The repository's root, with the shipped jobs."""


@dataclass(frozen=True)
class Case:
    """A command to measure: its name in the table, its arguments, and where and with what it runs."""

    name: str
    command: Sequence[str]
    environment: Mapping[str, str] = field(default_factory=dict)
    directory: Path | None = None


@dataclass(frozen=True)
class Sample:
    """One run of a command: wall time in seconds and peak resident memory in MiB, its own or that of a child that it waited for."""

    seconds: float
    peak_mib: float
    cpu_seconds: float = 0.0
    """User and system time, including children that it waited for."""


@dataclass(frozen=True)
class Series:
    """All measured runs of one case."""

    case: Case
    samples: tuple[Sample, ...]

    @property
    def median(self) -> float:
        """Median wall time in seconds."""
        return statistics.median(sample.seconds for sample in self.samples)

    @property
    def best(self) -> float:
        """Shortest wall time in seconds."""
        return min(sample.seconds for sample in self.samples)

    @property
    def peak_mib(self) -> float:
        """Median peak memory in MiB."""
        return statistics.median(sample.peak_mib for sample in self.samples)


def interleave(cases: Sequence[Case], repeats: int, warm_up: int = 1) -> dict[str, Series]:
    """Run the cases in turn, ``repeats`` times over, after ``warm_up`` rounds that do not count; raises RuntimeError if a command fails."""
    for _ in range(warm_up):
        for case in cases:
            run_once(case)
    rounds = [[run_once(case) for case in cases] for _ in range(repeats)]
    return {case.name: Series(case, samples) for case, samples in zip(cases, zip(*rounds, strict=True), strict=True)}


def run_once(case: Case) -> Sample:
    """Run one command to its end, discard its output, and measure it; raises RuntimeError with its stderr if it fails."""
    start = time.perf_counter()
    with subprocess.Popen(
        case.command,
        stdin=subprocess.DEVNULL,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.PIPE,
        env={**os.environ, **case.environment},
        cwd=case.directory or ROOT,
    ) as process:
        assert process.stderr is not None  # for the type checker: requested three lines above
        error = process.stderr.read()
        _, status, usage = os.wait4(process.pid, 0)
        seconds = time.perf_counter() - start
        process.returncode = os.waitstatus_to_exitcode(status)
    if process.returncode != 0:
        raise RuntimeError(f"{' '.join(case.command)} ended with {process.returncode}:\n{error.decode(errors='replace')}")
    return Sample(seconds, usage.ru_maxrss * (1 if sys.platform == "darwin" else 1024) / 2**20, usage.ru_utime + usage.ru_stime)


def table(series: Mapping[str, Series], baseline: str) -> str:
    """The series as a Markdown table, each with its ratio to the one called ``baseline``."""
    lines = ["| what | median ms | best ms | peak MiB | ratio |", "|---|---:|---:|---:|---:|"]
    lines += [
        f"| {name} | {one.median * 1000:.1f} | {one.best * 1000:.1f} | {one.peak_mib:.0f} | {one.median / series[baseline].median:.2f} |"
        for name, one in series.items()
    ]
    return "\n".join(lines)


def verdict(what: str, measured: float, bound: float, unit: str = "") -> str:
    """One line of Markdown that says whether ``measured`` is within ``bound``."""
    return f"- {what}: **{measured:.3g}{unit}**, bound {bound:.3g}{unit}: {'met' if measured <= bound else 'NOT MET'}"


def report(title: str, *parts: str) -> None:
    """Print one benchmark's section of the document."""
    print("\n\n".join([f"\n## {title}", *parts]), flush=True)


def machine() -> str:
    """The machine, the date and the load, as Markdown."""
    memory_gib = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") / 2**30
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    load = os.getloadavg()[0]
    busy = " (**busy: compare only the ratios**)" if load > cores / 4 else ""
    return (
        f"{datetime.now(UTC):%Y-%m-%d}, {cores} cores of {_processor()}, {memory_gib:.0f} GiB, {platform.system()} {platform.release()}, "
        f"Python {platform.python_version()}; load before: {load:.2f}{busy}"
    )


def installed(command: str) -> str | None:
    """The path of ``command`` in this environment or on the PATH, or None."""
    beside = BIN / command
    return str(beside) if beside.exists() else shutil.which(command)


def _processor() -> str:
    try:
        text = Path("/proc/cpuinfo").read_text()
    except OSError:
        return platform.processor() or platform.machine()
    names = [line.partition(":")[2].strip() for line in text.splitlines() if line.startswith("model name")]
    return names[0] if names else platform.machine()

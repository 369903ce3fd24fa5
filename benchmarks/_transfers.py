"""Measuring the clients of benchmarks/transfer.py: alternately, with fresh sources and destinations, as whole processes."""

import os
import shutil
import statistics
import subprocess
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from itertools import count
from pathlib import Path
from urllib.request import urlopen

from benchmarks._measure import ROOT, report, verdict

_FEW_FILES = 10
OURS = (sys.executable, "-m", "benchmarks._transfer_client")


@dataclass(frozen=True)
class Client:
    """A program, and its commands to copy a folder to ``scheme://…/`` and back."""

    name: str
    up: Callable[[Path, str], Sequence[str]]
    down: Callable[[str, Path], Sequence[str]]


@dataclass(frozen=True)
class Place:
    """A bucket on a server of this machine."""

    url: str
    environment: Mapping[str, str] = field(default_factory=dict)
    """Environment variables with which the clients find the server."""
    requests: str | None = None
    """The URL that returns the number of requests since the last call, if the server has one."""


@dataclass(frozen=True)
class Sample:
    """One run: wall and CPU time in seconds (including children), peak memory in MiB, number of requests to the server."""

    seconds: float
    cpu_seconds: float
    peak_mib: float
    requests: int


Samples = Mapping[str, Sequence[Sample]]
"""Keyed by the client's name."""


class Bench:
    """Runs the clients alternately, each run with a fresh source and destination."""

    def __init__(self, folder: Path, place: Place, clients: Sequence[Client]) -> None:
        """``folder`` exists and is for temporary files. The first client is cloud-train."""
        self._folder, self._place, self._clients = folder, place, clients
        self._numbers = count()

    def uploads(self, source: Path, repeats: int) -> Samples:
        """Measure uploads of a folder, to a new prefix each time."""

        def prepare(client: Client, number: int) -> tuple[Sequence[str], Callable[[], object]]:
            url = f"{self._place.url}/{number}/"
            return client.up(source, url), lambda: self.run([*OURS, "forget", url, "-", "-"])

        return self._in_turns(repeats, prepare)

    def downloads(self, source: Path, repeats: int) -> Samples:
        """Measure downloads of a folder's files, to a new folder each time.

        Folders of many files are kept until the last run: a file system may skip recently freed inodes (ext4 looks at every inode that was
        freed within the last minute or more before it takes another one), and each client would then pay for the deletion of the previous
        client's files, a millisecond a file.
        """
        url = f"{self._place.url}/{source.name}/"
        self.run(self._clients[0].up(source, url))
        targets: list[Path] = []

        def prepare(client: Client, number: int) -> tuple[Sequence[str], Callable[[], object]]:
            targets.append(target := self._folder / f"down-{number}")
            return client.down(url, target), lambda: _remove_if_few_files(target)

        samples = self._in_turns(repeats, prepare)
        for target in targets:
            shutil.rmtree(target, ignore_errors=True)
        return samples

    def unchanged(self, source: Path, repeats: int) -> Samples:
        """Measure downloads of files that the same client has already downloaded."""
        url = f"{self._place.url}/same/"
        self.run(self._clients[0].up(source, url))
        targets = {client.name: self._folder / f"same-{number}" for number, client in enumerate(self._clients)}
        for client in self._clients:
            for _ in range(2):
                self.run(client.down(url, targets[client.name]))
        return self._in_turns(repeats, lambda client, number: (client.down(url, targets[client.name]), lambda: None))

    def run(self, command: Sequence[str]) -> Sample:
        """Run a command once; raises RuntimeError with its stderr if it fails."""
        self._requests()
        environment = {name: value for name, value in os.environ.items() if name != "AWS_CA_BUNDLE"} | dict(self._place.environment)
        start = time.perf_counter()
        with subprocess.Popen(
            command, env=environment, cwd=ROOT, stdin=subprocess.DEVNULL, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE
        ) as process:
            assert process.stderr is not None  # for the type checker: requested two lines above
            error = process.stderr.read()
            _, status, usage = os.wait4(process.pid, 0)
            seconds = time.perf_counter() - start
            process.returncode = os.waitstatus_to_exitcode(status)
        if process.returncode:
            raise RuntimeError(f"{' '.join(command)} ended with {process.returncode}:\n{error.decode(errors='replace')}")
        return Sample(seconds, usage.ru_utime + usage.ru_stime, usage.ru_maxrss / 1024, self._requests())

    def _in_turns(self, repeats: int, prepare: Callable[[Client, int], tuple[Sequence[str], Callable[[], object]]]) -> Samples:
        samples: dict[str, list[Sample]] = {client.name: [] for client in self._clients}
        for round_number in range(repeats + 1):
            for client in self._clients:
                command, clean = prepare(client, next(self._numbers))
                sample = self.run(command)
                clean()
                if round_number:  # the first round warms the caches
                    samples[client.name].append(sample)
        return samples

    def _requests(self) -> int:
        if self._place.requests is None:
            return 0
        with urlopen(self._place.requests) as answer:
            return int(answer.read())


def fill(folder: Path, files: int, size: int) -> Path:
    """Fill a folder with the given number of files of ``size`` random bytes each; returns the folder."""
    folder.mkdir()
    for number in range(files):
        with (folder / f"{number:05}").open("wb") as file:
            for begin in range(0, size, 1 << 20):
                file.write(os.urandom(min(1 << 20, size - begin)))
    return folder


def tell(what: str, how: str, samples: Samples, *, files: int, bound: float, ours: Sequence[str], limits: Sequence[str] = ()) -> None:
    """Print a table, and whether each of ``ours`` takes at most ``bound`` × the time of the fastest other client.

    ``limits`` are clients that only show the server's limit.
    """
    others = [name for name in samples if name not in (*ours, *limits)]
    lines = []
    if others:
        best = min(others, key=lambda name: _median(samples[name], "seconds"))
        for name in ours:
            ratio = _median(samples[name], "seconds") / _median(samples[best], "seconds")
            lines.append(verdict(f"{what}: {name} compared with the fastest other ({best})", ratio, bound, " ×"))
    lines.append(verdict(f"{what}: peak memory", max(run.peak_mib for run in samples[ours[0]]) * 2**20 / 1e6, 150, " MB"))
    report(what, how, _table(files, samples), "\n".join(lines))


def _remove_if_few_files(folder: Path) -> None:
    if sum(1 for _ in folder.iterdir()) <= _FEW_FILES:
        shutil.rmtree(folder)


def _table(files: int, samples: Samples) -> str:
    first = next(iter(samples.values()))
    lines = ["| client | median s | best s | client CPU s | peak MiB | requests a file | ratio |", "|---|---:|---:|---:|---:|---:|---:|"]
    for name, runs in samples.items():
        seconds, cpu = _median(runs, "seconds"), _median(runs, "cpu_seconds")
        best = min(run.seconds for run in runs)
        peak, requests = _median(runs, "peak_mib"), _median(runs, "requests") / files
        ratio = seconds / _median(first, "seconds")
        told = f"{requests:.3g}" if requests else "–"
        lines.append(f"| {name} | {seconds:.2f} | {best:.2f} | {cpu:.2f} | {peak:.0f} | {told} | {ratio:.2f} |")
    return "\n".join(lines)


def _median(runs: Sequence[Sample], what: str) -> float:
    return statistics.median(float(getattr(run, what)) for run in runs)

"""Files to an S3 server and back, next to ``aws s3``, s5cmd and rclone: one of 512 MB, 2,000 of 16 KB, and a tree in which nothing changed.

All clients talk to the same server in memory on this machine (benchmarks/_s3_server.py) and take turns. Ours takes the SHA-256 of every
byte in both directions and looks at each object afterwards; the others do neither. The others are found on the PATH, or named in
``BENCHMARK_AWS``, ``BENCHMARK_S5CMD`` and ``BENCHMARK_RCLONE``; those that are not there are left out.
"""

import os
import shutil
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from itertools import count
from pathlib import Path
from urllib.request import Request, urlopen

from benchmarks._measure import ROOT, installed, report, verdict

LARGE_BYTES = 512 * 10**6
MANY = 2000
SMALL_BYTES = 16 * 1024
UNCHANGED = 10_000
_OURS = (sys.executable, "-m", "benchmarks._transfer_client")


@dataclass(frozen=True)
class Client:
    """A program, and its commands to copy a folder to ``s3://…/`` and back."""

    name: str
    up: Callable[[Path, str], Sequence[str]]
    down: Callable[[str, Path], Sequence[str]]


@dataclass(frozen=True)
class Sample:
    """One run: wall and CPU time in seconds, peak memory in MiB, requests that the server got."""

    seconds: float
    cpu_seconds: float
    peak_mib: float
    requests: int


def main(repeats: int = 5) -> None:
    """Measure and print."""
    with tempfile.TemporaryDirectory() as name, _server() as endpoint:
        folder = Path(name)
        bench = _Bench(folder, endpoint)
        large, many = folder / "large", folder / "many"
        _fill(large, 1, LARGE_BYTES)
        _fill(many, MANY, SMALL_BYTES)
        tasks: list[tuple[str, int, Callable[[Path, int], dict[str, list[Sample]]], Path]] = [
            ("512 MB up", 1, bench.uploads, large),
            ("512 MB down", 1, bench.downloads, large),
            ("2,000 × 16 KB up", MANY, bench.uploads, many),
            ("2,000 × 16 KB down", MANY, bench.downloads, many),
            ("2,000 × 16 KB, nothing changed", MANY, bench.unchanged, many),
        ]
        for what, files, measure, source in tasks:
            samples = measure(source, repeats)
            report(what, f"{repeats} times in turns, over loopback:", _table(files, samples), _verdicts(what, samples))
        listing, comparing = bench.comparison(folder / "unchanged", repeats)
        report(
            "10,000 objects compared",
            f"Listing them takes {listing:.2f} s, listing and comparing {comparing:.2f} s (medians of {repeats}).",
            verdict("comparing beyond listing", comparing - listing, 2, " s"),
        )


class _Bench:
    """Runs the clients, each in turn, and gives every run a fresh place."""

    def __init__(self, folder: Path, endpoint: str) -> None:
        self._folder = folder
        self._endpoint = endpoint
        self._numbers = count()
        self._environment = {
            **os.environ,
            "AWS_ENDPOINT_URL_S3": endpoint,
            "S3_ENDPOINT_URL": endpoint,  # s5cmd's own name for it
            "AWS_ACCESS_KEY_ID": "key",
            "AWS_SECRET_ACCESS_KEY": "secret",
            "AWS_DEFAULT_REGION": "us-east-1",
            "AWS_EC2_METADATA_DISABLED": "true",
            "RCLONE_CONFIG": str(folder / "rclone.conf"),
            "RCLONE_CONFIG_BENCH_TYPE": "s3",
            "RCLONE_CONFIG_BENCH_PROVIDER": "Other",
            "RCLONE_CONFIG_BENCH_ENV_AUTH": "true",
            "RCLONE_CONFIG_BENCH_ENDPOINT": endpoint,
        }
        self._clients = list(_clients(folder))

    def uploads(self, source: Path, repeats: int) -> dict[str, list[Sample]]:
        """Of a folder, to a new prefix each time."""
        return self._in_turns(
            repeats, lambda client, number: (client.up(source, f"s3://bench/{number}/"), lambda: self._forget(f"{number}"))
        )

    def downloads(self, source: Path, repeats: int) -> dict[str, list[Sample]]:
        """Of what a folder holds, to a new folder each time."""
        self._run(self._clients[0].up(source, f"s3://bench/{source.name}/"))

        def prepare(client: Client, number: int) -> tuple[Sequence[str], Callable[[], None]]:
            target = self._folder / f"down-{number}"
            return client.down(f"s3://bench/{source.name}/", target), lambda: shutil.rmtree(target)

        return self._in_turns(repeats, prepare)

    def unchanged(self, source: Path, repeats: int) -> dict[str, list[Sample]]:
        """Uploads of what is there already, by the same client."""
        for client in self._clients:
            for _ in range(2):
                self._run(client.up(source, f"s3://bench/same-{_slug(client)}/"))
        return self._in_turns(repeats, lambda client, number: (client.up(source, f"s3://bench/same-{_slug(client)}/"), lambda: None))

    def comparison(self, source: Path, repeats: int) -> tuple[float, float]:
        """Median seconds of listing 10,000 objects, and of listing and comparing them with a folder."""
        _fill(source, UNCHANGED, 16)
        state = str(self._folder / "state")
        compare = [*_OURS, "up", "s3://bench/unchanged/", str(source), state]
        for _ in range(2):
            self._run(compare)
        pairs = [(self._run([*_OURS, "list", "s3://bench/unchanged/", "-", state]), self._run(compare)) for _ in range(repeats)]
        return statistics.median(pair[0].seconds for pair in pairs), statistics.median(pair[1].seconds for pair in pairs)

    def _in_turns(
        self, repeats: int, prepare: Callable[[Client, int], tuple[Sequence[str], Callable[[], None]]]
    ) -> dict[str, list[Sample]]:
        samples: dict[str, list[Sample]] = {client.name: [] for client in self._clients}
        for round_number in range(repeats + 1):
            for client in self._clients:
                command, clean = prepare(client, next(self._numbers))
                sample = self._run(command)
                clean()
                if round_number:  # the first round warms the caches
                    samples[client.name].append(sample)
        return samples

    def _run(self, command: Sequence[str]) -> Sample:
        self._ask("count")
        start = time.perf_counter()
        with subprocess.Popen(
            command, env=self._environment, cwd=ROOT, stdin=subprocess.DEVNULL, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE
        ) as process:
            assert process.stderr is not None  # for the type checker: it was asked for two lines above
            error = process.stderr.read()
            _, status, usage = os.wait4(process.pid, 0)
            seconds = time.perf_counter() - start
            process.returncode = os.waitstatus_to_exitcode(status)
        if process.returncode:
            raise RuntimeError(f"{' '.join(command)} ended with {process.returncode}:\n{error.decode(errors='replace')}")
        return Sample(seconds, usage.ru_utime + usage.ru_stime, usage.ru_maxrss / 1024, int(self._ask("count")))

    def _forget(self, prefix: str) -> None:
        self._ask(f"forget/bench/{prefix}/")

    def _ask(self, what: str) -> str:
        with urlopen(f"{self._endpoint}/-/{what}") as answer:
            return str(answer.read().decode())


def _clients(folder: Path) -> Iterator[Client]:
    state = str(folder / "state")
    yield Client(
        "cloud-train", lambda source, url: [*_OURS, "up", url, str(source), state], lambda url, to: [*_OURS, "down", url, str(to), state]
    )
    yield Client(
        "cloud-train, not synced to the disk",
        lambda source, url: [*_OURS, "up", url, str(source), state, "fast"],
        lambda url, to: [*_OURS, "down", url, str(to), state, "fast"],
    )
    if aws := os.environ.get("BENCHMARK_AWS") or installed("aws"):
        yield Client(
            "aws s3 sync",
            lambda source, url: [aws, "s3", "sync", "--only-show-errors", str(source), url],
            lambda url, to: [aws, "s3", "sync", "--only-show-errors", url, str(to)],
        )
    if s5cmd := os.environ.get("BENCHMARK_S5CMD") or installed("s5cmd"):
        yield Client(
            "s5cmd sync", lambda source, url: [s5cmd, "sync", f"{source}/", url], lambda url, to: [s5cmd, "sync", f"{url}*", f"{to}/"]
        )
    if rclone := os.environ.get("BENCHMARK_RCLONE") or installed("rclone"):
        yield Client(
            "rclone copy",
            lambda source, url: [rclone, "copy", str(source), url.replace("s3://", "bench:")],
            lambda url, to: [rclone, "copy", url.replace("s3://", "bench:"), str(to)],
        )


def _slug(client: Client) -> str:
    return client.name.replace(" ", "-").replace(",", "")


@contextmanager
def _server() -> Iterator[str]:
    """The server's address, with the bucket ``bench``; it ends with the block."""
    with subprocess.Popen([sys.executable, "-m", "benchmarks._s3_server"], cwd=ROOT, stdout=subprocess.PIPE, text=True) as process:
        try:
            assert process.stdout is not None  # for the type checker: it was asked for two lines above
            endpoint = process.stdout.readline().strip()
            with urlopen(Request(f"{endpoint}/bench", method="PUT")):
                pass
            yield endpoint
        finally:
            process.terminate()


def _fill(folder: Path, files: int, size: int) -> None:
    folder.mkdir()
    for number in range(files):
        with (folder / f"{number:05}").open("wb") as file:
            for begin in range(0, size, 1 << 20):
                file.write(os.urandom(min(1 << 20, size - begin)))


def _table(files: int, samples: dict[str, list[Sample]]) -> str:
    first = next(iter(samples.values()))
    lines = ["| client | median s | best s | client CPU s | peak MiB | requests a file | ratio |", "|---|---:|---:|---:|---:|---:|---:|"]
    for name, runs in samples.items():
        seconds, cpu = _median(runs, "seconds"), _median(runs, "cpu_seconds")
        best = min(run.seconds for run in runs)
        peak, requests = _median(runs, "peak_mib"), _median(runs, "requests") / files
        ratio = seconds / _median(first, "seconds")
        lines.append(f"| {name} | {seconds:.2f} | {best:.2f} | {cpu:.2f} | {peak:.0f} | {requests:.3g} | {ratio:.2f} |")
    return "\n".join(lines)


def _verdicts(what: str, samples: dict[str, list[Sample]]) -> str:
    ours, unsynced, *others = samples
    lines = []
    if others:
        best = min(others, key=lambda name: _median(samples[name], "seconds"))
        for name in (ours, unsynced):
            ratio = _median(samples[name], "seconds") / _median(samples[best], "seconds")
            lines.append(verdict(f"{what}: {name} next to the fastest other ({best})", ratio, 1.25, " ×"))
    lines.append(verdict(f"{what}: peak memory", max(run.peak_mib for run in samples[ours]) * 2**20 / 1e6, 150, " MB"))
    return "\n".join(lines)


def _median(runs: Sequence[Sample], what: str) -> float:
    return statistics.median(float(getattr(run, what)) for run in runs)


if __name__ == "__main__":
    main()

"""How time and memory grow with what long and large runs have: checkpoints, nodes, data, logs, code, and runs that wait.

Each is measured at several sizes as a process of its own: CPU time (user and system) and peak memory, which other load on the machine
disturbs little, and what one more item costs, from the smallest size to the largest. Everything is to be linear in time, and constant in
memory or a few hundred bytes an item.

``python -m benchmarks.long_runs logs package`` measures only those parts. The full sizes need 6 GB of disk in ``TMPDIR`` and the program
docker-registry (as benchmarks/repackage.py does) for *package*; ``SMALL=1`` in the environment divides all sizes by 20.
"""

import json
import os
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import psutil

from benchmarks._measure import CLOUD_TRAIN, ROOT, Case, Sample, report, run_once
from cloud_train.orchestrator.home import Home
from cloud_train.run import layout
from cloud_train.run.ledger import Ledger
from cloud_train.run.record import AttemptStatus, Program, RunRecord, sha256_of
from cloud_train.run.states import Cause, State
from cloud_train.storage.base import Store

RUN = "long-run-261130-120000-abcd"
_DIVIDED_BY = 20 if os.environ.get("SMALL") else 1
_CLIENT = (sys.executable, "-m", "benchmarks._long_run_client")
_BEGAN = 1_795_435_200.0
_LINE = b"2026-11-23 12:00:00 step %09d loss 0.123456789 accuracy 0.987654321 images/s 1234.5 and some more words....\n"
_MB, _GB = 10**6, 10**9


@dataclass(frozen=True)
class Growth:
    """One thing, measured at several sizes."""

    what: str
    unit: str
    """What an item is: the slope is for one of them."""
    samples: Mapping[int, Sample]
    """Number of items → the median of its measurements."""

    def row(self) -> str:
        """A row of the table."""
        sizes = sorted(self.samples)
        first, last = self.samples[sizes[0]], self.samples[sizes[-1]]
        items = sizes[-1] - sizes[0]
        more, larger = last.cpu_seconds - first.cpu_seconds, last.peak_mib - first.peak_mib
        cells = (
            self.what,
            " / ".join(f"{size:,}" for size in sizes) + f" {self.unit}{'s' if self.unit.islower() else ''}",
            " / ".join(f"{self.samples[size].cpu_seconds:.2f}" for size in sizes),
            _time(more / items) if more > max(0.02, 0.05 * first.cpu_seconds) else "none",
            " / ".join(f"{self.samples[size].peak_mib:.0f}" for size in sizes),
            _memory(larger * 2**20 / items) if larger > max(1.0, 0.03 * first.peak_mib) else "none",
        )
        return f"| {' | '.join(cells)} |"


HEAD = "| what | sizes | CPU s | per item | peak MiB | per item |\n|---|---|---:|---:|---:|---:|"


def _time(seconds: float) -> str:
    for unit, factor in (("s", 1), ("ms", 1e3), ("µs", 1e6), ("ns", 1e9)):
        if abs(seconds) * factor >= 1:
            return f"{seconds * factor:.3g} {unit}"
    return "0"


def _memory(count: float) -> str:
    for unit, factor in (("MB", 1e6), ("kB", 1e3), ("B", 1)):
        if abs(count) >= factor:
            return f"{count / factor:.3g} {unit}"
    return "0"


def measured(what: str, unit: str, cases: Mapping[int, Case], repeats: int = 3) -> Growth:
    """Run each case ``repeats`` times, in turn, and keep the medians."""
    rounds = [{size: run_once(case) for size, case in cases.items()} for _ in range(repeats)]
    return Growth(what, unit, {size: _median([each[size] for each in rounds]) for size in cases})


def _median(samples: Sequence[Sample]) -> Sample:
    names = ("seconds", "peak_mib", "cpu_seconds")
    return Sample(**{name: statistics.median(getattr(sample, name) for sample in samples) for name in names})


def sizes(*counts: int) -> list[int]:
    """The sizes to measure."""
    return [max(2 + position, count // _DIVIDED_BY) for position, count in enumerate(counts)]


def ended_run(home: Path, store: Store, nodes: int = 1) -> None:
    """A cancelled run in ``store``, which the ledger of ``home`` knows as its own."""
    record = RunRecord(RUN, _BEGAN, {"name": "long-run", "resources": {"nodes": nodes}}, Program(("true",), "/"), {}, {})
    written = record.to_json()
    store.put(f"{RUN}/{layout.RUN}", written)
    status = AttemptStatus(State.RUNNING, started=_BEGAN, heartbeat=_BEGAN, host="host", pid=1, token="t", origin=0)
    store.put(f"{RUN}/{layout.status(1)}", status.ended_with(Cause.CANCELLED, "", _BEGAN + 60).to_json())
    with Ledger(Home(home).ledger_path) as ledger:
        ledger.add(
            RUN,
            name="long-run",
            provider="local",
            store=store.url,
            job_file=None,
            created=_BEGAN,
            settings={},
            record_sha256=sha256_of(written),
            token="t",
        )
        ledger.launched(RUN, 1, {"lock": str(home / "none.lock")})
        ledger.observed(RUN, 1, State.CANCELLED, Cause.CANCELLED, started=_BEGAN, ended=_BEGAN + 60, host="host")


def verb(home: Path, *words: str, **environment: str) -> Case:
    """A command with its own home."""
    return Case(words[0], [CLOUD_TRAIN, *words], {"CLOUD_TRAIN_HOME": str(home), **environment})


def checkpoints(folder: Path) -> Iterator[Growth]:
    """Checkpoints in a bucket."""
    counts = sizes(200, 1000, 2000)
    with _bucket() as (endpoint, variables):
        homes, urls = {}, {}
        for count in counts:
            homes[count], urls[count] = folder / f"home-{count}", f"s3://bucket-{count}/runs"
            store = _open(f"{endpoint}/bucket-{count}", urls[count], variables)
            ended_run(homes[count], store)
            for number in range(1, count + 1):
                _put_checkpoint(store, number)

        def cases(*words: str, **more: str) -> dict[int, Case]:
            return {count: verb(homes[count], *words, **variables, **more) for count in counts}

        def parts(action: str) -> dict[int, Case]:
            return {count: Case(action, [*_CLIENT, action, urls[count], RUN, str(count)], variables) for count in counts}

        yield measured("`status` of a run with checkpoints in a bucket", "checkpoint", cases("status", RUN))
        yield measured(
            "`fetch-model --checkpoint last`", "checkpoint", cases("fetch-model", RUN, "--checkpoint", "last", "--to", str(folder / "last"))
        )
        yield measured(
            "`fetch-model --checkpoint best`", "checkpoint", cases("fetch-model", RUN, "--checkpoint", "best", "--to", str(folder / "best"))
        )
        yield measured("the choice of a resume", "checkpoint", parts("choose"))
        yield measured("the listing before pruning", "checkpoint", parts("listing"))


def _put_checkpoint(store: Store, number: int) -> None:
    prefix, weights = f"{RUN}/{layout.CHECKPOINTS}/{layout.step_folder(number)}", b"%d" % number
    store.put(f"{prefix}/model.safetensors", weights)
    files = {"model.safetensors": {"size": len(weights), "sha256": sha256_of(weights)}}
    manifest = {
        "format": 1,
        "step": number,
        "metrics": {"validation/accuracy": number / 1e5},
        "fingerprint": {},
        "files": files,
        "attempt": 1,
    }
    store.put(f"{prefix}/{layout.MANIFEST}", json.dumps(manifest).encode())


def nodes(folder: Path) -> Iterator[Growth]:
    """The statuses of many nodes in a bucket."""
    counts = sizes(100, 500, 1000)
    with _bucket() as (endpoint, variables):
        status_cases, looks = {}, {}
        for count in counts:
            home, url = folder / f"home-{count}", f"s3://bucket-{count}/runs"
            store = _open(f"{endpoint}/bucket-{count}", url, variables)
            ended_run(home, store, count)
            status = AttemptStatus(State.RUNNING, started=_BEGAN, heartbeat=_BEGAN, host="host", pid=1)
            for rank in range(1, count):
                store.put(f"{RUN}/{layout.status(1, rank)}", status.to_json())
            status_cases[count] = verb(home, "status", RUN, **variables)
            looks[count] = Case("peers", [*_CLIENT, "peers", url, RUN, str(count)], variables)
        yield measured("`status` of a run with many nodes", "node", status_cases)
        yield measured("one look of node 0 at the others, each second", "node", looks)


def data(folder: Path) -> Iterator[Growth]:
    """Data folders: sparse files of 1 GB, and many small files. A code folder with such data in it is refused."""
    large = {count: _data_job(folder / f"large-{count}", count, size=_GB) for count in sizes(10, 25, 50)}
    small = {count: _data_job(folder / f"small-{count}", count, size=1000) for count in sizes(2_000, 20_000, 100_000)}
    for title, jobs in (("sparse files of 1 GB", large), ("files of 1 kB", small)):
        for words in (("validate",), ("submit", "--dry-run")):
            cases = {count: verb(folder / "home", words[0], str(job), *words[1:]) for count, job in jobs.items()}
            yield measured(f"`{' '.join(words)}` of images, {title}", "file", cases)
    for job in large.values():
        (job.parent / "script.yaml").write_text(
            json.dumps({"name": "large", "model": {"kind": "script", "command": ["true"]}, "image": {"base": "registry.invalid/base"}})
        )
    refused = {
        count: Case(
            "package", ["sh", "-c", f"! {CLOUD_TRAIN} package {job.parent}/script.yaml"], {"CLOUD_TRAIN_HOME": str(folder / "home")}
        )
        for count, job in large.items()
    }
    yield measured("`package`, refused: the code folder has sparse files of 1 GB", "file", refused)


def _data_job(place: Path, count: int, size: int) -> Path:
    for each in "ab":
        (place / "data" / "train" / each).mkdir(parents=True)
    for number in range(count):
        with (place / "data" / "train" / "ab"[number % 2] / f"{number}.png").open("wb") as file:
            file.truncate(size)
    job = {
        "name": "large",
        "data": {"dataset": "images", "path": "data", "size": 32},
        "model": {"kind": "cnn", "network": "resnet18"},
        "train": {"epochs": 1},
        "store": str(place / "runs"),
    }
    (place / "job.yaml").write_text(json.dumps(job))
    return place / "job.yaml"


def logs(folder: Path) -> Iterator[Growth]:
    """A long log in a folder, as lines and as one line without an end."""
    from cloud_train.storage.local import LocalStore

    block = b"".join(_LINE % number for number in range(10_000))

    def lines(path: Path, size: int) -> None:
        with path.open("wb") as file:
            for _ in range(max(1, size // len(block))):
                file.write(block)

    def zeros(path: Path, size: int) -> None:
        with path.open("wb") as file:
            file.truncate(size)

    def written(write: Callable[[Path, int], None], *megabytes: int) -> dict[int, Path]:
        """A home for each size, with a run whose log has it."""
        homes = {}
        for count in sizes(*megabytes):
            place = folder / f"{write.__name__}-{count}"
            ended_run(place / "home", LocalStore(place / "runs"))
            path = place / "runs" / RUN / layout.output_log(1)
            path.parent.mkdir(parents=True)
            write(path, count * _MB)
            homes[count] = place / "home"
        return homes

    of_lines, of_zeros = written(lines, 500, 2000, 5000), written(zeros, 50, 200, 500)
    for words, repeats in (((), 1), (("--json",), 1), (("--json", "--tail", "100"), 3)):
        cases = {count: verb(home, "logs", RUN, *words) for count, home in of_lines.items()}
        yield measured(f"`{' '.join(('logs', *words))}`", "MB", cases, repeats)
    cases = {count: verb(home, "logs", RUN, "--json") for count, home in of_zeros.items()}
    yield measured("`logs --json` of one line without an end, NULs", "MB", cases, repeats=1)


def package(folder: Path) -> Iterator[Growth]:
    """Many small files in the code folder, pushed to a registry on loopback; and then again, with one file changed."""
    from benchmarks.repackage import _push_base, _registry

    with _registry(folder / "registry") as host:
        base, first, again = _push_base(host), {}, {}
        for count in sizes(20_000, 60_000, 200_000):
            place = folder / f"code-{count}"
            for number in range(count):
                path = place / "code" / f"{number % 100:02d}" / f"{number}.txt"
                path.parent.mkdir(parents=True, exist_ok=True)
                path.write_text(f"value = {number}\n" * 5)
            job = {"name": "many", "model": {"kind": "script", "command": ["true"], "directory": "code"}, "image": {"base": base}}
            (place / "job.yaml").write_text(json.dumps(job))
            words = ("package", str(place / "job.yaml"), "--push", "--repository", f"{host}/many-{count}")
            case = verb(place / "home", *words, DOCKER_HOST="unix:///nowhere")
            first[count] = run_once(case)
            (place / "code" / "00" / "0.txt").write_text("changed\n")
            again[count] = run_once(case)
    yield Growth("`package --push` of a folder of small files", "file", first)
    yield Growth("the same after a change of one file", "file", again)


def waiting(folder: Path) -> Iterator[Growth]:
    """Local runs whose program sleeps: what submitting costs, and what each costs while it waits."""
    counts, seconds = (1, 4, 16), 60.0
    job = folder / "wait.yaml"
    job.write_text(json.dumps({"name": "wait", "model": {"kind": "script", "command": ["sleep", "3600"]}, "store": str(folder / "runs")}))
    submits, waits = {}, {}
    for count in counts:
        home = folder / f"home-{count}"
        case = verb(home, "submit", str(job))
        submits[count] = _median([run_once(case) for _ in range(count)])
        time.sleep(2.0)  # their start is not what is measured
        before = _workers(home)
        time.sleep(seconds)
        after = _workers(home)
        waits[count] = Sample(seconds, after.peak_mib, (after.cpu_seconds - before.cpu_seconds) * 3600 / seconds)
        for each in (home / "local").iterdir():
            subprocess.run(
                [CLOUD_TRAIN, "cancel", each.name.removesuffix(".1.lock"), "--force"],
                env={**os.environ, **case.environment},
                check=True,
                stdout=subprocess.DEVNULL,
            )
    yield Growth("`submit` beside other runs that wait", "run", submits)
    yield Growth("an hour of local runs that wait, without their programs", "run", waits)


def _workers(home: Path) -> Sample:
    """CPU time and memory (USS) of the workers of a home and of their own processes, without the programs that they run."""
    cpu = memory = 0.0
    for process in psutil.process_iter():
        try:
            if process.environ().get("CLOUD_TRAIN_HOME") == str(home) and "cloud_train.worker" in process.cmdline():
                times = process.cpu_times()
                cpu += times.user + times.system
                memory += process.memory_full_info().uss / 2**20
        except psutil.Error:
            continue
    return Sample(0.0, memory, cpu)


@contextmanager
def _bucket() -> Iterator[tuple[str, dict[str, str]]]:
    """An S3 server in memory: its address, and the variables with which clients find it."""
    with subprocess.Popen([sys.executable, "-m", "benchmarks._s3_server"], cwd=ROOT, stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None  # for the type checker: requested in the line above
        endpoint = process.stdout.readline().strip()
        keys = {"AWS_ACCESS_KEY_ID": "key", "AWS_SECRET_ACCESS_KEY": "secret", "AWS_DEFAULT_REGION": "us-east-1"}
        try:
            yield endpoint, {"AWS_ENDPOINT_URL_S3": endpoint, **keys}
        finally:
            process.kill()


def _open(bucket: str, url: str, variables: Mapping[str, str]) -> Store:
    from urllib.request import Request, urlopen

    from cloud_train.storage.registry import open_store

    urlopen(Request(bucket, method="PUT"), timeout=10).close()
    os.environ.update(variables)
    return open_store(url)


PARTS: dict[str, Callable[[Path], Iterator[Growth]]] = {each.__name__: each for each in (checkpoints, nodes, data, logs, package, waiting)}


def main(names: Sequence[str] = ()) -> None:
    """Measure and print."""
    rows = []
    for name in names or PARTS:
        with tempfile.TemporaryDirectory() as folder:
            for growth in PARTS[name](Path(folder)):
                rows.append(growth.row())
                print(rows[-1], file=sys.stderr, flush=True)
    report("What long and large runs cost", "\n".join([HEAD, *rows]))


if __name__ == "__main__":
    main(sys.argv[1:])

"""After a one-line change of the code: ``cloud-train package --push`` without Docker, compared with ``docker build`` and ``docker push``.

All of them push to the same real registry on loopback, alternately, each after a separate change, in a small folder and in a large one.
Bounds: the bytes sent are at most the compressed changed file plus 10 kB; 1.0 s. Needs a Docker Engine with the base image
(``make image``, or the name in ``BENCHMARK_BASE``) and the program docker-registry (Debian's package of that name).
"""

import contextlib
import gzip
import json
import os
import random
import shutil
import socket
import statistics
import subprocess
import tempfile
import time
import urllib.request
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

from benchmarks._measure import CLOUD_TRAIN, report, verdict
from cloud_train.version import __version__

BASE = os.environ.get("BENCHMARK_BASE") or f"cloud-train-worker:{__version__}"
DOCKER = os.environ.get("BENCHMARK_DOCKER") or "docker"
"""A Docker client that can build with BuildKit."""
_WORDS = Path(random.__file__).read_text().split()
_DOCKERFILE = "FROM {base}\nCOPY . /workspace\n"


@dataclass(frozen=True)
class _Folder:
    """A folder of code, and the files of it that change, a different one in each round."""

    title: str
    made_by: Callable[[Path], None]
    changed: str


@dataclass(frozen=True)
class _Round:
    """The cost of one change."""

    seconds: float
    docker_seconds: float
    sent_bytes: int
    allowed_bytes: int


def main(repeats: int = 9) -> None:
    """Measure and print."""
    folders = (
        _Folder("24 modules of 2 to 8 kB", _modules, "module_*.py"),
        _Folder("30 MB: 24 modules, 3,000 other small files, 6 large ones", _large, "module_*.py"),
        _Folder("the same, and one of the large files changes", _large, "vocabulary_*.txt"),
        _Folder("the same, and one of the other small files changes (no bound is promised here)", _large, "label_*.txt"),
    )
    with tempfile.TemporaryDirectory() as name, _registry(Path(name) / "registry") as host:
        base = _push_base(host)
        for number, folder in enumerate(folders):
            place = Path(name) / f"job-{number}"
            _make(folder, place, base)
            rounds = [_round(folder, place, f"{host}/{number}", change) for change in range(repeats + 1)][1:]  # the first sends everything
            _report(folder, rounds)


def _report(folder: _Folder, rounds: list[_Round]) -> None:
    ours, theirs = [one.seconds for one in rounds], [one.docker_seconds for one in rounds]
    worst = max(rounds, key=lambda one: one.sent_bytes - one.allowed_bytes)
    report(
        f"Packaging after a one-line change: {folder.title}",
        f"{len(rounds)} times alternately, to a registry on loopback.",
        "| what | median s | best s |\n|---|---:|---:|\n"
        f"| `cloud-train package --push`, no Docker | {statistics.median(ours):.2f} | {min(ours):.2f} |\n"
        f"| `docker build` and `docker push` | {statistics.median(theirs):.2f} | {min(theirs):.2f} |",
        verdict("wall time", statistics.median(ours), 1.0, " s"),
        verdict("sent", worst.sent_bytes / 1000, worst.allowed_bytes / 1000, " kB"),
    )


def _make(folder: _Folder, place: Path, base: str) -> None:
    code = place / "code"
    code.mkdir(parents=True)
    folder.made_by(code)
    (code / "Dockerfile").write_text(_DOCKERFILE.format(base=BASE))
    (code / ".dockerignore").write_text("Dockerfile\n")
    job = {"name": "again", "model": {"kind": "script", "command": ["true"], "directory": "code"}, "image": {"base": base}}
    (place / "job.yaml").write_text(json.dumps(job))


def _modules(code: Path) -> None:
    """Realistic programs: modules of Python's own library."""
    library = [path for path in sorted(Path(os.__file__).parent.rglob("*.py")) if not {"test", "site-packages"} & set(path.parts)]
    for number, path in enumerate([path for path in library if 2_000 <= path.stat().st_size <= 8_000][:24]):
        shutil.copyfile(path, code / f"module_{number}.py")


def _large(code: Path) -> None:
    _modules(code)
    _write(code, "label", ".txt", count=3_000, size=3_000)
    _write(code, "vocabulary", ".txt", count=6, size=3_500_000)


def _write(code: Path, name: str, suffix: str, count: int, size: int) -> None:
    """Files of words from a Python module, each in a different order."""
    for number in range(count):
        choose = random.Random(f"{name}-{number}")
        (code / f"{name}_{number}{suffix}").write_text(" ".join(choose.choices(_WORDS, k=size // 4))[:size])


def _round(folder: _Folder, place: Path, repository: str, number: int) -> _Round:
    files = sorted((place / "code").glob(folder.changed))
    changed = files[number % len(files)]
    with changed.open("a") as file:
        file.write(f"\nROUND = {number}\n")
    allowed_bytes = len(gzip.compress(changed.read_bytes())) + 10_000
    start = time.perf_counter()
    command = [CLOUD_TRAIN, "package", str(place / "job.yaml"), "--push", "--repository", f"{repository}/ours", "--json"]
    environment = {**os.environ, "CLOUD_TRAIN_HOME": str(place / "home"), "DOCKER_HOST": "unix:///nowhere"}
    ended = subprocess.run(command, env=environment, check=True, capture_output=True, text=True)
    seconds = time.perf_counter() - start
    return _Round(seconds, _docker(place / "code", repository), int(json.loads(ended.stdout)["sent_bytes"]), allowed_bytes)


def _docker(code: Path, repository: str) -> float:
    start = time.perf_counter()
    name = f"{repository}/theirs:latest"
    environment = {**os.environ, "DOCKER_BUILDKIT": "1"}
    for command in ([DOCKER, "build", "--quiet", "-t", name, str(code)], [DOCKER, "push", "--quiet", name]):
        subprocess.run(command, env=environment, check=True, stdout=subprocess.DEVNULL)
    seconds = time.perf_counter() - start
    subprocess.run([DOCKER, "rmi", "--no-prune", name], check=True, stdout=subprocess.DEVNULL)
    return seconds


def _push_base(host: str) -> str:
    name = f"{host}/base:latest"
    for command in ([DOCKER, "tag", BASE, name], [DOCKER, "push", "--quiet", name], [DOCKER, "rmi", name]):
        subprocess.run(command, check=True, stdout=subprocess.DEVNULL)
    return name


@contextlib.contextmanager
def _registry(folder: Path) -> Iterator[str]:
    program = shutil.which("docker-registry")
    if program is None:
        raise RuntimeError("docker-registry is not installed")
    folder.mkdir()
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        host = f"127.0.0.1:{free.getsockname()[1]}"
    storage = {"filesystem": {"rootdirectory": str(folder / "storage")}}
    (folder / "config.yml").write_text(json.dumps({"version": 0.1, "storage": storage, "http": {"addr": host}}))
    with (folder / "log").open("wb") as log:
        process = subprocess.Popen([program, "serve", str(folder / "config.yml")], stdout=log, stderr=log)
    try:
        for _ in range(200):
            with contextlib.suppress(OSError):
                urllib.request.urlopen(f"http://{host}/v2/", timeout=5).close()
                break
            time.sleep(0.05)
        yield host
    finally:
        process.terminate()
        process.wait(10)


if __name__ == "__main__":
    main()

"""After a one-line change of the code: ``cloud-train package --push`` without Docker, next to ``docker build`` and ``docker push``.

All of them push to the same real registry on loopback, in turn, each after a change of its own. Bounds: the bytes that are sent are at most
the compressed changed files and 10 kB; 1.0 s. Needs a Docker Engine with the base image (``make image``, or the name in
``BENCHMARK_BASE``) and the program docker-registry (Debian's package of that name).
"""

import contextlib
import gzip
import json
import os
import shutil
import socket
import statistics
import subprocess
import tempfile
import time
import urllib.request
from collections.abc import Iterator
from pathlib import Path

from benchmarks._measure import CLOUD_TRAIN, report, verdict
from cloud_train import __version__

BASE = os.environ.get("BENCHMARK_BASE") or f"cloud-train-worker:{__version__}"
DOCKER = os.environ.get("BENCHMARK_DOCKER") or "docker"
"""A client that can build with BuildKit."""
_CODE = "".join(f"def function_{number}(x):\n    return x * {number * 7919 % 1000}\n" for number in range(300))
_FILES = 40
_DOCKERFILE = "FROM {base}\nCOPY . /workspace\n"


def main(repeats: int = 9) -> None:
    """Measure and print."""
    with tempfile.TemporaryDirectory() as name, _registry(Path(name) / "registry") as host:
        folder = Path(name) / "job"
        (folder / "code").mkdir(parents=True)
        for number in range(_FILES):
            (folder / "code" / f"module_{number}.py").write_text(_CODE)
        (folder / "code" / "Dockerfile").write_text(_DOCKERFILE.format(base=BASE))
        (folder / "code" / ".dockerignore").write_text("Dockerfile\n")
        base = _push_base(host)
        job = {"name": "again", "model": {"kind": "script", "command": ["true"], "directory": "code"}, "image": {"base": base}}
        (folder / "job.yaml").write_text(json.dumps(job))
        ours, theirs, sent = [], [], []
        for number in range(repeats + 1):
            changed = folder / "code" / "module_0.py"
            changed.write_text(_CODE + f"ROUND = {number}\n")
            seconds, sent_bytes = _package(folder, host)
            by_docker = _docker(folder / "code", host)
            if number:  # the first round sends everything
                ours.append(seconds)
                theirs.append(by_docker)
                sent.append(sent_bytes)
        everything = b"".join(path.read_bytes() for path in sorted((folder / "code").glob("*.py")))
    report(
        "Packaging after a one-line change",
        f"{_FILES} files of {len(_CODE) / 1000:.0f} kB, one of them changed; {repeats} times alternately, to a registry on loopback.",
        "| what | median s | best s |\n|---|---:|---:|\n"
        f"| `cloud-train package --push`, no Docker | {statistics.median(ours):.2f} | {min(ours):.2f} |\n"
        f"| `docker build` and `docker push` | {statistics.median(theirs):.2f} | {min(theirs):.2f} |",
        verdict("wall time", statistics.median(ours), 1.0, " s"),
        verdict("sent", max(sent) / 1000, len(gzip.compress(everything)) / 1000 + 10, " kB"),
    )


def _package(folder: Path, host: str) -> tuple[float, int]:
    start = time.perf_counter()
    command = [CLOUD_TRAIN, "package", str(folder / "job.yaml"), "--push", "--repository", f"{host}/ours", "--json"]
    environment = {**os.environ, "CLOUD_TRAIN_HOME": str(folder / "home"), "DOCKER_HOST": "unix:///nowhere"}
    ended = subprocess.run(command, env=environment, check=True, stdout=subprocess.PIPE, text=True)
    return time.perf_counter() - start, int(json.loads(ended.stdout)["sent_bytes"])


def _docker(code: Path, host: str) -> float:
    start = time.perf_counter()
    name = f"{host}/theirs:latest"
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

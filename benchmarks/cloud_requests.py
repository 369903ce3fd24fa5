"""The cost of a submission to a cloud: dry runs compared with a bare Typer hello-world, and `submit` until the cloud has accepted the job.

Bounds: a dry run takes at most 1.0 s and imports no cloud's SDK; `submit` takes at most 1.0 s beyond the cloud's own response times,
and makes at most six requests to it. The clouds are the simulators of the tests, without machines; registry and stores are real servers.
The image already exists, as for a job whose code did not change.
"""

import json
import statistics
import subprocess
import sys
import tempfile
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from benchmarks._measure import CLOUD_TRAIN, ROOT, Case, interleave, report, run_once, table, verdict
from benchmarks.startup import hello_world
from tests.clouds import kit
from tests.clouds.server import Server

_STORES = {"aws": "s3://bucket/runs", "gcp": "gs://bucket/runs", "azure": "az://account/container/runs"}
_SDKS = ("boto3", "botocore", "google.auth", "azure.identity", "azure.core", "requests", "obstore", "docker")
_LOADED = """
import sys
from cloud_train.cli.main import main
sys.argv = {argv!r}
try:
    main()
finally:
    print("loaded", *sys.modules)
"""
_NOT_CALLS = ("token", "metadata")
"""Requests of the credential chain, which the SDKs make by themselves."""


def main(repeats: int = 15) -> None:
    """Measure and print."""
    with tempfile.TemporaryDirectory() as name:
        _dry_runs(Path(name), repeats)
        _submissions(Path(name), repeats)


def _dry_runs(folder: Path, repeats: int) -> None:
    environment = {"CLOUD_TRAIN_HOME": f"{folder}/home"}
    job = str(ROOT / "jobs" / "digits-cnn.yaml")
    options = {cloud: ["--provider", cloud, "--set", f"store={store}", "--dry-run"] for cloud, store in _STORES.items()}
    command = [CLOUD_TRAIN, "submit", job]
    dry = {cloud: Case(f"`submit --dry-run`, {cloud}", [*command, *words], environment) for cloud, words in options.items()}
    here = Case("`submit --dry-run`, local", [*command, "--dry-run"], environment)
    hello = Case("hello-world, run", [hello_world(folder), "hello"])
    series = interleave([hello, here, *dry.values()], repeats)
    lines = [verdict(f"{each.name}, in seconds", series[each.name].median, 1.0, " s") for each in dry.values()]
    for cloud, words in options.items():
        lines.append(f"- SDKs that a dry run for {cloud} imports: {', '.join(_imported(['submit', job, *words])) or 'none'}")
    report("Dry runs for the clouds", table(series, hello.name), "\n".join(lines))


def _imported(arguments: list[str]) -> list[str]:
    code = _LOADED.format(argv=["cloud-train", *arguments])
    ended = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True, stdin=subprocess.DEVNULL)
    modules = set(ended.stdout.rpartition("loaded ")[2].split())
    return [sdk for sdk in _SDKS if sdk in modules]


@dataclass(frozen=True)
class _Cloud:
    server: Server
    settings: dict[str, Any]
    environment: dict[str, str]
    store: str


def _submissions(folder: Path, repeats: int) -> None:
    rows = ["| `submit` to | median s | of it the cloud's responses | beyond them | best | calls |", "|---|---:|---:|---:|---:|---|"]
    lines = []
    for name, start in _CLOUDS.items():
        (folder / name).mkdir()
        with start(folder, folder / name) as cloud:
            case = _submission(name, cloud, folder / name)
            run_once(case)  # pushes the image
            taken, answers, calls = [], [], set[tuple[str, ...]]()
            for _ in range(repeats):
                cloud.server.requests.clear()
                taken.append(run_once(case).seconds)
                asked = [logged for logged in cloud.server.requests if logged.operation not in _NOT_CALLS]
                answers.append(sum(logged.took for logged in cloud.server.requests))
                calls.add(tuple(logged.operation for logged in asked))
        rest = [whole - part for whole, part in zip(taken, answers, strict=True)]
        beyond, best = statistics.median(rest), min(rest)
        most = max(calls, key=len)
        median, part = statistics.median(taken), statistics.median(answers)
        rows.append(f"| {name} | {median:.2f} | {part:.2f} | {beyond:.2f} | {best:.2f} | {len(most)}: {', '.join(most)} |")
        lines.append(verdict(f"`submit` to {name}, beyond the cloud's responses", beyond, 1.0, " s"))
        lines.append(verdict(f"calls of `submit` to {name}", len(most), 6))
    report("Submissions to the clouds", "\n".join(rows), "\n".join(lines))


def _submission(name: str, cloud: _Cloud, folder: Path) -> Case:
    """`submit` of a script job, for the cloud in its present state."""
    (folder / "code").mkdir()
    (folder / "code" / "train.sh").write_text("echo hello\n")
    image = {"base": kit.SMALL_BASE}
    job = {"name": "accepted", "model": {"kind": "script", "command": "sh train.sh", "directory": "code"}, "store": cloud.store}
    (folder / "job.yaml").write_text(json.dumps({**job, "image": image}))
    (folder / "config.yaml").write_text(json.dumps({"provider": name, name: cloud.settings}))
    command = [CLOUD_TRAIN, "submit", str(folder / "job.yaml"), "--config", str(folder / "config.yaml")]
    return Case(name, command, {**cloud.environment, "CLOUD_TRAIN_HOME": str(folder / "home"), "HOME": str(folder)})


@contextmanager
def _aws(shared: Path, folder: Path) -> Iterator[_Cloud]:
    from tests.clouds.aws_job import Timing
    from tests.clouds.aws_platform import LOGIN
    from tests.clouds.aws_simulator import aws_cloud

    with (
        kit.registry(shared, folder / "registry", LOGIN) as registry,
        aws_cloud(None, registry.repository, timing=Timing(starting=1e9)) as aws,
    ):
        yield _Cloud(aws.server, aws.settings, aws.environment, aws.new_store())


@contextmanager
def _gcp(shared: Path, folder: Path) -> Iterator[_Cloud]:
    from tests.clouds.gcp_jobs import Timing
    from tests.clouds.gcp_simulator import GcpSimulator

    store = kit.store("gcp")
    with (
        kit.registry(shared, folder / "registry") as registry,
        GcpSimulator(folder, timing=Timing(queued=1e9), repository=registry.repository) as google,
    ):
        yield _Cloud(google.server, google.settings, {**store.environment, **google.environment}, f"{store.new_url()}/runs")


@contextmanager
def _azure(shared: Path, folder: Path) -> Iterator[_Cloud]:
    from tests.clouds.azure_simulator import AzureSimulator

    store = kit.store("azure")
    with kit.registry(shared, folder / "registry") as registry, AzureSimulator() as azure:
        settings = {**azure.settings, "repository": registry.repository}
        yield _Cloud(azure.server, settings, {**azure.environment, **store.environment}, store.new_url())


_CLOUDS: dict[str, Callable[[Path, Path], AbstractContextManager[_Cloud]]] = {"aws": _aws, "gcp": _gcp, "azure": _azure}


if __name__ == "__main__":
    main()

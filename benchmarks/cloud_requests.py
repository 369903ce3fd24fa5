"""Dry runs for the clouds against a bare Typer hello-world: each renders its request and checks it by the cloud's own description.

Bounds: at most 1.0 s each, and no cloud's SDK is imported.
"""

import subprocess
import sys
import tempfile
from pathlib import Path

from benchmarks._measure import CLOUD_TRAIN, ROOT, Case, interleave, report, table, verdict
from benchmarks.startup import hello_world

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


def main(repeats: int = 15) -> None:
    """Measure and print."""
    with tempfile.TemporaryDirectory() as name:
        environment = {"CLOUD_TRAIN_HOME": f"{name}/home"}
        job = str(ROOT / "jobs" / "digits-cnn.yaml")
        options = {cloud: ["--provider", cloud, "--set", f"store={store}", "--dry-run"] for cloud, store in _STORES.items()}
        command = [CLOUD_TRAIN, "submit", job]
        dry = {cloud: Case(f"`submit --dry-run`, {cloud}", [*command, *words], environment) for cloud, words in options.items()}
        here = Case("`submit --dry-run`, local", [*command, "--dry-run"], environment)
        hello = Case("hello-world, run", [hello_world(Path(name)), "hello"])
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


if __name__ == "__main__":
    main()

"""One run over three clouds: it begins on AWS's spot capacity, is interrupted, moves to Google Cloud, is interrupted, and ends on Azure.

``make rehearsal`` shows it: the commands are the real ones, typed at a machine with an empty home. The clouds are simulators, which run the
real container on this machine's Docker Engine; the stores are moto, gcp-storage-emulator and Azurite. At the end the weights are compared,
byte for byte, with those of a run on this machine that nobody interrupted.
"""

import hashlib
import json
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from cloud_train.orchestrator.packaging import DEFAULT_BASE
from cloud_train.run import layout
from cloud_train.storage.registry import open_store
from tests.clouds import kit
from tests.clouds.aws_job import Timing
from tests.clouds.aws_platform import LOGIN
from tests.clouds.aws_simulator import AwsCloud, aws_cloud
from tests.clouds.azure_cloud import AzureCloud, azure_cloud
from tests.clouds.gcp_simulator import GcpCloud, gcp_cloud
from tests.clouds.machine import Machines
from tests.docker_engine import trainers_or_skip
from tests.support import wait_until

Say = Callable[[str], None]

JOB = """\
name: digits-cnn
model: {kind: cnn, blocks: [{filters: 16, norm: batch}, {filters: 32, dropout: 0.2}], dropout: 0.3}
data: {dataset: digits, size: 16, augment: {crop: 2}}
train: {epochs: 40, batch_size: 64, optimizer: {name: adam, lr: 1e-3}, seed: 7}
checkpoint: {every: 1 epoch, keep: 2}
resources: {cpus: 1, spot: true}
limits: {duration: 1h}
"""
_PATIENCE_SECONDS = 180.0


@dataclass(frozen=True)
class Rehearsed:
    """What came of it."""

    run_id: str
    weights: str
    """SHA-256 of the model's weights, after three clouds."""
    untouched: str
    """The same of the run that nobody interrupted."""
    resumed_steps: tuple[int, int]
    """Where the second and the third attempt went on."""


@dataclass(frozen=True)
class Clouds:
    """All three."""

    aws: AwsCloud
    gcp: GcpCloud
    azure: AzureCloud
    stores: Mapping[str, str]
    """The URL of a store of each."""

    @property
    def environment(self) -> dict[str, str]:
        """What somebody has who is known to all of them."""
        return {**self.aws.environment, **self.gcp.environment, **self.azure.environment}


@contextmanager
def three_clouds(shared: Path, folder: Path) -> Iterator[Clouds]:
    """Start all of it; ``shared`` is where the images of the session's registries lie (``tests.clouds.kit``)."""
    with ExitStack() as running:
        registry = running.enter_context(kit.registry(shared, folder / "registry", LOGIN))
        machines = running.enter_context(Machines("sagemaker"))
        aws = running.enter_context(aws_cloud(machines, registry.repository, timing=Timing(interrupted=0.5)))
        gcp = running.enter_context(gcp_cloud(shared, folder / "gcp"))
        azure = running.enter_context(azure_cloud(shared, folder / "azure"))
        yield Clouds(aws, gcp, azure, {"aws": aws.new_store(), "gcp": gcp.new_store(), "azure": azure.new_store()})


class Desk:
    """A machine at which somebody types commands: a folder with a job and config files, and an empty home."""

    def __init__(self, folder: Path, clouds: Clouds, say: Say, job: str = JOB) -> None:
        self.folder, self._say = folder, say
        (folder / "configs").mkdir(parents=True)
        (folder / "home").mkdir()
        (folder / "digits-cnn.yaml").write_text(job, encoding="utf-8")
        for name, settings in (("aws", clouds.aws.settings), ("gcp", clouds.gcp.settings), ("azure", clouds.azure.settings)):
            config = {"provider": name, "store": clouds.stores[name], name: dict(settings)}
            (folder / "configs" / f"{name}.yaml").write_text(json.dumps(config, indent=2), encoding="utf-8")
        kept = {name: value for name, value in os.environ.items() if not name.startswith(("CLOUD_TRAIN_", "AWS_", "AZURE_", "GOOGLE_"))}
        home = {"HOME": str(folder / "home"), "CLOUD_TRAIN_HOME": str(folder / "home" / ".cloud-train")}
        self._environment = {**kept, **clouds.environment, **home, "PYTHONPATH": str(Path(__file__).parents[2])}
        for name in clouds.stores:  # the files are found by their names, and say where images go
            self.type("trust", f"configs/{name}.yaml", shown=False)

    def type(self, *words: str, shown: bool = True) -> str:
        """Run a command, and show it with what it prints; returns its standard output. Raises where it fails."""
        ended = subprocess.run(
            [sys.executable, "-m", "cloud_train", *words],
            cwd=self.folder,
            env=self._environment,
            stdin=subprocess.DEVNULL,
            capture_output=True,
            text=True,
            check=False,
        )
        if shown:
            self._say(f"  $ cloud-train {' '.join(words)}")
            for line in [*ended.stderr.splitlines(), *ended.stdout.splitlines()]:
                self._say(f"    {line}")
        assert ended.returncode == 0, f"cloud-train {' '.join(words)}: {ended.returncode}\n{ended.stderr}{ended.stdout}"
        return ended.stdout.strip()

    def status(self, run_id: str) -> dict[str, Any]:
        """Where a run stands."""
        found: dict[str, Any] = json.loads(self.type("status", run_id, "--json", shown=False))
        return found

    def end_of(self, run_id: str) -> dict[str, Any]:
        """Wait for a run's end, and say it."""
        began = time.monotonic()
        wait_until(lambda: self.status(run_id)["ended"] is not None, f"{run_id} ends", _PATIENCE_SECONDS)
        status = self.status(run_id)
        seconds, how = time.monotonic() - began, status["message"] or "the program ended well"
        self._say(f"    {seconds:.0f} s later attempt {status['attempt']} is {status['state']}: {how}")
        return status

    def weights(self, run_id: str, name: str) -> str:
        """Fetch the final model; the SHA-256 of its weights."""
        self.type("fetch-model", run_id, "--to", name)
        digest = hashlib.sha256((self.folder / name / "model.safetensors").read_bytes()).hexdigest()
        self._say(f"    model.safetensors  SHA-256 {digest}")
        return digest


def rehearse(shared: Path, folder: Path, say: Say) -> Rehearsed:
    """All of it, told to ``say`` line by line."""
    say("Three clouds start: SageMaker, Vertex AI and Azure ML as simulators, with their stores and registries, all on this machine.")
    kit.base_in_registry(shared, DEFAULT_BASE)
    with three_clouds(shared, folder / "clouds") as clouds, pytest.MonkeyPatch.context() as environment:
        for name, value in clouds.environment.items():
            environment.setenv(name, value)  # for a look at the stores from here
        desk = Desk(folder / "desk", clouds, say)

        say("\nAn undisturbed run on this machine, to compare with.")
        here = desk.type("submit", "digits-cnn.yaml", "--provider", "local")
        desk.end_of(here)
        untouched = desk.weights(here, "untouched")

        say("\nThe same job on AWS, on spot capacity.")
        run_id = desk.type("submit", "digits-cnn.yaml", "--provider", "aws")
        step = checkpoint_after(clouds.stores["aws"], run_id, 0)
        say(f"    step {step} is saved in {clouds.stores['aws']}; AWS takes the machine back")
        clouds.aws.simulator.interrupt(f"{run_id}-1")
        desk.end_of(run_id)

        say("\nIt moves to Google Cloud.")
        desk.type("resume", run_id, "--provider", "gcp", "--store", clouds.stores["gcp"])
        step = checkpoint_after(clouds.stores["gcp"], run_id, step)
        clouds.gcp.google.preempt(run_id)  # at once: the training takes only seconds
        say(f"    step {step} is saved in {clouds.stores['gcp']}; Google takes the machine back")
        second = desk.end_of(run_id)["resumed_step"]
        say(f"    it had continued from step {second}")

        say("\nIt moves to Azure, and ends there.")
        desk.type("resume", run_id, "--provider", "azure", "--store", clouds.stores["azure"])
        third = desk.end_of(run_id)["resumed_step"]
        moved = desk.weights(run_id, "moved")
        desk.type("list")
    same = "the same bytes" if moved == untouched else "OTHER BYTES"
    say(f"\nThree clouds, two interruptions, and {same} as the run that nobody disturbed.")
    return Rehearsed(run_id, moved, untouched, (second, third))


def checkpoint_after(store_url: str, run_id: str, step: int) -> int:
    """Wait for a checkpoint beyond ``step`` that is whole; returns its step."""
    store, prefix = open_store(store_url), f"{run_id}/{layout.CHECKPOINTS}"
    found: list[int] = []

    def look() -> bool:
        names = [info.key.split("/")[-2:] for info in store.list(prefix)]
        found[:] = [layout.step_of(folder) or 0 for folder, file in names if file == layout.MANIFEST]
        return max(found, default=0) > step

    wait_until(look, f"{run_id} has a checkpoint beyond step {step}", _PATIENCE_SECONDS)
    return max(found)


def main() -> int:
    """Show it on a terminal."""
    try:
        trainers_or_skip().close()
        for cloud in kit.SCHEMES:
            kit.store(cloud)
        with tempfile.TemporaryDirectory(prefix="cloud-train-rehearsal-") as folder:
            (Path(folder) / "shared").mkdir()
            result = rehearse(Path(folder) / "shared", Path(folder), lambda line: print(line, flush=True))
    except (pytest.skip.Exception, pytest.fail.Exception) as missing:
        print(f"the rehearsal needs what is not here: {missing}", file=sys.stderr)
        return 5
    return 0 if result.weights == result.untouched else 1


if __name__ == "__main__":
    sys.exit(main())

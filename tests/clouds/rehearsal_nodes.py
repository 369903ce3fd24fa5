"""Two nodes that train together on each cloud, of which one is taken back: ``python -m tests.clouds.rehearsal_nodes [aws gcp azure]``.

By hand, because it takes a minute a cloud: torch's processes find each other over what each cloud tells its machines of their places, the
run is interrupted, resumed, and its weights compared, byte for byte, with those of two processes of this machine.
"""

import sys
import tempfile
from collections.abc import Callable, Sequence
from pathlib import Path

import pytest

from cloud_train.orchestrator.packaging import DEFAULT_BASE
from tests.clouds import kit
from tests.clouds.rehearsal import Clouds, Desk, checkpoint_after, three_clouds
from tests.docker_engine import trainers_or_skip

JOB = """\
name: two-nodes
model: {kind: cnn, blocks: [{filters: 8, norm: batch}, {filters: 16, dropout: 0.2}], dropout: 0.3}
data: {dataset: digits, size: 16, augment: {crop: 2}}
train: {epochs: 12, batch_size: 64, optimizer: {name: adam, lr: 1e-3}, seed: 7}
checkpoint: {every: 1 epoch, keep: 2}
resources: {cpus: 1, nodes: 2, spot: true}
limits: {duration: 1h}
"""
_HERE = ("--provider", "local", "--set", "resources={cpus: 2, processes: 2}")
_TAKEN_BACK: dict[str, Callable[[Clouds, str], None]] = {
    "aws": lambda clouds, run_id: clouds.aws.simulator.interrupt(f"{run_id}-1"),
    "gcp": lambda clouds, run_id: clouds.gcp.google.preempt(run_id, node=1),
    "azure": lambda clouds, run_id: clouds.azure.simulator.preempt(f"{run_id}-1"),
}


def rehearse(names: Sequence[str], shared: Path, folder: Path) -> dict[str, str]:
    """The SHA-256 of the weights from each cloud, and ``here``; told on standard output."""
    kit.base_in_registry(shared, DEFAULT_BASE)
    with three_clouds(shared, folder / "clouds") as clouds, pytest.MonkeyPatch.context() as environment:
        for name, value in clouds.environment.items():
            environment.setenv(name, value)
        desk = Desk(folder / "desk", clouds, lambda line: print(line, flush=True), JOB)
        here = desk.type("submit", "digits-cnn.yaml", *_HERE)
        desk.end_of(here)
        weights = {"here": desk.weights(here, "here")}
        for cloud in names:
            run_id = desk.type("submit", "digits-cnn.yaml", "--provider", cloud)
            checkpoint_after(clouds.stores[cloud], run_id, 0)
            _TAKEN_BACK[cloud](clouds, run_id)
            desk.end_of(run_id)
            desk.type("resume", run_id)
            desk.end_of(run_id)
            weights[cloud] = desk.weights(run_id, cloud)
    return weights


def main() -> int:
    """Show it on a terminal; 1 if any weights differ."""
    names = sys.argv[1:] or list(_TAKEN_BACK)
    trainers_or_skip().close()
    with tempfile.TemporaryDirectory(prefix="cloud-train-nodes-") as folder:
        (Path(folder) / "shared").mkdir()
        weights = rehearse(names, Path(folder) / "shared", Path(folder))
    same = len(set(weights.values())) == 1
    print(f"{'the same bytes' if same else 'OTHER BYTES'} on {', '.join(weights)}")
    return 0 if same else 1


if __name__ == "__main__":
    sys.exit(main())

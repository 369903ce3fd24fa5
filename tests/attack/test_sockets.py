"""The ports that a training opens: who can reach them, and that nothing that comes from one is unpickled."""

import json
from pathlib import Path
from typing import Any

import pytest

pytest.importorskip("torch")

from tests.training.program import Program
from tests.training.test_training_nodes import Cluster
from tests.training.test_training_processes import patched

TINY: dict[str, Any] = {
    "model": {"kind": "cnn", "blocks": [{"filters": 2}]},
    "data": {"dataset": "digits", "size": 8},
    "train": {"steps": 3, "batch_size": 100, "tensorboard": False},
    "checkpoint": {"every": "2 steps"},
    "resources": {"cpus": 2, "processes": 2},
}

# In every process of a training: what a pickle asked for, if any. One process also looks at the sockets of all, in its second step.
WATCHED = """
import json, os, sys
found = {found!r}
def hook(event, arguments):
    if event == "pickle.find_class":
        with open(found + ".pickles", "a") as file:
            file.write(f"{{sys.argv}}: {{arguments[1:]}}\\n")
sys.addaudithook(hook)
from cloud_train.worker.api import Run
log = Run.log
def log_and_look(self, *, step, **values):
    log(self, step=step, **values)
    if step == 2:
        import psutil
        launcher = psutil.Process(os.getppid())
        sockets = [(each.name(), *socket.laddr) for each in [launcher, *launcher.children(recursive=True)]
            for socket in each.net_connections("inet") if socket.status == psutil.CONN_LISTEN]
        with open(found + ".sockets", "w") as file:
            json.dump(sockets, file)
Run.log = log_and_look
"""


@pytest.fixture(scope="module")
def watched(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder of a training on one node, and of what was found."""
    folder = tmp_path_factory.mktemp("watched")
    ended = Program(folder / "run", TINY).run(**patched(WATCHED.format(found=str(folder / "found")), folder))
    assert ended.returncode == 0, ended.stderr
    return folder


@pytest.mark.slow
def test_the_processes_of_one_node_listen_on_the_loopback_interface_alone(watched: Path) -> None:
    sockets = json.loads((watched / "found.sockets").read_text())
    assert sockets, "they exchange their gradients somehow"
    assert {address for _, address, _ in sockets} <= {"127.0.0.1", "::1"}, sockets


@pytest.mark.slow
def test_nothing_that_the_processes_of_one_node_tell_each_other_is_unpickled(watched: Path) -> None:
    pickles = watched / "found.pickles"
    assert not pickles.exists(), pickles.read_text()


@pytest.mark.slow
def test_nothing_that_nodes_tell_each_other_is_unpickled(tmp_path: Path) -> None:
    cluster = Cluster(tmp_path / "cluster", nodes=2)
    try:
        codes = cluster.run(environment=patched(WATCHED.format(found=str(tmp_path / "found")), tmp_path))
        assert codes == [0, 0], cluster.output(0) + cluster.output(1)
    finally:
        cluster.end()
    pickles = tmp_path / "found.pickles"
    assert (tmp_path / "found.sockets").exists(), "the processes were watched"
    assert not pickles.exists(), pickles.read_text()

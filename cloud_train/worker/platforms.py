"""A worker's platform: where it provides the node rank, the other nodes and the job's id.

- SageMaker: ``/opt/ml/input/config/resourceconfig.json`` names the hosts, and the network interface between them
  (https://docs.aws.amazon.com/sagemaker/latest/dg/your-algorithms-training-algo-running-container.html).
- Vertex AI: ``CLUSTER_SPEC`` lists the pools; node 0 is in pool 0, the others are in pool 1
  (https://cloud.google.com/vertex-ai/docs/training/distributed-training).
- Azure ML: ``NODE_RANK``, ``AZUREML_NODE_COUNT`` and ``MASTER_ADDR``, as for every distributed PyTorch job
  (https://learn.microsoft.com/azure/machine-learning/how-to-train-distributed-gpu).
- Others: the variables that the provider names as JSON (``run.platform_rules.NodeVariables``).
"""

from __future__ import annotations  # the worker also runs on Python 3.10, in users' own images

import json
import os
from collections.abc import Callable, Mapping
from contextlib import suppress
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Any

from cloud_train import exit_status
from cloud_train.errors import UsageError
from cloud_train.run.platform_rules import NodeVariables
from cloud_train.worker.nodes import DEFAULT_PORT, NodeContext, from_variables

_PORT = "CLOUD_TRAIN_MASTER_PORT"
_INTERFACE_VARIABLES = ("NCCL_SOCKET_IFNAME", "GLOO_SOCKET_IFNAME")


@dataclass(frozen=True)
class Platform:
    """The platform that starts the worker, and restarts it after a preemption."""

    node: NodeContext
    job: str
    """The platform's id of the job: the same at each restart of this worker, and unique to the job."""
    failure_file: Path | None = None
    """File from which the platform reads the reason for a failure."""
    restarts_failures: bool = False
    """Whether a worker that exits with a non-zero status is restarted, which costs money if there is nothing left to do."""
    store_status: int = exit_status.STORE
    """Exit status of a worker that cannot reach its store."""
    join_seconds: float = 1200.0
    """How long the machines of a job may take to appear one after another. AWS's own toolkit waits 15 minutes for their names."""
    variables: Mapping[str, str] = field(default_factory=dict)
    """Variables for libraries of the program, unless the platform or the image sets them."""

    def tell(self, message: str) -> None:
        """Write the reason for the end where the platform looks for it, if the image's user may write there."""
        if message and self.failure_file:
            with suppress(OSError):
                self.failure_file.write_text(message, encoding="utf-8")

    def exit_status(self, status: int, *, is_final: bool = False) -> int:
        """The exit status to use instead of ``status``; ``is_final`` is whether the store has the end of the run's last attempt.

        Vertex AI may restart a worker that exits with another status than 0 up to five times in place, and then the job up to three times.
        Most of them end the job at once ("user code exception"), but 6, 11, 134 and 139 may be a crash, after which it starts the job
        again; nothing in its documentation says that disableRetries changes this
        (https://cloud.google.com/vertex-ai/docs/training/understanding-training-service).
        """
        if is_final and self.restarts_failures:
            return 0
        return self.store_status if status == exit_status.STORE else status


def platform_of(name: str, environment: Mapping[str, str] = os.environ, root: Path = Path("/")) -> Platform:
    """The platform ``name``, or the one described by NodeVariables as JSON; raises UsageError if this machine is not one of its machines.

    ``root`` is the root folder for the platform's files.
    """
    find: Callable[[Mapping[str, str], Path], Platform]
    if name.startswith("{"):
        rules = NodeVariables.from_json(name)
        name, find = "the provider's variables", partial(_by_variables, rules)
    elif name in _PLATFORMS:
        find = _PLATFORMS[name]
    else:
        raise UsageError(f"--platform must be one of {', '.join(_PLATFORMS)} or JSON, not {name!r}")
    try:
        return find(environment, root)
    except (OSError, ValueError, KeyError, IndexError, TypeError, AttributeError) as error:
        raise UsageError(f"cannot determine the node rank on platform {name!r}: {type(error).__name__}: {error}") from error


def _by_variables(rules: NodeVariables, environment: Mapping[str, str], root: Path) -> Platform:
    node = NodeContext()
    if rules.rank and rules.nodes and (nodes := int(environment[rules.nodes])) > 1:
        address = environment[rules.address] if rules.address else "127.0.0.1"
        port = {_PORT: environment[rules.port]} if rules.port else {}
        node = _node(int(environment[rules.rank]), nodes, address, {**port, **environment})
    failure_file = root / rules.failure_file.lstrip("/") if rules.failure_file else None
    return Platform(node, environment[rules.job], failure_file, rules.restarts_failures)


def _sagemaker(environment: Mapping[str, str], root: Path) -> Platform:
    config: dict[str, Any] = json.loads((root / "opt/ml/input/config/resourceconfig.json").read_bytes())
    hosts: list[str] = config["hosts"]
    node = _node(hosts.index(config["current_host"]), len(hosts), hosts[0], environment)
    # Without it, NCCL may choose a link-local interface: https://github.com/ultralytics/yolov5/issues/12811. AWS's own toolkit sets it too:
    # https://github.com/aws/sagemaker-training-toolkit, src/sagemaker_training/mpi.py.
    interface = config.get("network_interface_name")
    variables = dict.fromkeys(_INTERFACE_VARIABLES, str(interface)) if interface and node.nodes > 1 else {}
    return Platform(node, environment["TRAINING_JOB_NAME"], failure_file=root / "opt/ml/output/failure", variables=variables)


def _vertex(environment: Mapping[str, str], _root: Path) -> Platform:
    job = environment["CLOUD_ML_JOB_ID"]
    spec: dict[str, Any] = json.loads(environment.get("CLUSTER_SPEC") or "{}")
    if not spec:
        return Platform(NodeContext(), job, restarts_failures=True, store_status=exit_status.STORE_ON_VERTEX)
    pools = [spec["cluster"].get(f"workerpool{number}", []) for number in range(2)]
    rank = int(spec["task"]["index"]) + (1 if spec["task"]["type"] == "workerpool1" else 0)
    address, _, port = pools[0][0].rpartition(":")
    node = _node(rank, len(pools[0]) + len(pools[1]), address, {_PORT: port, **environment})
    return Platform(node, job, restarts_failures=True, store_status=exit_status.STORE_ON_VERTEX)


def _azureml(environment: Mapping[str, str], _root: Path) -> Platform:
    job = environment["AZUREML_RUN_ID"]
    nodes = int(environment.get("AZUREML_NODE_COUNT") or environment.get("WORLD_SIZE") or 1)
    if nodes == 1:
        return Platform(NodeContext(), job)
    rank = int(environment.get("NODE_RANK") or environment.get("AZUREML_CR_NODE_RANK") or environment["RANK"])
    return Platform(from_variables(environment, rank=rank, nodes=nodes), job)


_PLATFORMS: dict[str, Callable[[Mapping[str, str], Path], Platform]] = {"sagemaker": _sagemaker, "vertex": _vertex, "azureml": _azureml}


def _node(rank: int, nodes: int, address: str, environment: Mapping[str, str]) -> NodeContext:
    return NodeContext(rank, nodes, address, int(environment.get(_PORT) or DEFAULT_PORT))

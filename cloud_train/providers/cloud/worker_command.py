"""The command that starts the worker on a cloud's machine, which shares nothing with the machine that submits."""

from typing import TYPE_CHECKING

from cloud_train.docker import container_paths
from cloud_train.providers.base import worker_arguments

if TYPE_CHECKING:
    from cloud_train.run.plan import Plan

_HOME = "/tmp/cloud-train"
WORKSPACE = f"{_HOME}/work"
"""Where the worker keeps the run's files meanwhile."""
ENVIRONMENT = {"HOME": "/tmp", "USER": "cloud-train", "CLOUD_TRAIN_HOME": _HOME}
"""What the worker and its program find in their environment."""


def worker_command(plan: "Plan", platform: str, secrets: str | None = None) -> list[str]:
    """The words of the command. ``platform`` says how the worker learns its place among the nodes (``worker.platforms``), ``secrets``
    where it finds the job's secrets (``worker.secrets``).
    """
    place = ["--workspace", WORKSPACE, "--platform", platform, *(["--secrets", secrets] if secrets else [])]
    return [container_paths.PYTHON, "-m", "cloud_train.worker", "--store", plan.store, *worker_arguments(plan), *place]

"""What the job of any cloud takes from the plan: its name, image, time limit, tags, and the command that starts its worker. Pure."""

import math
from typing import TYPE_CHECKING

from cloud_train.docker import container_paths
from cloud_train.providers.base import worker_arguments
from cloud_train.run.platform_rules import NodeVariables, SecretUrl

if TYPE_CHECKING:
    from cloud_train.run.plan import Plan

RUN = "cloud-train-run"
ATTEMPT = "cloud-train-attempt"
STORE = "cloud-train-store"
"""Keys of the tags, or labels, by which a job is found again."""
NOT_BUILT = "sha256:" + "0" * 64
"""Stands for the image's digest before there is an image."""

_HOME = "/tmp/cloud-train"
WORKSPACE = f"{_HOME}/work"
"""Where the worker keeps the run's files until they are uploaded."""
ENVIRONMENT = {"HOME": "/tmp", "USER": "cloud-train", "CLOUD_TRAIN_HOME": _HOME}
"""The environment of the worker and its program."""

_DAY = "1 d"
_MARGIN_SECONDS = 900
"""What an attempt may need beyond the program's own time: to fetch data and the newest checkpoint, and to upload the last one."""


def job_name(run_id: str, attempt: int) -> str:
    """The name of an attempt's job, which makes a launch happen once where a cloud gives a name to one job only."""
    return f"{run_id}-{attempt}"


def image_of(plan: "Plan") -> str | None:
    """The image by its digest, which is zeros before it is built; None where no repository is configured."""
    if plan.image and "@sha256:" in plan.image:
        return plan.image
    repository = plan.provider_settings.get("repository")
    return f"{repository}@{NOT_BUILT}" if repository else None


def longest_seconds(plan: "Plan") -> float:
    """When the cloud itself ends the job, all of its attempts together; the worker applies the job's own limit before that."""
    from cloud_train.spec.types import Duration  # imports pydantic, which observing runs does without

    limits = plan.job.limits
    if limits.duration is None:
        return Duration.parse(plan.provider_settings.get("max_runtime") or _DAY).seconds
    return (limits.duration.seconds + limits.grace.seconds) * plan.job.retry.attempts + _MARGIN_SECONDS


def whole_seconds(plan: "Plan") -> int:
    """The same for clouds that count whole seconds."""
    return math.ceil(longest_seconds(plan))


def worker_command(plan: "Plan", platform: str | NodeVariables, secrets: str | SecretUrl | None = None) -> list[str]:
    """The worker's command. ``platform`` tells how the worker learns its place among the nodes: a name in ``worker.platforms``, or the
    variables of another platform. ``secrets`` tells where the job's secrets are: a place as in ``worker.secrets``, or a request.
    """
    platform = platform if isinstance(platform, str) else platform.to_json()
    secrets = secrets.to_option() if isinstance(secrets, SecretUrl) else secrets
    place = ["--workspace", WORKSPACE, "--platform", platform, *(["--secrets", secrets] if secrets else [])]
    return [container_paths.PYTHON, "-m", "cloud_train.worker", "--store", plan.store, *worker_arguments(plan), *place]

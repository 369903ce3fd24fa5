"""The parts of a job that all clouds share, derived from the plan: name, image, time limit, tags and worker command. Pure."""

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
"""Keys of the tags or labels that identify a job."""
NOT_BUILT = "sha256:" + "0" * 64
"""Placeholder for the image's digest before it is built."""

_HOME = "/tmp/cloud-train"
WORKSPACE = f"{_HOME}/work"
"""The folder for the run's files until they are uploaded."""
ENVIRONMENT = {"HOME": "/tmp", "USER": "cloud-train", "CLOUD_TRAIN_HOME": _HOME}
"""The environment of the worker and its program."""

_DAY = "1 d"
_MARGIN_SECONDS = 900
"""Time for an attempt to download data and the newest checkpoint, and to upload the last one."""


def job_name(run_id: str, attempt: int) -> str:
    """The name of an attempt's job, which prevents a second launch on clouds where names are unique."""
    return f"{run_id}-{attempt}"


def image_of(plan: "Plan") -> str | None:
    """The image, by digest (zeros before it is built); None if no repository is configured."""
    if plan.image and "@sha256:" in plan.image:
        return plan.image
    repository = plan.provider_settings.get("repository")
    return f"{repository}@{NOT_BUILT}" if repository else None


def longest_seconds(plan: "Plan") -> float:
    """The cloud's time limit for all attempts together, in seconds; the worker applies the job's own limit before that."""
    from cloud_train.spec.types import Duration  # imports pydantic, which observing runs does not need

    limits = plan.job.limits
    if limits.duration is None:
        return Duration.parse(plan.provider_settings.get("max_runtime") or _DAY).seconds
    return (limits.duration.seconds + limits.grace.seconds) * plan.job.retry.attempts + _MARGIN_SECONDS


def whole_seconds(plan: "Plan") -> int:
    """``longest_seconds``, rounded up."""
    return math.ceil(longest_seconds(plan))


def worker_command(plan: "Plan", platform: str | NodeVariables, secrets: str | SecretUrl | None = None) -> list[str]:
    """The worker's command.

    ``platform`` is a name in ``worker.platforms``, or another platform's variables; the worker gets its node rank from it. ``secrets`` is
    the location of the job's secrets, as in ``worker.secrets``, or a request for them.
    """
    platform = platform if isinstance(platform, str) else platform.to_json()
    secrets = secrets.to_option() if isinstance(secrets, SecretUrl) else secrets
    place = ["--workspace", WORKSPACE, "--platform", platform, *(["--secrets", secrets] if secrets else [])]
    return [container_paths.PYTHON, "-m", "cloud_train.worker", "--store", plan.store, *worker_arguments(plan), *place]

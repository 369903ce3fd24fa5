"""Rules for command jobs and environments that Azure ML enforces, but that its specification states in prose or not at all. Pure.

Each has its source. They apply to bodies whose shape is already valid.
"""

import re
from collections.abc import Iterator, Mapping
from datetime import timedelta
from typing import Any

_DAY_SECONDS = 24 * 3600
LONGEST_DAYS = 21
LONGEST_SPOT_DAYS = 7
"""Days after which Azure ML ends a job, the second on low-priority machines (https://learn.microsoft.com/azure/machine-learning/how-to-manage-quotas)."""
_DURATION = re.compile(r"P(?:(\d+)D)?(?:T(?:(\d+)H)?(?:(\d+)M)?(?:(\d+)S)?)?")
_SHARED_MEMORY = re.compile(r"0*[1-9]\d*[bBkKmMgG]")
"""The description of shmSize in mfe.json: a number greater than 0 and a unit. Its pattern there is not anchored."""
_EXPERIMENT = re.compile(r"[A-Za-z0-9][A-Za-z0-9_-]{0,255}")
"""Azure ML's own message, in dotnet/machinelearning-modelbuilder#1773."""
_WORKSPACE = r"/subscriptions/[^/]+/resourceGroups/[^/]+/providers/Microsoft\.MachineLearningServices/workspaces/[^/]+"
_NAME = r"[A-Za-z0-9][A-Za-z0-9_-]{0,254}"
_ENVIRONMENT = re.compile(
    rf"(?:azureml:)?{_WORKSPACE}/environments/{_NAME}/versions/[^/\s]+|azureml:[A-Za-z0-9][\w.-]{{0,254}}:[^/:\s]+"
    rf"|azureml://registries/[^/\s]+/environments/{_NAME}/(?:versions|labels)/[^/\s]+",
    re.IGNORECASE,
)
"""An ARM resource ID (mfe.json), or Azure ML's short form, which a recorded exchange of azure-ai-ml has (Azure/azure-sdk-assets)."""
_COMPUTE = re.compile(rf"{_WORKSPACE}/computes/[A-Za-z][A-Za-z0-9-]+", re.IGNORECASE)
_IMAGE = re.compile(r"[a-z0-9][a-z0-9.:-]*(?:/[a-z0-9._-]+)+(?::[\w.-]+)?(?:@sha256:[0-9a-f]{64})?")
_MOST_TAGS = 50
_LONGEST_TAG = (100, 1000)
"""Maximum length of a tag's name and value, in characters (https://learn.microsoft.com/azure/machine-learning/how-to-manage-quotas)."""


def job_problems(job: Mapping[str, Any], *, is_spot: bool, has_machine: bool) -> Iterator[str]:
    """Problems in the ``properties`` of a command job for which Azure ML would refuse it.

    ``is_spot`` is whether the job asks for low-priority machines, ``has_machine`` whether one was found for it.
    """
    if "${{" in job["command"]:
        yield "job.properties.command: '${{' begins an Azure ML expression; no name or URL may contain it"
    if not _ENVIRONMENT.fullmatch(job["environmentId"]):
        yield f"job.properties.environmentId: {job['environmentId']!r} is not the ID of an environment's version"
    if not _EXPERIMENT.fullmatch(job.get("experimentName", "Default")):
        yield "job.properties.experimentName: use 1 to 256 letters, digits, '_' and '-', starting with a letter or digit"
    yield from _variable_problems(job.get("environmentVariables", {}))
    yield from _machine_problems(job, has_machine)
    yield from _time_problems(job.get("limits", {}).get("timeout"), is_spot or job.get("queueSettings", {}).get("jobTier") == "Spot")
    yield from _tag_problems(job.get("tags", {}))


def environment_problems(environment: Mapping[str, Any]) -> Iterator[str]:
    """Problems in the ``properties`` of an environment, which must be an image for Linux."""
    image = environment.get("image")
    if image is None:
        yield "environment.properties.image: is missing"
    elif not _IMAGE.fullmatch(image):
        yield f"environment.properties.image: {image!r} is not the full name of an image"
    if "build" in environment:
        yield "environment.properties.build: an environment has either an image or a build context"
    if environment.get("osType", "Linux") != "Linux":
        yield "environment.properties.osType: the image runs on Linux"


def _variable_problems(variables: Mapping[str, str]) -> Iterator[str]:
    for name, value in variables.items():
        if not name or "=" in name or "\0" in name + value:
            yield f"job.properties.environmentVariables: {name!r} is not a variable's name, or its value contains a null character"


def _machine_problems(job: Mapping[str, Any], has_machine: bool) -> Iterator[str]:
    resources, compute = job.get("resources", {}), job.get("computeId")
    if resources.get("instanceCount", 1) < 1:
        yield f"job.properties.resources.instanceCount: {resources['instanceCount']} is less than 1"
    if not _SHARED_MEMORY.fullmatch(resources.get("shmSize", "2g")):
        yield f"job.properties.resources.shmSize: {resources['shmSize']!r} is not a number greater than 0 and a unit of b, k, m and g"
    distribution = job.get("distribution", {})
    if distribution.get("processCountPerInstance", 1) < 1:
        yield f"job.properties.distribution.processCountPerInstance: {distribution['processCountPerInstance']} is less than 1"
    if compute is None and has_machine and not resources.get("instanceType"):
        yield "job.properties.resources.instanceType: is missing, so Azure ML would choose the machine itself"
    if compute is not None and not _COMPUTE.fullmatch(compute):
        yield f"job.properties.computeId: {compute!r} is not the ID of a workspace's cluster"
    if compute is not None and "queueSettings" in job:
        yield "job.properties.queueSettings: a cluster has its own setting for low priority"


def _time_problems(timeout: str | None, is_spot: bool) -> Iterator[str]:
    days = LONGEST_SPOT_DAYS if is_spot else LONGEST_DAYS
    seconds = seconds_of(timeout) if timeout is not None else days * _DAY_SECONDS
    if seconds < 1:
        yield f"job.properties.limits.timeout: {timeout} is shorter than a second"
    if seconds > days * _DAY_SECONDS:
        where = " on low-priority machines" if is_spot else ""
        yield (
            f"azure.max_runtime: {timedelta(seconds=seconds)} exceeds the {days} days that Azure ML allows{where}; lower it, or"
            " limits.duration or retry.attempts"
        )


def seconds_of(duration: str) -> int:
    """The seconds of an ISO 8601 duration such as ``P1DT30M``."""
    match = _DURATION.fullmatch(duration)
    days, hours, minutes, seconds = (int(part or 0) for part in match.groups()) if match else (0, 0, 0, 0)
    return ((days * 24 + hours) * 60 + minutes) * 60 + seconds


def _tag_problems(tags: Mapping[str, str]) -> Iterator[str]:
    if len(tags) > _MOST_TAGS:
        yield f"azure.tags: {len(tags)} tags, including cloud-train's own; at most {_MOST_TAGS} are allowed"
    for name, value in tags.items():
        if len(name) > _LONGEST_TAG[0] or len(value) > _LONGEST_TAG[1]:
            yield f"azure.tags.{name[:40]}: too long; a name may have {_LONGEST_TAG[0]} characters, a value {_LONGEST_TAG[1]:,}"

"""Maps the state of a SageMaker training job to that of the attempt. Pure.

While a worker runs, it reports to the run directory. The state derived here counts before the worker starts, and if it could not report.
Reference: https://docs.aws.amazon.com/sagemaker/latest/APIReference/API_DescribeTrainingJob.html. The text of FailureReason is
undocumented: the patterns match known messages, and any other text is passed on with the cause *failed*. Reasons that begin with
``AlgorithmError`` quote the program (``/opt/ml/output/failure``), so no pattern is looked for in them.
An image that is larger than the disk "cannot be pulled": https://github.com/aws/sagemaker-python-sdk/issues/57.
"""

import re
from collections.abc import Mapping
from dataclasses import replace
from typing import Any

from cloud_train import exit_status
from cloud_train.providers.base import TAKEN, Observation, ended, said_by, unknown
from cloud_train.run.states import Cause, State

_ACTIVE = {
    "Pending": State.QUEUED,
    "Starting": State.QUEUED,
    "LaunchingMLInstances": State.QUEUED,
    "PreparingTrainingStack": State.STARTING,
    "Downloading": State.STARTING,
    "DownloadingTrainingImage": State.STARTING,
    "Training": State.RUNNING,
    "Uploading": State.RUNNING,
    "Updating": State.RUNNING,
    "Interrupted": State.QUEUED,
    "Restarting": State.STARTING,
    "Stopping": State.STOPPING,
}
"""A running job's secondary status → state."""

_OF_THE_PROGRAM = re.compile(r"\s*AlgorithmError\b")
"""Begins the reasons that hold the program's own text, which says nothing about the platform."""
_EXIT_CODE = re.compile(r"exit code: ?(-?\d+)\.?\s*$", re.IGNORECASE)
"""Ends the reason of a container that exited; before it, the program may have written anything."""
_SIGNALS = {132: "an illegal instruction", 134: "abort", 139: "a segmentation fault"}
"""Exit codes of programs that a signal ended: https://github.com/aws/sagemaker-python-sdk/issues/134."""

_FAILURES = (
    (
        r"cannot pull|image .{0,300}(not found|does not exist)|invalid.{0,300} image|manifest|media type",
        Cause.REJECTED,
        "the image cannot be pulled: check that it exists in aws.repository for linux/amd64, that it fits on the machine's disk"
        " (aws.volume), and that aws.role has ecr:BatchGetImage, ecr:GetDownloadUrlForLayer and ecr:GetAuthorizationToken",
    ),
    (
        r"assume (the )?role|sts:AssumeRole",
        Cause.REJECTED,
        "check that aws.role exists, and that its trust policy lets sagemaker.amazonaws.com assume it",
    ),
    (
        r"route table|VPC endpoint|NAT device|network ACL|unable to execute request to S3",
        Cause.REJECTED,
        "the machines cannot reach S3 from aws.subnets: add an S3 endpoint or a NAT gateway, and let aws.security_groups reach it",
    ),
    (
        r"access ?denied|not authorized|forbidden|permission",
        Cause.REJECTED,
        "aws.role lacks a permission: docs/clouds/aws.md has the policy",
    ),
    (
        r"ResourceLimitExceeded|service limit|quota",
        Cause.REJECTED,
        "the account's quota for this machine is used up: request more under Service Quotas, or choose another aws.machine",
    ),
    (
        r"CapacityError|insufficient ?capacity|unable to provision|temporarily unavailable",
        Cause.INFRASTRUCTURE,
        "the region has no capacity for this machine: retry later, or choose another aws.machine or aws.region",
    ),
    (r"more memory|out ?of ?memory|OutOfMemory", Cause.OUT_OF_MEMORY, "increase resources.memory to get a larger machine"),
    (r"no space left|disk.{0,300} full|insufficient disk space", Cause.FAILED, "the machine's disk is full: enlarge aws.volume"),
    (r"InternalServerError|internal (server )?error|unhealthy", Cause.INFRASTRUCTURE, ""),
)
"""A pattern in a FailureReason of the platform's own → cause and next step."""


def observation_of(job: Mapping[str, Any]) -> Observation:
    """The state of an attempt, from DescribeTrainingJob, or from an entry of ListTrainingJobs for which ``needs_more`` is false."""
    status, secondary = str(job.get("TrainingJobStatus")), str(job.get("SecondaryStatus"))
    match status:
        case "Completed":
            found = ended(Cause.SUCCEEDED, "SageMaker reports that the job completed")
        case "Failed":
            found = failure(str(job.get("FailureReason") or ""))
        case "Stopped":
            found = _stopped(secondary)
        case "Stopping":
            found = Observation(State.STOPPING, None, _last_message(job))
        case "InProgress" if secondary in _ACTIVE:
            found = Observation(_ACTIVE[secondary], None, _words(secondary, job))
        case "Deleting":
            found = ended(Cause.UNKNOWN, "SageMaker is deleting the job")
        case _:
            found = unknown(f"unknown SageMaker status {status}/{secondary}")
    return found


def needs_more(summary: Mapping[str, Any]) -> bool:
    """Whether an entry of ListTrainingJobs is not enough: only DescribeTrainingJob has the reason for a failure."""
    return summary.get("TrainingJobStatus") == "Failed" or "SecondaryStatus" not in summary


def failure(reason: str) -> Observation:
    """The end of an attempt whose job failed for this reason. Its message has SageMaker's words first."""
    found = _EXIT_CODE.search(reason)
    code = int(found[1]) if found else None
    if code and (said := said_by(code)):  # a failed job did not succeed, even if its message has exit code 0
        return said if said is TAKEN else replace(said, message=f"{reason}; {said.message}")
    if not _OF_THE_PROGRAM.match(reason):
        for pattern, cause, remedy in _FAILURES:
            if re.search(pattern, reason, re.IGNORECASE):
                return ended(cause, f"{reason}; {remedy}" if remedy else reason)
    if code is not None:
        return _of_exit(code, reason)
    return ended(Cause.FAILED if reason else Cause.INFRASTRUCTURE, reason or "SageMaker gives no reason for the failure")


def _of_exit(code: int, reason: str) -> Observation:
    if code == exit_status.STORE:
        remedy = "the worker could not reach the store: check that aws.role may read and write it, and that its bucket is in this region"
        return ended(Cause.INFRASTRUCTURE, f"{reason}; {remedy}")
    if code == exit_status.KILLED:
        return ended(Cause.INFRASTRUCTURE, f"{reason}; the container was killed: it ran out of memory, or its machine was reclaimed")
    if code in _SIGNALS:
        return ended(Cause.FAILED, f"{reason}; {_SIGNALS[code]} ended the worker before it could report why")
    return ended(Cause.FAILED, f"{reason}; the container ended before its worker could report why")


def _stopped(secondary: str) -> Observation:
    if secondary == "MaxRuntimeExceeded":
        return ended(Cause.TIMED_OUT, "SageMaker stopped the job at its time limit (limits.duration, or aws.max_runtime)")
    if secondary == "MaxWaitTimeExceeded":
        return ended(
            Cause.INFRASTRUCTURE,
            "no spot capacity within aws.max_wait: increase it, choose another aws.machine, or set resources.spot to false",
        )
    return ended(Cause.CANCELLED, "the training job was stopped")


def _words(secondary: str, job: Mapping[str, Any]) -> str:
    if secondary == "Interrupted":
        return "the machine was reclaimed; SageMaker is waiting for another one"
    return _last_message(job)


def _last_message(job: Mapping[str, Any]) -> str:
    """SageMaker's message about the job's current step; listings do not include it."""
    transitions = job.get("SecondaryStatusTransitions") or [{}]
    return str(transitions[-1].get("StatusMessage") or "")

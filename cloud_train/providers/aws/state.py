"""From what SageMaker says of a training job to where the attempt stands. Pure.

While a worker runs it speaks for itself in the run directory; what is said here counts before it begins and where it could not speak.
Reference: https://docs.aws.amazon.com/sagemaker/latest/APIReference/API_DescribeTrainingJob.html. For why a job failed the service has
words that are stated nowhere: the patterns here are of what it was seen to say; any other text is passed on with the cause *failed*.
That an image which is larger than the disk "cannot be pulled": https://github.com/aws/sagemaker-python-sdk/issues/57.
"""

import re
from collections.abc import Mapping
from typing import Any

from cloud_train import exit_status
from cloud_train.providers.base import Observation
from cloud_train.providers.cloud.observations import ended, said_by, unknown
from cloud_train.run.states import Cause, State

_GOING_ON = {
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
"""Secondary status of a job that goes on → state."""

_FAILURES = (
    (
        r"cannot pull|image .{0,300}(not found|does not exist)|invalid.{0,300} image|manifest",
        Cause.REJECTED,
        "the image cannot be pulled: it has to be there (aws.repository), for linux/amd64, and to fit on the machine's disk (make it"
        " smaller, or aws.volume larger), and the role (aws.role) needs ecr:BatchGetImage, ecr:GetDownloadUrlForLayer and"
        " ecr:GetAuthorizationToken",
    ),
    (
        r"assume (the )?role|sts:AssumeRole",
        Cause.REJECTED,
        "the role (aws.role) has to exist, and its trust policy to let sagemaker.amazonaws.com assume it",
    ),
    (
        r"access ?denied|not authorized|forbidden|permission",
        Cause.REJECTED,
        "the role (aws.role) lacks a permission: docs/clouds/aws.md has its policy",
    ),
    (
        r"ResourceLimitExceeded|service limit|quota",
        Cause.REJECTED,
        "the account's quota for this machine is used up: ask for more under Service Quotas, or choose another aws.machine",
    ),
    (
        r"CapacityError|insufficient capacity|unable to provision",
        Cause.INFRASTRUCTURE,
        "the region has no such machine now: try again later, or another aws.machine or aws.region",
    ),
    (r"more memory|out ?of ?memory|OutOfMemory", Cause.OUT_OF_MEMORY, "a larger resources.memory gives a larger machine"),
    (r"no space left|disk.{0,300} full", Cause.FAILED, "the machine's disk is full: enlarge aws.volume"),
    (r"InternalServerError|internal (server )?error|unhealthy", Cause.INFRASTRUCTURE, ""),
)
"""A pattern in FailureReason → cause, and what to do."""


def observation_of(job: Mapping[str, Any]) -> Observation:
    """Where an attempt stands, by an answer to DescribeTrainingJob, or by an entry of ListTrainingJobs unless ``needs_more`` of it."""
    status, secondary = str(job.get("TrainingJobStatus")), str(job.get("SecondaryStatus"))
    match status:
        case "Completed":
            found = ended(Cause.SUCCEEDED, "SageMaker says Completed")
        case "Failed":
            found = failure(str(job.get("FailureReason") or ""))
        case "Stopped":
            found = _stopped(secondary)
        case "Stopping":
            found = Observation(State.STOPPING, None, _last_message(job))
        case "InProgress" if secondary in _GOING_ON:
            found = Observation(_GOING_ON[secondary], None, _words(secondary, job))
        case "Deleting":
            found = ended(Cause.UNKNOWN, "SageMaker says that the job is being deleted")
        case _:
            found = unknown(f"SageMaker says {status}/{secondary}, which says nothing here")
    return found


def needs_more(summary: Mapping[str, Any]) -> bool:
    """Whether an entry of ListTrainingJobs does not say enough: why a job failed stands in its description alone."""
    return summary.get("TrainingJobStatus") == "Failed" or "SecondaryStatus" not in summary


def failure(reason: str) -> Observation:
    """How an attempt ended whose job failed for this reason."""
    code = re.search(r"exit code: ?(-?\d+)", reason, re.IGNORECASE)
    if code is not None and int(code[1]) and (said := said_by(int(code[1]))):  # a job that failed is no success, whatever a 0 stands for
        return said
    for pattern, cause, remedy in _FAILURES:
        if re.search(pattern, reason, re.IGNORECASE):
            return ended(cause, f"{reason}; {remedy}" if remedy else reason)
    if code is not None:
        return _of_exit(int(code[1]), reason)
    return ended(Cause.FAILED if reason else Cause.INFRASTRUCTURE, reason or "SageMaker says that the job failed, and not why")


def _of_exit(code: int, reason: str) -> Observation:
    if code == exit_status.STORE:
        remedy = "its worker could not reach the store: does the role (aws.role) read and write there, and is the bucket in this region?"
        return ended(Cause.INFRASTRUCTURE, f"{reason}; {remedy}")
    if code == exit_status.KILLED:
        return ended(Cause.INFRASTRUCTURE, f"{reason}; the container was killed: for want of memory, or as its machine was taken back")
    return ended(Cause.FAILED, f"the container ended before its worker could say why: {reason}")


def _stopped(secondary: str) -> Observation:
    if secondary == "MaxRuntimeExceeded":
        return ended(Cause.TIMED_OUT, "SageMaker ended it at the longest time that it may run (limits.duration, or aws.max_runtime)")
    if secondary == "MaxWaitTimeExceeded":
        return ended(
            Cause.INFRASTRUCTURE, "no spot capacity within aws.max_wait: wait longer, name another aws.machine, or do without spot"
        )
    return ended(Cause.CANCELLED, "the training job was stopped")


def _words(secondary: str, job: Mapping[str, Any]) -> str:
    if secondary == "Interrupted":
        return "the machine was taken back; SageMaker waits for another one"
    return _last_message(job)


def _last_message(job: Mapping[str, Any]) -> str:
    """What SageMaker says of the step that the job is at; an entry of a listing has no such words."""
    transitions = job.get("SecondaryStatusTransitions") or [{}]
    return str(transitions[-1].get("StatusMessage") or "")

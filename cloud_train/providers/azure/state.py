"""Maps the state of an Azure ML job to that of the attempt. Pure.

States: https://learn.microsoft.com/rest/api/azureml/jobs/get (JobStatus). The reason for a failure is only in the run history, as
an undocumented message: the known ones come from public reports, and all others are passed on.
"""

import re
from collections.abc import Mapping
from dataclasses import replace
from typing import Any

from cloud_train import exit_status
from cloud_train.providers.base import TAKEN, Observation, ended, said_by, unknown
from cloud_train.run.states import Cause, State

_ACTIVE = {
    "NotStarted": (State.QUEUED, "Azure ML has accepted the job"),
    "Starting": (State.STARTING, "Azure ML is starting the job"),
    "Provisioning": (State.STARTING, "machines are being provisioned"),
    "Preparing": (State.STARTING, "the image and the machines are being prepared"),
    "Queued": (State.QUEUED, "the job is waiting for machines: for quota or capacity, or because its last ones were reclaimed"),
    "Running": (State.RUNNING, ""),
    "Finalizing": (State.RUNNING, "the program has ended; Azure ML is collecting its outputs"),
    "CancelRequested": (State.STOPPING, "Azure ML was asked to stop the job"),
    "Paused": (State.QUEUED, "the job is paused"),
}
_SILENT = "NotResponding"
_ENDS = frozenset({"Completed", "Failed", "Canceled"})

_EXIT = re.compile(r"(?:exited with (?:status |exit )?code|exit[ _]?codes?[:= ]) *(-?\d+)", re.IGNORECASE)
_PROGRAM = re.compile(
    r"\bUser (?:process|program|code|script)\b|\bTraceback \(most recent call last\)|\bExecutionFailed\b|\bJobNonZeroExitCode\b",
    re.IGNORECASE,
)
"""Azure ML's words for the job's own program, and how Python's own begin; what follows them may be the program's own words."""
_PULL_FIX = (
    "give the machines' identity the role AcrPull on the registry of azure.repository; serverless machines may be unable to pull from a"
    " registry that is not the workspace's own"
)
_WORDS: tuple[tuple[str, Cause, str], ...] = (
    (r"PreemptionError|got pre-?empted|\bevicted\b|node was pre-?empted", Cause.PREEMPTED, "resume the run, or set retry.attempts"),
    (
        r"no space left|disk.{0,20} full|DiskFullError",
        Cause.FAILED,
        "the machine's disk is full: choose an azure.machine with a larger one",
    ),
    (r"AcrRefreshTokenRetrievalError|could not authenticate with the Docker registry|unauthorized: auth", Cause.REJECTED, _PULL_FIX),
    (r"pull access denied|denied: requested access", Cause.REJECTED, _PULL_FIX),
    (
        r"FailedPullingImage|Unable to pull docker image|Failed to pull Docker image|manifest unknown",
        Cause.REJECTED,
        "check that the registry still has the image, and that the machines can reach it",
    ),
    (r"AuthorizationFailed|does not have authorization|identity.{0,80}(?:not found|not assigned)", Cause.REJECTED, "see azure.identity"),
    (r"out ?of ?memory|MemoryLimitExceeded|OOMKilled", Cause.OUT_OF_MEMORY, "choose a machine with more memory (resources.memory)"),
    (r"quota|exceeding approved", Cause.REJECTED, "request more cores of this family in the portal: Azure ML, Quota"),
    (
        r"out ?of ?capacity|AllocationFail|SkuNotAvailable|NoCapacity|ResizeError",
        Cause.INFRASTRUCTURE,
        "retry later, or choose another machine or region",
    ),
    (r"time ?limit|timed? ?out|max(?:imum)? run ?(?:duration|time)", Cause.TIMED_OUT, "see limits.duration and azure.max_runtime"),
)
"""Patterns in Azure ML's messages, each with its cause and next step; the first match counts. They come from public reports, such as
MachineLearningNotebooks#1242, #1733 and #1247, MLOpsPython#346, azureml-examples#3463.
"""


def is_over(status: str) -> bool:
    """Whether a job with this status has ended."""
    return status in _ENDS


def observed(job: Mapping[str, Any], details: Mapping[str, Any] | None = None) -> Observation:
    """The state of the attempt: ``job`` is the resource manager's response, ``details`` the run history's, which an ended job needs."""
    status = str((job.get("properties") or {}).get("status") or "Unknown")
    if status in _ACTIVE:
        state, message = _ACTIVE[status]
        return Observation(state, None, message)
    match status:
        case "Completed":
            return ended(Cause.SUCCEEDED)
        case "Canceled":
            return _canceled(details)
        case "Failed":
            return _failed(_error_of(details))
    said = "receives no reports from the job's machines" if status == _SILENT else f"reports the unknown status {status!r}"
    return unknown(f"Azure ML {said}")


def _canceled(details: Mapping[str, Any] | None) -> Observation:
    """The end of a canceled job: by a user, or at the time limit, in which case the run history has an error."""
    error = _error_of(details)
    if error and _meaning(error)[0] is Cause.TIMED_OUT:
        return ended(Cause.TIMED_OUT, f"Azure ML stopped the job: {error}")
    return ended(Cause.CANCELLED, "the job was cancelled in Azure ML")


def _failed(error: str) -> Observation:
    if not error:
        return ended(Cause.UNKNOWN, "Azure ML gives no reason for the failure")
    program = _PROGRAM.search(error)
    # Once Azure ML names the program, the rest may be the program's words: "quota exceeded" is then not about Azure's quota.
    cause, remedy = _meaning(error[: program.start()] if program else error)
    exit_code = next((int(code) for code in _EXIT.findall(error[program.start() :] if program else error)), None)
    if not remedy and exit_code is not None:
        if exit_code and (said := said_by(exit_code)):  # a failed job did not succeed, even if its message has exit code 0
            return said if said is TAKEN else replace(said, message=f"Azure ML reports: {error}; {said.message}")
        cause = _of_exit(exit_code)
    return ended(cause, f"Azure ML reports: {error}{f'; {remedy}' if remedy else ''}")


def _of_exit(exit_code: int) -> Cause:
    """The cause for an exit status that workers do not use: the worker did not report the reason."""
    return Cause.INFRASTRUCTURE if exit_code in (exit_status.STORE, exit_status.KILLED, exit_status.TERMINATED, -9, -15) else Cause.FAILED


def _meaning(error: str) -> tuple[Cause, str]:
    for pattern, cause, remedy in _WORDS:
        if re.search(pattern, error, re.IGNORECASE):
            return cause, remedy
    return (Cause.INFRASTRUCTURE, "") if error.startswith(("ServiceError", "SystemError")) else (Cause.FAILED, "")


def _error_of(details: Mapping[str, Any] | None) -> str:
    """The error's code and message, on one line; empty without an error."""
    error = ((details or {}).get("error") or {}).get("error") or {}
    words = " ".join(str(error.get("message") or "").split())
    return ": ".join(part for part in (str(error.get("code") or ""), words) if part)

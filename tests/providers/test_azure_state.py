"""What Azure ML says of a job, and what that means."""

import json
from pathlib import Path
from typing import Any

import pytest

from cloud_train.providers.azure.state import is_over, observed
from cloud_train.providers.base import TAKEN
from cloud_train.run.states import Cause, State
from tests.clouds import azure_descriptions

LIVING = {
    "NotStarted": State.QUEUED,
    "Starting": State.STARTING,
    "Provisioning": State.STARTING,
    "Preparing": State.STARTING,
    "Queued": State.QUEUED,
    "Running": State.RUNNING,
    "Finalizing": State.RUNNING,
    "CancelRequested": State.STOPPING,
    "Paused": State.QUEUED,
}


def job(status: str | None) -> dict[str, Any]:
    return {"properties": {"status": status} if status else {}}


def details(message: str, code: str = "UserError") -> dict[str, Any]:
    return {"error": {"error": {"code": code, "message": message}}}


@pytest.mark.parametrize("status", LIVING)
def test_a_job_that_goes_on_has_no_cause(status: str) -> None:
    seen = observed(job(status))
    assert (seen.state, seen.cause) == (LIVING[status], None)
    assert not is_over(status)


def test_every_status_of_azure_s_models_is_known() -> None:
    described = json.loads(Path(azure_descriptions.ANSWERS).read_text(encoding="utf-8"))["$defs"]["CommandJob"]["properties"]["status"][
        "enum"
    ]
    assert {*described} - {None} == {*LIVING, "Completed", "Failed", "Canceled", "NotResponding", "Unknown"}


@pytest.mark.parametrize("status", ["NotResponding", "Unknown", "Teleporting", None])
def test_a_status_that_means_nothing_here_is_unknown_and_no_end(status: str | None) -> None:
    seen = observed(job(status))
    assert (seen.state, seen.cause) == (State.RUNNING, Cause.UNKNOWN)
    assert seen.message.startswith("Azure ML ")


@pytest.mark.parametrize(
    ("status", "error", "cause"),
    [
        ("Completed", None, Cause.SUCCEEDED),
        ("Canceled", None, Cause.CANCELLED),
        ("Canceled", "The job was canceled because it exceeded its time limit", Cause.TIMED_OUT),
        ("Failed", None, Cause.UNKNOWN),
        ("Failed", "something else altogether", Cause.FAILED),
        ("Failed", "Execution failed. User process 'python3' exited with status code 10. Please check log file", Cause.FAILED),
        ("Failed", "Execution failed. User process 'python3' exited with status code 11.", Cause.OUT_OF_MEMORY),
        ("Failed", "Execution failed. User process 'python3' exited with status code 12.", Cause.PREEMPTED),
        ("Failed", "Execution failed. User process 'python3' exited with status code 13.", Cause.CANCELLED),
        ("Failed", "Execution failed. User process 'python3' exited with status code 14.", Cause.TIMED_OUT),
        ("Failed", "Execution failed. User process 'python3' exited with status code 15.", Cause.INFRASTRUCTURE),
        ("Failed", "Execution failed. User process 'python3' exited with status code 17.", Cause.UNKNOWN),
        ("Failed", "Execution failed. User process 'python3' exited with status code 6.", Cause.INFRASTRUCTURE),
        ("Failed", "Execution failed. User process 'python3' exited with status code 137.", Cause.INFRASTRUCTURE),
        ("Failed", "Execution failed. User process '/bin/bash' exited with status code 127.", Cause.FAILED),
        (
            "Failed",
            "AzureMLCompute job failed.\nFailedPullingImage: Unable to pull docker image\n\timageName: r.azurecr.io/x",
            Cause.REJECTED,
        ),
        ("Failed", "FailedPullingImage: failed to register layer: write /x: no space left on device", Cause.FAILED),
        ("Failed", "AcrRefreshTokenRetrievalError: Unable to retrieve ACR refresh token using Compute Identity 1", Cause.REJECTED),
        ("Failed", "The client does not have authorization to perform action", Cause.REJECTED),
        ("Failed", "Requested 24 cores, exceeding approved quota of the family", Cause.REJECTED),
        ("Failed", "AllocationFailed: there is no capacity for the size in this region", Cause.INFRASTRUCTURE),
        ("Failed", "The node was preempted", Cause.PREEMPTED),
        (
            "Failed",
            "AzureMLCompute job failed. PreemptionError: Nodes of this job got pre-empted. Check if the run has failed or restarted."
            " Reason: Received pre-emption warning signal",
            Cause.PREEMPTED,
        ),
        (
            "Failed",
            "Failed to pull Docker image r.azurecr.io/x. This error may occur because the compute could not authenticate with the Docker"
            " registry to pull the image. If using ACR please ensure the ACR has Admin user enabled or a Managed Identity with `AcrPull`"
            " access to the ACR is assigned to the compute.",
            Cause.REJECTED,
        ),
        ("Failed", "Failed to pull Docker image r.azurecr.io/x. manifest unknown", Cause.REJECTED),
        ("Failed", "JobContainerMemoryLimitExceeded: the container ran out of memory", Cause.OUT_OF_MEMORY),
    ],
)
def test_an_end_has_its_cause(status: str, error: str | None, cause: Cause) -> None:
    seen = observed(job(status), details(error) if error else None)
    assert (seen.state, seen.cause) == (cause.state, cause)
    assert seen.message
    assert is_over(status)


@pytest.mark.parametrize("exited", ["User process 'python3' exited with status code 11.", "ExecutionFailed: [REDACTED] exit_codes: 11"])
def test_azure_s_words_come_before_what_the_worker_s_exit_status_means(exited: str) -> None:
    seen = observed(job("Failed"), details(f"Execution failed. {exited}"))
    assert seen.cause is Cause.OUT_OF_MEMORY
    assert seen.message == f"Azure ML reports: UserError: Execution failed. {exited}; The program ran out of memory."


def test_a_worker_that_came_second_leaves_a_launch_that_means_nothing() -> None:
    assert observed(job("Failed"), details("User process 'python3' exited with status code 3.")) is TAKEN


def test_an_error_of_azure_s_own_is_no_fault_of_the_program() -> None:
    assert observed(job("Failed"), details("An internal error occurred", code="ServiceError")).cause is Cause.INFRASTRUCTURE


def test_an_image_that_may_not_be_pulled_names_the_role_that_is_missing() -> None:
    words = "FailedPullingImage: Unable to pull docker image\n\terror: unauthorized: authentication required"
    assert "AcrPull" in observed(job("Failed"), details(words)).message


@pytest.mark.parametrize(
    "words",
    [
        "FailedPullingImage: Unable to pull docker image r.azurecr.io/x: unauthorized: authentication required",
        "Failed to pull Docker image r.io/x. This error may occur because the compute could not authenticate with the Docker registry",
        "AcrRefreshTokenRetrievalError: Unable to retrieve ACR refresh token using Compute Identity 1",
    ],
)
def test_azure_s_words_come_first_and_what_to_do_about_them_second(words: str) -> None:
    message = observed(job("Failed"), details(words)).message
    assert message.startswith(f"Azure ML reports: UserError: {words}")
    assert message.index("AcrPull on the registry of azure.repository") > message.index(words)


@pytest.mark.parametrize(
    "words",
    [
        "quota exceeded: the team may train 3 models a day",
        "TimeoutError: timed out",
        "preemption is not supported",
        "manifest unknown",
        "OSError: no space left on device",
        "my own out of memory error",
    ],
)
def test_the_words_of_the_program_are_never_taken_for_azure_s(words: str) -> None:
    process = f"Execution failed. User process 'python3' exited with status code 1. Please check log file for error details. Error: {words}"
    traceback = f"Traceback (most recent call last): File 'train.py', line 3 RuntimeError: {words}"
    for error in (process, f"User program failed with ValueError: {words}", traceback, f"ExecutionFailed: [{words}] exit_codes: 1"):
        seen = observed(job("Failed"), details(error))
        assert seen.cause is Cause.FAILED, error
        assert seen.message == f"Azure ML reports: UserError: {error}"


def test_a_preemption_is_no_failure_of_the_program_even_where_the_job_has_failed() -> None:
    error = "AzureMLCompute job failed. PreemptionError: Nodes of this job got pre-empted. The container exited with exit code 1"
    seen = observed(job("Failed"), details(error))
    assert (seen.state, seen.cause) == (Cause.PREEMPTED.state, Cause.PREEMPTED)
    assert "resume the run" in seen.message

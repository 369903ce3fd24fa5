"""What SageMaker says of a job, and what that means of the attempt."""

import pytest

from cloud_train.providers.aws.state import needs_more, observation_of
from cloud_train.providers.base import TAKEN
from cloud_train.run.states import Cause, State
from tests.clouds.aws_description import service_model


@pytest.mark.parametrize(
    ("secondary", "state"),
    [
        ("Pending", State.QUEUED),
        ("Starting", State.QUEUED),
        ("LaunchingMLInstances", State.QUEUED),
        ("PreparingTrainingStack", State.STARTING),
        ("Downloading", State.STARTING),
        ("DownloadingTrainingImage", State.STARTING),
        ("Training", State.RUNNING),
        ("Uploading", State.RUNNING),
        ("Updating", State.RUNNING),
        ("Interrupted", State.QUEUED),
        ("Restarting", State.STARTING),
    ],
)
def test_a_job_that_goes_on_is_no_end(secondary: str, state: State) -> None:
    seen = observation_of({"TrainingJobStatus": "InProgress", "SecondaryStatus": secondary})
    assert (seen.state, seen.cause) == (state, None)


def test_every_state_of_the_official_description_is_known() -> None:
    model = service_model()
    for status in model.shape_for("TrainingJobStatus").enum:
        for secondary in model.shape_for("SecondaryStatus").enum:
            if status != "InProgress" or secondary not in {"Completed", "Failed", "Stopped", "MaxRuntimeExceeded", "MaxWaitTimeExceeded"}:
                seen = observation_of({"TrainingJobStatus": status, "SecondaryStatus": secondary})
                assert "says nothing here" not in seen.message, (status, secondary)


@pytest.mark.parametrize("job", [{}, {"TrainingJobStatus": "Frozen"}, {"TrainingJobStatus": "InProgress", "SecondaryStatus": "Thawing"}])
def test_a_state_that_comes_tomorrow_is_unknown_and_no_end(job: dict[str, str]) -> None:
    seen = observation_of(job)
    assert (seen.state, seen.cause) == (State.RUNNING, Cause.UNKNOWN)
    assert str(job.get("SecondaryStatus") or job.get("TrainingJobStatus")) in seen.message


@pytest.mark.parametrize(
    ("status", "secondary", "state", "cause"),
    [
        ("Completed", "Completed", State.SUCCEEDED, Cause.SUCCEEDED),
        ("Stopped", "Stopped", State.CANCELLED, Cause.CANCELLED),
        ("Stopped", "MaxRuntimeExceeded", State.FAILED, Cause.TIMED_OUT),
        ("Stopped", "MaxWaitTimeExceeded", State.INTERRUPTED, Cause.INFRASTRUCTURE),
        ("Stopping", "Stopping", State.STOPPING, None),
        ("Deleting", "Completed", State.FAILED, Cause.UNKNOWN),
    ],
)
def test_an_end_has_its_cause(status: str, secondary: str, state: State, cause: Cause | None) -> None:
    seen = observation_of({"TrainingJobStatus": status, "SecondaryStatus": secondary})
    assert (seen.state, seen.cause) == (state, cause)


@pytest.mark.parametrize(
    ("reason", "cause", "words"),
    [
        ("AlgorithmError: , exit code: 10", Cause.FAILED, Cause.FAILED.text),
        ("AlgorithmError: , exit code: 11", Cause.OUT_OF_MEMORY, Cause.OUT_OF_MEMORY.text),
        ("AlgorithmError: the store said access denied, exit code: 13", Cause.CANCELLED, Cause.CANCELLED.text),
        ("AlgorithmError: , exit code: 14", Cause.TIMED_OUT, Cause.TIMED_OUT.text),
        ("AlgorithmError: , exit code: 6", Cause.INFRASTRUCTURE, "could not reach the store"),
        ("AlgorithmError: cannot write to any folder of this machine, exit code: 18", Cause.INFRASTRUCTURE, "make /tmp writable"),
        ("AlgorithmError: , exit code: 0", Cause.FAILED, "before its worker could report why"),
        ("AlgorithmError: , exit code: 1", Cause.FAILED, "before its worker could report why"),
        ("AlgorithmError: , exit code: 137", Cause.INFRASTRUCTURE, "was killed"),
        (
            "ClientError: Please use an instance type with more memory, or reduce the size of training data.",
            Cause.OUT_OF_MEMORY,
            "resources.memory",
        ),
        ("ClientError: Cannot pull algorithm container. Either the image does not exist or …", Cause.REJECTED, "ecr:BatchGetImage"),
        ("ClientError: SageMaker is unable to perform: sts:AssumeRole on the role.", Cause.REJECTED, "trust policy"),
        ("ClientError: Access denied to s3://bucket/runs", Cause.REJECTED, "aws.role"),
        ("CapacityError: Unable to provision requested ML compute capacity.", Cause.INFRASTRUCTURE, "aws.machine"),
        ("ResourceLimitExceeded: The account-level service limit", Cause.REJECTED, "Service Quotas"),
        ("AlgorithmError: Exit Code: 139", Cause.FAILED, "a segmentation fault ended the worker"),
        ("AlgorithmError: oh, exit code: 15 it said, exit code: 1", Cause.FAILED, "before its worker could report why"),
        ("AlgorithmError: framework error: \nTraceback (most recent call last):", Cause.FAILED, "framework error"),
        ("ClientError: Data download failed:Insufficient disk space", Cause.FAILED, "aws.volume"),
        ("ClientError: Artifact upload failed:Insufficient disk space", Cause.FAILED, "aws.volume"),
        (
            "ClientError: Artifact upload failed:Please ensure that the subnet's route table has a route to an S3 VPC endpoint or a NAT"
            " device, and both the security groups and the subnet's network ACL allow outbound traffic to S3",
            Cause.REJECTED,
            "aws.subnets",
        ),
        ("ClientError: Failed to download data. … Unable to execute request to S3", Cause.REJECTED, "aws.subnets"),
        ("ClientError: Artifact upload failed:Error 7: AccessDenied (403): Access Denied", Cause.REJECTED, "aws.role lacks a permission"),
        (
            "EC2InsufficientCapacityError: Instance type 'ml.g5.48xlarge' is temporarily unavailable in supported availability zones.",
            Cause.INFRASTRUCTURE,
            "the region has no capacity",
        ),
        ("InternalServerError: We encountered an internal error. Please try again.", Cause.INFRASTRUCTURE, "internal error"),
        ("Something new", Cause.FAILED, "Something new"),
        ("", Cause.INFRASTRUCTURE, "no reason"),
    ],
)
def test_a_failure_has_its_cause_and_says_what_to_do(reason: str, cause: Cause, words: str) -> None:
    seen = observation_of({"TrainingJobStatus": "Failed", "SecondaryStatus": "Failed", "FailureReason": reason})
    assert (seen.state, seen.cause) == (cause.state, cause)
    assert words in seen.message
    assert seen.message.startswith(reason), "the provider's words come first"


@pytest.mark.parametrize(
    "words",
    [
        "manifest.json not found",
        "the image cat.png does not exist",
        "PermissionError: [Errno 13] Permission denied: '/data'",
        "CUDA out of memory. Try a smaller batch",
        "disk quota exceeded",
        "OSError: [Errno 28] No space left on device",
        "the optimizer is unhealthy: internal error",
        "could not assume role of the oracle",
        "EC2InsufficientCapacityError",
    ],
)
def test_what_the_program_says_is_not_taken_for_the_platforms_words(words: str) -> None:
    for code, cause in ((1, Cause.FAILED), (10, Cause.FAILED)):
        reason = f"AlgorithmError: {words}, exit code: {code}"
        seen = observation_of({"TrainingJobStatus": "Failed", "SecondaryStatus": "Failed", "FailureReason": reason})
        assert (seen.cause, seen.message.startswith(reason)) == (cause, True)
        assert not any(advice in seen.message for advice in ("aws.", "region", "pulled"))


def test_a_worker_whose_attempt_was_taken_says_nothing_of_it() -> None:
    job = {"TrainingJobStatus": "Failed", "SecondaryStatus": "Failed", "FailureReason": "AlgorithmError: , exit code: 3"}
    assert observation_of(job) is TAKEN


def test_the_newest_of_sagemakers_words_is_passed_on() -> None:
    words = [{"StatusMessage": "Starting the training job"}, {"StatusMessage": "Insufficient capacity error from EC2, retrying!"}]
    seen = observation_of({"TrainingJobStatus": "InProgress", "SecondaryStatus": "Starting", "SecondaryStatusTransitions": words})
    assert seen.message == "Insufficient capacity error from EC2, retrying!"


def test_a_listing_says_enough_of_all_but_what_failed() -> None:
    assert needs_more({"TrainingJobStatus": "Failed", "SecondaryStatus": "Failed"})
    assert needs_more({"TrainingJobStatus": "Stopped"})
    assert not needs_more({"TrainingJobStatus": "Stopped", "SecondaryStatus": "MaxRuntimeExceeded"})

"""The SageMaker simulator speaks as SageMaker does: what it refuses, in which words; and its own answers are held against the model."""

from collections.abc import Iterator
from typing import Any

import botocore.session
import pytest
from botocore.config import Config
from botocore.exceptions import ClientError

from tests.clouds import aws_protocol
from tests.clouds.aws_job import Timing
from tests.clouds.aws_simulator import ROLE, AwsCloud, aws_cloud
from tests.clouds.clock import VirtualClock

JOB: dict[str, Any] = {
    "TrainingJobName": "job-1",
    "RoleArn": ROLE,
    "AlgorithmSpecification": {"TrainingImage": "127.0.0.1:1/x@sha256:0", "TrainingInputMode": "File"},
    "ResourceConfig": {"InstanceType": "ml.m5.large", "InstanceCount": 1, "VolumeSizeInGB": 30},
    "StoppingCondition": {"MaxRuntimeInSeconds": 3600},
    "OutputDataConfig": {"S3OutputPath": "s3://bucket/output"},
}
SPOT = {**JOB, "EnableManagedSpotTraining": True, "StoppingCondition": {"MaxRuntimeInSeconds": 3600, "MaxWaitTimeInSeconds": 7200}}


@pytest.fixture
def clock() -> VirtualClock:
    return VirtualClock()


@pytest.fixture
def cloud(clock: VirtualClock) -> Iterator[AwsCloud]:
    with aws_cloud(clock=clock, timing=Timing(starting=10, downloading=10, interrupted=10, uploading=10)) as running:
        yield running


@pytest.fixture(scope="module")
def session() -> botocore.session.Session:
    """One for all tests: it reads the descriptions of the services once."""
    return botocore.session.get_session()


@pytest.fixture
def sagemaker(cloud: AwsCloud, session: botocore.session.Session) -> Iterator[Any]:
    """The SDK's client, which sends whatever it is told."""
    client = client_of(session, cloud)
    yield client
    client.close()


def client_of(session: botocore.session.Session, cloud: AwsCloud, region: str = "us-east-1") -> Any:
    return session.create_client(
        "sagemaker",
        region_name=region,
        endpoint_url=cloud.server.url,
        aws_access_key_id="testing",
        aws_secret_access_key="testing",
        config=Config(parameter_validation=False, retries={"total_max_attempts": 1}),
    )


@pytest.mark.parametrize(
    ("change", "code", "words"),
    [
        ({"TrainingJobName": "under_score"}, "ValidationException", "TrainingJobName"),
        ({"ResourceConfig": {"InstanceType": "ml.none", "InstanceCount": 1, "VolumeSizeInGB": 1}}, "ValidationException", "InstanceType"),
        ({"OutputDataConfig": {}}, "ValidationException", "S3OutputPath"),
        ({"RoleArn": ROLE + "s"}, "ValidationException", "Could not assume role"),
        ({"EnableManagedSpotTraining": True}, "ValidationException", "MaxWaitTimeInSeconds"),
        ({"StoppingCondition": {"MaxRuntimeInSeconds": 3_000_000}}, "ValidationException", "MaxRuntimeInSeconds"),
    ],
)
def test_what_the_service_refuses_it_refuses(sagemaker: Any, change: dict[str, Any], code: str, words: str) -> None:
    with pytest.raises(ClientError, match=words) as refusal:
        sagemaker.create_training_job(**{**JOB, **change})
    assert refusal.value.response["Error"]["Code"] == code


def test_a_name_is_taken_for_good_in_its_region(cloud: AwsCloud, session: botocore.session.Session, sagemaker: Any) -> None:
    sagemaker.create_training_job(**JOB)
    sagemaker.stop_training_job(TrainingJobName="job-1")
    with pytest.raises(sagemaker.exceptions.ResourceInUse, match="a training job with this name already exists"):
        sagemaker.create_training_job(**JOB)
    elsewhere = client_of(session, cloud, "eu-west-1")
    with pytest.raises(ClientError, match="Requested resource not found"):
        elsewhere.describe_training_job(TrainingJobName="job-1")
    assert elsewhere.create_training_job(**JOB)["TrainingJobArn"].startswith("arn:aws:sagemaker:eu-west-1:")
    elsewhere.close()


def test_a_job_that_has_ended_cannot_be_stopped(clock: VirtualClock, sagemaker: Any) -> None:
    sagemaker.create_training_job(**JOB)
    sagemaker.stop_training_job(TrainingJobName="job-1")
    with pytest.raises(ClientError, match="the training job is in status Stopped"):
        sagemaker.stop_training_job(TrainingJobName="job-1")


def test_a_spot_job_goes_through_the_documented_states(cloud: AwsCloud, clock: VirtualClock, sagemaker: Any) -> None:
    sagemaker.create_training_job(**SPOT)
    states = []

    def advance(times: int) -> None:
        for _ in range(times):
            clock.advance(10)
            states.append(sagemaker.describe_training_job(TrainingJobName="job-1")["SecondaryStatus"])

    advance(2)
    cloud.simulator.interrupt("job-1")
    advance(3)
    cloud.simulator.machines("job-1")[0].status = 0
    sagemaker.describe_training_job(TrainingJobName="job-1")
    advance(1)
    assert states == ["Downloading", "Training", "Starting", "Downloading", "Training", "Completed"]
    described = sagemaker.describe_training_job(TrainingJobName="job-1")
    passed = [each["Status"] for each in described["SecondaryStatusTransitions"]]
    assert passed == [
        *("Starting", "Downloading", "Training", "Interrupted", "Starting", "Downloading", "Training"),
        *("Uploading", "Completed"),
    ]


def test_a_notice_before_an_interruption_is_a_signal_and_time(cloud: AwsCloud, clock: VirtualClock, sagemaker: Any) -> None:
    sagemaker.create_training_job(**SPOT)
    for _ in range(2):
        clock.advance(10)
        cloud.simulator.machines("job-1")
    [machine] = cloud.simulator.machines("job-1")
    cloud.simulator.interrupt("job-1", notice_seconds=120)
    assert machine.told == ["SIGTERM"]
    clock.advance(120)
    assert sagemaker.describe_training_job(TrainingJobName="job-1")["SecondaryStatus"] == "Interrupted"


def test_machines_that_die_are_started_anew_as_often_as_the_retry_strategy_says(
    cloud: AwsCloud, clock: VirtualClock, sagemaker: Any
) -> None:
    sagemaker.create_training_job(**{**JOB, "RetryStrategy": {"MaximumRetryAttempts": 1}})
    for expected in ("Restarting", "Failed"):
        for _ in range(3):
            clock.advance(10)
            cloud.simulator.machines("job-1")
        cloud.simulator.lose("job-1")
        described = sagemaker.describe_training_job(TrainingJobName="job-1")
        assert described["SecondaryStatus"] == expected
    assert described["FailureReason"].startswith("InternalServerError")


def test_an_answer_that_sagemaker_would_not_give_is_a_mistake_of_the_simulator() -> None:
    with pytest.raises(AssertionError, match="TrainingJobStatus"):
        aws_protocol.validate_answer("DescribeTrainingJob", {"TrainingJobStatus": "Thinking"})

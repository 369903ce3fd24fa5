"""Requests that SageMaker refuses, or that cannot work there, for reasons that its model states in prose or not at all.

Sources: the prose of botocore's model of SageMaker, https://docs.aws.amazon.com/sagemaker/latest/dg/train-warm-pools.html, and public
reports: https://github.com/aws/sagemaker-python-sdk/issues/4939 (a disk that is too large).
"""

from collections.abc import Callable, Mapping
from typing import Any

from cloud_train.providers.base import Request
from tests.clouds.mutants import Spoil

_KEY = "1234abcd-12ab-34cd-56ef-1234567890ab"
_ACCOUNT = "123456789012"


def _body(change: Callable[[dict[str, Any]], object]) -> Spoil:
    return lambda request: change(request["body"])


def _with(**fields: Any) -> Spoil:
    return _body(lambda body: body.update(fields))


def _resources(**fields: Any) -> Spoil:
    return _body(lambda body: body["ResourceConfig"].update(fields))


def _limits(**fields: Any) -> Spoil:
    return _body(lambda body: body["StoppingCondition"].update(fields))


def _network(subnet: str = "subnet-1", group: str = "sg-1") -> Spoil:
    return _with(VpcConfig={"Subnets": [subnet], "SecurityGroupIds": [group]})


def _spot(**resources: Any) -> Spoil:
    def spoil(request: Request) -> None:
        body = request["body"]
        body["EnableManagedSpotTraining"] = True
        body["StoppingCondition"] = {"MaxRuntimeInSeconds": 60, "MaxWaitTimeInSeconds": 120}
        body["ResourceConfig"].update(resources)

    return spoil


def _image(name: str) -> Spoil:
    """A mistake in the image, where its registry is Amazon ECR."""

    def spoil(request: Request) -> None:
        algorithm = request["body"]["AlgorithmSpecification"]
        if "TrainingImageConfig" not in algorithm:
            algorithm["TrainingImage"] = name

    return spoil


def _private_without_network(request: Request) -> None:
    request["body"].pop("VpcConfig", None)
    request["body"]["AlgorithmSpecification"]["TrainingImageConfig"] = {"TrainingRepositoryAccessMode": "Vpc"}


def _region(name: str | None) -> Spoil:
    return lambda request: request.update(region=name)


REQUESTS: Mapping[str, Spoil] = {
    "no region": _region(None),
    "a region that does not exist": _region("eu-west-9"),
    "a zone in place of a region": _region("eu-west-1a"),
    "another region than the image's": _region("us-east-1"),
    "a region of another partition": _region("cn-north-1"),
    "a role of another partition": _with(RoleArn=f"arn:aws-us-gov:iam::{_ACCOUNT}:role/machines"),
    "a user in place of a role": _with(RoleArn=f"arn:aws:iam::{_ACCOUNT}:user/me/machines"),
    "a role's placeholder": _with(RoleArn="arn:aws:iam::111122223333:role/machines"),
    "a bucket's placeholder": _body(lambda body: body.update(Tags=[{"Key": "cloud-train-store", "Value": "s3://your-bucket/runs"}])),
    "no machine": _body(lambda body: body["ResourceConfig"].pop("InstanceType", None)),
    "no nodes": _resources(InstanceCount=0),
    "no disk": _resources(VolumeSizeInGB=0),
    "a disk larger than the largest": _resources(VolumeSizeInGB=20_000),
    "a disk larger than the machine's own": _resources(InstanceType="ml.g5.xlarge", VolumeSizeInGB=500),
    "an alias in place of a key": _resources(InstanceType="ml.m5.large", VolumeKmsKeyId="alias/mine"),
    "an alias' ARN in place of a key": _resources(
        InstanceType="ml.m5.large", VolumeKmsKeyId=f"arn:aws:kms:eu-west-1:{_ACCOUNT}:alias/mine"
    ),
    "words in place of a key": _resources(InstanceType="ml.m5.large", VolumeKmsKeyId="mine"),
    "a key for local disks": _resources(InstanceType="ml.g5.xlarge", VolumeKmsKeyId=_KEY),
    "a key in another region": _resources(InstanceType="ml.m5.large", VolumeKmsKeyId=f"arn:aws:kms:us-east-1:{_ACCOUNT}:key/{_KEY}"),
    "words in place of a key for the output": _body(lambda body: body["OutputDataConfig"].update(KmsKeyId="mine")),
    "a web page in place of the output": _body(lambda body: body["OutputDataConfig"].update(S3OutputPath="https://bucket/runs")),
    "no bucket for the output": _body(lambda body: body["OutputDataConfig"].update(S3OutputPath="s3:///runs")),
    "a bucket in capitals": _body(lambda body: body["OutputDataConfig"].update(S3OutputPath="s3://Bucket/runs")),
    "a bucket with an underscore": _body(lambda body: body["OutputDataConfig"].update(S3OutputPath="s3://my_bucket/runs")),
    "a bucket with two dots": _body(lambda body: body["OutputDataConfig"].update(S3OutputPath="s3://my..bucket/runs")),
    "an address in place of a bucket": _body(lambda body: body["OutputDataConfig"].update(S3OutputPath="s3://10.0.0.1/runs")),
    "a run of 29 days": _limits(MaxRuntimeInSeconds=29 * 86400),
    "a wait without spot": _body(
        lambda body: body["StoppingCondition"].update(MaxWaitTimeInSeconds=10**6) if not body.get("EnableManagedSpotTraining") else None
    ),
    "spot without a wait": _with(EnableManagedSpotTraining=True, StoppingCondition={"MaxRuntimeInSeconds": 100}),
    "a wait shorter than the run": _with(
        EnableManagedSpotTraining=True, StoppingCondition={"MaxRuntimeInSeconds": 100, "MaxWaitTimeInSeconds": 99}
    ),
    "a warm pool of spot machines": _spot(KeepAlivePeriodInSeconds=600),
    "a training plan of spot machines": _spot(TrainingPlanArn=f"arn:aws:sagemaker:eu-west-1:{_ACCOUNT}:training-plan/november"),
    "a training plan in another region": _resources(TrainingPlanArn=f"arn:aws:sagemaker:us-east-1:{_ACCOUNT}:training-plan/november"),
    "a warm pool beside a training plan": _resources(
        KeepAlivePeriodInSeconds=600, TrainingPlanArn=f"arn:aws:sagemaker:eu-west-1:{_ACCOUNT}:training-plan/november"
    ),
    "a network in place of a subnet": _network(subnet="vpc-1"),
    "a name in place of a security group": _network(group="default"),
    "a container without a network": _with(EnableNetworkIsolation=True),
    "a private registry without a network": _private_without_network,
    "an image of another registry": _image(f"ghcr.io/me/jobs@sha256:{'4' * 64}"),
    "an image in another region": _image(f"{_ACCOUNT}.dkr.ecr.us-east-1.amazonaws.com/cloud-train@sha256:{'4' * 64}"),
    "no image": _body(lambda body: body["AlgorithmSpecification"].pop("TrainingImage", None)),
    "a tag twice": _body(lambda body: body["Tags"].append({**body["Tags"][0]})),
    "a tag of AWS's own": _body(lambda body: body["Tags"].append({"Key": "AWS:mine", "Value": "x"})),
}
"""Name → what makes a valid request wrong."""

ACCEPTED: Mapping[str, str] = {}
"""The wrong requests that a dry run accepts → why."""

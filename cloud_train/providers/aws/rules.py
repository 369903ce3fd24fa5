"""Rules for training jobs that SageMaker enforces, but that its model states in prose or not at all. Pure.

Each has its source; "model" is the prose of botocore's service model, sagemaker 2017-07-24. They apply to bodies whose shape is already
valid.
"""

import difflib
import json
import re
from collections.abc import Iterator, Mapping
from functools import lru_cache
from importlib.resources import files
from typing import Any

from cloud_train.job import cloud_names as forms
from cloud_train.job.cloud_names import BUCKETS
from cloud_train.providers.cloud.request import STORE

_LONGEST_SECONDS = 28 * 86400
_LARGEST_VOLUME_GB = 16 * 1024
"""Of an EBS volume (https://docs.aws.amazon.com/ebs/latest/userguide/general-purpose.html)."""
_MOST_TAGS = 50
_LOCAL_DISKS = (
    *("g4dn", "g5", "g6", "g6e", "g7", "g7e"),
    *("p3dn", "p4d", "p4de", "p5", "p5e", "p5en", "p6", "p6e"),
    *("r5d", "trn1", "trn1n", "trn2"),
)
"""Families of machines with local NVMe disks, which cannot be encrypted with the user's key (model, VolumeKmsKeyId)."""
_KEY_ID = r"(?:[0-9a-f]{8}(?:-[0-9a-f]{4}){3}-[0-9a-f]{12}|mrk-[0-9a-f]{32})"
_KEY = re.compile(rf"{_KEY_ID}|arn:aws[a-z-]*:kms:[a-z0-9-]+:[0-9]{{12}}:key/{_KEY_ID}")
"""Model, VolumeKmsKeyId: a key's ID or its ARN, and no alias."""
_OUTPUT_KEY = re.compile(rf"{_KEY.pattern}|(?:arn:aws[a-z-]*:kms:[a-z0-9-]+:[0-9]{{12}}:)?alias/[A-Za-z0-9/_-]+")
"""Model, OutputDataConfig.KmsKeyId."""
_ARN_OF_A_KEY = re.compile(r"arn:[a-z-]+:kms:(?P<region>[a-z0-9-]+):")
_PLACEHOLDERS = re.compile(r"\b(?:111122223333|444455556666|000000000000)\b|\byour-|\bexample-bucket\b", re.IGNORECASE)
"""Placeholder accounts and names from AWS's documentation and from configs/aws.yaml."""


def regional_problems(region: str | None) -> Iterator[str]:
    """Problems with the setting ``region``."""
    if not region:
        yield "aws.region: not set, and aws.repository does not imply one; set it in the config file, such as eu-west-1"
    elif not forms.has_form(forms.AWS_REGION, region):
        yield f"aws.region: {region!r} is not a region, such as eu-west-1"
    elif partition_of(region) is None:
        known = [name for names in _regions().values() for name in names]
        close = difflib.get_close_matches(region, known, 3)
        meant = f"; did you mean {' or '.join(close)}?" if close else ""
        yield f"aws.region: SageMaker is not in {region}, as far as this version of cloud-train knows{meant}"


def partition_of(region: str) -> str | None:
    """The partition of a region of SageMaker, such as ``aws`` or ``aws-cn``; None for a region that it is not in."""
    return next((partition for partition, names in _regions().items() if region in names), None)


@lru_cache(maxsize=1)
def _regions() -> dict[str, list[str]]:
    """SageMaker's regions by partition, from botocore."""
    text = files("cloud_train.providers").joinpath("data", "aws.regions.json").read_text(encoding="utf-8")
    regions: dict[str, list[str]] = json.loads(text)["partitions"]
    return regions


def job_problems(body: Mapping[str, Any], region: str | None) -> Iterator[str]:
    """Problems in a body of CreateTrainingJob that SageMaker would refuse, or accept but never run, each with the setting."""
    yield from _time(body)
    yield from _machines(body.get("ResourceConfig", {}))
    yield from _keys(body, region)
    yield from _network(body)
    yield from _capacity(body, region)
    yield from _output(body)
    yield from _arns(body, region)
    yield from _tags(body.get("Tags", []))
    yield from _placeholders(body)


def has_local_disks(machine: str) -> bool:
    """Whether a machine has NVMe disks, in place of a volume."""
    return machine.removeprefix("ml.").partition(".")[0].partition("-")[0] in _LOCAL_DISKS


def _time(body: Mapping[str, Any]) -> Iterator[str]:
    limits = body.get("StoppingCondition", {})
    runtime, wait = limits.get("MaxRuntimeInSeconds", 0), limits.get("MaxWaitTimeInSeconds")
    if runtime > _LONGEST_SECONDS:
        yield (
            f"aws.max_runtime: StoppingCondition.MaxRuntimeInSeconds: {runtime} s (for all retry.attempts together) exceeds"
            " SageMaker's limit of 28 days"
        )
    if body.get("EnableManagedSpotTraining"):
        if wait is None or wait < runtime:
            yield "aws.max_wait: StoppingCondition.MaxWaitTimeInSeconds: must be at least MaxRuntimeInSeconds for a spot job"
    elif wait is not None:
        yield "aws.max_wait: StoppingCondition.MaxWaitTimeInSeconds: allowed only for spot jobs"


def _machines(resources: Mapping[str, Any]) -> Iterator[str]:
    machine, volume = str(resources.get("InstanceType", "")), resources.get("VolumeSizeInGB", 1)
    if resources.get("InstanceGroups"):
        yield "aws.request: ResourceConfig.InstanceGroups: the nodes of a run are alike; use aws.machine and resources.nodes instead"
    elif not machine and not resources.get("InstancePreferences"):
        yield "aws.machine: ResourceConfig.InstanceType is missing"
    if resources.get("InstanceCount", 1) < 1:
        yield "resources.nodes: ResourceConfig.InstanceCount: at least 1"
    if not 1 <= volume <= _LARGEST_VOLUME_GB:
        yield f"aws.volume: ResourceConfig.VolumeSizeInGB: {volume} is not between 1 and {_LARGEST_VOLUME_GB}"
    elif (disk := _local_disk_gb(machine)) and volume > disk:
        # Model, VolumeSizeInGB; refused with an empty message: https://github.com/aws/sagemaker-python-sdk/issues/4939.
        yield f"aws.volume: {machine} has {disk:,} GB of local disks and no other volume, but aws.volume is {volume:,} GB"


def _local_disk_gb(machine: str) -> int:
    from cloud_train.providers.cloud.machines import machines  # imports pydantic, which only plans need

    return next((known.local_disk_bytes // 10**9 for known in machines("aws") if known.name == machine), 0)


def _keys(body: Mapping[str, Any], region: str | None) -> Iterator[str]:
    resources, output = body.get("ResourceConfig", {}), body.get("OutputDataConfig", {})
    if key := resources.get("VolumeKmsKeyId"):
        if has_local_disks(str(resources.get("InstanceType", ""))):
            yield f"aws.kms_key: {resources['InstanceType']} has local disks, which your key cannot encrypt; remove aws.kms_key"
        elif not _KEY.fullmatch(key):
            yield f"aws.kms_key: {key!r} is neither the ID nor the ARN of a key; SageMaker does not accept an alias here"
    if (key := output.get("KmsKeyId")) and not _OUTPUT_KEY.fullmatch(key):
        yield f"aws.output_kms_key: {key!r} is neither the ID, the ARN nor the alias of a key"
    for setting, key in (("kms_key", resources.get("VolumeKmsKeyId")), ("output_kms_key", output.get("KmsKeyId"))):
        named = _ARN_OF_A_KEY.match(str(key))
        if named and region and named["region"] != region:
            yield f"aws.{setting}: the key is in {named['region']}, but the machines are in {region}"


def _network(body: Mapping[str, Any]) -> Iterator[str]:
    network = body.get("VpcConfig", {})
    for setting, field, prefix in (("subnets", "Subnets", "subnet-"), ("security_groups", "SecurityGroupIds", "sg-")):
        for name in network.get(field, ()):
            if not name.startswith(prefix):
                yield f"aws.{setting}: {name!r} is not an ID that begins with {prefix!r}"
    if body.get("EnableNetworkIsolation"):
        # Model, EnableNetworkIsolation: "the training container does not have network access".
        yield (
            "aws.network_isolation: an isolated container has no network, so it reaches neither the store (job, checkpoints, logs) nor"
            " its secrets; use private subnets without a route to the internet instead (aws.subnets)"
        )
    image = body.get("AlgorithmSpecification", {}).get("TrainingImageConfig", {})
    if image.get("TrainingRepositoryAccessMode") == "Vpc" and not network:
        yield "aws.private_registry: the machines reach it through your own network; set aws.subnets and aws.security_groups"


def _capacity(body: Mapping[str, Any], region: str | None) -> Iterator[str]:
    resources, is_spot = body.get("ResourceConfig", {}), body.get("EnableManagedSpotTraining")
    if is_spot and resources.get("KeepAlivePeriodInSeconds"):
        yield "aws.keep_alive: a warm pool cannot have spot machines (docs.aws.amazon.com, train-warm-pools); set resources.spot to false"
    if is_spot and resources.get("TrainingPlanArn"):
        yield "aws.training_plan: a training plan's machines are reserved, so they cannot be spot machines; set resources.spot to false"
    if resources.get("KeepAlivePeriodInSeconds") and resources.get("TrainingPlanArn"):
        yield "aws.keep_alive: a training plan already keeps its machines; leave out aws.keep_alive or aws.training_plan"
    plan = str(resources.get("TrainingPlanArn", ""))
    if plan and region and plan.split(":")[3] != region:
        yield f"aws.training_plan: the plan is in {plan.split(':')[3]}, but aws.region is {region}"


def _output(body: Mapping[str, Any]) -> Iterator[str]:
    url = str(body.get("OutputDataConfig", {}).get("S3OutputPath", ""))
    bucket = url.removeprefix("s3://").partition("/")[0]
    if not url.startswith("s3://") or not re.fullmatch(BUCKETS["s3"][0], bucket):
        yield f"store: OutputDataConfig.S3OutputPath: {url!r} is not s3://BUCKET/FOLDER, with a bucket's name of {BUCKETS['s3'][1]}"


def _arns(body: Mapping[str, Any], region: str | None) -> Iterator[str]:
    """ARNs of another partition than the region's, or of the sample config: https://docs.aws.amazon.com/IAM/latest/UserGuide/reference-arns.html."""
    partition = partition_of(region) if region else None
    role = str(body.get("RoleArn", ""))
    if not forms.has_form(forms.AWS_ROLE, role):
        yield f"aws.role: {role!r} is not {forms.EXPECTED[forms.AWS_ROLE]}"
    resources, image = body.get("ResourceConfig", {}), body.get("AlgorithmSpecification", {}).get("TrainingImageConfig", {})
    login = image.get("TrainingRepositoryAuthConfig", {}).get("TrainingRepositoryCredentialsProviderArn")
    named = {
        "role": role,
        "kms_key": resources.get("VolumeKmsKeyId"),
        "output_kms_key": body.get("OutputDataConfig", {}).get("KmsKeyId"),
        "training_plan": resources.get("TrainingPlanArn"),
        "registry_credentials": login,
    }
    for setting, arn in named.items():
        if partition and str(arn).startswith("arn:") and str(arn).split(":")[1] != partition:
            yield f"aws.{setting}: {arn} belongs to the partition {str(arn).split(':')[1]}, but {region} to {partition}"
        if setting != "role" and (found := _PLACEHOLDERS.search(str(arn))):
            yield f"aws.{setting}: {found[0]!r} in {arn} is a placeholder; replace it with your own"
    if region and str(login).startswith("arn:") and str(login).split(":")[3] != region:
        yield f"aws.registry_credentials: the function is in {str(login).split(':')[3]}, but the machines are in {region}"


def _tags(tags: list[Mapping[str, str]]) -> Iterator[str]:
    if len(tags) > _MOST_TAGS:
        yield f"aws.tags: {len(tags)} tags, including cloud-train's own; at most {_MOST_TAGS} are allowed"
    names = [tag["Key"] for tag in tags]
    for name in sorted({name for name in names if names.count(name) > 1}):
        yield f"aws.tags: {name!r} is given twice"
    for name in names:
        if name.lower().startswith("aws:"):
            yield f"aws.tags: {name!r} begins with 'aws:', which AWS reserves"


def _placeholders(body: Mapping[str, Any]) -> Iterator[str]:
    """Values of the sample config that were not filled in."""
    image = str(body.get("AlgorithmSpecification", {}).get("TrainingImage", ""))
    url = next((tag["Value"] for tag in body.get("Tags", []) if tag["Key"] == STORE), "")
    for setting, value in (("aws.role", str(body.get("RoleArn", ""))), ("aws.repository", image.partition("@")[0]), ("store", url)):
        if found := _PLACEHOLDERS.search(value):
            yield f"{setting}: {found[0]!r} in {value} is a placeholder; replace it with your own"

"""Checks that the resources in the ``aws`` settings exist and may be used. Starts and changes nothing."""

import json
from collections.abc import Iterator, Mapping
from typing import Any
from urllib.parse import unquote, urlsplit

from cloud_train.errors import ProviderError
from cloud_train.providers.aws.client import Aws
from cloud_train.providers.aws.jobs import LOG_GROUP
from cloud_train.providers.aws.request import region_of, registry_of
from cloud_train.providers.base import Diagnosis
from cloud_train.providers.cloud.errors import ForbiddenError, MissingError, RefusedError, with_field
from cloud_train.providers.cloud.provider import looked, unasked

_SETUP = "docs/clouds/aws.md shows how"
_PRINCIPAL = "sagemaker.amazonaws.com"


def diagnose(aws: Aws, settings: Mapping[str, Any], store: str | None) -> Iterator[Diagnosis]:
    """Check credentials, SageMaker, its logs, the role, the bucket, the repository and the machine's quota, one finding at a time."""
    region = region_of(settings)
    if region is None:
        yield Diagnosis("region", "error", "not set, and aws.repository does not imply one", "set it, such as eu-west-1")
        return
    identity = looked("credentials", lambda: _identity(aws, region))
    yield identity
    if identity.status == "error":
        return
    yield looked("SageMaker", lambda: _jobs(aws, region))
    yield looked("logs", lambda: _logs(aws, region))
    yield looked("role", lambda: _role(aws, region, settings.get("role")))
    if store is not None and store.startswith("s3://"):
        yield looked("store", lambda: _bucket(aws, region, urlsplit(store).netloc))
    yield looked("repository", lambda: _repository(aws, region, settings))
    if machine := settings.get("machine"):
        yield looked("machine", lambda: _quota(aws, region, str(machine)))


def _identity(aws: Aws, region: str) -> Diagnosis:
    who = aws.ask("sts", region, "get_caller_identity")
    return Diagnosis("credentials", "ok", f"{who['Arn']} in account {who['Account']}, for {region}")


def _jobs(aws: Aws, region: str) -> Diagnosis:
    with_field("AWS", "TrainingJobSummaries", aws.ask("sagemaker", region, "list_training_jobs", MaxResults=1))
    return Diagnosis("SageMaker", "ok", f"training jobs can be listed in {region}")


def _logs(aws: Aws, region: str) -> Diagnosis:
    try:
        with_field("AWS", "logStreams", aws.ask("logs", region, "describe_log_streams", logGroupName=LOG_GROUP, limit=1))
    except MissingError:
        return Diagnosis("logs", "ok", f"{LOG_GROUP} does not exist yet: the first job creates it")
    return Diagnosis("logs", "ok", f"{LOG_GROUP} can be read")


def _role(aws: Aws, region: str, arn: str | None) -> Diagnosis:
    if not arn:
        return Diagnosis("role", "error", "not set", f"set aws.role to the ARN of the machines' role; {_SETUP}")
    name = arn.rpartition("/")[2]
    try:
        role = with_field("AWS", "Role", aws.ask("iam", region, "get_role", RoleName=name))["Role"]
    except MissingError:
        return Diagnosis("role", "error", f"the role {name} does not exist in this account", f"create it: {_SETUP}")
    except RefusedError as error:
        detail = f"cannot read {name}, so it is unknown whether SageMaker may assume it: {error.message}"
        return Diagnosis("role", "warning", detail, error.hint or "")
    if role["Arn"] != arn:
        return Diagnosis("role", "error", f"the role {name} is {role['Arn']}, not {arn}", "set aws.role to that ARN")
    if not _trusts_sagemaker(role["AssumeRolePolicyDocument"]):
        remedy = f"add the service {_PRINCIPAL} to its trust policy: see docs/clouds/aws.md"
        return Diagnosis("role", "error", f"{name} does not let SageMaker assume it", remedy)
    return Diagnosis("role", "ok", f"{name} can be assumed by SageMaker")


def _trusts_sagemaker(document: str | Mapping[str, Any]) -> bool:
    policy = json.loads(unquote(document)) if isinstance(document, str) else document
    statements = policy.get("Statement", [])
    for statement in [statements] if isinstance(statements, Mapping) else statements:
        principal = statement.get("Principal", {})
        services = principal.get("Service", []) if isinstance(principal, Mapping) else []
        if statement.get("Effect") == "Allow" and _PRINCIPAL in ([services] if isinstance(services, str) else services):
            return True
    return False


def _bucket(aws: Aws, region: str, bucket: str) -> Diagnosis:
    try:
        where = aws.ask("s3", region, "get_bucket_location", Bucket=bucket).get("LocationConstraint") or "us-east-1"
    except MissingError:
        return Diagnosis("store", "error", f"the bucket {bucket} does not exist", f"create it in {region}: {_SETUP}")
    except ForbiddenError as error:  # not needed for runs
        return unasked("store", error)
    if where != region:
        remedy = "use a bucket in the same region: traffic between regions costs money with every checkpoint"
        return Diagnosis("store", "warning", f"the bucket {bucket} is in {where}, but the machines run in {region}", remedy)
    return Diagnosis("store", "ok", f"the bucket {bucket} is in {region}")


def _repository(aws: Aws, region: str, settings: Mapping[str, Any]) -> Diagnosis:
    repository = settings.get("repository")
    if not repository:
        return Diagnosis("repository", "error", "not set", f"set aws.repository to one in Amazon ECR; {_SETUP}")
    registry = registry_of(repository)
    with_field("AWS", "authorizationData", aws.ask("ecr", registry[1] if registry else region, "get_authorization_token"))
    if registry is None:
        return Diagnosis("repository", "warning", f"{repository} is not in Amazon ECR, so it cannot be checked", _SETUP)
    name = repository.partition("/")[2]
    try:
        with_field(
            "AWS", "repositories", aws.ask("ecr", registry[1], "describe_repositories", registryId=registry[0], repositoryNames=[name])
        )
    except ForbiddenError as error:  # not needed for pushes
        return unasked("repository", error)
    except MissingError:
        if settings.get("create_repository"):
            return Diagnosis("repository", "ok", f"{name} does not exist yet: the first submission creates it")
        remedy = f"set aws.create_repository: true, or run: aws ecr create-repository --repository-name {name} --region {registry[1]}"
        return Diagnosis("repository", "error", f"the repository {name} does not exist in {registry[1]}", remedy)
    return Diagnosis("repository", "ok", f"{name} exists, and ECR issues a login for it")


def _quota(aws: Aws, region: str, machine: str) -> Diagnosis:
    """The quotas for on-demand and spot machines of this kind; in a new account they are often zero."""
    kinds = {f"{machine} for training job usage": "on demand", f"{machine} for spot training job usage": "spot"}
    found: dict[str, float] = {}
    more: dict[str, str] = {}
    try:
        while True:
            query = {"ServiceCode": "sagemaker", "MaxResults": 100, **more}
            answer = with_field("AWS", "Quotas", aws.ask("service-quotas", region, "list_service_quotas", **query))
            found |= {kinds[quota["QuotaName"]]: quota["Value"] for quota in answer["Quotas"] if quota["QuotaName"] in kinds}
            if len(found) == len(kinds) or not answer.get("NextToken") or answer["NextToken"] == more.get("NextToken"):
                break
            more = {"NextToken": answer["NextToken"]}
    except ProviderError as error:
        return Diagnosis("machine", "warning", f"cannot check the quota of {machine}: {error.message}", error.hint or "")
    said = ", ".join(f"{value:g} {kind}" for kind, value in sorted(found.items())) or "unknown"
    if not any(found.values()):
        remedy = f"request more under Service Quotas, Amazon SageMaker, '{machine} for training job usage'"
        return Diagnosis("machine", "error" if found else "warning", f"the quota of {machine} in {region}: {said}", remedy)
    return Diagnosis("machine", "ok", f"the quota of {machine} in {region}: {said}")

"""Checks that the resources in the ``aws`` settings exist and may be used. Starts and changes nothing."""

import json
from collections.abc import Callable, Iterator, Mapping
from datetime import UTC, datetime, timedelta
from typing import Any
from urllib.parse import unquote, urlsplit

from cloud_train.errors import CloudTrainError, ProviderError
from cloud_train.providers.aws.client import Aws
from cloud_train.providers.aws.jobs import LOG_GROUP
from cloud_train.providers.aws.request import SECRETS, region_of, registry_of
from cloud_train.providers.base import Diagnosis
from cloud_train.providers.cloud.errors import ForbiddenError, MissingError, RefusedError, with_field
from cloud_train.providers.cloud.provider import looked, unasked

_SETUP = "docs/clouds/aws.md shows how"
_COSTS = "see docs/clouds/aws.md, What costs money between runs"
_LONGEST_JOB_DAYS = 31
"""SageMaker ends a job after at most 30 days."""
_SHOWN = 3
_PRINCIPAL = "sagemaker.amazonaws.com"


def diagnose(aws: Aws, settings: Mapping[str, Any], store: str | None) -> Iterator[Diagnosis]:
    """Check credentials, SageMaker, its logs, the role, the bucket, the repository, what costs money
    between runs, and the machine's quota, one finding at a time.
    """
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
    yield from _costs(aws, region, settings)
    if machine := settings.get("machine"):
        yield looked("machine", lambda: _any_quota(aws, region, str(machine)))


def diagnose_job(aws: Aws, region: str, machine: str, nodes: int, *, is_spot: bool) -> Iterator[Diagnosis]:
    """Check the quota for the exact machines of a job."""
    yield looked("quota", lambda: _quota(aws, region, machine, nodes, is_spot=is_spot))


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


def _costs(aws: Aws, region: str, settings: Mapping[str, Any]) -> Iterator[Diagnosis]:
    """Findings on costs that recur every month even when no job runs. A missing permission does not prevent a run."""
    yield _optional("log retention", lambda: _retention(aws, region))
    repository = str(settings.get("repository") or "")
    if registry := registry_of(repository):
        yield _optional("image lifecycle", lambda: _lifecycle(aws, registry, repository.partition("/")[2]))
    yield _optional("secrets", lambda: _leftover_secrets(aws, region))


def _optional(name: str, look: Callable[[], Diagnosis]) -> Diagnosis:
    try:
        return look()
    except CloudTrainError as error:
        return unasked(name, error, _COSTS)


def _retention(aws: Aws, region: str) -> Diagnosis:
    answer = with_field("AWS", "logGroups", aws.ask("logs", region, "describe_log_groups", logGroupNamePrefix=LOG_GROUP))
    group = next((each for each in answer["logGroups"] if each["logGroupName"] == LOG_GROUP), None)
    if group is None:
        return Diagnosis("log retention", "ok", f"{LOG_GROUP} does not exist yet; to limit how long it keeps logs, {_COSTS}")
    if days := group.get("retentionInDays"):
        return Diagnosis("log retention", "ok", f"{LOG_GROUP} keeps logs for {days} days")
    remedy = f"aws logs put-retention-policy --log-group-name {LOG_GROUP} --retention-in-days 30 --region {region}"
    return Diagnosis("log retention", "warning", f"{LOG_GROUP} keeps logs forever, and AWS bills them", remedy)


def _lifecycle(aws: Aws, registry: tuple[str, str], name: str) -> Diagnosis:
    try:
        aws.ask("ecr", registry[1], "get_lifecycle_policy", registryId=registry[0], repositoryName=name)
    except MissingError as error:
        if "Lifecycle" not in error.reason:  # the repository itself is missing, which is another finding
            return Diagnosis("image lifecycle", "ok", f"{name} does not exist yet")
        detail = f"{name} has no lifecycle policy: every image is kept and billed forever"
        return Diagnosis("image lifecycle", "warning", detail, _COSTS)
    return Diagnosis("image lifecycle", "ok", f"{name} has a lifecycle policy")


def _leftover_secrets(aws: Aws, region: str) -> Diagnosis:
    """Secrets of jobs that are older than any job can be."""
    query = {"Filters": [{"Key": "name", "Values": [SECRETS]}], "MaxResults": 100}
    answer = with_field("AWS", "SecretList", aws.ask("secretsmanager", region, "list_secrets", **query))
    longest_ago = datetime.now(UTC) - timedelta(days=_LONGEST_JOB_DAYS)
    old = [each["Name"] for each in answer["SecretList"] if each["Name"].startswith(SECRETS) and each["CreatedDate"] < longest_ago]
    if not old:
        return Diagnosis("secrets", "ok", "no ended job has left one behind")
    remedy = f"aws secretsmanager delete-secret --region {region} --force-delete-without-recovery --secret-id {old[0]}"
    several = (
        f"{len(old)} secrets of ended jobs still exist and cost" if len(old) > 1 else "a secret of an ended job still exists and costs"
    )
    return Diagnosis("secrets", "warning", f"{several} money every month: {', '.join(old[:_SHOWN])}", remedy)


def _any_quota(aws: Aws, region: str, machine: str) -> Diagnosis:
    """The quotas for on-demand and spot machines of this kind; in a new account they are often zero."""
    try:
        found = _quotas(aws, region, machine)
    except ProviderError as error:
        return Diagnosis("machine", "warning", f"cannot check the quota of {machine}: {error.message}", error.hint or "")
    said = ", ".join(f"{value:g} {kind}" for kind, value in sorted(found.items())) or "unknown"
    if not any(found.values()):
        remedy = f"request more under Service Quotas, Amazon SageMaker, '{machine} for training job usage'"
        return Diagnosis("machine", "error" if found else "warning", f"the quota of {machine} in {region}: {said}", remedy)
    return Diagnosis("machine", "ok", f"the quota of {machine} in {region}: {said}")


def _quota(aws: Aws, region: str, machine: str, nodes: int, *, is_spot: bool) -> Diagnosis:
    """Whether the quota allows this many machines at once. Machines of other jobs count too, but are unknown."""
    kind = "spot" if is_spot else "on demand"
    wanted = f"{nodes} × {machine} {kind}"
    try:
        found = _quotas(aws, region, machine).get(kind)
    except ProviderError as error:
        return Diagnosis("quota", "warning", f"cannot check the quota for {wanted}: {error.message}", error.hint or "")
    if found is None:
        return Diagnosis("quota", "warning", f"Service Quotas lists no quota for {machine} {kind} in {region}", "check the machine's name")
    if found < nodes:
        name = _quota_names(machine)[kind]
        remedy = f"request {nodes} under Service Quotas, Amazon SageMaker, '{name}', or choose another aws.machine or aws.region"
        return Diagnosis("quota", "error", f"the job needs {wanted}, but the quota in {region} is {found:g}", remedy)
    return Diagnosis("quota", "ok", f"the quota in {region} is {found:g}, and the job needs {wanted}")


def _quota_names(machine: str) -> dict[str, str]:
    """On demand or spot → the quota's whole name."""
    return {"on demand": f"{machine} for training job usage", "spot": f"{machine} for spot training job usage"}


def _quotas(aws: Aws, region: str, machine: str) -> dict[str, float]:
    """The account's quotas for machines of this kind, on demand and spot. Raises ProviderError."""
    kinds = {name: kind for kind, name in _quota_names(machine).items()}
    found: dict[str, float] = {}
    more: dict[str, str] = {}
    while True:
        query = {"ServiceCode": "sagemaker", "MaxResults": 100, **more}
        answer = with_field("AWS", "Quotas", aws.ask("service-quotas", region, "list_service_quotas", **query))
        found |= {kinds[quota["QuotaName"]]: quota["Value"] for quota in answer["Quotas"] if quota["QuotaName"] in kinds}
        if len(found) == len(kinds) or not answer.get("NextToken") or answer["NextToken"] == more.get("NextToken"):
            return found
        more = {"NextToken": answer["NextToken"]}

"""Builds SageMaker's request from a plan, with SageMaker's field names, and validates it. Pure; needs no SDK.

Reference: https://docs.aws.amazon.com/sagemaker/latest/APIReference/API_CreateTrainingJob.html. Its shape is checked
against ``data/aws.requests.json``, generated from botocore's model of the service. Rules that the reference states only in prose are here.
"""

import math
import re
from collections.abc import Iterator, Mapping
from itertools import pairwise
from typing import TYPE_CHECKING, Any

from cloud_train.job import cloud_names as forms
from cloud_train.job.loopback import is_loopback
from cloud_train.providers.aws.rules import job_problems, partition_of, regional_problems
from cloud_train.providers.base import Request
from cloud_train.providers.cloud import request as cloud_request
from cloud_train.providers.cloud.additions import with_additions
from cloud_train.providers.cloud.repositories import ECR, problem_of
from cloud_train.providers.cloud.request import ATTEMPT, RUN, STORE, environment_of, image_of, job_name, longest_seconds, worker_command
from cloud_train.run.states import Cause

if TYPE_CHECKING:
    from cloud_train.run.plan import Plan

DEFINITION = "CreateTrainingJobRequest"
_OWN = (
    "TrainingJobName",
    "AlgorithmSpecification.TrainingImage",
    "AlgorithmSpecification.ContainerEntrypoint",
    "AlgorithmSpecification.ContainerArguments",
    "Tags",
    "ResourceConfig.InstanceCount",
)
"""Fields that the setting ``request`` may not change; tags and the number of nodes have settings of their own."""

_PLATFORM = "linux/amd64"
_MOST_GRACE_SECONDS = 110
"""SageMaker sends SIGKILL 120 seconds after SIGTERM; within that time, the worker also has to upload the last checkpoint."""
_VOLUME = "30GB"
SECRETS = "cloud-train/"
"""Begins the names of the jobs' secrets."""
_CONSOLES = {"aws-cn": "console.amazonaws.cn", "aws-us-gov": "console.amazonaws-us-gov.com"}
"""Partition → the host of its console, where that does not begin with the region."""
_DOMAINS = {"aws-cn": "amazonaws.com.cn", "aws-eusc": "amazonaws.eu"}
"""Partition → the domain of its registries, where that is not amazonaws.com (botocore's endpoints.json, ``dnsSuffix``)."""
_NO_ROLE = f"{DEFINITION}: RoleArn is missing"
"""A problem that is reported in our own words, with its setting."""
_TAG = re.compile(r"[A-Za-z0-9 _.:/=+\-@]{1,256}")
"""A store's URL that is valid as the value of a tag."""
_SETTINGS = {
    "RoleArn": "role",
    "AlgorithmSpecification.TrainingImage": "repository",
    "ResourceConfig.InstanceType": "machine",
    "ResourceConfig.VolumeSizeInGB": "volume",
    "ResourceConfig.VolumeKmsKeyId": "kms_key",
    "ResourceConfig.KeepAlivePeriodInSeconds": "keep_alive",
    "ResourceConfig.TrainingPlanArn": "training_plan",
    "OutputDataConfig.KmsKeyId": "output_kms_key",
    "AlgorithmSpecification.TrainingImageConfig": "registry_credentials",
    "VpcConfig.Subnets": "subnets",
    "VpcConfig.SecurityGroupIds": "security_groups",
    "VpcConfig": "subnets",
    "Tags": "tags",
    "StoppingCondition.MaxRuntimeInSeconds": "max_runtime",
    "StoppingCondition.MaxWaitTimeInSeconds": "max_wait",
}
"""Path in the request → the setting under ``aws`` that it comes from; a path precedes its own prefixes."""


def secret_name(job: str) -> str:
    """The name of the secret in AWS Secrets Manager with the job's secrets."""
    return f"{SECRETS}{job}"


def registry_of(repository: str) -> tuple[str, str] | None:
    """Account and region of a repository of Amazon ECR; None for any other."""
    match = ECR.hosts.fullmatch(host := repository.partition("/")[0])
    if match is None or not forms.has_form(forms.AWS_REGION, match[2]):
        return None
    domain = _DOMAINS.get(partition_of(match[2]) or "aws", "amazonaws.com")
    return (match[1], match[2]) if host.endswith(f".{match[2]}.{domain}") else None


def region_of(settings: Mapping[str, Any]) -> str | None:
    """The region in the settings, otherwise that of the repository."""
    registry = registry_of(str(settings.get("repository") or ""))
    return settings.get("region") or (registry[1] if registry else None)


def console_url(region: str, job: str) -> str:
    """The page of a training job in SageMaker's console, whose host depends on the partition.

    Source: ``get_console_job_url`` in https://github.com/aws/sagemaker-python-sdk (sagemaker-train, metrics_visualizer.py).
    """
    host = _CONSOLES.get(partition_of(region) or "aws", f"{region}.console.aws.amazon.com")
    return f"https://{host}/sagemaker/home?region={region}#/jobs/{job}"


def request_of(plan: "Plan") -> Request:
    """The body of CreateTrainingJob, and the values needed to send it: the region, and the secret's name if the job has secrets.

    ``refused`` holds problems that the body cannot express.
    """
    name, region = job_name(plan.run_id, plan.attempt), region_of(plan.provider_settings)
    secret = secret_name(name) if plan.job.secrets else None
    machine, refused = _machine(plan)
    built = _body(plan, name, machine, secret_address(secret, region) if secret else None)
    body, kept_out = with_additions(built, plan.provider_settings, _OWN, "aws")
    return {
        "run_id": plan.run_id,
        "attempt": plan.attempt,
        "store": plan.store,
        "region": region,
        "secret": secret,
        "refused": [*refused, *_unsupported(plan), *kept_out],
        "body": body,
    }


def _unsupported(plan: "Plan") -> Iterator[str]:
    """Problems that the body cannot express."""
    if plan.program.grace_seconds > _MOST_GRACE_SECONDS:
        yield (
            f"limits.grace: {plan.program.grace_seconds:g} s exceeds the {_MOST_GRACE_SECONDS} s that a program has on SageMaker,"
            " which kills the container 120 s after SIGTERM"
        )
    if plan.provider_settings.get("registry_credentials") and not plan.provider_settings.get("private_registry"):
        yield "aws.registry_credentials: only for a registry of your own; set aws.private_registry to true, or leave it out"
    if (platform := plan.provider_settings.get("platform", _PLATFORM)) != _PLATFORM:
        yield f"aws.platform: {platform} is not supported; SageMaker's training machines are {_PLATFORM}"


def _body(plan: "Plan", name: str, machine: str | None, secrets: str | None) -> dict[str, Any]:
    """The body of CreateTrainingJob; ``secrets`` is the worker's option of that name."""
    settings = plan.provider_settings
    body: dict[str, Any] = {
        "TrainingJobName": name,
        "RoleArn": settings.get("role"),
        "AlgorithmSpecification": {
            **_image(plan),
            **_registry_access(settings),
            "TrainingInputMode": "File",
            **_words(worker_command(plan, "sagemaker", secrets)),
        },
        "ResourceConfig": _resources(plan, machine),
        "StoppingCondition": _limits(plan),
        # The worker uploads everything itself. SageMaker requires a destination for /opt/ml/model, which stays empty.
        "OutputDataConfig": {
            "S3OutputPath": f"{plan.store.rstrip('/')}/{plan.run_id}/sagemaker",
            **({"KmsKeyId": settings["output_kms_key"]} if settings.get("output_kms_key") else {}),
        },
        # The platform sets no region: https://github.com/aws/sagemaker-training-toolkit (files.py) reads AWS_REGION with a fallback.
        "Environment": {**environment_of(settings), **_region(region_of(settings))},
        "VpcConfig": _network(settings),
        "EnableNetworkIsolation": settings.get("network_isolation") or None,
        "EnableInterContainerTrafficEncryption": settings.get("encrypt_traffic") or None,
        "EnableManagedSpotTraining": plan.job.resources.spot,
        "RetryStrategy": _retries(plan),
        "Tags": _tags(plan),
    }
    return {field: value for field, value in body.items() if value is not None}


def secret_address(secret: str, region: str | None) -> str:
    """The worker's option ``--secrets``."""
    return f"aws-secret:{secret}@{region}"


def with_secret(request: Request) -> Request:
    """The request with a secret, which is added if the job file names none."""
    if request["secret"]:
        return request
    secret = secret_name(request["body"]["TrainingJobName"])
    algorithm = request["body"]["AlgorithmSpecification"]
    words = [*algorithm["ContainerArguments"], "--secrets", secret_address(secret, request["region"])]
    body = {**request["body"], "AlgorithmSpecification": {**algorithm, "ContainerArguments": words}}
    return {**request, "secret": secret, "body": body}


def is_ours(described: Mapping[str, Any], store: str) -> bool:
    """Whether the worker of a described training job writes to this store."""
    return _option(described, "--store") == store


def secret_of(described: Mapping[str, Any]) -> str | None:
    """The name of the secret that a described training job reads."""
    address = _option(described, "--secrets")
    return address.removeprefix("aws-secret:").rpartition("@")[0] if address else None


def _option(described: Mapping[str, Any], name: str) -> str | None:
    words = described.get("AlgorithmSpecification", {}).get("ContainerArguments", [])
    return next((value for word, value in pairwise(words) if word == name), None)


def _region(region: str | None) -> dict[str, str]:
    """The variables in which AWS's SDKs look for the region: the first one those of most languages, the second one Python's."""
    return {"AWS_REGION": region, "AWS_DEFAULT_REGION": region} if region else {}


def _words(command: list[str]) -> dict[str, list[str]]:
    return {"ContainerEntrypoint": command[:3], "ContainerArguments": command[3:]}


def _image(plan: "Plan") -> dict[str, str]:
    image = image_of(plan)
    return {"TrainingImage": image} if image else {}


def _machine(plan: "Plan") -> tuple[str | None, list[str]]:
    """The machine, and the reasons if none fits."""
    from cloud_train.providers.cloud.machines import NoMachineError, choose, mismatches  # imports pydantic, which only plans need

    if named := plan.provider_settings.get("machine"):
        return str(named), [*mismatches("aws", str(named), plan.job.resources), *_foreign_machine(plan, str(named))]
    try:
        return choose("aws", plan.job.resources).name, []
    except NoMachineError as error:
        return None, [str(error)]


def _foreign_machine(plan: "Plan", name: str) -> Iterator[str]:
    """Why cloud-train's images or trainers cannot use a machine's processors or accelerators."""
    from cloud_train.networks.base import ScriptModel

    if name.startswith("ml.p6e-"):
        yield f"aws.machine: {name} has Arm processors, but images for SageMaker are {_PLATFORM}"
    elif name.startswith("ml.trn") and not isinstance(plan.job.model, ScriptModel):
        yield f"aws.machine: {name} has AWS Trainium, which the built-in trainers cannot use; use a machine with NVIDIA GPUs"


def _resources(plan: "Plan", machine: str | None) -> dict[str, Any]:
    from cloud_train.spec.types import ByteSize

    volume = ByteSize.parse(plan.provider_settings.get("volume") or _VOLUME).bytes
    fields = {
        "InstanceType": machine,
        "InstanceCount": plan.job.resources.nodes,
        "VolumeSizeInGB": math.ceil(volume / 10**9),
        "VolumeKmsKeyId": plan.provider_settings.get("kms_key"),
        "KeepAlivePeriodInSeconds": _seconds(plan.provider_settings.get("keep_alive")),
        "TrainingPlanArn": plan.provider_settings.get("training_plan"),
    }
    return {name: value for name, value in fields.items() if value is not None}


def _seconds(duration: str | None) -> int | None:
    from cloud_train.spec.types import Duration

    return math.ceil(Duration.parse(duration).seconds) if duration else None


def _registry_access(settings: Mapping[str, Any]) -> dict[str, Any]:
    """How the machines pull from a registry other than Amazon ECR."""
    if not settings.get("private_registry"):
        return {}
    login = settings.get("registry_credentials")
    given = {"TrainingRepositoryAuthConfig": {"TrainingRepositoryCredentialsProviderArn": login}} if login else {}
    return {"TrainingImageConfig": {"TrainingRepositoryAccessMode": "Vpc", **given}}


def _limits(plan: "Plan") -> dict[str, int]:
    """SageMaker's own limits. They are a safety net: the worker itself ends the program after ``limits.duration`` and its grace period."""
    settings, longest = plan.provider_settings, longest_seconds(plan)
    limits = {"MaxRuntimeInSeconds": math.ceil(longest)}
    if plan.job.resources.spot:
        from cloud_train.spec.types import Duration

        wait = Duration.parse(settings["max_wait"]).seconds if settings.get("max_wait") else longest
        limits["MaxWaitTimeInSeconds"] = math.ceil(longest + wait)
    return limits


def _network(settings: Mapping[str, Any]) -> dict[str, list[str]] | None:
    subnets, groups = list(settings.get("subnets") or ()), list(settings.get("security_groups") or ())
    return {"SecurityGroupIds": groups, "Subnets": subnets} if subnets or groups else None


def _retries(plan: "Plan") -> dict[str, int] | None:
    """Restarts by SageMaker after an InternalServerError, upon which the worker continues the run."""
    further = plan.program.attempts - plan.attempt
    return {"MaximumRetryAttempts": further} if further > 0 and Cause.INFRASTRUCTURE in plan.program.retry_on else None


def _tags(plan: "Plan") -> list[dict[str, str]]:
    own = {RUN: plan.run_id, ATTEMPT: str(plan.attempt)}
    if _TAG.fullmatch(plan.store):
        own[STORE] = plan.store
    return [{"Key": key, "Value": str(value)} for key, value in ({**(plan.provider_settings.get("tags") or {}), **own}).items()]


def problems_of(request: Request) -> Iterator[str]:
    """The problems for which SageMaker would refuse the request, each with the setting, the field's path and the rule."""
    body, region = request["body"], request["region"]
    yield from request["refused"]
    yield from regional_problems(region)
    shape = list(cloud_request.problems_of(body, "aws", DEFINITION))
    if _NO_ROLE in shape:
        yield "aws.role: not set; set it to the ARN of the machines' role (docs/clouds/aws.md shows how to create one)"
    yield from (_with_setting(problem) for problem in shape if problem != _NO_ROLE)
    if isinstance(body, dict) and isinstance(algorithm := body.get("AlgorithmSpecification"), dict):
        yield from _image_problems(algorithm, region)
    if not shape:
        yield from job_problems(body, region)


def _image_problems(algorithm: Mapping[str, Any], region: str | None) -> Iterator[str]:
    image = algorithm.get("TrainingImage")
    if not isinstance(image, str):
        yield "aws.repository: not set; set it to a repository in Amazon ECR, from which the machines pull the image"
        return
    if algorithm.get("TrainingImageConfig"):  # a private registry, which the machines reach through the user's own network
        return
    registry, repository = registry_of(image), image.rpartition("@")[0]
    if problem := problem_of("aws.repository", repository, ECR):
        yield problem
    # A registry on loopback belongs to a simulation, in which machines are containers on this machine.
    elif registry is None and not is_loopback(image.partition("/")[0]):
        yield (
            f"aws.repository: {repository} is not in Amazon ECR, the only registry that SageMaker pulls from directly;"
            f" use one such as {ECR.example}, or set aws.private_registry"
        )
    elif registry is not None and registry[1] != region:
        yield f"aws.repository: in {registry[1]}, but SageMaker pulls only from its own region (aws.region: {region})"


def _with_setting(problem: str) -> str:
    for path, setting in _SETTINGS.items():
        if re.match(rf"{re.escape(path)}(?=[.:\[])", problem):
            return f"aws.{setting}: {problem}"
    return problem

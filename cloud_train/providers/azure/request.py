"""Builds the requests for Azure's resource manager from a plan, with its field names, and validates them. Pure.

Reference: ``PUT …/environments/{name}/versions/{version}`` and ``PUT …/jobs/{id}`` of https://learn.microsoft.com/rest/api/azureml/,
api-version 2025-12-01. A job refers to the version of an environment, which refers to the image.
"""

import hashlib
import re
import shlex
from collections.abc import Iterator, Mapping
from typing import TYPE_CHECKING, Any
from urllib.parse import urlsplit

from cloud_train.errors import ProviderError
from cloud_train.job import cloud_names as forms
from cloud_train.providers.azure import rules
from cloud_train.providers.azure.clouds import CLOUDS, PUBLIC, cloud_of, cloud_with, meant_location
from cloud_train.providers.base import Request
from cloud_train.providers.cloud.additions import with_additions
from cloud_train.providers.cloud.repositories import AZURE, problem_of
from cloud_train.providers.cloud.request import (
    ATTEMPT,
    NOT_BUILT,
    RUN,
    STORE,
    environment_of,
    image_of,
    job_name,
    whole_seconds,
    worker_command,
)
from cloud_train.providers.cloud.request import problems_of as shape_problems
from cloud_train.storage.trusted_hosts import AZURE as AZURE_HOSTS
from cloud_train.storage.trusted_hosts import AZURE_VAULT, UntrustedHostError, check

if TYPE_CHECKING:
    from cloud_train.providers.cloud.machines import Machine
    from cloud_train.run.plan import Plan

_ENVIRONMENT = "cloud-train"
_PLATFORM = "linux/amd64"
_ARM = re.compile(r"Standard_[A-Z]+[0-9]+(?:-[0-9]+)?[a-z]*p[a-z]*(?:_.*)?", re.IGNORECASE)
"""Machines with Arm processors have a 'p' after their size (https://learn.microsoft.com/azure/virtual-machines/vm-naming-conventions)."""
USER = "user"
"""The setting ``identity`` for the identity of the user who submits the job."""
_OWN = (
    *("properties.jobType", "properties.displayName", "properties.tags", "properties.environmentId", "properties.command"),
    "properties.resources.instanceCount",
)
"""Fields that the setting ``request`` may not change; tags and the number of nodes have settings of their own."""
_NEEDED = ("subscription", "resource_group", "workspace", "repository")
_ID = re.compile(r"[A-Za-z0-9][A-Za-z0-9_-]{0,253}")
_FORMS = {
    "subscription": forms.GUID,
    "resource_group": forms.AZURE_GROUP,
    "workspace": forms.AZURE_WORKSPACE,
    "compute": forms.AZURE_COMPUTE,
    "instance_type": forms.AZURE_INSTANCE_TYPE,
    "identity": forms.AZURE_IDENTITY,
    "machine": forms.AZURE_MACHINE,
    "vault": forms.VAULT_URL,
}
"""Settings in a request → their required form."""
_PLACEHOLDER = re.compile(r"^00000000-0000-0000-0000-000000000000$|//youraccount/|(?:^|//)your-(?:registry|vault)\.")
"""The values in configs/azure.yaml that everyone has to replace."""
_OF_ADDRESSES = {"location": forms.AZURE_LOCATION, "endpoint": forms.SERVICE_URL, "history_endpoint": forms.SERVICE_URL}


def request_of(plan: "Plan") -> Request:
    """The environment's version, the job, and the URL of the job's secrets; ``settings`` come from the config file."""
    settings = plan.provider_settings
    workspace, job = workspace_of(settings), job_name(plan.run_id, plan.attempt)
    image = image_of(plan) or f"None@{NOT_BUILT}"
    environment = f"{_ENVIRONMENT}/versions/{hashlib.sha256(image.encode()).hexdigest()[:32]}"
    secret = secret_of(settings, job) if plan.job.secrets else None
    machine, without = _machine(plan)
    unfit = list(_unfit(plan))
    built = {"properties": _job(plan, f"{workspace['path']}/environments/{environment}", secret, machine)}
    body, kept_out = with_additions(built, settings, _OWN, "azure")
    return {
        "run_id": plan.run_id,
        "attempt": plan.attempt,
        "store": plan.store,
        "spot": plan.job.resources.spot,
        "settings": {name: settings[name] for name in (*_NEEDED, *_FORMS, "cloud", "location") if name in settings},
        **({"refused": without} if without else {}),
        **({"kept_out": kept_out} if kept_out else {}),
        **({"unfit": unfit} if unfit else {}),
        "workspace": workspace,
        "secrets": list(plan.job.secrets),
        "secret": secret,
        "environment": {"id": environment, "body": {"properties": {"image": image, "osType": "Linux"}}},
        "job": {"id": job, "body": body},
    }


def workspace_of(settings: Mapping[str, Any]) -> dict[str, Any]:
    """The endpoints of the workspace and its run history; ``history`` is None if the workspace's region determines it."""
    group = f"/subscriptions/{settings.get('subscription')}/resourceGroups/{settings.get('resource_group')}"
    location, cloud = settings.get("location"), cloud_of(settings.get("cloud"), settings.get("endpoint"))
    return {
        **({"cloud": cloud.name} if cloud is not PUBLIC else {}),
        "endpoint": (settings.get("endpoint") or cloud.endpoint).rstrip("/"),
        "path": f"{group}/providers/Microsoft.MachineLearningServices/workspaces/{settings.get('workspace')}",
        "history": (settings.get("history_endpoint") or (cloud.history_of(location) if location else "")).rstrip("/") or None,
    }


def secret_of(settings: Mapping[str, Any], job: str) -> str | None:
    """The URL of the job's secret in the configured vault, if any."""
    vault = settings.get("vault")
    return f"{vault.rstrip('/')}/secrets/cloud-train-{job}" if vault else None


def problems_of(request: Request) -> Iterator[str]:
    """The problems for which Azure would refuse the request, each with the field and the rule. Azure is not contacted."""
    settings = request["settings"]
    for name in _NEEDED:
        if name not in settings:
            yield f"azure.{name}: not set; set it in the config file (docs/clouds/azure.md shows how to create one)"
    yield from _placeholders({**settings, "store": request["store"]})
    yield from form_problems({**settings, "endpoint": request["workspace"]["endpoint"]})
    if request["workspace"]["history"] is not None and not forms.has_form(forms.SERVICE_URL, request["workspace"]["history"]):
        yield f"azure.location: {request['workspace']['history']!r} is not a valid run history URL; correct it or azure.history_endpoint"
    yield from _foreign_hosts(request)
    yield from _contradictions(request)
    if not _ID.fullmatch(request["job"]["id"]):
        yield f"job id: {request['job']['id']!r} is invalid; use 1 to 254 letters, digits, '_' and '-', starting with a letter or digit"
    yield from _body_problems(request)


def _placeholders(values: Mapping[str, Any]) -> Iterator[str]:
    for name, value in values.items():
        if _PLACEHOLDER.search(str(value)):
            setting = name if name == "store" else f"azure.{name}"
            yield f"{setting}: {value!r} is a placeholder; replace it with your own"


def form_problems(settings: Mapping[str, Any]) -> Iterator[str]:
    """Malformed settings that would become part of a URL."""
    for name, form in {**_FORMS, **_OF_ADDRESSES}.items():
        value = settings.get(name)
        if value is not None and not forms.has_form(form, value):
            near = _similar(str(value)) if name == "machine" else ""
            yield f"azure.{name}: {value!r} is not {forms.EXPECTED[form]}{near}"
    if settings.get("repository") is not None and (problem := problem_of("azure.repository", str(settings["repository"]), AZURE)):
        yield problem
    if (cloud := settings.get("cloud")) is not None and cloud not in CLOUDS:
        yield f"azure.cloud: {cloud!r} is not one of {', '.join(CLOUDS)}"
    if (meant := meant_location(str(settings.get("location")))) is not None:
        yield f"azure.location: {settings['location']!r} is not a region of Azure; did you mean {meant}?"


def checked_workspace_of(settings: Mapping[str, Any]) -> dict[str, Any]:
    """Like ``workspace_of``, but raises ProviderError for settings that cannot be part of a URL."""
    problem = next(form_problems(settings), None)
    if problem is not None:
        raise ProviderError(problem, hint="correct it in the config file: see docs/clouds/azure.md")
    return workspace_of(settings)


def _contradictions(request: Request) -> Iterator[str]:
    settings = request["settings"]
    if "refused" in request:
        yield request["refused"]
    yield from request.get("kept_out", ())
    yield from request.get("unfit", ())
    if "compute" in settings and "machine" in settings:
        yield f"azure.machine: the cluster {settings['compute']!r} has its own machines; leave out azure.machine or azure.compute"
    if "instance_type" in settings and "compute" not in settings:
        yield "azure.instance_type: belongs to an attached Kubernetes cluster; set azure.compute to it, or use azure.machine"
    if "compute" not in settings and "identity" not in settings:
        yield "azure.identity: not set; serverless machines need it to reach store and image: set it to a managed identity's client id"
    if request["secrets"] and request["secret"] is None:
        yield "azure.vault: not set; the job has secrets, which reach its machines through a Key Vault"


def _foreign_hosts(request: Request) -> Iterator[str]:
    """Hosts that get no token, and hosts, registries and regions of another one of Azure's clouds."""
    settings, workspace = request["settings"], request["workspace"]
    addresses = {"endpoint": (workspace["endpoint"], AZURE_HOSTS), "vault": (settings.get("vault"), AZURE_VAULT)}
    addresses["history_endpoint"] = (workspace["history"], AZURE_HOSTS)
    for name, (url, credential) in addresses.items():
        if url is None or not forms.has_form(_FORMS.get(name, forms.SERVICE_URL), url):
            continue  # ``form_problems`` reports it
        try:
            check(url, credential, f"azure.{name}")
        except UntrustedHostError as error:
            yield f"azure.{name}: {error.message}; {error.hint}"
    own = cloud_of(settings.get("cloud"), workspace["endpoint"])
    registry = str(settings.get("repository")).partition("/")[0]
    named = {"endpoint": urlsplit(workspace["endpoint"]).hostname, "location": settings.get("location"), "repository": registry}
    named["vault"] = urlsplit(settings.get("vault") or "").hostname
    for name, value in named.items():
        belongs = cloud_with(str(value or "").lower())
        if belongs is not None and belongs is not own:
            yield f"azure.{name}: {value} belongs to {belongs.name}, but the workspace is in {own.name}; correct it, or azure.cloud"


def _body_problems(request: Request) -> Iterator[str]:
    """Problems with the shape of both bodies; if there are none, other problems for which Azure ML would refuse them."""
    environment, job = request["environment"]["body"], request["job"]["body"]
    shape = [
        *(f"environment.{problem}" for problem in shape_problems(environment, "azure", "EnvironmentVersion")),
        *(f"job.{problem}" for problem in shape_problems(job, "azure", "JobBase")),
    ]
    yield from shape
    if shape:
        return
    if "repository" in request["settings"]:  # otherwise there is no image
        yield from rules.environment_problems(environment["properties"])
    yield from rules.job_problems(job["properties"], is_spot=request["spot"], has_machine="refused" not in request)


def _job(plan: "Plan", environment: str, secret: str | None, machine: "Machine | None") -> dict[str, Any]:
    """The properties of a command job."""
    settings, nodes = plan.provider_settings, plan.job.resources.nodes
    identity, compute = settings.get("identity"), settings.get("compute")
    tags = {RUN: plan.run_id, ATTEMPT: str(plan.attempt), STORE: plan.store}
    return {
        "jobType": "Command",
        "displayName": job_name(plan.run_id, plan.attempt),
        "experimentName": plan.job.name,
        "tags": {**settings.get("tags", {}), **tags},
        "environmentId": environment,
        "command": f"exec {shlex.join(worker_command(plan, 'azureml', secret and f'azure-secret:{secret}'))}",
        "environmentVariables": {**environment_of(settings), **_azure_variables(settings)},
        "identity": _identity(identity),
        "resources": {"instanceCount": nodes, **_resources(plan, machine)},
        **({"distribution": {"distributionType": "PyTorch", "processCountPerInstance": 1}} if nodes > 1 else {}),
        **({"computeId": f"{workspace_of(settings)['path']}/computes/{compute}"} if compute else {}),
        **({"queueSettings": {"jobTier": "Spot"}} if plan.job.resources.spot and not compute else {}),
        "limits": {"jobLimitsType": "Command", "timeout": f"PT{whole_seconds(plan)}S"},
    }


def _identity(identity: str | None) -> dict[str, str]:
    if identity == USER:
        return {"identityType": "UserIdentity"}
    return {"identityType": "Managed", **({"clientId": identity} if identity else {})}


def _azure_variables(settings: Mapping[str, Any]) -> dict[str, str]:
    """The variables by which the SDKs on the machines find the identity, and the cloud if it is not the public one."""
    identity, cloud = settings.get("identity"), cloud_of(settings.get("cloud"), settings.get("endpoint"))
    return {
        **({"AZURE_CLIENT_ID": identity} if identity and identity != USER else {}),
        **({"AZURE_AUTHORITY_HOST": f"https://{cloud.authority}"} if cloud is not PUBLIC else {}),
    }


def _resources(plan: "Plan", machine: "Machine | None") -> dict[str, str]:
    """The serverless machine, with half its memory as shared memory, which torch's data loaders use for batches."""
    settings = plan.provider_settings
    named, args = settings.get("machine"), settings.get("docker_args")
    memory = plan.job.resources.memory.bytes if plan.job.resources.memory else machine.memory_bytes if machine else None
    kind = settings.get("instance_type") if settings.get("compute") else named or (machine.name if machine else "")
    return {
        **({"instanceType": kind} if kind is not None else {}),
        **({"shmSize": f"{max(memory // 2**21, 64)}m"} if memory else {}),
        **({"dockerArgs": args} if args else {}),
    }


def _machine(plan: "Plan") -> tuple["Machine | None", str | None]:
    """The machine, if it is in the table, and a problem if none fits."""
    from cloud_train.providers.cloud import machines

    if named := plan.provider_settings.get("machine"):
        return next((each for each in machines.machines("azure") if each.name.casefold() == named.casefold()), None), None
    if plan.provider_settings.get("compute"):
        return None, None
    try:
        return machines.choose("azure", plan.job.resources), None
    except machines.NoMachineError as error:
        return None, str(error)


def _unfit(plan: "Plan") -> Iterator[str]:
    """Reasons why the named machine does not satisfy the job, or cannot run its image."""
    from cloud_train.providers.cloud.machines import mismatches  # imports pydantic, which only plans need

    settings = plan.provider_settings
    name, platform = str(settings.get("machine") or ""), settings.get("platform") or _PLATFORM
    if name:
        yield from mismatches("azure", name, plan.job.resources)
    if "_MI300X_" in name.upper():
        yield f"azure.machine: {name} has AMD's GPUs, which are not supported; use a machine with NVIDIA's"
    if not settings.get("compute") and (platform == _PLATFORM) is (_ARM.fullmatch(name) is not None):
        kind = "Arm" if platform == _PLATFORM else "x86-64"
        yield f"azure.platform: {platform} does not fit {name or 'the machine'}, which has {kind} processors"


def mistyped_machine(settings: Mapping[str, Any]) -> str | None:
    """A remark on a named machine that is not in the table, but resembles one that is; Azure has more machines than the table."""
    from cloud_train.providers.cloud import machines

    name = str(settings.get("machine") or "")
    known = {machine.name.casefold() for machine in machines.machines("azure")}
    if not forms.has_form(forms.AZURE_MACHINE, name) or name.casefold() in known or not (near := _similar(name)):
        return None
    return f"azure.machine: {name} is not in the table of machines, so its accelerators are not checked{near}"


def _similar(name: str) -> str:
    from cloud_train.providers.cloud import machines

    close = machines.similar("azure", name)
    return f"; did you mean {close[0]}?" if close else ""

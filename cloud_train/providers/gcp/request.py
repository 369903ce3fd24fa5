"""Builds Vertex AI's custom job from a plan, with Vertex AI's field names, and validates it. Pure.

Reference: https://cloud.google.com/vertex-ai/docs/reference/rest/v1/projects.locations.customJobs. The shape is checked against Google's
discovery document (``data/gcp.requests.json``). Rules that Google documents only in prose are here.
"""

import math
import re
from collections.abc import Iterator, Mapping
from typing import TYPE_CHECKING, Any

from cloud_train.errors import ProviderError
from cloud_train.job import cloud_names as forms
from cloud_train.providers.base import Request
from cloud_train.providers.cloud.repositories import GOOGLE, problem_of
from cloud_train.providers.cloud.request import ATTEMPT, ENVIRONMENT, NOT_BUILT, RUN, image_of, job_name, whole_seconds, worker_command
from cloud_train.providers.cloud.request import problems_of as shape_problems_of
from cloud_train.run.states import Cause

if TYPE_CHECKING:
    from cloud_train.providers.cloud.machines import Machine
    from cloud_train.run.plan import Plan

CLOUD = "gcp"
ENDPOINT = "https://{service}.googleapis.com"

_ENTRYPOINT_WORDS = 3
"""How many words of the worker's command replace the image's entrypoint; the others are its arguments."""
_DISK_GIGABYTES = 100
_MOST_DISK_GIGABYTES = 64_000
_ACCELERATORS = {
    "T4": "NVIDIA_TESLA_T4",
    "P100": "NVIDIA_TESLA_P100",
    "V100": "NVIDIA_TESLA_V100",
    "L4": "NVIDIA_L4",
    "A100": "NVIDIA_TESLA_A100",
    "A100-80GB": "NVIDIA_A100_80GB",
    "H100": "NVIDIA_H100_80GB",
    "H100-MEGA": "NVIDIA_H100_MEGA_80GB",
    "H200": "NVIDIA_H200_141GB",
    "B200": "NVIDIA_B200",
}
_MACHINE = re.compile(r"[a-z]+[0-9]+[a-z]*-(standard|highmem|highcpu|highgpu|megagpu|ultragpu|edgegpu|megamem|ultramem)-[0-9]+[a-z]*")
_ONLY_SPOT = re.compile(r"a3-highgpu-[124]g")
_SERVICE = re.compile(r"[a-z0-9]+(?:-[a-z0-9]+)*")
_LABEL_KEY = re.compile(r"[a-z][a-z0-9_-]{0,62}")
_LABEL_VALUE = re.compile(r"[a-z0-9_-]{0,63}")
_VARIABLE = re.compile(r"[A-Za-z_][A-Za-z0-9_]*")
_MOST_LABELS = 64
_MOST_VARIABLES = 100
_MOST_NAME_CHARACTERS = 128


def labels_of(run_id: str, attempt: int) -> dict[str, str]:
    """The labels that identify an attempt's job; Vertex AI chooses its name."""
    return {RUN: run_id, ATTEMPT: str(attempt)}


def secret_name(run_id: str, attempt: int) -> str:
    """The name of the secret in Secret Manager with the secrets of the attempt's job."""
    return f"cloud-train-{run_id}-{attempt}"


def service_url(settings: Mapping[str, Any], service: str) -> str:
    """The URL of one of Google's services, without a trailing '/'. Raises ProviderError for a malformed endpoint or service."""
    endpoint = settings.get("endpoint") or ENDPOINT
    if not forms.has_form(forms.SERVICE_TEMPLATE, endpoint):
        raise ProviderError(f"gcp.endpoint: {endpoint!r} is not {forms.EXPECTED[forms.SERVICE_TEMPLATE]}", hint="correct gcp.endpoint")
    if not _SERVICE.fullmatch(service):
        raise ProviderError(f"invalid name of a Google service: {service!r}", hint="correct gcp.region")
    return str(endpoint).replace("{service}", service).rstrip("/")


def place_of(settings: Mapping[str, Any]) -> tuple[str, str]:
    """Project and region, which become part of hosts and paths. Raises ProviderError if one is missing or malformed."""
    project, region = settings.get("project"), settings.get("region")
    if not project or not region:
        raise ProviderError("gcp.project and gcp.region are required", hint="set both in the config file: see docs/clouds/gcp.md")
    for name, value, form in (("project", project, forms.GCP_PROJECT), ("region", region, forms.GCP_REGION)):
        if not forms.has_form(form, value):
            raise ProviderError(f"gcp.{name}: {value!r} is not {forms.EXPECTED[form]}", hint=f"correct gcp.{name} in the config file")
    return project, region


def request_of(plan: "Plan") -> Request:
    """The custom job and the values needed to send it: its destination, and the name of the secret with the job's secrets."""
    settings, name = plan.provider_settings, job_name(plan.run_id, plan.attempt)
    kept = {key: settings.get(key) for key in ("project", "region", "repository", "endpoint")}
    secret = secret_name(plan.run_id, plan.attempt) if plan.job.secrets else None
    machine, problem = _machine_of(plan)
    return {
        "run_id": plan.run_id,
        "attempt": plan.attempt,
        "store": plan.store,
        "settings": {**kept, "endpoint": settings.get("endpoint") or ENDPOINT},
        "secret": secret,
        "machine_problem": problem,
        "body": {
            "displayName": name,
            "labels": {**settings.get("labels", {}), **labels_of(plan.run_id, plan.attempt)},
            "jobSpec": {
                "workerPoolSpecs": _pools(plan, machine, secret),
                "scheduling": _scheduling(plan),
                **({"serviceAccount": settings["service_account"]} if settings.get("service_account") else {}),
                **({"network": settings["network"]} if settings.get("network") else {}),
            },
        },
    }


def _pools(plan: "Plan", machine: dict[str, Any], secret: str | None) -> list[dict[str, Any]]:
    """The worker pools: node 0 in the first, because it may have only one replica, and all others in the second."""
    place = secret and _secret_place(plan.provider_settings, secret)
    command = worker_command(plan, "vertex", place)
    pool = {
        "machineSpec": machine,
        "diskSpec": _disk(plan.provider_settings),
        "containerSpec": {
            "imageUri": image_of(plan) or f"@{NOT_BUILT}",
            "command": command[:_ENTRYPOINT_WORDS],
            "args": command[_ENTRYPOINT_WORDS:],
            "env": [{"name": key, "value": value} for key, value in ENVIRONMENT.items()],
        },
    }
    nodes = plan.job.resources.nodes
    return [{**pool, "replicaCount": str(count)} for count in (1, nodes - 1) if count]


def _secret_place(settings: Mapping[str, Any], secret: str) -> str:
    name = f"projects/{settings.get('project')}/secrets/{secret}"
    if not forms.has_form(forms.SERVICE_TEMPLATE, settings.get("endpoint") or ENDPOINT):
        return f"gcp-secret:{name}"  # ``problems_of`` reports the endpoint
    url = service_url(settings, "secretmanager")
    return f"gcp-secret:{name}" if url == service_url({}, "secretmanager") else f"gcp-secret:{url}/v1/{name}"


def _disk(settings: Mapping[str, Any]) -> dict[str, Any]:
    from cloud_train.spec.types import ByteSize  # imports pydantic, which observing runs does without

    disk = settings.get("disk")
    gigabytes = math.ceil(ByteSize.parse(disk).bytes / 10**9) if disk else _DISK_GIGABYTES
    return {"bootDiskSizeGb": gigabytes, **({"bootDiskType": settings["disk_type"]} if settings.get("disk_type") else {})}


def _scheduling(plan: "Plan") -> dict[str, Any]:
    """Time limit and restarts. Vertex AI restarts workers only if ``retry`` allows it, and then all of them: they wait for each other.

    ``worker.platforms`` uses the same condition: a worker that would be restarted exits with 0 once nothing is left to do.
    """
    restarts = plan.program.retries(Cause.PREEMPTED, 1)
    return {
        "timeout": f"{whole_seconds(plan)}s",
        "strategy": "SPOT" if plan.job.resources.spot else "STANDARD",
        "disableRetries": not restarts,
        "restartJobOnWorkerRestart": restarts and plan.job.resources.nodes > 1,
    }


def _machine_of(plan: "Plan") -> tuple[dict[str, Any], str | None]:
    """The machine's specification, and a problem if no machine fits or the configured one does not satisfy the job."""
    from cloud_train.providers.cloud.machines import NoMachineError, choose, machines, similar

    resources, name = plan.job.resources, plan.provider_settings.get("machine")
    if name is None:
        try:
            chosen = choose(CLOUD, resources)
        except NoMachineError as error:
            return {}, str(error)
        return _with_accelerators(chosen.name, chosen.accelerator, chosen.accelerators), None
    known = [machine for machine in machines(CLOUD) if machine.name == name]
    if not known:
        wanted = resources.accelerator
        specification = _with_accelerators(name, wanted.kind if wanted else None, wanted.count if wanted else 0)
        return specification, None if _MACHINE.fullmatch(name) else f"gcp.machine: unknown machine {name}{_meant(similar(CLOUD, name))}"
    fitting = [machine for machine in known if machine.fits(resources)]
    if resources.accelerator is None and not fitting:  # a machine with built-in accelerators was named
        fitting = [machine for machine in known if machine.accelerator and machine.fits(_with_own(machine, resources))]
    if fitting:
        machine = min(fitting, key=lambda each: each.accelerators)
        return _with_accelerators(name, machine.accelerator, machine.accelerators), None
    return {"machineType": name}, f"gcp.machine: {_sizes(known)}, but resources requires more, or other accelerators"


def _with_accelerators(name: str, kind: str | None, count: int) -> dict[str, Any]:
    if kind is None:
        return {"machineType": name}
    return {"machineType": name, "acceleratorType": _ACCELERATORS.get(kind.upper(), kind), "acceleratorCount": count}


def _with_own(machine: "Machine", resources: Any) -> Any:
    from cloud_train.spec.types import Accelerator

    return resources.model_copy(update={"accelerator": Accelerator(machine.accelerator or "", machine.accelerators)})


def _sizes(known: "list[Machine]") -> str:
    first = known[0]
    kinds = sorted({f"{machine.accelerator}:{machine.accelerators}" for machine in known if machine.accelerator})
    accelerators = f" with {', '.join(kinds)}" if kinds else " and no accelerators"
    return f"{first.name} has {first.cpus} cpus, {first.memory_bytes / 2**30:,.0f}GiB{accelerators}"


def _meant(names: list[str]) -> str:
    return f"; did you mean {' or '.join(names)}?" if names else ""


def problems_of(request: Request) -> Iterator[str]:
    """The problems for which Vertex AI would refuse the request, each with the field and the rule. Google is not contacted."""
    settings, body = request["settings"], request["body"]
    yield from _settings_problems(settings)
    if request["machine_problem"]:
        yield request["machine_problem"]
    shape = list(shape_problems_of(body, CLOUD, "CustomJob"))
    yield from shape
    if not shape:  # the fields used below are valid
        yield from _body_problems(body, has_machine=not request["machine_problem"])


def _settings_problems(settings: Mapping[str, Any]) -> Iterator[str]:
    project, region = settings["project"], settings["region"]
    if not project:
        yield "gcp.project: not set; set it in the config file to the project for the jobs, such as my-project-123456"
    elif not forms.has_form(forms.GCP_PROJECT, project):
        yield f"gcp.project: {project!r} is not a project id, such as my-project-123456"
    if not region:
        yield "gcp.region: not set; set it in the config file to the region for the jobs, such as europe-west4"
    elif not forms.has_form(forms.GCP_REGION, region):
        zone = re.fullmatch(r"([a-z]+-[a-z]+[0-9]+)-[a-z]", str(region))
        yield f"gcp.region: {region!r} is {f'a zone; its region is {zone[1]}' if zone else 'not a region, such as europe-west4'}"
    if not settings["repository"]:
        yield (
            "gcp.repository: not set; set it in the config file to the repository for the job's images, such as"
            " europe-west4-docker.pkg.dev/my-project-123456/cloud-train/jobs"
        )
    elif problem := problem_of("gcp.repository", str(settings["repository"]), GOOGLE):
        yield problem
    if not forms.has_form(forms.SERVICE_TEMPLATE, settings["endpoint"]):
        yield f"gcp.endpoint: {settings['endpoint']!r} is not {forms.EXPECTED[forms.SERVICE_TEMPLATE]}"


def _body_problems(body: Mapping[str, Any], *, has_machine: bool) -> Iterator[str]:
    specification = body["jobSpec"]
    if len(body["displayName"]) > _MOST_NAME_CHARACTERS:
        yield f"displayName: has {len(body['displayName'])} characters; at most {_MOST_NAME_CHARACTERS} are allowed"
    yield from _label_problems(body.get("labels", {}))
    account, network = specification.get("serviceAccount"), specification.get("network")
    if account is not None and not forms.has_form(forms.GCP_ACCOUNT, account):
        yield f"gcp.service_account: {account!r} is not {forms.EXPECTED[forms.GCP_ACCOUNT]}"
    if network is not None and not forms.has_form(forms.GCP_NETWORK, network):
        yield f"gcp.network: {network!r} is not {forms.EXPECTED[forms.GCP_NETWORK]}"
    pools = specification.get("workerPoolSpecs", [])
    if not pools or pools[0].get("replicaCount", "1") != "1":
        yield "jobSpec.workerPoolSpecs[0].replicaCount: the first pool has exactly one replica"
    scheduling = specification.get("scheduling", {})
    for number, pool in enumerate(pools):
        yield from _pool_problems(pool, f"jobSpec.workerPoolSpecs[{number}]", scheduling, has_machine=has_machine)


def _label_problems(labels: Mapping[str, str]) -> Iterator[str]:
    if len(labels) > _MOST_LABELS:
        yield f"gcp.labels: {len(labels)} labels, including cloud-train's own; at most {_MOST_LABELS} are allowed"
    for key, value in labels.items():
        if not _LABEL_KEY.fullmatch(key):
            yield f"gcp.labels: {key!r} is not a valid key; use at most 63 characters of a-z, 0-9, '_' and '-', starting with a letter"
        if not _LABEL_VALUE.fullmatch(value):
            yield f"gcp.labels.{key}: {value!r} is not a valid value; use at most 63 characters of a-z, 0-9, '_' and '-'"


def _pool_problems(pool: Mapping[str, Any], at: str, scheduling: Mapping[str, Any], *, has_machine: bool) -> Iterator[str]:
    machine, container = pool.get("machineSpec", {}), pool.get("containerSpec", {})
    name = machine.get("machineType", "")
    if has_machine and not name:
        yield f"{at}.machineSpec.machineType: is missing"
    if bool(machine.get("acceleratorType")) != bool(machine.get("acceleratorCount")):
        yield f"{at}.machineSpec: acceleratorType and acceleratorCount must be set together"
    if _ONLY_SPOT.fullmatch(name) and scheduling.get("strategy") != "SPOT":
        yield f"gcp.machine: {name} is available as spot capacity only; set resources.spot to true, or gcp.machine to a3-highgpu-8g"
    gigabytes = pool.get("diskSpec", {}).get("bootDiskSizeGb", _DISK_GIGABYTES)
    if not _DISK_GIGABYTES <= gigabytes <= _MOST_DISK_GIGABYTES:
        yield f"gcp.disk: {gigabytes}GB is not between {_DISK_GIGABYTES} and {_MOST_DISK_GIGABYTES}GB"
    variables = container.get("env", [])
    if len(variables) > _MOST_VARIABLES:
        yield f"{at}.containerSpec.env: has {len(variables)} entries; at most {_MOST_VARIABLES} are allowed"
    for variable in variables:
        if not _VARIABLE.fullmatch(variable["name"]):
            yield f"{at}.containerSpec.env: {variable['name']!r} is not a valid variable name"

"""Builds Vertex AI's custom job from a plan, with Vertex AI's field names. Pure; ``rules`` validates it, ``machines`` chooses the machine.

Reference: https://cloud.google.com/vertex-ai/docs/reference/rest/v1/projects.locations.customJobs.
"""

import math
import re
from collections.abc import Iterator, Mapping
from typing import TYPE_CHECKING, Any

from cloud_train.errors import ProviderError
from cloud_train.job import cloud_names as forms
from cloud_train.providers.base import Request
from cloud_train.providers.cloud.additions import with_additions
from cloud_train.providers.cloud.request import ATTEMPT, NOT_BUILT, RUN, environment_of, image_of, job_name, whole_seconds, worker_command
from cloud_train.providers.gcp.machines import default_disk_type, specification_of
from cloud_train.run.states import Cause

if TYPE_CHECKING:
    from cloud_train.run.plan import Plan

ENDPOINT = "https://{service}.googleapis.com"

_OWN = (
    "displayName",
    "labels",
    *(
        f"jobSpec.workerPoolSpecs.{field}"
        for field in ("containerSpec.imageUri", "containerSpec.command", "containerSpec.args", "replicaCount")
    ),
)
"""Fields that the setting ``request`` may not change; labels have a setting of their own."""
_ENTRYPOINT_WORDS = 3
"""How many words of the worker's command replace the image's entrypoint; the others are its arguments."""
LEAST_DISK_GIGABYTES = 100
STORE_ENDPOINT = "API_ENDPOINT_OVERRIDE"
"""google-cloud-storage's variable for the store's endpoint."""
QUOTA_PROJECT = "GOOGLE_CLOUD_QUOTA_PROJECT"
"""google-auth's variable for the project that pays for requests (``storage.gcs_account``)."""
ANY_RESERVATION = "any"
_SERVICE = re.compile(r"[a-z0-9]+(?:-[a-z0-9]+)*")


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
    kept = {key: settings.get(key) for key in ("project", "region", "repository", "platform", "endpoint")}
    payer = {"quota_project": settings["quota_project"]} if settings.get("quota_project") else {}
    secret = secret_name(plan.run_id, plan.attempt) if plan.job.secrets else None
    machine, problems = specification_of(plan)
    built = {
        "displayName": name,
        "labels": {**settings.get("labels", {}), **labels_of(plan.run_id, plan.attempt)},
        **({"encryptionSpec": {"kmsKeyName": settings["kms_key"]}} if settings.get("kms_key") else {}),
        "jobSpec": {
            "workerPoolSpecs": _pools(plan, machine, secret),
            "scheduling": _scheduling(plan),
            **_options(settings),
        },
    }
    body, kept_out = with_additions(built, settings, _OWN, "gcp")
    return {
        "run_id": plan.run_id,
        "attempt": plan.attempt,
        "store": plan.store,
        "settings": {**kept, "endpoint": settings.get("endpoint") or ENDPOINT, **payer},
        "secret": secret,
        "problems": [*problems, *_contradictions(plan), *kept_out],
        "body": body,
    }


def _options(settings: Mapping[str, Any]) -> dict[str, Any]:
    """The optional fields of the job's specification."""
    output, attachment = settings.get("base_output_directory"), settings.get("network_attachment")
    fields = {
        "serviceAccount": settings.get("service_account"),
        "network": settings.get("network"),
        "pscInterfaceConfig": attachment and {"networkAttachment": attachment},
        "persistentResourceId": settings.get("persistent_resource"),
        "enableWebAccess": settings.get("web_access"),
        "tensorboard": settings.get("tensorboard"),
        "baseOutputDirectory": output and {"outputUriPrefix": output},
    }
    return {name: value for name, value in fields.items() if value}


def _pools(plan: "Plan", machine: dict[str, Any], secret: str | None) -> list[dict[str, Any]]:
    """The worker pools: node 0 in the first, because it may have only one replica, and all others in the second."""
    place = secret and _secret_place(plan.provider_settings, secret)
    command = worker_command(plan, "vertex", place)
    pool = {
        "machineSpec": {**machine, **_reservation(plan.provider_settings)},
        "diskSpec": _disk(plan.provider_settings, machine.get("machineType", "")),
        "containerSpec": {
            "imageUri": image_of(plan) or f"@{NOT_BUILT}",
            "command": command[:_ENTRYPOINT_WORDS],
            "args": command[_ENTRYPOINT_WORDS:],
            "env": [{"name": key, "value": value} for key, value in _variables(plan.provider_settings).items()],
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


def _variables(settings: Mapping[str, Any]) -> dict[str, str]:
    """The worker's environment, with the private endpoint of the store and the project that pays for requests, if they are set."""
    endpoint, payer = settings.get("endpoint") or ENDPOINT, settings.get("quota_project")
    is_private = endpoint != ENDPOINT and forms.has_form(forms.SERVICE_TEMPLATE, endpoint)
    return {
        **environment_of(settings),
        **({STORE_ENDPOINT: service_url(settings, "storage")} if is_private else {}),
        **({QUOTA_PROJECT: payer} if payer else {}),
    }


def _reservation(settings: Mapping[str, Any]) -> dict[str, Any]:
    name = settings.get("reservation")
    if not name:
        return {}
    if name == ANY_RESERVATION:
        return {"reservationAffinity": {"reservationAffinityType": "ANY_RESERVATION"}}
    specific = {"reservationAffinityType": "SPECIFIC_RESERVATION", "key": "compute.googleapis.com/reservation-name", "values": [name]}
    return {"reservationAffinity": specific}


def _disk(settings: Mapping[str, Any], machine: str) -> dict[str, Any]:
    from cloud_train.spec.types import ByteSize  # imports pydantic, which observing runs does not need

    disk, kind = settings.get("disk"), settings.get("disk_type") or default_disk_type(machine)
    gigabytes = math.ceil(ByteSize.parse(disk).bytes / 10**9) if disk else LEAST_DISK_GIGABYTES
    return {"bootDiskSizeGb": gigabytes, **({"bootDiskType": kind} if kind else {})}


def _scheduling(plan: "Plan") -> dict[str, Any]:
    """Time limit and restarts. Vertex AI restarts a job only if ``retry`` allows it, and then all workers: they wait for each other.

    A worker that exits with another status than 0 is restarted in any case, so workers exit with 0 once the run has ended
    (``worker.platforms``).
    """
    restarts, settings = plan.program.retries(Cause.PREEMPTED, 1), plan.provider_settings
    wait = settings.get("max_wait")
    return {
        "timeout": f"{whole_seconds(plan)}s",
        "strategy": "FLEX_START" if settings.get("flex_start") else "SPOT" if plan.job.resources.spot else "STANDARD",
        **({"maxWaitDuration": _seconds(wait)} if wait is not None else {}),
        "disableRetries": not restarts,
        "restartJobOnWorkerRestart": restarts and plan.job.resources.nodes > 1,
    }


def _seconds(duration: str) -> str:
    from cloud_train.spec.types import Duration  # imports pydantic, which observing runs does not need

    return f"{math.ceil(Duration.parse(duration).seconds)}s"


def _contradictions(plan: "Plan") -> Iterator[str]:
    """Settings that exclude each other, and of which the request can express only one; ``rules`` checks what it does express."""
    if plan.job.resources.spot and plan.provider_settings.get("flex_start"):
        yield "gcp.flex_start: cannot be used with spot capacity; set resources.spot to false, or leave out this setting"

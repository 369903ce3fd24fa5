"""Validates a request to Vertex AI before it is sent. Pure.

The shape is checked against Google's discovery document (``data/gcp.requests.json``), which has the regions too. Rules that Google
documents only in prose are here and in ``machines``.
"""

import difflib
import re
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from cloud_train.job import cloud_names as forms
from cloud_train.providers.base import Request
from cloud_train.providers.cloud.repositories import GOOGLE, problem_of
from cloud_train.providers.cloud.request import description
from cloud_train.providers.cloud.request import problems_of as shape_problems_of
from cloud_train.providers.gcp.machines import CLOUD, accelerator_problem, machine_problems, name_problems
from cloud_train.providers.gcp.request import LEAST_DISK_GIGABYTES

_MOST_DISK_GIGABYTES = 64_000
_PLATFORM = "linux/amd64"
_PLACEHOLDER = re.compile(r"//your-bucket(?:/|$)|(?:^|[/@])your-project-123456(?:[/.]|$)")
"""The values in configs/gcp.yaml that everyone has to replace."""
_MOST_POOLS = 4
"""https://cloud.google.com/vertex-ai/docs/training/distributed-training: primary, workers, parameter servers, evaluators."""
_LONGEST_FLEX_SECONDS = 7 * 86400
"""https://cloud.google.com/vertex-ai/docs/training/schedule-jobs-dws."""
_PLACE = re.compile(r"/(?:locations|regions)/(?P<place>[a-z0-9-]+)/|/zones/(?P<zoned>[a-z]+-[a-z]+[0-9]+)-[a-z]/")
_LABEL_KEY = re.compile(r"[a-z][a-z0-9_-]{0,62}")
_LABEL_VALUE = re.compile(r"[a-z0-9_-]{0,63}")
_VARIABLE = re.compile(r"[A-Za-z_][A-Za-z0-9_]*")
_MOST_LABELS = 64
_MOST_VARIABLES = 100
_MOST_NAME_CHARACTERS = 128


def problems_of(request: Request) -> Iterator[str]:
    """The problems for which Vertex AI would refuse the request, each with the field and the rule. Google is not contacted."""
    settings, body = request["settings"], request["body"]
    yield from _placeholders({**settings, "store": request["store"]})
    yield from _settings_problems(settings)
    yield from request["problems"]
    shape = list(shape_problems_of(body, CLOUD, "CustomJob"))
    yield from shape
    if not shape:  # the fields used below are valid
        yield from _body_problems(body, settings, has_machine=not request["problems"])


def _placeholders(values: Mapping[str, Any]) -> Iterator[str]:
    for name, value in values.items():
        if _PLACEHOLDER.search(str(value)):
            yield f"{name if name == 'store' else f'gcp.{name}'}: {value!r} is a placeholder; replace it with your own"


def _settings_problems(settings: Mapping[str, Any]) -> Iterator[str]:
    project, region = settings["project"], settings["region"]
    if not project:
        yield "gcp.project: not set; set it in the config file to the project for the jobs, such as my-project-123456"
    elif not forms.has_form(forms.GCP_PROJECT, project):
        yield f"gcp.project: {project!r} is not a project id, such as my-project-123456"
    if not region:
        yield "gcp.region: not set; set it in the config file to the region for the jobs, such as europe-west4"
    elif region not in (regions := description(CLOUD)["regions"]):
        zone = re.fullmatch(r"([a-z]+-[a-z]+[0-9]+)-[a-z]", str(region))
        what = f"a zone; its region is {zone[1]}" if zone else f"not a region of Vertex AI{_meant(region, regions)}"
        yield f"gcp.region: {region!r} is {what}"
    if not settings["repository"]:
        yield (
            "gcp.repository: not set; set it in the config file to the repository for the job's images, such as"
            " europe-west4-docker.pkg.dev/my-project-123456/cloud-train/jobs"
        )
    elif problem := problem_of("gcp.repository", str(settings["repository"]), GOOGLE):
        yield problem
    payer = settings.get("quota_project")
    if payer is not None and not forms.has_form(forms.GCP_PROJECT, payer):
        yield f"gcp.quota_project: {payer!r} is not {forms.EXPECTED[forms.GCP_PROJECT]}"
    if not forms.has_form(forms.SERVICE_TEMPLATE, settings["endpoint"]):
        yield f"gcp.endpoint: {settings['endpoint']!r} is not {forms.EXPECTED[forms.SERVICE_TEMPLATE]}"


def _meant(name: str, names: Sequence[str]) -> str:
    near = difflib.get_close_matches(str(name), names, 1)
    return f"; did you mean {near[0]}?" if near else ", such as europe-west4"


def _body_problems(body: Mapping[str, Any], settings: Mapping[str, Any], *, has_machine: bool) -> Iterator[str]:
    specification = body["jobSpec"]
    if not body["displayName"]:
        yield "displayName: is empty"
    if len(body["displayName"]) > _MOST_NAME_CHARACTERS:
        yield f"displayName: has {len(body['displayName'])} characters; at most {_MOST_NAME_CHARACTERS} are allowed"
    yield from _label_problems(body.get("labels", {}))
    yield from _name_problems(body, specification, str(settings["region"]))
    pools = specification.get("workerPoolSpecs", [])
    if not pools or pools[0].get("replicaCount", "1") != "1":
        yield "jobSpec.workerPoolSpecs[0].replicaCount: the first pool has exactly one replica"
    if len(pools) > _MOST_POOLS:
        yield f"jobSpec.workerPoolSpecs: has {len(pools)} pools; at most {_MOST_POOLS} are allowed"
    scheduling = specification.get("scheduling", {})
    yield from _time_problems(scheduling)
    yield from _contradictions(specification)
    for number, pool in enumerate(pools):
        yield from _pool_problems(pool, f"jobSpec.workerPoolSpecs[{number}]", has_machine=has_machine)
    if pools:
        machine, disk = pools[0].get("machineSpec", {}).get("machineType", ""), pools[0].get("diskSpec", {}).get("bootDiskType")
        yield from machine_problems(machine, disk, scheduling.get("strategy", ""), settings.get("platform") or _PLATFORM)
        if has_machine:
            yield from name_problems(machine)


def _time_problems(scheduling: Mapping[str, Any]) -> Iterator[str]:
    timeout, wait, is_flexible = scheduling.get("timeout"), scheduling.get("maxWaitDuration"), scheduling.get("strategy") == "FLEX_START"
    if timeout is not None and _seconds_of(timeout) <= 0:
        yield f"jobSpec.scheduling.timeout: {timeout} must be greater than 0"
    if wait is not None and _seconds_of(wait) < 0:
        yield f"gcp.max_wait: {wait} is less than 0"
    if wait is not None and not is_flexible:
        yield "gcp.max_wait: requires gcp.flex_start; set that to true, or leave gcp.max_wait out"
    if is_flexible and timeout is not None and _seconds_of(timeout) > _LONGEST_FLEX_SECONDS:
        yield (
            f"gcp.flex_start: jobs may run for at most 7 days, and this one for {_seconds_of(timeout):,.0f} s; reduce limits.duration"
            " or gcp.max_runtime"
        )


def _seconds_of(duration: str) -> float:
    return float(duration.removesuffix("s"))


def _contradictions(specification: Mapping[str, Any]) -> Iterator[str]:
    """Settings in the request that Vertex AI does not accept together."""
    strategy = specification.get("scheduling", {}).get("strategy")
    reserved = any("reservationAffinity" in pool.get("machineSpec", {}) for pool in specification.get("workerPoolSpecs", ()))
    has = {"flex_start": strategy == "FLEX_START", "reservation": reserved, "persistent_resource": "persistentResourceId" in specification}
    chosen = sorted(name for name, is_chosen in has.items() if is_chosen)
    if strategy == "SPOT" and chosen:
        yield f"gcp.{chosen[0]}: cannot be used with spot capacity; set resources.spot to false, or leave out this setting"
    elif len(chosen) > 1:
        yield f"gcp.{chosen[0]}: cannot be combined with gcp.{chosen[-1]}; leave one of them out"
    if "network" in specification and "pscInterfaceConfig" in specification:
        yield "gcp.network_attachment: cannot be combined with gcp.network; leave one of them out"
    for needed, field in (("base_output_directory", "baseOutputDirectory"), ("service_account", "serviceAccount")):
        if forms.has_form(forms.GCP_TENSORBOARD, specification.get("tensorboard")) and field not in specification:
            yield f"gcp.tensorboard: requires gcp.{needed}"


def _name_problems(body: Mapping[str, Any], specification: Mapping[str, Any], region: str) -> Iterator[str]:
    """Resources whose names have the wrong form, or that are in another region than the job."""
    affinity = (specification.get("workerPoolSpecs") or [{}])[0].get("machineSpec", {}).get("reservationAffinity", {})
    named = {
        "service_account": (forms.GCP_ACCOUNT, specification.get("serviceAccount")),
        "network": (forms.GCP_NETWORK, specification.get("network")),
        "network_attachment": (forms.GCP_ATTACHMENT, specification.get("pscInterfaceConfig", {}).get("networkAttachment")),
        "kms_key": (forms.GCP_KEY, body.get("encryptionSpec", {}).get("kmsKeyName")),
        "reservation": (forms.GCP_RESERVATION, next(iter(affinity.get("values", ())), None)),
        "persistent_resource": (forms.GCP_PERSISTENT, specification.get("persistentResourceId")),
        "tensorboard": (forms.GCP_TENSORBOARD, specification.get("tensorboard")),
        "base_output_directory": (forms.GCS_FOLDER, specification.get("baseOutputDirectory", {}).get("outputUriPrefix")),
    }
    for setting, (form, value) in named.items():
        if value is not None and not forms.has_form(form, value):
            yield f"gcp.{setting}: {value!r} is not {forms.EXPECTED[form]}"
        elif _PLACEHOLDER.search(str(value)):
            yield f"gcp.{setting}: {value!r} is a placeholder; replace it with your own"
        elif value is not None and (place := _PLACE.search(value)) is not None and (place["zoned"] or place["place"]) != region:
            yield f"gcp.{setting}: {value!r} is not in the region of the job, {region}"


def _label_problems(labels: Mapping[str, str]) -> Iterator[str]:
    if len(labels) > _MOST_LABELS:
        yield f"gcp.labels: {len(labels)} labels, including cloud-train's own; at most {_MOST_LABELS} are allowed"
    for key, value in labels.items():
        if not _LABEL_KEY.fullmatch(key):
            yield f"gcp.labels: {key!r} is not a valid key; use at most 63 characters of a-z, 0-9, '_' and '-', starting with a letter"
        if not _LABEL_VALUE.fullmatch(value):
            yield f"gcp.labels.{key}: {value!r} is not a valid value; use at most 63 characters of a-z, 0-9, '_' and '-'"


def _pool_problems(pool: Mapping[str, Any], at: str, *, has_machine: bool) -> Iterator[str]:
    machine, container = pool.get("machineSpec", {}), pool.get("containerSpec", {})
    if has_machine and not machine.get("machineType"):
        yield f"{at}.machineSpec.machineType: is missing"
    if bool(machine.get("acceleratorType")) != bool(machine.get("acceleratorCount")):
        yield f"{at}.machineSpec: acceleratorType and acceleratorCount must be set together"
    elif has_machine and (problem := accelerator_problem(machine)):
        yield f"{at}.machineSpec: {problem}"
    if int(pool.get("replicaCount", "1")) < 1:
        yield f"{at}.replicaCount: {pool['replicaCount']} is less than 1; leave out the pool"
    if ("containerSpec" in pool) is ("pythonPackageSpec" in pool):
        yield f"{at}: a pool has either a containerSpec or a pythonPackageSpec"
    gigabytes = pool.get("diskSpec", {}).get("bootDiskSizeGb", LEAST_DISK_GIGABYTES)
    if not LEAST_DISK_GIGABYTES <= gigabytes <= _MOST_DISK_GIGABYTES:
        yield f"gcp.disk: {gigabytes}GB is not between {LEAST_DISK_GIGABYTES} and {_MOST_DISK_GIGABYTES}GB"
    variables = container.get("env", [])
    if len(variables) > _MOST_VARIABLES:
        yield f"{at}.containerSpec.env: has {len(variables)} entries; at most {_MOST_VARIABLES} are allowed"
    for variable in variables:
        if not _VARIABLE.fullmatch(variable["name"]):
            yield f"{at}.containerSpec.env: {variable['name']!r} is not a valid variable name"

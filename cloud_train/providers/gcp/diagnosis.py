"""Checks that the resources in the ``gcp`` settings exist and may be used. Starts and changes nothing."""

from collections.abc import Callable, Iterator, Mapping
from typing import Any
from urllib.parse import quote

from cloud_train.errors import CloudTrainError
from cloud_train.providers.base import Diagnosis, Request
from cloud_train.providers.cloud.errors import ForbiddenError, MissingError
from cloud_train.providers.cloud.provider import unasked, wrong
from cloud_train.providers.gcp.client import BUCKET_PERMISSIONS, Google
from cloud_train.providers.gcp.errors import QUOTAS
from cloud_train.providers.gcp.registry import exists, is_google, login
from cloud_train.storage.registry import bucket_and_prefix, scheme_of

_SUBMITTING = (
    "aiplatform.customJobs.create",
    "aiplatform.customJobs.get",
    "aiplatform.customJobs.list",
    "aiplatform.customJobs.cancel",
    "logging.logEntries.list",
    "secretmanager.secrets.create",
    "secretmanager.secrets.delete",
    "secretmanager.versions.add",
)
"""The permissions that a submitter needs in the project; docs/clouds/gcp.md has a role with them."""
_FOR_SECRETS = "secretmanager."
_ACT_AS = "iam.serviceAccounts.actAs"
_CPUS = "custom_model_training_cpus"
_ROLES = "docs/clouds/gcp.md has the roles"
_ONLY_LOOKED_AT = ("permissions", "gcp.service_account", "quota", "quota of the job")
"""Checks that need an API or a permission that a submission does not need."""


def diagnoses(connect: Callable[[], Google], settings: Mapping[str, Any], store: str | None) -> Iterator[Diagnosis]:
    """The findings, one at a time; stops if there are no credentials, or Vertex AI cannot be used."""
    try:
        google = connect()
    except CloudTrainError as error:
        yield wrong("Google's credentials", error)
        return
    with google:
        for name, look in (("Google's credentials", _credentials), ("Vertex AI", _vertex)):
            finding = _asked(name, look, google, settings)
            yield finding
            if finding.status == "error":
                return
        yield _asked("permissions", _permissions, google, settings)
        yield _asked("gcp.service_account", _account, google, settings)
        if store is not None and scheme_of(store) == "gs":
            yield _asked("bucket", lambda google, settings: _bucket(google, settings, store), google, settings)
        yield _asked("gcp.repository", _repository, google, settings)
        yield _asked("quota", _quota, google, settings)


def diagnose_job(connect: Callable[[], Google], request: Request) -> Iterator[Diagnosis]:
    """The quota for the accelerators of a job's machines, spot or not, times its nodes."""
    settings, body = request["settings"], request["body"]
    if not body["jobSpec"]["workerPoolSpecs"][0]["machineSpec"].get("acceleratorType") or body["jobSpec"].get("persistentResourceId"):
        return
    try:
        google = connect()
    except CloudTrainError as error:
        yield wrong("quota of the job", error)
        return
    with google:
        yield _asked("quota of the job", lambda google, settings: _quota_of_job(google, settings, body), google, settings)


def _asked(
    name: str, look: Callable[[Google, Mapping[str, Any]], tuple[str, str, str]], google: Google, settings: Mapping[str, Any]
) -> Diagnosis:
    """The finding of ``look``, which returns its status, detail and remedy."""
    try:
        status, detail, remedy = look(google, settings)
    except ForbiddenError as error:
        return unasked(name, error) if name in _ONLY_LOOKED_AT else wrong(name, error)
    except CloudTrainError as error:
        return wrong(name, error)
    return Diagnosis(name, "ok" if status == "ok" else "warning" if status == "warning" else "error", detail, remedy)


def _credentials(google: Google, settings: Mapping[str, Any]) -> tuple[str, str, str]:
    login(google.credentials)
    return "ok", str(getattr(google.credentials, "service_account_email", None) or "a user's login"), ""


def _vertex(google: Google, settings: Mapping[str, Any]) -> tuple[str, str, str]:
    google.call("GET", google.vertex, f"v1/{google.parent}/customJobs", query={"pageSize": 1})
    return "ok", f"project {settings['project']}, region {settings['region']}", ""


def _permissions(google: Google, settings: Mapping[str, Any]) -> tuple[str, str, str]:
    missing = _missing(google, "cloudresourcemanager", f"v1/projects/{settings['project']}", _SUBMITTING)
    if not missing:
        return "ok", f"all {len(_SUBMITTING)} that a submission needs", ""
    status = "warning" if all(name.startswith(_FOR_SECRETS) for name in missing) else "error"
    only = " (for jobs with secrets)" if status == "warning" else ""
    return status, f"missing{only}: {', '.join(missing)}", _ROLES


def _account(google: Google, settings: Mapping[str, Any]) -> tuple[str, str, str]:
    account = settings.get("service_account")
    if not account:
        return "warning", "not set: the machines use Vertex AI's default service account, which has more permissions than they need", _ROLES
    try:
        missing = _missing(google, "iam", f"v1/projects/-/serviceAccounts/{account}", (_ACT_AS,))
    except MissingError:
        return "error", f"the service account {account} does not exist", "docs/clouds/gcp.md has the commands to create it"
    if missing:
        return "error", f"missing: {_ACT_AS} on {account}", f"grant the submitter roles/iam.serviceAccountUser on it; {_ROLES}"
    return "ok", str(account), ""


def _bucket(google: Google, settings: Mapping[str, Any], store: str) -> tuple[str, str, str]:
    name = bucket_and_prefix(store)[0].removeprefix("gs://")
    region = str(settings["region"])
    try:
        bucket, granted = google.bucket(name)
    except MissingError:
        how = f"create it with: gcloud storage buckets create gs://{name} --location={region} --soft-delete-duration=0"
        return "error", f"the bucket gs://{name} does not exist", how
    missing = [permission for permission in BUCKET_PERMISSIONS if permission not in granted]
    if missing:
        return "error", f"missing on gs://{name}: {', '.join(missing)}", "roles/storage.objectUser on the bucket includes them"
    if bucket.location is None:
        return "ok", f"gs://{name} (the credentials may not read its location)", ""
    place = str(bucket.location).lower()
    if place not in (region, region.partition("-")[0], {"europe": "eu"}.get(region.partition("-")[0])):
        return "warning", f"gs://{name} is in {place}, but the jobs run in {region}: traffic between them is slow and costs money", ""
    if kept := int(bucket.soft_delete_policy.retention_duration_seconds or 0):
        what = f"gs://{name} keeps deleted objects for {kept / 86400:g} days (soft delete): pruned checkpoints are billed for that long"
        return "warning", what, f"turn it off with: gcloud storage buckets update gs://{name} --soft-delete-duration=0"
    return "ok", f"gs://{name} in {place}", ""


def _repository(google: Google, settings: Mapping[str, Any]) -> tuple[str, str, str]:
    repository = str(settings.get("repository") or "")
    if not repository:
        return "error", "not set", "set it in the config file, to a repository for the job's images"
    if not is_google(repository):
        return "ok", f"{repository} is not in a Google registry: Docker's own login is used", ""
    if exists(google, repository):
        return "ok", repository, ""
    if settings.get("create_repository"):
        return "ok", f"{repository} does not exist yet: the first submission creates it", ""
    return "error", f"{repository} does not exist", "set gcp.create_repository to true, or create it: docs/clouds/gcp.md has the command"


def _quota(google: Google, settings: Mapping[str, Any]) -> tuple[str, str, str]:
    limit, region = _limit(google, settings, _CPUS), settings["region"]
    if limit is None:
        return "warning", f"Google reports no quota for {_CPUS} in {region}", ""
    if limit == 0:
        return "error", f"{_CPUS} is 0 in {region}", f"request more at {QUOTAS}"
    return "ok", f"{_CPUS}: {'no limit' if limit < 0 else limit} in {region}", ""


def _quota_of_job(google: Google, settings: Mapping[str, Any], body: Mapping[str, Any]) -> tuple[str, str, str]:
    pools = body["jobSpec"]["workerPoolSpecs"]
    machine, nodes = pools[0]["machineSpec"], sum(int(pool["replicaCount"]) for pool in pools)
    # Flex-start takes the quota of spot capacity: https://cloud.google.com/vertex-ai/docs/training/schedule-jobs-dws
    is_spot = body["jobSpec"]["scheduling"]["strategy"] in ("SPOT", "FLEX_START")
    metric = f"custom_model_training_{'preemptible_' if is_spot else ''}{_quota_name(machine['acceleratorType'])}_gpus"
    needed, region = machine["acceleratorCount"] * nodes, settings["region"]
    limit = _limit(google, settings, metric)
    if limit is None:
        return "warning", f"Google reports no quota for {metric} in {region}; the job needs {needed}", f"see {QUOTAS}"
    if 0 <= limit < needed:
        return "error", f"{metric} is {limit} in {region}, but the job needs {needed}", f"request more at {QUOTAS}"
    return "ok", f"{metric}: {'no limit' if limit < 0 else limit} in {region}; the job needs {needed}", ""


def _quota_name(accelerator: str) -> str:
    """The part of a quota's name for ``acceleratorType``: ``nvidia_t4`` for NVIDIA_TESLA_T4, ``nvidia_h100`` for NVIDIA_H100_80GB."""
    name = accelerator.lower().replace("tesla_", "")
    return name.removesuffix("_141gb") if "h200" in name else name.removesuffix("_80gb") if "h100" in name else name


def _limit(google: Google, settings: Mapping[str, Any], name: str) -> int | None:
    """The limit in the job's region of the quota with exactly this name; negative for no limit, None if Google has no such quota."""
    metric = quote(f"aiplatform.googleapis.com/{name}", safe="")
    path = f"v1beta1/projects/{settings['project']}/services/aiplatform.googleapis.com/consumerQuotaMetrics/{metric}"
    try:
        answer = google.call("GET", "serviceusage", path)
    except MissingError:
        return None
    buckets = [bucket for limit in answer.get("consumerQuotaLimits", ()) for bucket in limit.get("quotaBuckets", ())]
    # Google lists the bucket without a region, the default, before those of regions.
    limits = [int(each["effectiveLimit"]) for each in buckets if each.get("dimensions", {}).get("region") in (settings["region"], None)]
    return limits[-1] if limits else None


def _missing(google: Google, service: str, resource: str, permissions: tuple[str, ...]) -> list[str]:
    answer = google.call("POST", service, f"{resource}:testIamPermissions", body={"permissions": list(permissions)})
    return [name for name in permissions if name not in answer.get("permissions", ())]

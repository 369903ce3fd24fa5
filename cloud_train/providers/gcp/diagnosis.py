"""Checks that the resources in the ``gcp`` settings exist and may be used. Starts and changes nothing."""

from collections.abc import Callable, Iterator, Mapping
from typing import Any
from urllib.parse import quote

from cloud_train.errors import CloudTrainError
from cloud_train.providers.base import Diagnosis
from cloud_train.providers.cloud.errors import ForbiddenError, MissingError
from cloud_train.providers.cloud.provider import unasked, wrong
from cloud_train.providers.gcp.client import BUCKET_PERMISSIONS, Google
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
_ONLY_LOOKED_AT = ("permissions", "gcp.service_account", "quota")
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
        return "error", f"missing: {_ACT_AS} on {account}", f"give the submitter roles/iam.serviceAccountUser on it; {_ROLES}"
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
    metric = quote(f"aiplatform.googleapis.com/{_CPUS}", safe="")
    path = f"v1beta1/projects/{settings['project']}/services/aiplatform.googleapis.com/consumerQuotaMetrics/{metric}"
    region = settings["region"]
    answer = google.call("GET", "serviceusage", path)
    buckets = [bucket for limit in answer.get("consumerQuotaLimits", ()) for bucket in limit.get("quotaBuckets", ())]
    limits = [int(each["effectiveLimit"]) for each in buckets if each.get("dimensions", {}).get("region") in (region, None)]
    if not limits:
        return "warning", f"Google reports no quota for {_CPUS} in {region}", ""
    limit = limits[-1]
    if limit == 0:
        return "error", f"{_CPUS} is 0 in {region}", "request more at https://console.cloud.google.com/iam-admin/quotas"
    return "ok", f"{_CPUS}: {'no limit' if limit < 0 else limit} in {region}", ""


def _missing(google: Google, service: str, resource: str, permissions: tuple[str, ...]) -> list[str]:
    answer = google.call("POST", service, f"{resource}:testIamPermissions", body={"permissions": list(permissions)})
    return [name for name in permissions if name not in answer.get("permissions", ())]

"""Checks that the resources in the ``gcp`` settings exist and may be used. Starts and changes nothing."""

from collections.abc import Callable, Iterator, Mapping
from typing import Any
from urllib.parse import quote

from cloud_train.errors import CloudTrainError
from cloud_train.providers.base import Diagnosis
from cloud_train.providers.cloud.errors import ForbiddenError, MissingError
from cloud_train.providers.cloud.provider import unasked, wrong
from cloud_train.providers.gcp.client import Google
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
_BUCKET = ("storage.objects.create", "storage.objects.delete", "storage.objects.get", "storage.objects.list")
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
    bucket = bucket_and_prefix(store)[0].removeprefix("gs://")
    region = str(settings["region"])
    place: str | None = None
    try:
        place = str(google.call("GET", "storage", f"storage/v1/b/{bucket}", query={"fields": "location"}).get("location", "")).lower()
    except MissingError:
        return (
            "error",
            f"the bucket gs://{bucket} does not exist",
            f"create it with: gcloud storage buckets create gs://{bucket} --location={region}",
        )
    except ForbiddenError:
        pass  # roles/storage.objectUser alone does not allow reading the location
    answer = google.call("GET", "storage", f"storage/v1/b/{bucket}/iam/testPermissions", query={"permissions": list(_BUCKET)})
    missing = [name for name in _BUCKET if name not in answer.get("permissions", ())]
    if missing:
        return "error", f"missing on gs://{bucket}: {', '.join(missing)}", "roles/storage.objectUser on the bucket includes them"
    if place is None:
        return "ok", f"gs://{bucket} (the credentials may not read its location)", ""
    if place not in (region, region.partition("-")[0], {"europe": "eu"}.get(region.partition("-")[0])):
        return "warning", f"gs://{bucket} is in {place}, but the jobs run in {region}: traffic between them is slow and costs money", ""
    return "ok", f"gs://{bucket} in {place}", ""


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

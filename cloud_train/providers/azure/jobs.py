"""Azure ML's command jobs: creating them once, finding and listing them; their secrets in Key Vault, and their run history."""

import json
import re
import time
from collections.abc import Iterable, Iterator, Mapping
from contextlib import suppress
from typing import Any
from urllib.parse import urlsplit

from cloud_train.errors import ProviderError
from cloud_train.job.cloud_names import AZURE_LOCATION, SERVICE_URL, has_form
from cloud_train.providers.azure.client import API, VAULT, Client
from cloud_train.providers.azure.clouds import AzureCloud, cloud_of
from cloud_train.providers.azure.state import is_over, observed
from cloud_train.providers.base import Handle, Observation, Request, ended
from cloud_train.providers.cloud.errors import PROXY_HINT, ExistsError, MissingError, RefusedError, UnansweredError
from cloud_train.providers.cloud.provider import create_once, is_young
from cloud_train.providers.cloud.request import RUN
from cloud_train.run.states import Cause, State

PERMISSIONS = "Microsoft.MachineLearningServices/workspaces/jobs"
"""Prefix of Azure's permissions for jobs."""

_WORKSPACE = re.compile(
    r"/subscriptions/(?P<subscription>[0-9A-Fa-f-]{36})/resourceGroups/(?P<group>[\w.()-]+)"
    r"/providers/Microsoft\.MachineLearningServices/workspaces/(?P<workspace>[A-Za-z0-9_-]{3,33})"
)
_PAGE = re.compile(r"https://(?P<host>[a-z.]{1,60})/[!-~]{1,1000}")
_JOB = re.compile(r"[A-Za-z0-9_-]+")
_VAULT_API = {"api-version": "7.4"}
_CREATED = 201


def reference_of(workspace: Mapping[str, Any], job: str, secret: str | None) -> dict[str, Any]:
    """The reference to a job that a handle keeps."""
    return {**workspace, "job": job, "secret": secret}


def url_of(reference: Mapping[str, Any]) -> str:
    """The job's URL at the resource manager."""
    return f"{reference['endpoint']}{reference['path']}/jobs/{reference['job']}"


def studio_url_of(job: Mapping[str, Any] | None, cloud: AzureCloud) -> str | None:
    """The job's page in the studio, as Azure ML returns it; None without one, or if it is on another host than the cloud's studio."""
    services = ((job or {}).get("properties") or {}).get("services") or {}
    url = str((services.get("Studio") or {}).get("endpoint") or "")
    page = _PAGE.fullmatch(url)
    return url if page and page["host"] == cloud.studio else None


def console_url(place: Mapping[str, Any], job: str) -> str | None:
    """The page that a job of this name has in the studio of a workspace; None for a workspace whose settings are incomplete.

    The form is that of ``services.Studio.endpoint`` in the service's responses, without the tenant.
    """
    path = _WORKSPACE.fullmatch(place["path"])
    if path is None or not _JOB.fullmatch(job):
        return None
    scope = f"/subscriptions/{path['subscription']}/resourcegroups/{path['group']}/workspaces/{path['workspace']}"
    return f"https://{cloud_of(place.get('cloud')).studio}/runs/{job}?wsid={scope}"


def found(azure: Client, reference: Mapping[str, Any]) -> dict[str, Any] | None:
    """The job, from the resource manager, or None if it does not exist. A missing workspace is an error."""
    doing = f"show the job {reference['job']}"
    try:
        return azure.call("GET", url_of(reference), doing, permission=f"{PERMISSIONS}/read", params=API).having("properties")
    except MissingError:
        return None


def delete_secret_after_end(azure: Client, reference: Mapping[str, Any], within_seconds: float) -> bool:
    """Delete the job's secret once the job has ended, because a restarted job reads it again. Returns False if it does not end in time."""
    deadline = time.monotonic() + within_seconds
    while (job := found(azure, reference)) is not None:
        status = job["properties"].get("status") or ""
        if is_over(status) or status == "Finalizing":
            break
        if time.monotonic() > deadline:
            return False
        time.sleep(1)
    delete_secret(azure, reference)
    return True


def listed(azure: Client, reference: Mapping[str, Any], wanted: Iterable[str]) -> Iterator[dict[str, Any]]:
    """The wanted jobs, from a listing that is read page by page until all are found."""
    url: str | None = f"{reference['endpoint']}{reference['path']}/jobs"
    query: dict[str, Any] = {"params": {**API, "tag": RUN, "listViewType": "All"}}
    missing, pages = set(wanted), set()
    while url and missing and url not in pages:  # a repeated URL would loop forever
        pages.add(url)
        page = azure.call("GET", url, "list the jobs", permission=f"{PERMISSIONS}/read", **query).having("value")
        for job in page["value"]:
            if job["name"] in missing:
                missing.discard(job["name"])
                yield job
        url, query = page.get("nextLink"), {}


def observation_of(azure: Client, handle: Handle, job: Mapping[str, Any] | None) -> Observation:
    """The state of the job's attempt; the reason for a failure comes from the run history."""
    if job is None:
        if is_young(handle):
            return Observation(State.QUEUED, Cause.UNKNOWN, "Azure ML does not show the job yet")
        return ended(Cause.INFRASTRUCTURE, f"the job {handle.reference['job']} was deleted from Azure ML")
    status = job["properties"].get("status")
    history = None
    if status in ("Failed", "Canceled"):
        with suppress(MissingError, UnansweredError):
            history = details(azure, handle.reference)
    return observed(job, history)


def details(azure: Client, reference: Mapping[str, Any]) -> dict[str, Any]:
    """The job in the run history: its error, and the URLs of its logs."""
    history = reference["history"] or history_of(azure, reference)
    url = f"{history}/history/v1.0{reference['path']}/runs/{reference['job']}/details"
    return azure.call("GET", url, f"show the history of {reference['job']}", permission=f"{PERMISSIONS}/read").having("runId")


def history_of(azure: Client, reference: Mapping[str, Any]) -> str:
    """The URL of the run history: the workspace names its host, in which a private link has a part of its own."""
    workspace = azure.call("GET", f"{reference['endpoint']}{reference['path']}", "show the workspace", params=API).having("location")
    host = urlsplit(str((workspace.get("properties") or {}).get("discoveryUrl") or "")).netloc
    if host and has_form(SERVICE_URL, f"https://{host}"):
        return f"https://{host}"
    location = workspace["location"]
    if not has_form(AZURE_LOCATION, location):
        raise UnansweredError(f"Azure returned an invalid region for the workspace: {str(location)[:60]!r}", hint=PROXY_HINT)
    return azure.cloud.history_of(location)


def put_environment(azure: Client, request: Request) -> None:
    """Create the environment. Its name is derived from the image, so an existing one has the same content."""
    workspace, environment = request["workspace"], request["environment"]
    url = f"{workspace['endpoint']}{workspace['path']}/environments/{environment['id']}"
    permission = "Microsoft.MachineLearningServices/workspaces/environments/versions/write"
    azure.call("PUT", url, "create the environment", permission=permission, expect=(200, 201), params=API, json=environment["body"])


def create(azure: Client, request: Request) -> dict[str, Any] | None:
    """Create the job exactly once, and return it, or None if it is not shown yet.

    Raises AlreadyLaunchedError, LaunchUnknownError and CloudError.
    """
    job = reference_of(request["workspace"], request["job"]["id"], request["secret"])
    doing, writing, body = f"start the job {job['job']}", f"{PERMISSIONS}/write", request["job"]["body"]

    def put() -> dict[str, Any]:
        try:
            answer = azure.call_once("PUT", url_of(job), doing, permission=writing, expect=(200, _CREATED), params=API, json=body)
        except RefusedError as error:
            if _exists(azure, job):  # Azure refuses to change an existing job
                raise ExistsError(error.message, error.hint) from error
            raise
        created = answer.having("properties")
        if answer.status != _CREATED:
            raise ExistsError(f"the job {job['job']} already exists in Azure ML")
        return created

    return create_once(put, lambda: found(azure, job), azure.policy, job=f"the Azure ML job {job['job']}")


def _exists(azure: Client, job: Mapping[str, Any]) -> bool:
    try:
        return found(azure, job) is not None
    except ProviderError:
        return False


def put_secret(azure: Client, url: str, secrets: Mapping[str, str]) -> None:
    """Store the secrets in the vault, as one JSON document."""
    permission = "Microsoft.KeyVault/vaults/secrets/setSecret/action"
    body = {"value": json.dumps(dict(secrets)), "contentType": "application/json"}
    azure.call("PUT", url, "store the secrets in azure.vault", permission=permission, token=VAULT, params=_VAULT_API, json=body)


def delete_secret(azure: Client, reference: Mapping[str, Any]) -> None:
    """Delete the secret of a job, if it has one."""
    if reference.get("secret"):
        with suppress(MissingError):
            azure.call("DELETE", reference["secret"], "delete the job's secrets", token=VAULT, params=_VAULT_API)

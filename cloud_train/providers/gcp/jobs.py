"""Vertex AI's custom jobs: creating, listing and cancelling them, choosing between two jobs of one attempt, and their secrets."""

import base64
import json
import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import suppress
from dataclasses import replace
from typing import Any

from cloud_train.errors import ProviderError
from cloud_train.providers.base import Request
from cloud_train.providers.cloud.errors import CloudError, ExistsError, MissingError, RefusedError, ThrottledError, with_field
from cloud_train.providers.cloud.request import RUN
from cloud_train.providers.gcp.client import Google
from cloud_train.providers.gcp.machines import CLOUD
from cloud_train.providers.gcp.request import labels_of

Job = Mapping[str, Any]
"""A CustomJob, as returned by Vertex AI."""

_NAME = re.compile(r"projects/(?P<project>[a-z0-9:.-]+)/locations/(?P<region>[a-z0-9-]+)/customJobs/(?P<job>[0-9]+)")
_LOOKS = 3
_LONGEST_PAUSE_SECONDS = 2.0
"""How often to look for a job that may not be listed yet, and the pause in between."""
_PAGE_JOBS = 100
_SECRET_SECONDS = 7 * 86400
"""Added to the job's time limit when a secret's expiry is set: the job may wait that long for machines."""
_REFUSED = 400
_NOT_FOUND = 404


def jobs_of(google: Google, run_id: str, attempt: int) -> list[Job]:
    """The attempt's jobs, oldest first. The oldest is the one that counts. Raises CloudError."""
    labels = labels_of(run_id, attempt)
    query = {"filter": " AND ".join(f'labels.{key}="{value}"' for key, value in labels.items()), "pageSize": _PAGE_JOBS}
    pages = google.pages(google.vertex, f"v1/{google.parent}/customJobs", query)
    jobs = {job["name"]: job for page in pages for job in page.get("customJobs", ()) if labels.items() <= job.get("labels", {}).items()}
    return sorted(jobs.values(), key=lambda job: (_moment(job["createTime"]), job["name"]))


def jobs_soon(google: Google, run_id: str, attempt: int, is_enough: Callable[[Sequence[Job]], bool]) -> list[Job]:
    """Like ``jobs_of``, but looks a few times until ``is_enough`` holds, because listings may lag. Raises CloudError."""
    left = replace(google.policy, attempts=_LOOKS, longest_wait=_LONGEST_PAUSE_SECONDS, jitter=lambda: 1.0).attempts_left()
    while True:
        try:
            jobs = jobs_of(google, run_id, attempt)
        except ThrottledError:  # retries are used up
            raise
        except CloudError:
            if not left.wait():
                raise
            continue
        if is_enough(jobs) or not left.wait():
            return jobs


def listing(google: Google, wanted: Mapping[str, str]) -> Iterator[tuple[str, Job]]:
    """The names and jobs of those in ``wanted`` (name → creation time), from one listing that reaches no further back than needed.

    Raises CloudError.
    """
    oldest = min(wanted.values(), key=_moment)
    query = {"filter": f'labels.{RUN}:* AND create_time>="{oldest}"', "pageSize": _PAGE_JOBS}
    missing = set(wanted)
    for page in google.pages(google.vertex, f"v1/{google.parent}/customJobs", query):
        for job in page.get("customJobs", ()):
            if job["name"] in missing:
                missing.remove(job["name"])
                yield job["name"], job
        if not missing:
            return


def create(google: Google, request: Request) -> Job:
    """Create the job with a single request, and return it. Raises CloudError."""
    try:
        job = google.call_once("POST", google.vertex, f"v1/{google.parent}/customJobs", body=request["body"])
    except RefusedError as error:
        if "machine type" in error.message.lower():
            error.hint = _other_machines(request["body"]["jobSpec"]["workerPoolSpecs"][0]["machineSpec"].get("machineType", ""))
        raise
    for field in ("name", "createTime"):
        with_field("Vertex AI", field, job)
    return job


def cancel(google: Google, name: str) -> None:
    """Cancel the job; does nothing if it has ended or does not exist. Raises CloudError."""
    try:
        google.call("POST", google.vertex, f"v1/{name}:cancel", body={})
    except RefusedError as error:
        if error.status not in (_REFUSED, _NOT_FOUND):
            raise


def console_url(name: str) -> str | None:
    """The page of the job of this name in Google's console, as google-cloud-aiplatform links it; None for a name of another form."""
    named = _NAME.fullmatch(name)
    if named is None:
        return None
    return f"https://console.cloud.google.com/ai/platform/locations/{named['region']}/training/{named['job']}?project={named['project']}"


def has_secrets(job: Job) -> bool:
    """Whether the job's worker reads secrets."""
    pools = job.get("jobSpec", {}).get("workerPoolSpecs", [])
    return any("--secrets" in pool.get("containerSpec", {}).get("args", ()) for pool in pools)


def put_secrets(google: Google, request: Request, secrets: Mapping[str, str]) -> None:
    """Store the job's secrets in Secret Manager, as one JSON document with an expiry. Raises ProviderError."""
    project, name = request["settings"]["project"], request["secret"]
    timeout = int(request["body"]["jobSpec"]["scheduling"]["timeout"].rstrip("s"))
    secret = {
        "replication": {"userManaged": {"replicas": [{"location": request["settings"]["region"]}]}},
        "ttl": f"{timeout + _SECRET_SECONDS}s",
        "labels": labels_of(request["run_id"], request["attempt"]),
    }
    try:
        with suppress(ExistsError):  # left by a launch that was interrupted
            google.call("POST", "secretmanager", f"v1/projects/{project}/secrets", query={"secretId": name}, body=secret)
        data = base64.b64encode(json.dumps(dict(secrets)).encode()).decode()
        google.call("POST", "secretmanager", f"v1/projects/{project}/secrets/{name}:addVersion", body={"payload": {"data": data}})
    except CloudError as error:
        raise ProviderError(f"cannot store the job's secrets in Secret Manager: {error.message}", hint=error.hint) from error


def delete_secrets(google: Google, project: str, name: str) -> None:
    """Delete the secrets, if they exist. Raises CloudError."""
    with suppress(MissingError):
        google.call("DELETE", "secretmanager", f"v1/projects/{project}/secrets/{name}")


def _moment(time: str) -> tuple[str, str]:
    """A sort key for Google's timestamps, which have up to nine decimals."""
    second, _, fraction = time.rstrip("Z").partition(".")
    return second, f"{fraction:0<9}"


def _other_machines(name: str) -> str:
    from cloud_train.providers.cloud.machines import similar

    near = [each for each in similar(CLOUD, name) if each != name]
    meant = f", such as {', '.join(near)}" if near else ""
    return f"set gcp.machine to a machine type that gcp.region has{meant}"

"""Custom jobs and secrets as requests to Google: what there is of an attempt, which of two jobs counts, and how both are ended."""

import base64
import json
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any

from cloud_train.errors import ProviderError
from cloud_train.providers.base import Request
from cloud_train.providers.cloud.jobs import RUN
from cloud_train.providers.gcp.client import THROTTLED, Google, GoogleError
from cloud_train.providers.gcp.request import CLOUD, labels_of

Job = Mapping[str, Any]
"""A CustomJob, as Vertex AI answers it."""

NOT_FOUND = 404

_PATIENCE_SECONDS = (0.0, 1.0, 2.0)
"""Pauses before each look for a job that may not be listed yet."""
_PAGE_JOBS = 100
_SECRET_SECONDS = 7 * 86400
"""What a secret outlives the job's time limit by, at most: for how long the job may wait for machines."""
_EXISTS = 409
_REFUSED = 400


def jobs_of(google: Google, run_id: str, attempt: int) -> list[Job]:
    """The attempt's jobs, the oldest first: of several, that one counts. Raises GoogleError."""
    labels = labels_of(run_id, attempt)
    query = {"filter": " AND ".join(f'labels.{key}="{value}"' for key, value in labels.items()), "pageSize": _PAGE_JOBS}
    pages = google.pages(google.vertex, f"v1/{google.parent}/customJobs", query)
    jobs = {job["name"]: job for page in pages for job in page.get("customJobs", ()) if labels.items() <= job.get("labels", {}).items()}
    return sorted(jobs.values(), key=lambda job: (_moment(job["createTime"]), job["name"]))


def jobs_soon(google: Google, run_id: str, attempt: int, is_enough: Callable[[Sequence[Job]], bool]) -> list[Job]:
    """The same as soon as ``is_enough`` says so, or as they are after some looks: a listing may lag behind. Raises GoogleError."""
    jobs: list[Job] = []
    refusal: GoogleError | None = None
    for seconds in _PATIENCE_SECONDS:
        google.pause(seconds)
        try:
            jobs, refusal = jobs_of(google, run_id, attempt), None
        except GoogleError as error:
            if error.status == THROTTLED:  # it was tried as often as may be
                raise
            refusal = error
        if is_enough(jobs):
            return jobs
    if refusal is not None:
        raise refusal
    return jobs


def listing(google: Google, wanted: Mapping[str, str]) -> Iterator[tuple[str, Job]]:
    """The jobs with the names ``wanted``, each with the time at which it was created, from one listing: back to the oldest of them, and no
    further than needed. Raises GoogleError.
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
    """The job, created; raises GoogleError, whose ``is_unanswered`` says whether it may be there all the same."""
    try:
        job = google.call("POST", google.vertex, f"v1/{google.parent}/customJobs", body=request["body"], is_repeatable=False)
    except GoogleError as error:
        machine = request["body"]["jobSpec"]["workerPoolSpecs"][0]["machineSpec"].get("machineType", "")
        if error.status == _REFUSED and "machine type" in error.message.lower():
            error.hint = _other_machines(machine)
        raise
    if not {"name", "createTime"} <= job.keys():
        raise GoogleError("Vertex AI seems to answer without the job that it was to create", "is there a proxy in between?")
    return job


def cancel(google: Google, name: str) -> None:
    """Ask for its end; nothing if it has ended, or is gone. Raises GoogleError."""
    try:
        google.call("POST", google.vertex, f"v1/{name}:cancel", body={})
    except GoogleError as error:
        if error.status not in (_REFUSED, NOT_FOUND):
            raise


def has_secrets(job: Job) -> bool:
    """Whether its worker is told where secrets lie."""
    pools = job.get("jobSpec", {}).get("workerPoolSpecs", [])
    return any("--secrets" in pool.get("containerSpec", {}).get("args", ()) for pool in pools)


def keep_secrets(google: Google, request: Request, secrets: Mapping[str, str]) -> None:
    """Lay the job's secrets into Secret Manager, as one JSON document that expires by itself. Raises ProviderError."""
    project, name = request["settings"]["project"], request["secret"]
    timeout = int(request["body"]["jobSpec"]["scheduling"]["timeout"].rstrip("s"))
    secret = {
        "replication": {"userManaged": {"replicas": [{"location": request["settings"]["region"]}]}},
        "ttl": f"{timeout + _SECRET_SECONDS}s",
        "labels": labels_of(request["run_id"], request["attempt"]),
    }
    try:
        try:
            google.call("POST", "secretmanager", f"v1/projects/{project}/secrets", query={"secretId": name}, body=secret)
        except GoogleError as error:
            if error.status != _EXISTS:  # left by a launch that was cut off
                raise
        data = base64.b64encode(json.dumps(dict(secrets)).encode()).decode()
        google.call("POST", "secretmanager", f"v1/projects/{project}/secrets/{name}:addVersion", body={"payload": {"data": data}})
    except GoogleError as error:
        raise ProviderError(f"the job's secrets cannot be kept in Secret Manager: {error.message}", hint=error.hint) from error


def forget_secrets(google: Google, project: str, name: str) -> None:
    """Delete them; nothing if they are gone. Raises GoogleError."""
    try:
        google.call("DELETE", "secretmanager", f"v1/projects/{project}/secrets/{name}")
    except GoogleError as error:
        if error.status != NOT_FOUND:
            raise


def _moment(time: str) -> tuple[str, str]:
    """What orders Google's timestamps, which have none to nine digits behind the second."""
    second, _, fraction = time.rstrip("Z").partition(".")
    return second, f"{fraction:0<9}"


def _other_machines(name: str) -> str:
    from cloud_train.providers.cloud.machines import similar

    near = [each for each in similar(CLOUD, name) if each != name]
    meant = f"; near it are {', '.join(near)}" if near else ""
    return f"name one that this gcp.region has with gcp.machine{meant}"

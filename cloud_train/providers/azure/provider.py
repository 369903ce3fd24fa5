"""The ``azure`` provider: the worker as an Azure ML command job, on serverless machines or a cluster.

The job's id is made of run and attempt: a second ``PUT`` of it is the same job, and changes or restarts nothing. Azure ML itself starts a
job anew whose machines it took back; the worker then takes the next attempt of the run by itself.
"""

import json
import re
import time
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import suppress
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

from cloud_train import private
from cloud_train.errors import CloudTrainError, ProviderError
from cloud_train.job.cloud_names import AZURE_LOCATION, EXPECTED, REPOSITORY, has_form
from cloud_train.providers.azure import diagnosis
from cloud_train.providers.azure.client import (
    API,
    VAULT_SCOPE,
    Client,
    MissingError,
    ThrottledError,
    UnansweredError,
    client,
    is_registry,
)
from cloud_train.providers.azure.request import checked_workspace_of, problems_of, request_of, secret_of
from cloud_train.providers.azure.state import is_over, observed
from cloud_train.providers.base import AlreadyLaunchedError, Diagnosis, Handle, LaunchUnknownError, Observation, Request
from cloud_train.providers.cloud.jobs import RUN, job_name
from cloud_train.providers.cloud.observations import ended
from cloud_train.providers.cloud.provider import CloudProvider, asked, cloud_capabilities, is_young
from cloud_train.run.states import Cause, State

if TYPE_CHECKING:
    from cloud_train.run.plan import Plan

_VAULT_API = {"api-version": "7.4"}
_JOBS = "Microsoft.MachineLearningServices/workspaces/jobs"
_CREATED = 201
_LAUNCHES = 3
"""How often a job is sent whose answer is lost, and that is not there when it is looked for."""
_FEW = 2
"""Up to so many jobs of a workspace are asked for one by one: a listing has fifty of anybody's on a page."""
_LOG = re.compile(r"user_logs/std_log\D*0*\.txt")
"""The log of node 0's first process, as azure-ai-ml streams it."""
_LOG_PAGE_BYTES = 1 << 20
_LEAVING_SECONDS = 5.0
_PROXY = "check for a proxy or captive portal"
_NO_MORE = 416
_ANYONE = "00000000-0000-0000-0000-000000000000"
"""The user's name of whoever logs in with a token of the registry's."""


class AzureMlProvider(CloudProvider):
    """Runs as a command job of an Azure ML workspace. ``home`` is the folder under which it keeps which secrets it could not delete yet."""

    name = "azure"
    capabilities = cloud_capabilities(("az",), max_nodes=32)

    def __init__(self, home: Path) -> None:
        self._left = home / "azure" / "left"

    def render(self, plan: "Plan") -> Request:
        """The bodies of the two requests that start a job: the environment that names the image, and the job."""
        return request_of(plan)

    def check(self, request: Request) -> list[str]:
        """Names, machine, identity, and the shape of both bodies by Azure's own models."""
        return list(problems_of(request))

    def launch(self, request: Request, secrets: dict[str, str]) -> Handle:
        """Lay the secrets into the vault, make the environment, then the job. A job that is there already is left alone."""
        azure, reference = client(), _reference(request["workspace"], request["job"]["id"], request["secret"])
        if _job(azure, reference) is not None:
            raise _launched_before(reference)
        self._sweep(azure)
        handle = Handle(request["run_id"], request["attempt"], self.name, request["store"], {**reference, "launched": time.time()})
        try:
            if request["secret"] is not None:
                _put_secret(azure, request["secret"], secrets)
            _put_environment(azure, request)
            _put_job(azure, request, reference)
        except (AlreadyLaunchedError, LaunchUnknownError):
            raise
        except CloudTrainError:
            with suppress(CloudTrainError):
                _delete_secret(azure, reference)
            raise
        return handle

    def find(self, run_id: str, attempt: int, store: str, settings: Mapping[str, Any]) -> Handle | None:
        """The job by its id, and by the run that its tags name."""
        reference = _reference(checked_workspace_of(settings), job_name(run_id, attempt), None)
        job = _job(client(), reference)
        if job is None or job["properties"].get("tags", {}).get(RUN) != run_id:
            return None
        secret = secret_of(settings, reference["job"])
        if secret is not None and secret in job["properties"].get("command", ""):
            reference["secret"] = secret
        return Handle(run_id, attempt, self.name, store, reference)

    def cancel(self, handle: Handle, force: bool = False) -> None:
        """Azure ML's own stop, which tells the program first; it knows nothing harder. A job that has ended is left alone."""
        azure, reference = client(), handle.reference
        url, doing = f"{_url(reference)}/cancel", f"cancel the job {reference['job']}"
        with suppress(MissingError):
            try:
                azure.call("POST", url, doing, permission=f"{_JOBS}/cancel/action", expect=(200, 202), params=API)
            except ThrottledError:  # nothing was done, and another question would be one too many
                raise
            except ProviderError:
                job = _job(azure, reference)
                if job is not None and not is_over(job["properties"].get("status", "")):
                    raise

    def tidy(self, handle: Handle) -> None:
        """Delete the job's secrets from the vault, if it has any. While the job still leaves, they are left to the next launch."""
        if handle.reference.get("secret") is None:
            return
        note = self._left / f"{handle.reference['job']}.json"
        with suppress(CloudTrainError):
            if _took_secret_away(client(), handle.reference, _LEAVING_SECONDS):
                note.unlink(missing_ok=True)
                return
        with suppress(OSError):
            private.make_folder(self._left)
            private.write_text(note, json.dumps(handle.reference))

    def logs(self, handle: Handle, cursor: str | None) -> tuple[bytes, str | None]:
        """What node 0 printed, as the run history has it. The cursor counts the bytes of each file."""
        azure, read = client(), dict(json.loads(cursor)) if cursor else {}
        said = b""
        try:
            files = _details(azure, handle.reference).get("logFiles") or {}
        except MissingError:  # the run history hears of a job a little later
            return b"", cursor
        for name in sorted(filter(_LOG.fullmatch, files)):
            start = int(read.get(name, 0))
            span = {"Range": f"bytes={start}-{start + _LOG_PAGE_BYTES - 1}"}
            answer = azure.call("GET", files[name], f"show the log {name}", expect=(200, 206, _NO_MORE), scope=None, headers=span)
            if answer.status == _NO_MORE:
                continue
            data = answer.data[start:] if answer.status == 200 else answer.data
            said += data
            read[name] = start + len(data)
        return said, json.dumps(read)

    def registry_login(self, settings: Mapping[str, Any]) -> tuple[str, str] | None:
        """A token of the Azure container registry for whoever is signed in at Azure; another registry has logins of its own.

        Its repositories come into being with their first image, so there is nothing to make.
        """
        repository = str(settings.get("repository") or "")
        host = repository.partition("/")[0]
        if not is_registry(host):
            return None
        if not has_form(REPOSITORY, repository):
            raise ProviderError(f"azure.repository: {repository!r} is not {EXPECTED[REPOSITORY]}", hint=f"such as {host}/cloud-train")
        return _ANYONE, client().registry_password(host)

    def diagnose(self, settings: Mapping[str, Any], store: str | None) -> Iterator[Diagnosis]:
        """Credentials, workspace, permissions, machines, identity, registry, vault, store."""
        return diagnosis.diagnose(settings, store)

    def _sweep(self, azure: Client) -> None:
        """Delete what could not be deleted before, a little at each launch."""
        for note in sorted(self._left.glob("*.json"))[:_FEW]:
            with suppress(CloudTrainError, FileNotFoundError, ValueError):  # another process may do the same; a torn note comes again
                if _took_secret_away(azure, json.loads(note.read_text(encoding="utf-8")), 0):
                    note.unlink()

    def _observed(self, handle: Handle) -> Observation:
        azure = client()
        return _observation(azure, handle, _job(azure, handle.reference))

    def _place(self, handle: Handle) -> tuple[str, str]:
        return handle.reference["endpoint"], handle.reference["path"]

    def _listed(self, handles: Sequence[Handle]) -> Iterator[tuple[str, Observation]]:
        """From a listing of the workspace's jobs, which has those of all runs on its pages; only ends cost a question more."""
        if len(handles) <= _FEW:
            return
        azure, wanted = client(), {handle.reference["job"]: handle for handle in handles}
        for job in _jobs(azure, handles[0].reference, wanted):
            yield job["name"], asked(partial(_observation, azure, wanted[job["name"]], job))


def _reference(workspace: Mapping[str, Any], job: str, secret: str | None) -> dict[str, Any]:
    return {**workspace, "job": job, "secret": secret}


def _url(reference: Mapping[str, Any]) -> str:
    return f"{reference['endpoint']}{reference['path']}/jobs/{reference['job']}"


def _job(azure: Client, reference: Mapping[str, Any]) -> dict[str, Any] | None:
    """The job as the resource manager has it; None if there is none. A workspace that is not there is an error all the same."""
    doing = f"show the job {reference['job']}"
    try:
        return azure.call("GET", _url(reference), doing, permission=f"{_JOBS}/read", params=API).having("properties")
    except MissingError:
        return None


def _took_secret_away(azure: Client, reference: Mapping[str, Any], within_seconds: float) -> bool:
    """Whether the secret is gone: not while the job goes on, which may be started anew, and then reads it again."""
    deadline = time.monotonic() + within_seconds
    while (job := _job(azure, reference)) is not None:
        status = job["properties"].get("status", "")
        if is_over(status) or status == "Finalizing":
            break
        if time.monotonic() > deadline:
            return False
        time.sleep(1)
    _delete_secret(azure, reference)
    return True


def _jobs(azure: Client, reference: Mapping[str, Any], wanted: Iterable[str]) -> Iterator[dict[str, Any]]:
    """Those of the wanted jobs that a listing shows, page by page, until all were there."""
    url: str | None = f"{reference['endpoint']}{reference['path']}/jobs"
    query: dict[str, Any] = {"params": {**API, "tag": RUN, "listViewType": "All"}}
    missing, pages = set(wanted), set()
    while url and missing and url not in pages:  # a page that comes again would come for ever
        pages.add(url)
        page = azure.call("GET", url, "list the jobs", permission=f"{_JOBS}/read", **query).having("value")
        for job in page["value"]:
            if job["name"] in missing:
                missing.discard(job["name"])
                yield job
        url, query = page.get("nextLink"), {}


def _observation(azure: Client, handle: Handle, job: Mapping[str, Any] | None) -> Observation:
    if job is None:
        if is_young(handle):
            return Observation(State.QUEUED, Cause.UNKNOWN, "Azure ML does not show the job yet")
        return ended(Cause.INFRASTRUCTURE, f"Azure ML knows no job {handle.reference['job']}: somebody deleted it")
    status = job["properties"].get("status")
    details = None
    if status in ("Failed", "Canceled"):
        with suppress(MissingError, UnansweredError):
            details = _details(azure, handle.reference)
    return observed(job, details)


def _details(azure: Client, reference: Mapping[str, Any]) -> dict[str, Any]:
    """The run history's answer for the job: its error, and where its logs lie."""
    history = reference["history"]
    if history is None:
        workspace = f"{reference['endpoint']}{reference['path']}"
        location = azure.call("GET", workspace, "show the workspace", params=API).having("location")["location"]
        if not has_form(AZURE_LOCATION, location):
            raise UnansweredError(f"Azure names {str(location)[:60]!r} as the workspace's region, which is not one", hint=_PROXY)
        history = f"https://{location}.api.azureml.ms"
    url = f"{history}/history/v1.0{reference['path']}/runs/{reference['job']}/details"
    return azure.call("GET", url, f"show the history of {reference['job']}", permission=f"{_JOBS}/read").having("runId")


def _put_environment(azure: Client, request: Request) -> None:
    """It is named after the image, so it is there with the same content or not at all."""
    workspace, environment = request["workspace"], request["environment"]
    url = f"{workspace['endpoint']}{workspace['path']}/environments/{environment['id']}"
    permission = "Microsoft.MachineLearningServices/workspaces/environments/versions/write"
    azure.call("PUT", url, "make the environment", permission=permission, expect=(200, 201), params=API, json=environment["body"])


def _put_job(azure: Client, request: Request, reference: Mapping[str, Any]) -> None:
    """Send the job until it is there. Where the answer is lost, a look at the job says whether it is."""
    doing, content = f"start the job {reference['job']}", {"params": API, "json": request["job"]["body"], "permission": f"{_JOBS}/write"}
    for number in range(1, _LAUNCHES + 1):
        try:
            answer = azure.call("PUT", _url(reference), doing, expect=(200, _CREATED), repeatable=False, **content)
            answer.having("properties")
        except UnansweredError as error:
            there = _is_there(azure, reference)
            if there:
                return
            if there is False and number < _LAUNCHES:
                continue
            raise LaunchUnknownError(
                f"Azure was asked to {doing}, and no answer came: {error.message}", hint="see later whether it runs with: cloud-train list"
            ) from error
        except ProviderError as error:
            if _is_there(azure, reference):  # a job that is there cannot be changed, so another one is refused
                raise _launched_before(reference) from error
            raise
        if answer.status != _CREATED and number == 1:
            raise _launched_before(reference)
        return


def _is_there(azure: Client, reference: Mapping[str, Any]) -> bool | None:
    """None where nobody can say."""
    try:
        return _job(azure, reference) is not None
    except ProviderError:
        return None


def _launched_before(reference: Mapping[str, Any]) -> AlreadyLaunchedError:
    return AlreadyLaunchedError(f"Azure ML has the job {reference['job']} already: nothing was started a second time")


def _put_secret(azure: Client, url: str, secrets: Mapping[str, str]) -> None:
    permission = "Microsoft.KeyVault/vaults/secrets/setSecret/action"
    body = {"value": json.dumps(dict(secrets)), "contentType": "application/json"}
    azure.call("PUT", url, "keep the secrets in azure.vault", permission=permission, scope=VAULT_SCOPE, params=_VAULT_API, json=body)


def _delete_secret(azure: Client, reference: Mapping[str, Any]) -> None:
    if reference.get("secret"):
        with suppress(MissingError):
            azure.call("DELETE", reference["secret"], "delete the job's secrets", scope=VAULT_SCOPE, params=_VAULT_API)

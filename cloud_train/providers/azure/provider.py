"""The ``azure`` provider: the worker as an Azure ML command job, on serverless machines or a cluster.

The job's id consists of run id and attempt: a second ``PUT`` with it changes and restarts nothing. Azure ML itself restarts a job after it
reclaimed the machines; the worker then begins the run's next attempt.
"""

import json
import re
from collections.abc import Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, nullcontext, suppress
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

from cloud_train import private
from cloud_train.errors import CloudTrainError, ProviderError
from cloud_train.job.cloud_names import EXPECTED, REPOSITORY, has_form
from cloud_train.providers.azure import diagnosis, jobs
from cloud_train.providers.azure.client import API, Client, client, is_registry
from cloud_train.providers.azure.clouds import cloud_of
from cloud_train.providers.azure.request import checked_workspace_of, mistyped_machine, problems_of, request_of, secret_of
from cloud_train.providers.azure.state import is_over
from cloud_train.providers.base import AlreadyLaunchedError, Diagnosis, Handle, Observation, Request
from cloud_train.providers.cloud.errors import MissingError, ThrottledError
from cloud_train.providers.cloud.provider import CloudProvider, asked, cloud_capabilities
from cloud_train.providers.cloud.request import RUN, job_name
from cloud_train.run.states import Cause

if TYPE_CHECKING:
    from cloud_train.run.plan import Plan

_FEW = 2
"""Up to this many jobs of a workspace are requested one by one, because a listing has the jobs of all users, fifty to a page."""
_LOG = re.compile(r"user_logs/std_log\D*0*\.txt")
"""The log of node 0's first process, as azure-ai-ml streams it."""
_LOG_PAGE_BYTES = 1 << 20
_LEAVING_SECONDS = 5.0
_NO_MORE = 416
_ANYONE = "00000000-0000-0000-0000-000000000000"
"""The user name for a login with a token of the registry."""


class AzureMlProvider(CloudProvider[Client]):
    """Runs as a command job in an Azure ML workspace. Under ``home`` it remembers secrets that it could not delete yet."""

    name = "azure"
    capabilities = cloud_capabilities(("az",), max_nodes=32)

    def __init__(self, home: Path) -> None:
        self._left = home / "azure" / "left"

    def render(self, plan: "Plan") -> Request:
        """The bodies of the two requests that start a job: the environment, which refers to the image, and the job."""
        return request_of(plan)

    def check(self, request: Request) -> list[str]:
        """Problems with names, machine and identity, and with the shape of both bodies according to Azure's own specification."""
        return list(problems_of(request))

    def remarks(self, plan: "Plan") -> Iterator[str]:
        """Accelerators that are not used, and a machine that Azure ML would start in vain."""
        yield from super().remarks(plan)
        if (meant := mistyped_machine(plan.provider_settings)) is not None:
            yield meant
        if plan.job.resources.spot and not plan.program.retries(Cause.PREEMPTED, 1):
            yield (
                "resources.spot without a retry: if the machine is reclaimed, Azure ML queues the job again and bills another one,"
                " on which the worker exits at once; set retry.attempts to 2 or more, so that the run continues there from its newest"
                " checkpoint"
            )

    def find(self, run_id: str, attempt: int, store: str, settings: Mapping[str, Any]) -> Handle | None:
        """The attempt's job, by its id, if its tags contain the run id."""
        reference = jobs.reference_of(checked_workspace_of(settings), job_name(run_id, attempt), None)
        job = jobs.found(_client_for(reference), reference)
        if job is None or (job["properties"].get("tags") or {}).get(RUN) != run_id:
            return None
        secret = secret_of(settings, reference["job"])
        if secret is not None and secret in (job["properties"].get("command") or ""):
            reference["secret"] = secret
        reference |= _studio_of(job, _client_for(reference))
        return Handle(run_id, attempt, self.name, store, reference)

    def cancel(self, handle: Handle, force: bool = False) -> None:
        """Cancel the job through Azure ML, with its grace period, with or without ``force``. An ended job is left alone."""
        azure, reference = _client_for(handle.reference), handle.reference
        url, doing = f"{jobs.url_of(reference)}/cancel", f"cancel the job {reference['job']}"
        with suppress(MissingError):
            try:
                azure.call("POST", url, doing, permission=f"{jobs.PERMISSIONS}/cancel/action", expect=(200, 202), params=API)
            except ThrottledError:  # nothing was done, and another request would be throttled as well
                raise
            except ProviderError:
                job = jobs.found(azure, reference)
                if job is not None and not is_over(job["properties"].get("status") or ""):
                    raise

    def clean_up(self, handle: Handle) -> None:
        """Delete the job's secrets from the vault, if any. If the job has not ended yet, the next launch deletes them."""
        if handle.reference.get("secret") is None:
            return
        note = self._left / f"{handle.reference['job']}.json"
        with suppress(CloudTrainError):
            if jobs.delete_secret_after_end(_client_for(handle.reference), handle.reference, _LEAVING_SECONDS):
                note.unlink(missing_ok=True)
                return
        with suppress(OSError):
            private.make_folder(self._left)
            private.write_text(note, json.dumps(handle.reference))

    def logs(self, handle: Handle, cursor: str | None) -> tuple[bytes, str | None]:
        """The output of node 0, from the run history. The cursor counts the bytes of each file."""
        azure, read = _client_for(handle.reference), dict(json.loads(cursor)) if cursor else {}
        said = b""
        try:
            files = jobs.details(azure, handle.reference).get("logFiles") or {}
        except MissingError:  # a new job takes a moment to appear in the run history
            return b"", cursor
        for name in sorted(filter(_LOG.fullmatch, files)):
            start = int(read.get(name, 0))
            span = {"Range": f"bytes={start}-{start + _LOG_PAGE_BYTES - 1}"}
            answer = azure.call("GET", files[name], f"show the log {name}", expect=(200, 206, _NO_MORE), token=None, headers=span)
            if answer.status == _NO_MORE:
                continue
            data = answer.data[start:] if answer.status == 200 else answer.data
            said += data
            read[name] = start + len(data)
        return said, json.dumps(read)

    def registry_login(self, settings: Mapping[str, Any]) -> tuple[str, str] | None:
        """A token of the Azure container registry for the signed-in user; None for other registries.

        The registry creates a repository with its first image.
        """
        repository = str(settings.get("repository") or "")
        host = repository.partition("/")[0]
        if not is_registry(host):
            return None
        if not has_form(REPOSITORY, repository):
            raise ProviderError(
                f"azure.repository: {repository!r} is not {EXPECTED[REPOSITORY]}", hint=f"use a name such as {host}/cloud-train"
            )
        return _ANYONE, client(cloud_of(settings.get("cloud"), settings.get("endpoint")).name).registry_password(host)

    def console_url(self, about: Handle | Request) -> str | None:
        """The job's page in Azure ML's studio, as returned by Azure ML; known before the job exists, since cloud-train names it."""
        if isinstance(about, Handle):
            return about.reference.get("studio") or jobs.console_url(about.reference, about.reference["job"])
        is_complete = {"subscription", "resource_group", "workspace"} <= about["settings"].keys()
        return jobs.console_url(about["workspace"], about["job"]["id"]) if is_complete else None

    def diagnose(self, settings: Mapping[str, Any], store: str | None) -> Iterator[Diagnosis]:
        """Check credentials, workspace, permissions, machines, identity, registry, vault and store."""
        return diagnosis.diagnose(settings, store)

    def diagnose_job(self, plan: "Plan") -> Iterator[Diagnosis]:
        """Check the cluster, or the quota for the job's serverless machine, dedicated or low-priority, times its nodes."""
        machine = self.render(plan)["job"]["body"]["properties"]["resources"].get("instanceType")
        return diagnosis.diagnose_job(plan, machine)

    def _sweep(self, azure: Client) -> None:
        """Delete a few secrets that could not be deleted earlier; called at each launch."""
        for note in sorted(self._left.glob("*.json"))[:_FEW]:
            # Another process may do the same at the same time; an unreadable note is left for the next launch.
            with suppress(CloudTrainError, FileNotFoundError, ValueError):
                if jobs.delete_secret_after_end(azure, json.loads(note.read_text(encoding="utf-8")), 0):
                    note.unlink()

    def _client(self, about: Mapping[str, Any]) -> AbstractContextManager[Client]:
        return nullcontext(_client_for(about.get("workspace", about)))

    def _prepare(self, azure: Client, request: Request) -> None:
        """Raise AlreadyLaunchedError if the job exists; delete secrets that could not be deleted earlier."""
        reference = _reference_of(request)
        if jobs.found(azure, reference) is not None:
            raise AlreadyLaunchedError(
                f"the job {reference['job']} already exists in Azure ML", hint="see its state with: cloud-train status"
            )
        self._sweep(azure)

    def _put_secrets(self, azure: Client, request: Request, secrets: Mapping[str, str]) -> bool:
        jobs.put_secret(azure, request["secret"], secrets)
        return True

    def _create(self, azure: Client, request: Request) -> dict[str, Any]:
        jobs.put_environment(azure, request)
        job = jobs.create(azure, request)
        return {**_reference_of(request), **_studio_of(job, azure)}

    def _delete_secrets(self, azure: Client, about: Mapping[str, Any]) -> None:
        jobs.delete_secret(azure, about)

    def _observed(self, handle: Handle) -> Observation:
        azure = _client_for(handle.reference)
        return jobs.observation_of(azure, handle, jobs.found(azure, handle.reference))

    def _place(self, handle: Handle) -> tuple[str, str]:
        return handle.reference["endpoint"], handle.reference["path"]

    def _listed(self, handles: Sequence[Handle]) -> Iterator[tuple[str, Observation]]:
        """Jobs from a listing of the workspace, which has the jobs of all users; only ended jobs need another request."""
        if len(handles) <= _FEW:
            return
        azure, wanted = _client_for(handles[0].reference), {handle.reference["job"]: handle for handle in handles}
        for job in jobs.listed(azure, handles[0].reference, wanted):
            yield job["name"], asked(partial(jobs.observation_of, azure, wanted[job["name"]], job))


def _client_for(place: Mapping[str, Any]) -> Client:
    """The client for a workspace of a request, or for a handle's reference."""
    return client(place.get("cloud"))


def _studio_of(job: Mapping[str, Any] | None, azure: Client) -> dict[str, str]:
    """The part of a reference with the job's page in the studio, if Azure ML returned one."""
    url = jobs.studio_url_of(job, azure.cloud)
    return {"studio": url} if url else {}


def _reference_of(request: Request) -> dict[str, Any]:
    return jobs.reference_of(request["workspace"], request["job"]["id"], request["secret"])

"""The ``gcp`` provider: an attempt as a custom job of Vertex AI.

Vertex AI chooses job names itself, so an attempt is identified by two labels. A launch looks for them, creates the job, and looks again: if
two submitters raced, the older job stays. After a lost response, the launch looks several times, because listings may lag. If two jobs run
after all, only the worker that claims the attempt in the run directory continues.
"""

import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import suppress
from pathlib import Path
from typing import TYPE_CHECKING, Any

from cloud_train.errors import CloudTrainError
from cloud_train.job.cloud_names import SERVICE_TEMPLATE, has_form
from cloud_train.providers.base import AlreadyLaunchedError, Diagnosis, Handle, Observation, Request
from cloud_train.providers.cloud.errors import CloudError, MissingError
from cloud_train.providers.cloud.provider import CloudProvider, cloud_capabilities, create_once, is_young
from cloud_train.providers.gcp import jobs
from cloud_train.providers.gcp.client import POLICY, TIMEOUTS, Google, credentials_of
from cloud_train.providers.gcp.diagnosis import diagnose_job, diagnoses
from cloud_train.providers.gcp.logs import read
from cloud_train.providers.gcp.machines import CLOUD
from cloud_train.providers.gcp.registry import is_google, login, prepare
from cloud_train.providers.gcp.request import ENDPOINT, place_of, request_of, secret_name, service_url
from cloud_train.providers.gcp.rules import problems_of
from cloud_train.providers.gcp.state import DELETED, NOT_YET, observation_of
from cloud_train.retry import RetryPolicy
from cloud_train.storage.trusted_hosts import GOOGLE, VARIABLE, UntrustedHostError, check

if TYPE_CHECKING:
    from cloud_train.run.plan import Plan


class VertexProvider(CloudProvider[Google]):
    """Runs on Vertex AI. It keeps nothing on this machine."""

    name = CLOUD
    capabilities = cloud_capabilities(("gs",), max_nodes=16)

    def __init__(self, home: Path, *, timeouts: tuple[float, float] = TIMEOUTS, policy: RetryPolicy = POLICY) -> None:
        """``timeouts``: seconds to connect, and to wait for a response; ``policy``: the retry policy."""
        self._timeouts, self._policy = timeouts, policy
        self._credentials: dict[str | None, Any] = {}

    def render(self, plan: "Plan") -> Request:
        """The body of the create call and its destination. The settings are ``GcpSettings``."""
        return request_of(plan)

    def check(self, request: Request) -> list[str]:
        """Problems according to Google's discovery document and documentation. Google is not contacted."""
        return list(problems_of(request))

    def find(self, run_id: str, attempt: int, store: str, settings: Mapping[str, Any]) -> Handle | None:
        """The attempt's job, by its labels; the oldest if several submitters raced."""
        with self._google(settings) as google:
            found = jobs.jobs_soon(google, run_id, attempt, bool)
        if not found:
            return None
        secret = secret_name(run_id, attempt) if jobs.has_secrets(found[0]) else None
        # `created` is Google's time, `launched` this machine's: a job may be listed before other requests show it.
        reference = {**_reference(found[0], settings, secret), "launched": time.time()}
        return Handle(run_id, attempt, self.name, store, reference)

    def cancel(self, handle: Handle, force: bool = False) -> None:
        """Cancel the job: Vertex AI sends SIGTERM, and later SIGKILL, with or without ``force``."""
        with self._google(handle.reference) as google:
            jobs.cancel(google, handle.reference["job"])

    def clean_up(self, handle: Handle) -> None:
        """Delete the job's secrets once it has ended. A secret that cannot be deleted expires on its own.

        Vertex AI keeps the job, at no cost.
        """
        secret = handle.reference.get("secret")
        if secret is None or not self.observe(handle).state.is_end:
            return
        with suppress(CloudTrainError), self._google(handle.reference) as google:
            jobs.delete_secrets(google, handle.reference["project"], secret)

    def logs(self, handle: Handle, cursor: str | None) -> tuple[bytes, str | None]:
        """The job's log in Cloud Logging."""
        with self._google(handle.reference) as google:
            return read(google, handle.reference["project"], handle.reference["job"].rpartition("/")[2], cursor)

    def remarks(self, plan: "Plan") -> Iterator[str]:
        """Accelerators that are not used, and an endpoint that gets no token unless the login is for its sovereign cloud."""
        yield from super().remarks(plan)
        endpoint = plan.provider_settings.get("endpoint") or ENDPOINT
        if not has_form(SERVICE_TEMPLATE, endpoint):
            return  # refused
        try:
            check(service_url(plan.provider_settings, "storage"), GOOGLE, "gcp.endpoint")
        except UntrustedHostError:
            yield (
                f"gcp.endpoint: {endpoint} is not one of Google's hosts, so nothing is sent there, unless your login is for a sovereign"
                f" cloud with this domain, or the environment variable {VARIABLE} lists it"
            )

    def registry_login(self, settings: Mapping[str, Any]) -> tuple[str, str] | None:
        """An access token for Artifact Registry or Container Registry. The repository is created if ``create_repository`` is set."""
        repository = str(settings.get("repository") or "")
        if not is_google(repository):
            return None
        with self._google(settings) as google:
            if settings.get("create_repository"):
                prepare(google, repository)
        return login(self._credentials[settings.get("project")])

    def console_url(self, about: Handle | Request) -> str | None:
        """The job's page in Google's console; None for a request, because Vertex AI chooses the job's name."""
        return jobs.console_url(about.reference["job"]) if isinstance(about, Handle) else None

    def diagnose(self, settings: Mapping[str, Any], store: str | None) -> Iterator[Diagnosis]:
        """Check credentials, APIs, permissions, service account, bucket, repository and quota."""
        return diagnoses(lambda: self._google(settings), settings, store)

    def diagnose_job(self, plan: "Plan") -> Iterator[Diagnosis]:
        """Check the quota for the accelerators of the job's machines, on demand or spot, times its nodes."""
        request = self.render(plan)
        return diagnose_job(lambda: self._google(request["settings"]), request)

    def _client(self, about: Mapping[str, Any]) -> Google:
        return self._google(about.get("settings", about))

    def _prepare(self, client: Google, request: Request) -> None:
        if jobs.jobs_of(client, request["run_id"], request["attempt"]):
            raise _launched_before(request)

    def _put_secrets(self, client: Google, request: Request, secrets: Mapping[str, str]) -> bool:
        jobs.put_secrets(client, request, secrets)
        return True

    def _create(self, client: Google, request: Request) -> dict[str, Any]:
        """Create the job. If several submitters raced, the oldest job stays, and the others are cancelled."""
        run_id, attempt = request["run_id"], request["attempt"]
        own: list[jobs.Job] = []

        def create() -> Sequence[jobs.Job]:
            own.append(jobs.create(client, request))
            return _with_own(client, run_id, attempt, own[0])

        # Vertex AI would create a second job, so the request is not repeated after a lost response.
        job = f"attempt {attempt} of {run_id}"
        there = create_once(create, lambda: jobs.jobs_soon(client, run_id, attempt, bool) or None, client.policy, job=job, can_repeat=False)
        assert there, "the created job, or jobs that were found"
        for younger in there[1:]:
            with suppress(CloudError):  # its worker finds the attempt claimed, and exits
                jobs.cancel(client, younger["name"])
        if own and there[0]["name"] != own[0]["name"]:
            raise _launched_before(request)
        return _reference(there[0], request["settings"], request["secret"])

    def _delete_secrets(self, client: Google, about: Mapping[str, Any]) -> None:
        jobs.delete_secrets(client, about.get("settings", about)["project"], about["secret"])

    def _observed(self, handle: Handle) -> Observation:
        try:
            with self._google(handle.reference) as google:
                return observation_of(google.call("GET", google.vertex, f"v1/{handle.reference['job']}"))
        except MissingError:
            return NOT_YET if is_young(handle) else DELETED

    def _place(self, handle: Handle) -> tuple[Any, ...]:
        return tuple(handle.reference.get(key) for key in ("project", "region", "endpoint"))

    def _listed(self, handles: Sequence[Handle]) -> Iterator[tuple[str, Observation]]:
        """Jobs from one listing of a region, back to the oldest of the handles' jobs."""
        wanted = {handle.reference["job"]: handle.reference["created"] for handle in handles}
        with self._google(handles[0].reference) as google:
            for name, job in jobs.listing(google, wanted):
                yield name, observation_of(job)

    def _google(self, settings: Mapping[str, Any]) -> Google:
        project, _ = place_of(settings)
        if project not in self._credentials:
            self._credentials[project] = credentials_of(project)  # kept, because the token in them is valid for an hour
        return Google(settings, self._credentials[project], timeouts=self._timeouts, policy=self._policy)


def _reference(job: jobs.Job, settings: Mapping[str, Any], secret: str | None) -> dict[str, Any]:
    place = {key: settings.get(key) for key in ("project", "region", "endpoint")}
    return {**place, "job": job["name"], "created": job["createTime"], "secret": secret}


def _with_own(google: Google, run_id: str, attempt: int, own: jobs.Job) -> Sequence[jobs.Job]:
    """The attempt's jobs, oldest first, including ``own``; only ``own`` if they cannot be listed."""
    try:
        there = jobs.jobs_soon(google, run_id, attempt, lambda found: any(job["name"] == own["name"] for job in found))
    except CloudError:
        return [own]
    return there if any(job["name"] == own["name"] for job in there) else [*there, own]


def _launched_before(request: Request) -> AlreadyLaunchedError:
    run_id, attempt = request["run_id"], request["attempt"]
    return AlreadyLaunchedError(
        f"attempt {attempt} of {run_id} was already launched", hint=f"see its state with: cloud-train status {run_id}"
    )

"""The ``gcp`` provider: a run's attempt as a custom job of Vertex AI.

Vertex AI draws a job's name itself, so an attempt is known by two labels. A launch looks for them first, creates the job, and looks again:
of two jobs for one attempt, whose creators raced, the older one stays. An answer that was lost is looked for too, with patience, because a
listing may lag behind. The worker's own claim in the run directory is what holds if all of that was too short.
"""

import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import suppress
from pathlib import Path
from typing import TYPE_CHECKING, Any

from cloud_train.errors import CloudTrainError
from cloud_train.providers.base import (
    AlreadyLaunchedError,
    Diagnosis,
    Handle,
    LaunchUnknownError,
    Observation,
    Request,
)
from cloud_train.providers.cloud.provider import CloudProvider, cloud_capabilities, is_young
from cloud_train.providers.gcp import jobs
from cloud_train.providers.gcp.client import TIMEOUTS, Google, GoogleError, credentials_of
from cloud_train.providers.gcp.request import CLOUD, place_of, problems_of, request_of, secret_name
from cloud_train.providers.gcp.state import DELETED, NOT_YET, observation_of

if TYPE_CHECKING:
    from cloud_train.run.plan import Plan


class VertexProvider(CloudProvider):
    """Runs on Vertex AI. Nothing is kept on this machine."""

    name = CLOUD
    capabilities = cloud_capabilities(("gs",), max_nodes=16)

    def __init__(self, home: Path, *, timeouts: tuple[float, float] = TIMEOUTS, pause: Callable[[float], None] = time.sleep) -> None:
        """``timeouts`` are seconds to connect and to wait for an answer; ``pause`` waits so many seconds."""
        self._timeouts, self._pause = timeouts, pause
        self._credentials: dict[str | None, Any] = {}

    def render(self, plan: "Plan") -> Request:
        """The body of the create call, and beside it where it goes. Settings are those of ``GcpSettings``."""
        return request_of(plan)

    def check(self, request: Request) -> list[str]:
        """What Google's discovery document and its documentation forbid. Nobody is asked."""
        return list(problems_of(request))

    def launch(self, request: Request, secrets: dict[str, str]) -> Handle:
        """Create the job, once; the job's secrets lie in Secret Manager before it is there."""
        run_id, attempt, settings = request["run_id"], request["attempt"], request["settings"]
        with self._google(settings) as google:
            if jobs.jobs_of(google, run_id, attempt):
                raise _launched_before(run_id, attempt)
            if request["secret"] and secrets:
                jobs.keep_secrets(google, request, secrets)
            own: jobs.Job | None = None
            try:
                own = jobs.create(google, request)
            except GoogleError as error:
                if not error.is_unanswered:
                    if request["secret"]:
                        with suppress(GoogleError):  # it expires by itself; the refusal is what has to be heard
                            jobs.forget_secrets(google, settings["project"], request["secret"])
                    raise
                there = _found_or_unknown(google, run_id, attempt, error)
            else:
                there = _with_own(google, run_id, attempt, own)
            for younger in there[1:]:
                jobs.cancel(google, younger["name"])
        if own is not None and there[0]["name"] != own["name"]:
            raise _launched_before(run_id, attempt)
        return _handle(there[0], settings, run_id=run_id, attempt=attempt, store=request["store"], secret=request["secret"])

    def find(self, run_id: str, attempt: int, store: str, settings: Mapping[str, Any]) -> Handle | None:
        """The attempt's job by its labels; the oldest, if several submitters raced."""
        with self._google(settings) as google:
            found = jobs.jobs_soon(google, run_id, attempt, bool)
        if not found:
            return None
        secret = secret_name(run_id, attempt) if jobs.has_secrets(found[0]) else None
        return _handle(found[0], settings, run_id=run_id, attempt=attempt, store=store, secret=secret)

    def cancel(self, handle: Handle, force: bool = False) -> None:
        """Let Vertex AI stop the job: SIGTERM, some time, SIGKILL. It has nothing harder for ``force``."""
        with self._google(handle.reference) as google:
            jobs.cancel(google, handle.reference["job"])

    def tidy(self, handle: Handle) -> None:
        """Delete the job's secrets once it has ended. Vertex AI keeps the job itself, which costs nothing; a secret that cannot be deleted
        yet expires by itself.
        """
        secret = handle.reference.get("secret")
        if secret is None or not self.observe(handle).state.is_end:
            return
        with suppress(CloudTrainError), self._google(handle.reference) as google:
            jobs.forget_secrets(google, handle.reference["project"], secret)

    def logs(self, handle: Handle, cursor: str | None) -> tuple[bytes, str | None]:
        """What Cloud Logging holds of the job."""
        from cloud_train.providers.gcp.logs import read

        with self._google(handle.reference) as google:
            return read(google, handle.reference["project"], handle.reference["job"].rpartition("/")[2], cursor)

    def registry_login(self, settings: Mapping[str, Any]) -> tuple[str, str] | None:
        """An access token, for Artifact Registry and what came before it; the repository is made if ``create_repository`` says so."""
        from cloud_train.providers.gcp.registry import is_google, login, prepare

        repository = str(settings.get("repository") or "")
        if not is_google(repository):
            return None
        with self._google(settings) as google:
            if settings.get("create_repository"):
                prepare(google, repository)
        return login(self._credentials[settings.get("project")])

    def diagnose(self, settings: Mapping[str, Any], store: str | None) -> Iterator[Diagnosis]:
        """Credentials, APIs, permissions, service account, bucket, repository, quota."""
        from cloud_train.providers.gcp.diagnosis import diagnoses

        return diagnoses(lambda: self._google(settings), settings, store)

    def _observed(self, handle: Handle) -> Observation:
        try:
            with self._google(handle.reference) as google:
                return observation_of(google.call("GET", google.vertex, f"v1/{handle.reference['job']}"))
        except GoogleError as error:
            if error.status != jobs.NOT_FOUND:
                raise
        return NOT_YET if is_young(handle) else DELETED

    def _place(self, handle: Handle) -> tuple[Any, ...]:
        return tuple(handle.reference.get(key) for key in ("project", "region", "endpoint"))

    def _listed(self, handles: Sequence[Handle]) -> Iterator[tuple[str, Observation]]:
        """From one listing a page for all of a region's jobs, back to the oldest of these."""
        wanted = {handle.reference["job"]: handle.reference["created"] for handle in handles}
        with self._google(handles[0].reference) as google:
            for name, job in jobs.listing(google, wanted):
                yield name, observation_of(job)

    def _google(self, settings: Mapping[str, Any]) -> Google:
        project, _ = place_of(settings)
        if project not in self._credentials:
            self._credentials[project] = credentials_of(project)  # kept, because they keep a token that is good for an hour
        return Google(settings, self._credentials[project], timeouts=self._timeouts, pause=self._pause)


def _handle(job: jobs.Job, settings: Mapping[str, Any], *, run_id: str, attempt: int, store: str, secret: str | None) -> Handle:
    reference = {key: settings.get(key) for key in ("project", "region", "endpoint")}
    # Google's clock made the one time, and this machine's the other: what shows late to one question may be listed for another.
    reference |= {"job": job["name"], "created": job["createTime"], "launched": time.time(), "secret": secret}
    return Handle(run_id, attempt, CLOUD, store, reference)


def _with_own(google: Google, run_id: str, attempt: int, own: jobs.Job) -> Sequence[jobs.Job]:
    """The attempt's jobs, the oldest first, and ``own`` among them; it alone if they cannot be listed."""
    try:
        there = jobs.jobs_soon(google, run_id, attempt, lambda found: any(job["name"] == own["name"] for job in found))
    except GoogleError:
        return [own]
    return there if any(job["name"] == own["name"] for job in there) else [*there, own]


def _found_or_unknown(google: Google, run_id: str, attempt: int, lost: GoogleError) -> Sequence[jobs.Job]:
    """The attempt's jobs after the answer to its creation was lost; raises LaunchUnknownError if there is none to be seen."""
    try:
        there = jobs.jobs_soon(google, run_id, attempt, bool)
    except GoogleError as error:
        lost = error
        there = []
    if there:
        return there
    raise LaunchUnknownError(
        f"Vertex AI was asked to start attempt {attempt} of {run_id}, and whether it did is not known: {lost.message}",
        hint="it shows later: cloud-train list",
    ) from lost


def _launched_before(run_id: str, attempt: int) -> AlreadyLaunchedError:
    return AlreadyLaunchedError(f"attempt {attempt} of {run_id} was launched before", hint=f"see cloud-train status {run_id}")

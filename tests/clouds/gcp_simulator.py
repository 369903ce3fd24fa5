"""The simulated Google Cloud: Vertex AI, Cloud Logging, Secret Manager, tokens and the rest of what the provider ``gcp`` asks::

    with gcp_cloud(shared, tmp_path) as cloud:
        for name, value in cloud.environment.items():
            monkeypatch.setenv(name, value)
        ...  # a config file with `gcp: {**cloud.settings}`, the store cloud.new_store()
        cloud.google.preempt(run_id)

With ``machines``, jobs run as real containers; without, on paper, until the test ends them (``finish``). Each request is checked by
Google's own discovery documents, and each answer too. ``faults.hide`` knows "jobs", as listings show them, and "names", by which one job is
asked for. What is not simulated: real permissions, quotas and capacity, and what Vertex AI tells a machine before it is taken back.
"""

import re
import threading
from collections.abc import Callable, Iterator, Mapping
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType
from typing import Any, Self, cast

from cloud_train.providers.cloud.machines import machines as machine_table
from tests.clouds import kit
from tests.clouds.clock import Clock, RealClock
from tests.clouds.faults import Fault, Faults
from tests.clouds.gcp_answers import RefusedError, accepted, answered, timestamp
from tests.clouds.gcp_jobs import CustomJob, Paper, Runner, Timing
from tests.clouds.gcp_services import PROJECT_NUMBER, Accounts, Logging, Rights, Secrets
from tests.clouds.machine import Machine, Machines
from tests.clouds.server import Answer, Request, Server
from tests.stores import LOOPBACK, StoreServer

PROJECT = "my-project-123456"
REGION = "europe-west4"
REPOSITORY = f"{REGION}-docker.pkg.dev/{PROJECT}/cloud-train/jobs"
_NO_WAY_OUT = {"HTTPS_PROXY": f"http://{LOOPBACK}:9", "NO_PROXY": LOOPBACK}
"""google-auth asks iamcredentials.googleapis.com, in the background, where a token may be used: nobody listens at this proxy."""
_PACE_SECONDS = 0.05
"""How often jobs are brought on, in real time."""
_JOBS = f"v1/projects/{PROJECT}/locations/{REGION}/customJobs"
_SECRETS = f"v1/projects/{PROJECT}/secrets"
_VERTEX = "aiplatform.googleapis.com"

Handler = Callable[[Request, str], Answer]


class GcpSimulator:
    """One project in one region, for as long as the context. ``folder`` is where the submitter's key lies."""

    def __init__(
        self,
        folder: Path,
        *,
        clock: Clock | None = None,
        timing: Timing | None = None,
        machines: Machines | None = None,
        repository: str = REPOSITORY,
        machine_environment: Mapping[str, str] | None = None,
    ) -> None:
        """``machine_environment`` is what machines have beside the platform's own variables, such as where the store is."""
        self.clock = clock or RealClock()
        self.timing = timing or Timing()
        self.faults = Faults(self.clock)
        self.accounts, self.rights = Accounts(self.clock, PROJECT), Rights()
        self.logging, self.secrets = Logging(self.clock, self.timing.log_lag), Secrets(self.clock)
        self.soft_delete_seconds = 0
        """How long buckets keep what is deleted; a new one of Google's: 7 days."""
        self.repositories: set[str] = {f"v1/projects/{PROJECT}/locations/{REGION}/repositories/cloud-train"}
        self.buckets: dict[str, str] = {}
        """Locations of the buckets, by name."""
        self.jobs: dict[str, CustomJob] = {}
        self.server = Server(self, faults=self.faults, clock=self.clock)
        self._folder, self._machines, self._repository = folder, machines, repository
        self.machine_environment = dict(machine_environment or {})
        self._runner = Runner(
            self.clock,
            self.timing,
            machines=machines,
            environment=self._environment_of_machines,
            log=lambda job, task, line: self.logging.write(job.identifier, task, line),
            lacks_capacity=lambda: self.faults.take("customJobs.create", [Fault.NO_CAPACITY]) is not None,
        )
        self._stack = ExitStack()
        self._thread = threading.Thread(target=self._run, name="vertex-jobs")
        self._stopping = threading.Event()
        self._guard = threading.Lock()

    def __enter__(self) -> Self:
        self._stack.enter_context(self.server)
        self._folder.mkdir(parents=True, exist_ok=True)
        self._folder.joinpath("key.json").write_text(self.accounts.key_file(f"{self.server.url}/token"), encoding="utf-8")
        self._thread.start()
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        self._stopping.set()
        self._thread.join()
        self._stack.__exit__(kind, error, trace)

    @property
    def settings(self) -> dict[str, Any]:
        """The settings of ``gcp`` in a config file."""
        return {"project": PROJECT, "region": REGION, "repository": self._repository, "endpoint": f"{self.server.url}/{{service}}"}

    @property
    def environment(self) -> dict[str, str]:
        """With which Google's SDKs find the submitter's credentials, and reach nothing but this machine."""
        key = {"GOOGLE_APPLICATION_CREDENTIALS": str(self._folder / "key.json"), "CLOUDSDK_CONFIG": str(self._folder)}
        return {**key, "NO_GCE_CHECK": "true", **_NO_WAY_OUT}

    @property
    def lost_images(self) -> set[str]:
        """Parts of the names of images that no machine can pull."""
        return self._runner.lost_images

    def jobs_of(self, run_id: str) -> list[CustomJob]:
        """The jobs that carry the run's label, the oldest first."""
        return [job for job in self.jobs.values() if job.body.get("labels", {}).get("cloud-train-run") == run_id]

    def containers(self, run_id: str) -> list[Machine]:
        """The containers of the run's jobs that go on, node 0 first."""
        places = [place for job in self.jobs_of(run_id) if not job.is_over for place in job.places]
        return [cast(Machine, place.replica) for place in places if place.replica is not None]

    def leftovers(self, run_id: str) -> list[str]:
        """What costs money, or ought to be gone after the run's end, in words."""
        jobs = [f"{job.state} job {job.identifier}" for job in self.jobs_of(run_id) if not job.is_over]
        return [*jobs, *(f"secret {name}" for name in self.secrets.names() if f"/cloud-train-{run_id}-" in name)]

    def preempt(self, run_id: str, node: int = 0) -> None:
        """Take the machine of a node of a running job back."""
        for job in self.jobs_of(run_id):
            if job.state == "JOB_STATE_RUNNING":
                self._runner.preempt(job, node)

    def cancel(self, run_id: str) -> None:
        """Cancel the run's jobs, as somebody at the console does."""
        for job in self.jobs_of(run_id):
            with job.lock:
                self._runner.cancel(job)

    def finish(self, run_id: str, status: int, node: int = 0) -> Paper:
        """Let a replica on paper end with this exit status."""
        [job] = [job for job in self.jobs_of(run_id) if not job.is_over]
        with job.lock:
            self._runner.advance(job)
            paper = cast(Paper, job.places[node].replica)
            paper.status = status
            self._runner.advance(job)
        return paper

    def count(self, operation: str | None = None) -> int:
        """How many requests came, tokens aside, of one operation or of all."""
        own = ("token", "metadata")
        return sum(logged.operation == operation or (operation is None and logged.operation not in own) for logged in self.server.requests)

    def operation_of(self, request: Request) -> str:
        """``customJobs.create``, ``entries.list``, … as the discovery documents name the methods."""
        return self._route(request)[0]

    def handle(self, request: Request) -> Answer:
        """Carry the request out."""
        operation, handler, api, permission = self._route(request)
        if operation == "token":
            return self.accounts.exchange(request)
        if operation == "metadata":
            return self.accounts.metadata(request.path)
        try:
            self.accounts.check(request)
            _, _, resource = request.path.lstrip("/").partition("/")
            self.rights.check(api, permission, resource)
            return handler(request, resource)
        except RefusedError as refused:
            return refused.answer

    def error(self, request: Request, kind: Fault) -> Answer:
        """Google's words for a fault."""
        refusals = {
            Fault.SERVER_ERROR: RefusedError(500, "Internal error encountered."),
            Fault.THROTTLE: RefusedError(
                429, "Quota exceeded for quota metric 'Requests' and limit 'Requests per minute'.", reason="RATE_LIMIT_EXCEEDED"
            ),
            Fault.EXPIRED_TOKEN: RefusedError(401, "Request had invalid authentication credentials.", reason="ACCESS_TOKEN_EXPIRED"),
        }
        return refusals[kind].answer

    def _route(self, request: Request) -> tuple[str, Handler, str, str]:
        """Operation, handler, API and permission."""
        if request.path == "/token":
            return "token", self._unknown, "", ""
        service, _, path = request.path.lstrip("/").partition("/")
        for method, of_service, pattern, operation, handler, permission in self._routes():
            if (method, of_service) == (request.method, service) and re.fullmatch(pattern, path):
                return operation, handler, f"{service.removeprefix(f'{REGION}-')}.googleapis.com", permission
        if request.path == "/" or request.path.startswith("/computeMetadata/"):
            return "metadata", self._unknown, "", ""
        return "unknown", self._unknown, f"{service}.googleapis.com", ""

    def _routes(self) -> list[tuple[str, str, str, str, Handler, str]]:
        vertex, repositories = f"{REGION}-aiplatform", r"v1/projects/[^/]+/locations/[^/]+/repositories"
        return [
            ("POST", vertex, _JOBS, "customJobs.create", self._create, "aiplatform.customJobs.create"),
            ("GET", vertex, _JOBS, "customJobs.list", self._list, "aiplatform.customJobs.list"),
            ("POST", vertex, rf"{_JOBS}/[0-9]+:cancel", "customJobs.cancel", self._cancel, "aiplatform.customJobs.cancel"),
            ("GET", vertex, rf"{_JOBS}/[^/]+", "customJobs.get", self._get, "aiplatform.customJobs.get"),
            ("POST", "logging", "v2/entries:list", "entries.list", self._entries, "logging.logEntries.list"),
            ("POST", "secretmanager", _SECRETS, "secrets.create", self._create_secret, "secretmanager.secrets.create"),
            (
                "POST",
                "secretmanager",
                rf"{_SECRETS}/[^/]+:addVersion",
                "secrets.addVersion",
                self._add_version,
                "secretmanager.versions.add",
            ),
            ("GET", "secretmanager", rf"{_SECRETS}/.+:access", "secrets.access", self._access, "secretmanager.versions.access"),
            ("DELETE", "secretmanager", rf"{_SECRETS}/[^/]+", "secrets.delete", self._delete_secret, "secretmanager.secrets.delete"),
            ("GET", "artifactregistry", rf"{repositories}/[^/]+", "repositories.get", self._repository_there, ""),
            (
                "POST",
                "artifactregistry",
                repositories,
                "repositories.create",
                self._create_repository,
                "artifactregistry.repositories.create",
            ),
            ("POST", "cloudresourcemanager", r"v1/projects/[^/]+:testIamPermissions", "testIamPermissions", self._granted, ""),
            ("POST", "iam", r"v1/projects/-/serviceAccounts/[^/]+:testIamPermissions", "testIamPermissions", self._granted_on_account, ""),
            ("GET", "storage", r"storage/v1/b/[^/]+(/iam/testPermissions)?", "buckets.get", self._bucket, ""),
            ("GET", "serviceusage", r"v1beta1/projects/.*", "consumerQuotaMetrics.get", self._quota, "serviceusage.quotas.get"),
        ]

    def _unknown(self, request: Request, resource: str) -> Answer:
        raise RefusedError(404, f"The requested URL {request.path} was not found on this server.")

    def _create(self, request: Request, resource: str) -> Answer:
        body = accepted("aiplatform", "CustomJob", request.json())
        self._refuse_impossible(body)
        with self._guard:
            identifier = str(4_000_000_000_000_000_000 + len(self.jobs))
            job = CustomJob(identifier, f"{resource.removeprefix('v1/')}/{identifier}", body, self.clock.now())
            self.faults.created("jobs", job.name)
            self.faults.created("names", job.name)
            self.jobs[job.name] = job
        return answered("aiplatform", "CustomJob", job.document())

    def _refuse_impossible(self, body: Mapping[str, Any]) -> None:
        account = body["jobSpec"].get("serviceAccount")
        if account is not None and (account != self.accounts.machines or "iam.serviceAccounts.actAs" in self.rights.denied):
            raise RefusedError(403, f"You do not have permission to act as service_account: {account}. (or it may not exist).")
        known = {machine.name: machine for machine in machine_table("gcp")}
        for pool in body["jobSpec"]["workerPoolSpecs"]:
            name = pool["machineSpec"]["machineType"]
            if name not in known:
                raise RefusedError(400, f'Machine type "{name}" is not supported.')
            needed = known[name].cpus * int(pool.get("replicaCount", "1"))
            if needed > self.rights.quota.get("custom_model_training_cpus", needed):
                raise RefusedError(429, f"The following quota metrics exceed quota limits: {_VERTEX}/custom_model_training_cpus")

    def _list(self, request: Request, resource: str) -> Answer:
        with self._guard:
            shown = [self.jobs[name] for name in self.faults.shown("jobs", list(self.jobs))]
        fitting = [job for job in reversed(shown) if _fits(job, request.query.get("filter", ""))]
        start, size = int(request.query.get("pageToken") or 0), int(request.query.get("pageSize") or 100)
        page = fitting[start : start + min(size, 100)]
        for job in page:
            self._bring_on(job)
        following = {"nextPageToken": str(start + len(page))} if start + len(page) < len(fitting) else {}
        return answered("aiplatform", "ListCustomJobsResponse", {"customJobs": [job.document() for job in page], **following})

    def _get(self, request: Request, resource: str) -> Answer:
        job = self._needed(resource)
        if not self.faults.shown("names", [job.name]):
            raise RefusedError(404, f"CustomJob {job.name} is not found.")
        self._bring_on(job)
        return answered("aiplatform", "CustomJob", job.document())

    def _cancel(self, request: Request, resource: str) -> Answer:
        accepted("aiplatform", "CancelCustomJobRequest", request.json())
        job = self._needed(resource.removesuffix(":cancel"))
        with job.lock:
            if job.is_over:
                raise RefusedError(400, f"Cannot cancel a job in state {job.state}.", word="FAILED_PRECONDITION")
            self._runner.cancel(job)
        return Answer.json({})

    def _needed(self, resource: str) -> CustomJob:
        name = resource.removeprefix("v1/")
        if name not in self.jobs:
            raise RefusedError(404, f"CustomJob {name} is not found.")
        return self.jobs[name]

    def _entries(self, request: Request, resource: str) -> Answer:
        body = accepted("logging", "ListLogEntriesRequest", request.json())
        for job in list(self.jobs.values()):
            if f'"{job.identifier}"' in body["filter"] and job.lock.acquire(blocking=self._machines is None):
                try:
                    self._runner.collect(job)
                finally:
                    job.lock.release()
        return self.logging.list(body)

    def _create_secret(self, request: Request, resource: str) -> Answer:
        return self.secrets.create(f"projects/{PROJECT}", request.query.get("secretId", ""), request.json())

    def _add_version(self, request: Request, resource: str) -> Answer:
        return self.secrets.add_version(resource.removeprefix("v1/").removesuffix(":addVersion"), request.json())

    def _access(self, request: Request, resource: str) -> Answer:
        return self.secrets.access(resource.removeprefix("v1/").removesuffix(":access"))

    def _delete_secret(self, request: Request, resource: str) -> Answer:
        return self.secrets.delete(resource.removeprefix("v1/"))

    def _repository_there(self, request: Request, resource: str) -> Answer:
        if resource not in self.repositories:
            raise RefusedError(404, f"Requested entity was not found: {resource}")
        return answered("artifactregistry", "Repository", {"name": resource.removeprefix("v1/"), "format": "DOCKER"})

    def _create_repository(self, request: Request, resource: str) -> Answer:
        accepted("artifactregistry", "Repository", request.json())
        name = f"{resource}/{request.query['repositoryId']}"
        self.repositories.add(name)
        return answered("artifactregistry", "Operation", {"name": f"{resource.removeprefix('v1/')}/operations/1", "done": False})

    def _granted(self, request: Request, resource: str) -> Answer:
        return Answer.json({"permissions": self.rights.granted(request.json()["permissions"])})

    def _granted_on_account(self, request: Request, resource: str) -> Answer:
        if f"/{self.accounts.machines}:" not in resource:
            raise RefusedError(404, "Unknown service account")
        return self._granted(request, resource)

    def _bucket(self, request: Request, resource: str) -> Answer:
        bucket = resource.split("/")[3]
        if bucket not in self.buckets:
            raise RefusedError(404, "The specified bucket does not exist.")
        if resource.endswith("/testPermissions"):
            # The server keeps one value of a name that comes several times; the real one answers with those that were asked for.
            every = [f"storage.objects.{action}" for action in ("create", "delete", "get", "list")]
            return Answer.json({"permissions": self.rights.granted(every)})
        self.rights.check("storage.googleapis.com", "storage.buckets.get", bucket)
        soft = {
            "softDeletePolicy": {"retentionDurationSeconds": str(self.soft_delete_seconds), "effectiveTime": "2026-11-24T12:00:00.000Z"}
        }
        return Answer.json({"name": bucket, "location": self.buckets[bucket], **soft})

    def _quota(self, request: Request, resource: str) -> Answer:
        limit = self.rights.quota.get(resource.rpartition("/")[2])
        buckets = [
            {"effectiveLimit": "-1"},
            *([{"effectiveLimit": str(limit), "dimensions": {"region": REGION}}] if limit is not None else []),
        ]
        return Answer.json({"consumerQuotaLimits": [{"quotaBuckets": buckets}]})

    def _environment_of_machines(self) -> dict[str, str]:
        host = self.server.url.removeprefix("http://")
        platform = {"CLOUD_ML_PROJECT_ID": PROJECT_NUMBER, "CLOUD_ML_REGION": REGION}
        identity = {"GCE_METADATA_HOST": host, "GCE_METADATA_IP": host, "NO_GCE_CHECK": "false"}
        return {**self.machine_environment, **platform, **identity, **_NO_WAY_OUT}

    def _bring_on(self, job: CustomJob) -> None:
        """On paper at once; the thread that starts a container is not waited for."""
        if job.lock.acquire(blocking=self._machines is None):
            try:
                if not job.is_over:
                    self._runner.advance(job)
            finally:
                job.lock.release()

    def _run(self) -> None:
        try:
            while not self._stopping.wait(_PACE_SECONDS):
                for job in list(self.jobs.values()):
                    if not job.is_over:
                        self._bring_on(job)
        except BaseException as error:
            self.server.mistakes.append(error)
            raise


@dataclass(frozen=True)
class GcpCloud:
    """All of it: the simulator, whose jobs are containers, a registry and a store."""

    google: GcpSimulator
    store: StoreServer

    @property
    def environment(self) -> dict[str, str]:
        """With which whoever submits finds credentials and store."""
        return {**self.store.environment, **self.google.environment}

    @property
    def settings(self) -> dict[str, Any]:
        """The settings of ``gcp`` in a config file."""
        return self.google.settings

    def new_store(self) -> str:
        """The URL of a store, in a bucket of its own."""
        bucket = self.store.new_url()
        self.google.buckets[bucket.removeprefix("gs://")] = REGION.upper()
        return f"{bucket}/runs"


@contextmanager
def gcp_cloud(shared: Path, folder: Path, *, clock: Clock | None = None, timing: Timing | None = None) -> Iterator[GcpCloud]:
    """For as long as the context; ``shared`` is the session's folder (``kit.shared_folder``), ``folder`` this cloud's own.

    Machines take a moment to come up, unless ``timing`` says otherwise: the loser of a race is cancelled before its worker begins, as it is
    where machines take minutes.
    """
    store = kit.store("gcp")
    with kit.registry(shared, folder / "registry") as registry, Machines("vertex") as machines:
        google = GcpSimulator(
            folder,
            clock=clock,
            timing=timing or Timing(pending=0.5),
            machines=machines,
            repository=registry.repository,
            machine_environment=store.environment,
        )
        with google:
            yield GcpCloud(google, store)


def _fits(job: CustomJob, text: str) -> bool:
    """Whether a job is one that the filter asks for; refuses what Vertex AI's documentation does not have."""
    return all(_fits_one(job, part) for part in text.split(" AND ")) if text else True


def _fits_one(job: CustomJob, text: str) -> bool:
    labels = job.body.get("labels", {})
    if found := re.fullmatch(r'labels\.([a-z][a-z0-9_-]*)="?([a-z0-9_-]*)"?', text):
        return bool(labels.get(found[1]) == found[2])
    if found := re.fullmatch(r"labels\.([a-z][a-z0-9_-]*):\*", text):
        return found[1] in labels
    if found := re.fullmatch(r'create_time>="([^"]+)"', text):
        return timestamp(job.created) >= found[1]
    if found := re.fullmatch(r'state="([A-Z_]+)"', text):
        return job.state == found[1]
    raise RefusedError(400, f"Invalid filter: {text}")

"""Azure, as far as cloud-train sees it: the resource manager with an Azure ML workspace, its run history, a Key Vault, managed identities
and the token exchange of a container registry; all on one loopback server.

It checks each request by the schemas made from Azure's specification (``azure_swagger``) and its own answers by those made from the models
of Azure's SDK (``azure_descriptions``), asks for the right token
everywhere, keeps jobs on the clock (``azure_jobs``), and speaks Azure's errors. ``_ROUTES`` names the operations, for faults and counts:
``jobs/write``, ``history/details`` and so on.

``azure_keys`` has identities and secrets, ``azure_cloud`` starts everything together with a registry and a blob store.
"""

import re
import threading
import uuid
from collections.abc import Callable, Mapping
from types import EllipsisType, TracebackType
from typing import Any, Self
from urllib.parse import urlencode

from cloud_train.providers.cloud.machines import machines as machine_table
from cloud_train.worker.notices import AZURE_ADDRESS
from tests.clouds.azure_jobs import ENDS, Job, JobRunner, Pace, timestamp
from tests.clouds.azure_keys import ARM, CLIENT_ID, IDENTITY_SECRET, VAULT, Keys, audience_of
from tests.clouds.azure_shapes import checked, error_answer, problems_of
from tests.clouds.azure_swagger import REQUESTS
from tests.clouds.clock import Clock, RealClock
from tests.clouds.faults import Fault
from tests.clouds.machine import Machines
from tests.clouds.server import Answer, Request, Server

SUBSCRIPTION = "11111111-2222-3333-4444-555555555555"
GROUP = "cloud-train"
WORKSPACE = "training"
LOCATION = "westeurope"
CLUSTER = "cpu-cluster"
PATH = f"/subscriptions/{SUBSCRIPTION}/resourceGroups/{GROUP}/providers/Microsoft.MachineLearningServices/workspaces/{WORKSPACE}"
STUDIO_SCOPE = f"/subscriptions/{SUBSCRIPTION}/resourcegroups/{GROUP}/workspaces/{WORKSPACE}"
VM = "pool-1_0"
"""The name of every machine."""
TENANT = "99999999-0000-1111-2222-333333333333"
API_VERSION = "2025-12-01"

_ML = "Microsoft.MachineLearningServices/workspaces"
_ID = re.compile(r"[A-Za-z0-9][A-Za-z0-9_-]{0,253}")
_MUTABLE = ("description", "tags", "displayName", "properties", "isArchived")
"""What may be changed of a job that exists."""
_UNSET = ("description", "componentId", "computeId", "codeId", "notificationSetting", "distribution", "limits", "queueSettings", "tags")
"""Fields of a job that Azure ML answers as null where they are not set, as an exchange that was recorded in March 2026 has them
(Azure/azure-sdk-assets, python/sdk/ml/azure-ai-ml/tests/recordings/command_job).
"""
_OF_SERVICE = ("port", "status", "errorMessage", "properties", "nodes")
_REGION = rf"/subscriptions/{SUBSCRIPTION}/providers/Microsoft.MachineLearningServices/locations/(?P<location>[^/]+)"
_ROUTES: tuple[tuple[str, str, str], ...] = (
    ("GET", r"/msi/token", "token"),
    ("GET", r"/metadata/scheduledevents", "metadata/events"),
    ("GET", r"/metadata/instance/compute/name", "metadata/name"),
    ("PUT", PATH + r"/environments/(?P<name>[^/]+)/versions/(?P<version>[^/]+)", "environments/write"),
    ("PUT", PATH + r"/jobs/(?P<id>[^/]+)", "jobs/write"),
    ("GET", PATH + r"/jobs/(?P<id>[^/]+)", "jobs/read"),
    ("POST", PATH + r"/jobs/(?P<id>[^/]+)/cancel", "jobs/cancel"),
    ("GET", PATH + r"/jobs", "jobs/list"),
    ("GET", PATH, "workspaces/read"),
    ("GET", PATH + r"/computes/(?P<name>[^/]+)", "computes/read"),
    ("GET", PATH + r"/providers/Microsoft.Authorization/permissions", "permissions/list"),
    ("GET", _REGION + r"/vmSizes", "sizes/list"),
    ("GET", _REGION + r"/usages", "usages/list"),
    ("GET", r"/history/v1.0" + PATH + r"/runs/(?P<id>[^/]+)/details", "history/details"),
    ("GET", r"/logs/(?P<id>[^/]+)/(?P<file>.+)", "logs/read"),
    ("PUT", r"/secrets/(?P<name>[^/]+)", "secrets/set"),
    ("GET", r"/secrets/(?P<name>[^/]+)", "secrets/get"),
    ("DELETE", r"/secrets/(?P<name>[^/]+)", "secrets/delete"),
    ("GET", r"/secrets", "secrets/list"),
    ("POST", r"/oauth2/exchange", "registry/exchange"),
    ("POST", r"/oauth2/token", "registry/token"),
)
_ACTIONS = {
    "environments/write": f"{_ML}/environments/versions/write",
    "jobs/write": f"{_ML}/jobs/write",
    "jobs/read": f"{_ML}/jobs/read",
    "jobs/list": f"{_ML}/jobs/read",
    "jobs/cancel": f"{_ML}/jobs/cancel/action",
    "workspaces/read": f"{_ML}/read",
    "computes/read": f"{_ML}/computes/read",
    "permissions/list": "Microsoft.Authorization/permissions/read",
    "sizes/list": "Microsoft.MachineLearningServices/locations/vmSizes/read",
    "usages/list": "Microsoft.MachineLearningServices/locations/usages/read",
    "secrets/set": "Microsoft.KeyVault/vaults/secrets/setSecret/action",
}
"""The permission that an operation takes, for ``AzureSimulator.denied``."""


class AzureSimulator:
    """The simulator and its server; use it as a context. With ``machines`` it runs containers, without them tests set a job's status."""

    def __init__(
        self, machines: Machines | None = None, *, clock: Clock | None = None, pace: Pace | None = None, page_size: int = 50
    ) -> None:
        self.clock: Clock = clock or RealClock()
        self.pace = pace or Pace()
        self.server = Server(self, clock=self.clock)
        self.faults = self.server.faults
        self.jobs: dict[str, Job] = {}
        self.environments: dict[str, dict[str, Any]] = {}
        self.keys = Keys()
        self.denied: set[str] = set()
        """Actions that whoever asks is not allowed: those are answered with status 403."""
        self.managers = {ARM}
        """The resource managers whose tokens count: that of the public cloud."""
        self.workspace_properties: dict[str, Any] = {}
        self.events: list[dict[str, Any]] = []
        """The scheduled events that every machine's metadata service lists."""
        self.studio_url: str | EllipsisType | None = ...
        """The page that a job has in the studio, if it is not the usual one."""
        self.vm_priority = "Dedicated"
        """That of the cluster."""
        self.cluster_nodes = 2
        self.cores = 100
        """Quota of each family."""
        self.regional_cores = 200
        self.low_priority_cores = 50
        self.machine_environment: Mapping[str, str] = {}
        """What every container gets beside its place and its identity: how it reaches the store."""
        self.page_size = page_size
        self._lock = threading.RLock()
        self._lengths: dict[str, list[tuple[float, int]]] = {}
        self._machines = machines
        self._runner = JobRunner(machines, self.clock, self.faults, self.pace, self._platform_environment) if machines else None

    def __enter__(self) -> Self:
        self.server.__enter__()
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        try:
            if self._runner is not None:
                self._runner.close()
        finally:
            self.server.__exit__(kind, error, trace)

    @property
    def url(self) -> str:
        return self.server.url

    @property
    def settings(self) -> dict[str, Any]:
        """The key ``azure`` of a config file, less the repository."""
        return {
            "subscription": SUBSCRIPTION,
            "resource_group": GROUP,
            "workspace": WORKSPACE,
            "location": LOCATION,
            "identity": CLIENT_ID,
            "vault": self.url,
            "endpoint": self.url,
            "history_endpoint": self.url,
        }

    @property
    def environment(self) -> dict[str, str]:
        """With which azure-identity's own chain finds an identity on this machine: that of an App Service."""
        return {"IDENTITY_ENDPOINT": f"{self.url}/msi/token", "IDENTITY_HEADER": IDENTITY_SECRET}

    def preempt(self, job: str) -> None:
        """Take the job's machines back, without a warning."""
        found = self.jobs[job]
        assert found.is_low_priority or found.properties.get("computeId"), f"{job} has machines that nobody takes back"
        found.preempted.set()

    def kill(self, run_id: str) -> None:
        """A power cut for the machines of this run: what runs there gets to say nothing."""
        for job in self._of(run_id):
            for machine in list(job.machines):
                machine.kill()

    def leftovers(self, run_id: str) -> list[str]:
        """What there is of this run, in words: jobs that go on, containers that run, secrets."""
        those = self._of(run_id)
        going_on = [f"the job {job.id} is {job.status}" for job in those if job.status not in ENDS]
        running = [f"the container {machine.name} runs" for job in those for machine in list(job.machines) if machine.is_running()]
        return [*going_on, *running, *(f"the secret {name}" for name in list(self.keys.secrets) if run_id in name)]

    def clear(self, run_id: str) -> None:
        """End everything of this run, and forget its secrets."""
        for job in self._of(run_id):
            job.cancelled.set()
        self.kill(run_id)
        for name in [name for name in self.keys.secrets if run_id in name]:
            self.keys.secrets.pop(name, None)

    def _of(self, run_id: str) -> list[Job]:
        return [job for job in list(self.jobs.values()) if (job.properties.get("tags") or {}).get("cloud-train-run") == run_id]

    # What the server asks.

    def operation_of(self, request: Request) -> str:
        """The operation's name; the path if there is none such."""
        route = _route_of(request)
        return route[0] if route else f"{request.method} {request.path}"

    def handle(self, request: Request) -> Answer:
        """Carry the request out."""
        route = _route_of(request)
        if route is None:
            return self._nothing_there(request)
        operation, names = route
        refused = self._refused(request, operation)
        if refused is not None:
            return refused
        functions: dict[str, Callable[..., Answer]] = {
            "token": self.keys.token,
            "metadata/events": lambda request: Answer.json({"DocumentIncarnation": 1, "Events": self.events}),
            "metadata/name": lambda request: Answer(200, {"Content-Type": "text/plain"}, VM.encode()),
            "environments/write": self._put_environment,
            "jobs/write": self._put_job,
            "jobs/read": self._get_job,
            "jobs/list": self._list_jobs,
            "jobs/cancel": self._cancel_job,
            "workspaces/read": self._get_workspace,
            "computes/read": self._get_compute,
            "permissions/list": self._list_permissions,
            "sizes/list": self._list_sizes,
            "usages/list": self._list_usages,
            "history/details": self._get_details,
            "logs/read": self._get_log,
            "secrets/set": self.keys.set_secret,
            "secrets/get": self.keys.get_secret,
            "secrets/delete": self.keys.delete_secret,
            "secrets/list": self.keys.list_secrets,
            "registry/exchange": self.keys.exchange,
            "registry/token": self.keys.registry_token,
        }
        with self._lock:
            return functions[operation](request, **names)

    def error(self, request: Request, kind: Fault) -> Answer:
        """The words of Azure for one of ``faults.REFUSALS``."""
        if kind is Fault.THROTTLE:
            return error_answer(429, "TooManyRequests", "The request was throttled; try again later.", {"Retry-After": "1"})
        if kind is Fault.EXPIRED_TOKEN:
            challenge = {"WWW-Authenticate": 'Bearer authorization_uri="https://login.windows.net/", error="invalid_token"'}
            return error_answer(
                401, "ExpiredAuthenticationToken", "The access token expiry UTC time is earlier than current UTC time.", challenge
            )
        return error_answer(500, "InternalServerError", "An internal server error occurred.")

    def _refused(self, request: Request, operation: str) -> Answer | None:
        """What is wrong with version, token or permission."""
        arm = request.path.startswith("/subscriptions/")
        if arm and "/Microsoft.Authorization/" not in request.path and request.query.get("api-version") != API_VERSION:
            return error_answer(400, "InvalidApiVersionParameter", f"The api-version {request.query.get('api-version')!r} is invalid.")
        vault = {VAULT} if request.path.startswith("/secrets") else set[str]()
        audiences = self.managers if arm or request.path.startswith("/history/") else vault
        token = request.headers.get("authorization", "").removeprefix("Bearer ")
        if audiences and audience_of(token) not in audiences:
            return error_answer(401, "InvalidAuthenticationToken", f"The access token is not for {', '.join(sorted(audiences))}.")
        action = _ACTIONS.get(operation, "")
        if action in self.denied:
            who = f"The client 'me@example.org' with object id '{uuid.UUID(int=1)}'"
            message = f"{who} does not have authorization to perform action '{action}' over scope '{request.path}' or the scope is invalid."
            return error_answer(403, "AuthorizationFailed", message)
        return None

    def _nothing_there(self, request: Request) -> Answer:
        if request.path.startswith("/subscriptions/") and not request.path.startswith(f"/subscriptions/{SUBSCRIPTION}"):
            return error_answer(404, "SubscriptionNotFound", f"The subscription '{request.path.split('/')[2]}' could not be found.")
        if request.path.startswith("/subscriptions/") and f"/resourceGroups/{GROUP}/" not in request.path:
            return error_answer(404, "ResourceGroupNotFound", "Resource group could not be found.")
        if request.path.startswith("/subscriptions/") and not request.path.startswith(PATH):
            return error_answer(404, "ResourceNotFound", f"The Resource '{_ML}' under resource group '{GROUP}' was not found.")
        return error_answer(404, "NotFound", f"nothing is at {request.method} {request.path}")

    # The workspace.

    def _get_workspace(self, _request: Request) -> Answer:
        return Answer.json(
            {
                "id": PATH,
                "name": WORKSPACE,
                "type": _ML,
                "location": LOCATION,
                "identity": _identity(),
                "properties": self.workspace_properties,
            }
        )

    def _get_compute(self, _request: Request, name: str) -> Answer:
        if name != CLUSTER:
            return error_answer(404, "UserError", f"ComputeNotFound: the compute {name} is not in the workspace {WORKSPACE}.")
        scale = {"minNodeCount": 0, "maxNodeCount": self.cluster_nodes, "nodeIdleTimeBeforeScaleDown": "PT2M"}
        size = {"vmSize": "STANDARD_F4S_V2", "vmPriority": self.vm_priority, "scaleSettings": scale}
        cluster = {"computeType": "AmlCompute", "properties": size}
        return Answer.json(
            {"id": f"{PATH}/computes/{name}", "name": name, "location": LOCATION, "identity": _identity(), "properties": cluster}
        )

    def _list_permissions(self, _request: Request) -> Answer:
        return Answer.json({"value": [{"actions": [f"{_ML}/*"], "notActions": sorted(self.denied)}]})

    def _list_sizes(self, _request: Request, location: str) -> Answer:
        sizes = [{"name": each.name, "family": _family(each.name), "vCPUs": each.cpus} for each in machine_table("azure")]
        return Answer.json({"value": sizes if location == LOCATION else []})

    def _list_usages(self, _request: Request, location: str) -> Answer:
        """As in examples/Usage/list.json of azure-rest-api-specs: families, regional totals, and the same again for a workspace."""
        kind = "Microsoft.MachineLearningServices"
        lines = [("Total Cluster Dedicated Regional vCPUs", f"{kind}/dedicatedCores/usages", self.regional_cores)]
        lines.append(("Total Cluster LowPriority Regional vCPUs", f"{kind}/lowPriorityCores/usages", self.low_priority_cores))
        for family in sorted({_family(each.name) for each in machine_table("azure")}):
            name = re.sub("^standard", "Standard ", family).replace("Family", " Family")
            lines.append((f"{name} Cluster Dedicated vCPUs", f"{kind}/vmFamily/usages", self.cores))
            lines.append((f"{name} Cluster LowPriority vCPUs", f"{kind}/vmFamily/usages", -1))
            lines.append((f"{name} Cluster Dedicated vCPUs", f"{kind}/workspaces/usages", 0))
        usages = [
            {"name": {"value": name, "localizedValue": name}, "type": of, "limit": limit, "currentValue": 0} for name, of, limit in lines
        ]
        return Answer.json({"value": usages if location == LOCATION else []})

    def _put_environment(self, request: Request, name: str, version: str) -> Answer:
        body = request.json()
        problem = next(problems_of(body, REQUESTS, "EnvironmentVersion"), None)
        if problem is not None:
            return error_answer(400, "ValidationError", problem)
        key = f"{name}/versions/{version}"
        before = self.environments.setdefault(key, body)
        if before != body:
            return error_answer(400, "UserError", f"The environment {name}:{version} exists, and its image cannot be changed.")
        answer = {"id": f"{PATH}/environments/{key}", "name": version, "type": f"{_ML}/environments/versions", **body}
        return checked(answer, "EnvironmentVersion", 201 if before is body else 200)

    # Jobs.

    def _put_job(self, request: Request, id: str) -> Answer:
        body = request.json()
        problem = next(problems_of(body, REQUESTS, "JobBase"), None) or self._job_problem(id, body)
        if problem is not None:
            return error_answer(400, "ValidationError", problem)
        properties = body["properties"]
        job = self.jobs.get(id)
        if job is not None:
            changed = [name for name in {*properties, *job.properties} - set(_MUTABLE) if properties.get(name) != job.properties.get(name)]
            if changed:
                message = f"A job with this name already exists. The existing job's {', '.join(sorted(changed))} cannot be changed."
                return error_answer(400, "UserError", message)
            job.properties |= {name: properties[name] for name in _MUTABLE if name in properties}
            return checked(self._shown(job), "JobBase", 200)
        job = self.jobs[id] = Job(id, properties, self.clock.now())
        self.faults.created("jobs", id)
        if self._runner is not None:
            environment = self.environments[properties["environmentId"].partition("/environments/")[2]]
            self._runner.start(job, lambda: str(environment["properties"]["image"]))
        return checked(self._shown(job), "JobBase", 201)

    def _job_problem(self, id: str, body: Mapping[str, Any]) -> str | None:
        """What Azure ML finds in a job beyond its shape."""
        job = body["properties"]
        kind = (job.get("resources") or {}).get("instanceType")
        identity = (job.get("identity") or {}).get("clientId", CLIENT_ID)
        compute = job.get("computeId")
        rules = {
            f"The job id {id} is invalid.": _ID.fullmatch(id),
            f"The environment {job['environmentId']} is not found.": job["environmentId"].partition(f"{PATH}/environments/")[2]
            in self.environments,
            f"The specified VM size '{kind}' (instanceType) is not supported.": compute or _is_machine(kind),
            f"The compute {compute} is not found.": compute in (None, f"{PATH}/computes/{CLUSTER}"),
            f"The identity {identity} is not assigned to the compute.": identity == CLIENT_ID,
            "queueSettings are for serverless machines only.": not (compute and "queueSettings" in job),
        }
        return next((problem for problem, holds in rules.items() if not holds), None)

    def _shown(self, job: Job) -> dict[str, Any]:
        system = {"createdAt": timestamp(job.created), "createdBy": "me", "createdByType": "User"}
        unset = dict.fromkeys(_UNSET)
        page = f"https://ml.azure.com/runs/{job.id}?wsid={STUDIO_SCOPE}&tid={TENANT}" if self.studio_url is ... else self.studio_url
        studio = {**dict.fromkeys(_OF_SERVICE), "jobServiceType": "Studio", "endpoint": page}
        properties = {**unset, "parameters": {}, **job.properties, "status": job.status, "services": {"Studio": studio}}
        return {"id": f"{PATH}/jobs/{job.id}", "name": job.id, "type": f"{_ML}/jobs", "properties": properties, "systemData": system}

    def _get_job(self, _request: Request, id: str) -> Answer:
        if not self.faults.shown("jobs", [id] if id in self.jobs else []):
            return error_answer(404, "UserError", f"Not found: the run {id} does not exist in the workspace.")
        return checked(self._shown(self.jobs[id]), "JobBase", 200)

    def _list_jobs(self, request: Request) -> Answer:
        """The newest first, ``page_size`` on a page."""
        tag, start = request.query.get("tag"), int(request.query.get("$skip", "0"))
        those = [job for job in reversed(self.jobs.values()) if tag is None or tag in job.properties.get("tags", {})]
        names = self.faults.shown("jobs", [job.id for job in those])
        page = {"value": [self._shown(self.jobs[name]) for name in names[start : start + self.page_size]]}
        for each in page["value"]:
            checked(each, "JobBase", 200)
        if start + self.page_size < len(names):
            following = urlencode({**request.query, "$skip": str(start + self.page_size)})
            return Answer.json({**page, "nextLink": f"{self.url}{request.path}?{following}"})
        return Answer.json(page)

    def _cancel_job(self, _request: Request, id: str) -> Answer:
        job = self.jobs.get(id)
        if job is None:
            return error_answer(404, "UserError", f"Not found: the run {id} does not exist in the workspace.")
        if job.status in ENDS:
            return error_answer(400, "UserError", f"The run {id} has ended ({job.status}) and cannot be canceled.")
        job.cancelled.set()
        if self._runner is None:
            job.status = "CancelRequested"
        return Answer(202, {"Location": f"{self.url}{PATH}/jobs/{id}"})

    # The run history.

    def _get_details(self, _request: Request, id: str) -> Answer:
        job = self.jobs.get(id)
        if job is None:
            return error_answer(404, "UserError", f"Not found: the run {id} does not exist.")
        files = {name: f"{self.url}/logs/{id}/{name}?sig=signed" for name in job.printed()}
        error = {"error": job.error, "correlation": {}, "environment": LOCATION, "location": LOCATION} if job.error else None
        details = {"runId": id, "status": job.status, "tags": job.properties.get("tags", {}), "logFiles": files}
        return checked({**details, **({"error": error} if error else {})}, "RunDetails", 200)

    def _get_log(self, request: Request, id: str, file: str) -> Answer:
        """A part of a log, as a blob store gives it; what was printed within ``Pace.log_lag`` is not there yet."""
        if request.query.get("sig") != "signed" or "authorization" in request.headers:
            return Answer(403, {}, b"<Error><Code>AuthenticationFailed</Code></Error>")
        content = self.jobs[id].printed()[file]
        lengths = self._lengths.setdefault(f"{id}/{file}", [])
        lengths.append((self.clock.now(), len(content)))
        content = content[: max((size for when, size in lengths if when <= self.clock.now() - self.pace.log_lag), default=0)]
        span = re.fullmatch(r"bytes=(\d+)-(\d+)", request.headers.get("range", ""))
        if span is None:
            return Answer(200, {}, content)
        start, end = int(span[1]), int(span[2])
        if start >= len(content):
            return Answer(416, {"Content-Range": f"bytes */{len(content)}"})
        return Answer(206, {"Content-Range": f"bytes {start}-{min(end, len(content) - 1)}/{len(content)}"}, content[start : end + 1])

    def _platform_environment(self, job: Job) -> dict[str, str]:
        return {
            "AZUREML_RUN_ID": job.id,
            "AZUREML_ARM_SUBSCRIPTION": SUBSCRIPTION,
            "AZUREML_ARM_RESOURCEGROUP": GROUP,
            "AZUREML_ARM_WORKSPACE_NAME": WORKSPACE,
            "AZUREML_EXPERIMENT_NAME": job.properties.get("experimentName", "Default"),
            "MSI_ENDPOINT": f"{self.url}/msi/token",
            "MSI_SECRET": IDENTITY_SECRET,
            "DEFAULT_IDENTITY_CLIENT_ID": CLIENT_ID,
            AZURE_ADDRESS: self.url.partition("://")[2],
            **self.machine_environment,
        }


def _route_of(request: Request) -> tuple[str, dict[str, str]] | None:
    for method, pattern, operation in _ROUTES:
        if method == request.method and (match := re.fullmatch(pattern, request.path)):
            return operation, match.groupdict()
    return None


def _identity() -> dict[str, Any]:
    resource = (
        f"/subscriptions/{SUBSCRIPTION}/resourceGroups/{GROUP}/providers/Microsoft.ManagedIdentity/userAssignedIdentities/cloud-train"
    )
    return {"type": "UserAssigned", "userAssignedIdentities": {resource: {"clientId": CLIENT_ID, "principalId": str(uuid.UUID(int=2))}}}


def _is_machine(kind: str | None) -> bool:
    return kind is not None and kind.casefold() in {machine.name.casefold() for machine in machine_table("azure")}


def _family(machine: str) -> str:
    return f"standard{re.sub('[0-9]', '', machine.removeprefix('Standard_'))}Family"

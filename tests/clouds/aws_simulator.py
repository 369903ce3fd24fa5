"""AWS on one machine: SageMaker's training jobs as a simulator, S3, ECR, CloudWatch Logs, Secrets Manager, STS and IAM as moto.

::

    with aws_cloud(machines) as cloud:
        for name, value in cloud.environment.items():
            monkeypatch.setenv(name, value)
        ...  # a config file with `aws: {**cloud.settings}`, the store cloud.new_store()
        cloud.simulator.interrupt(job)

All questions but those to S3 come to one server, which answers for SageMaker and passes the rest on to moto: its log and its faults are
for all of them. Without ``machines`` jobs have imaginary ones, ``simulator.machines(job)``, which do what a test says, and nothing moves
between two questions.
"""

import json
import threading
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from http.client import HTTPConnection
from typing import Any
from urllib.parse import urlencode, urlsplit

from cloud_train.providers.cloud.machines import machines as machine_table
from tests.clouds import aws_protocol as protocol
from tests.clouds import kit
from tests.clouds.aws_job import Imaginary, Timing, TrainingJob
from tests.clouds.aws_platform import ACCOUNT, REGION, Platform
from tests.clouds.clock import Clock, RealClock
from tests.clouds.faults import Fault, Faults
from tests.clouds.machine import Machines
from tests.clouds.server import Answer, Request, Server
from tests.stores import StoreServer

ROLE = f"arn:aws:iam::{ACCOUNT}:role/cloud-train-machines"
SERVICES = ("SAGEMAKER", "ECR", "CLOUDWATCH_LOGS", "SECRETS_MANAGER", "STS", "IAM", "SERVICE_QUOTAS")
"""As the SDK spells them in AWS_ENDPOINT_URL_…."""

_PACE_SECONDS = 0.05
_QUOTA = 10_000
_TRUST = {"Statement": [{"Effect": "Allow", "Principal": {"Service": "sagemaker.amazonaws.com"}, "Action": "sts:AssumeRole"}]}
_SUMMARY = (
    "TrainingJobName",
    "TrainingJobArn",
    "CreationTime",
    "TrainingEndTime",
    "LastModifiedTime",
    "TrainingJobStatus",
    "SecondaryStatus",
)
_NOT_FOUND = "Requested resource not found."


class SageMaker:
    """The simulator: SageMaker's operations on training jobs, and Service Quotas; other services are moto's. A job is known by its name."""

    def __init__(self, moto: StoreServer, machines: Machines | None, clock: Clock, timing: Timing, faults: Faults) -> None:
        self.quotas: dict[str, int] = {}
        """Machine (``ml.g5.xlarge``, or ``ml.g5.xlarge spot``) → how many an account may have; those not named: ``_QUOTA``."""
        self.denied: set[str] = set()
        """Permissions that whoever asks lacks, such as ``sagemaker:CreateTrainingJob``."""
        self.refusal: str | None = None
        """A text with which the service refuses every new job."""
        self.repeats_pages = False
        """Whether a listing's next page is always the same one."""
        self._moto, self._clock, self._timing, self._faults = moto, clock, timing, faults
        self._platform = Platform(moto, machines)
        self._jobs: dict[tuple[str, str], TrainingJob] = {}
        self._lock = threading.Lock()
        self._closing = threading.Event()
        self._threads: list[threading.Thread] = []
        self._mistakes: list[BaseException] = []
        self._roles: set[str] = set()
        self._iam = self._platform.client("iam")
        self._make_role()

    def close(self) -> None:
        """End the threads of its jobs; raises what a job made of a mistake of the simulator's own."""
        self._closing.set()
        for thread in self._threads:
            thread.join()
        self._platform.close()
        if self._mistakes:
            raise AssertionError("a job of the simulator came to grief") from self._mistakes[0]

    def forget_orders(self) -> None:
        """Quotas, permissions and pages are as at the beginning."""
        self.quotas.clear()
        self.denied.clear()
        self.refusal = None
        self.repeats_pages = False

    def job(self, name: str, region: str = REGION) -> TrainingJob:
        """A job by its name."""
        with self._lock:
            return self._jobs[region, name]

    def jobs(self, run_id: str) -> list[str]:
        """The names of the jobs of a run."""
        with self._lock:
            return [name for _, name in self._jobs if name.startswith(run_id)]

    def machines(self, name: str) -> list[Imaginary]:
        """The imaginary machines that a job has now."""
        job = self.job(name)
        job.step()
        return [machine for machine in job.machines if isinstance(machine, Imaginary)]

    def create(self, request: dict[str, Any], region: str = REGION) -> None:
        """A job that is there already."""
        self._create(region, request)

    def interrupt(self, name: str, notice_seconds: float = 0.0) -> None:
        """Take a job's spot machines back, so many seconds after SIGTERM."""
        self.job(name).interrupt(notice_seconds)

    def lose(self, name: str) -> None:
        """A power cut for a job's machines."""
        self.job(name).lose()

    def clear(self, run_id: str) -> None:
        """End the jobs of a run at once."""
        for name in self.jobs(run_id):
            self.job(name).discard()

    def client(self, service: str) -> Any:
        """A client of a service of moto's, for a test that looks behind the scenes."""
        return self._platform.client(service)

    def operation_of(self, request: Request) -> str:
        return protocol.target_of(request)[1]

    def error(self, request: Request, kind: Fault) -> Answer:
        status, code, message = protocol.FAULTS[kind]
        return protocol.refusal(request, protocol.RefusedError(code, message, status))

    def handle(self, request: Request) -> Answer:
        service, operation = protocol.target_of(request)
        try:
            self._refuse_denied(operation)
            if service == "ServiceQuotasV20190624":
                return protocol.answer(self._list_quotas(request.json()))
            if service != "SageMaker":
                return self._passed_on(request)
            region, document = protocol.region_of(request), request.json() or {}
            protocol.validate_question(operation, document)
            said = self._answer(operation, region, document)
        except protocol.RefusedError as error:
            return protocol.refusal(request, error)
        protocol.validate_answer(operation, said)
        return protocol.answer(said)

    def _answer(self, operation: str, region: str, document: dict[str, Any]) -> dict[str, Any]:
        match operation:
            case "CreateTrainingJob":
                return self._create(region, document)
            case "DescribeTrainingJob":
                return self._describe(self._visible(region, document))
            case "ListTrainingJobs":
                return self._list(region, document)
            case "StopTrainingJob":
                job = self._visible(region, document)
                if not job.stop():
                    status = job.snapshot()["TrainingJobStatus"]
                    message = f"The request was rejected because the training job is in status {status}."
                    raise protocol.RefusedError("ValidationException", message)
                job.step()
                return {}
        raise protocol.RefusedError("UnknownOperationException", f"{operation} is not simulated")

    def _create(self, region: str, document: dict[str, Any]) -> dict[str, Any]:
        name = document["TrainingJobName"]
        arn = f"arn:aws:sagemaker:{region}:{ACCOUNT}:training-job/{name}"
        if self.refusal is not None:
            raise protocol.RefusedError("ValidationException", self.refusal)
        self._refuse_role(document["RoleArn"])
        self._refuse_limits(document)
        with self._lock:
            if (region, name) in self._jobs:
                message = (
                    "Training job names must be unique within an AWS account and region, and a training job with this name already exists"
                )
                raise protocol.RefusedError("ResourceInUse", f"{message} ({arn})")
            self._refuse_quota(document)
            job = TrainingJob(document, arn, self._platform, clock=self._clock, timing=self._timing, faults=self._faults)
            self._jobs[region, name] = job
        self._faults.created("jobs", name)
        if not self._platform.is_imaginary:
            thread = threading.Thread(target=self._carry_out, args=(job,), name=name)
            self._threads.append(thread)
            thread.start()
        return {"TrainingJobArn": arn}

    def _describe(self, job: TrainingJob) -> dict[str, Any]:
        asked = {name: value for name, value in job.request.items() if name != "Tags"}
        model = f"{job.request['OutputDataConfig']['S3OutputPath']}/{job.name}/output/model.tar.gz"
        return {**asked, "ModelArtifacts": {"S3ModelArtifacts": model}, **job.snapshot()}

    def _list(self, region: str, document: dict[str, Any]) -> dict[str, Any]:
        with self._lock:
            jobs = {name: job for (where, name), job in self._jobs.items() if where == region}
        said = []
        for name in self._faults.shown("jobs", jobs):
            self._step(jobs[name])
            summary = {key: value for key, value in jobs[name].snapshot().items() if key in _SUMMARY}
            if _is_wanted(summary, document):
                said.append(summary)
        said.sort(key=lambda each: (each["CreationTime"], each["TrainingJobName"]), reverse=document.get("SortOrder") == "Descending")
        first, size = int(document.get("NextToken") or 0), document.get("MaxResults", 10)
        page: dict[str, Any] = {"TrainingJobSummaries": said[first : first + size]}
        if first + size < len(said):
            page["NextToken"] = str(size if self.repeats_pages else first + size)
        return page

    def _visible(self, region: str, document: dict[str, Any]) -> TrainingJob:
        name = document["TrainingJobName"]
        with self._lock:
            job = self._jobs.get((region, name))
        if job is None or not self._faults.shown("jobs", [name]):
            raise protocol.RefusedError("ValidationException", _NOT_FOUND)
        self._step(job)
        return job

    def _step(self, job: TrainingJob) -> None:
        if self._platform.is_imaginary:  # otherwise its own thread does, which may be pulling an image now
            job.step()

    def _carry_out(self, job: TrainingJob) -> None:
        try:
            while not job.has_ended and not self._closing.is_set():
                job.step()
                self._closing.wait(_PACE_SECONDS)
        except BaseException as error:  # noqa: BLE001 -- a thread has nobody to tell; ``close`` raises it
            self._mistakes.append(error)

    def _refuse_denied(self, operation: str) -> None:
        for permission in self.denied:
            if permission.rpartition(":")[2] == operation:
                who = f"User: arn:aws:iam::{ACCOUNT}:user/me is not authorized to perform: {permission} on resource: *"
                why = f"because no identity-based policy allows the {permission} action"
                raise protocol.RefusedError("AccessDeniedException", f"{who} {why}")

    def _refuse_role(self, arn: str) -> None:
        if arn in self._roles:
            return
        try:
            self._iam.get_role(RoleName=arn.rpartition("/")[2])
        except self._iam.exceptions.NoSuchEntityException as error:
            rule = "Please ensure that the role exists and allows principal 'sagemaker.amazonaws.com' to assume the role."
            raise protocol.RefusedError("ValidationException", f"Could not assume role {arn}. {rule}") from error
        self._roles.add(arn)

    def _refuse_limits(self, document: Mapping[str, Any]) -> None:
        limits, is_spot = document["StoppingCondition"], document.get("EnableManagedSpotTraining", False)
        longest, wait = limits.get("MaxRuntimeInSeconds", 86400), limits.get("MaxWaitTimeInSeconds")
        if is_spot and (wait is None or wait < longest):
            message = "Invalid MaxWaitTimeInSeconds. It must be present and be greater than or equal to MaxRuntimeInSeconds"
            raise protocol.RefusedError("ValidationException", message)
        if longest > 28 * 86400:
            raise protocol.RefusedError("ValidationException", "MaxRuntimeInSeconds exceeds the maximum of 2419200")

    def _refuse_quota(self, document: Mapping[str, Any]) -> None:
        kind, spot = document["ResourceConfig"]["InstanceType"], document.get("EnableManagedSpotTraining", False)
        limit = self.quotas.get(f"{kind} spot" if spot else kind, _QUOTA)
        used = sum(job.nodes for job in self._jobs.values() if not job.has_ended and (job.kind, job.is_spot) == (kind, spot))
        wanted = document["ResourceConfig"]["InstanceCount"]
        if used + wanted > limit:
            what = f"{kind} for {'spot ' if spot else ''}training job usage"
            raise protocol.RefusedError(
                "ResourceLimitExceeded",
                f"The account-level service limit '{what}' is {limit} Instances, with current utilization of {used} Instances and a request"
                f" delta of {wanted} Instances. Please use AWS Service Quotas to request an increase for this quota.",
            )

    def _list_quotas(self, document: Mapping[str, Any]) -> dict[str, Any]:
        """All quotas, in pages: of each machine on demand and as spot."""
        names = [(machine.name, spot) for machine in machine_table("aws") for spot in (False, True)]
        quotas = [
            {
                "ServiceCode": "sagemaker",
                "QuotaName": f"{name} for {'spot ' if spot else ''}training job usage",
                "Value": float(self.quotas.get(f"{name} spot" if spot else name, _QUOTA)),
            }
            for name, spot in names
        ]
        first, size = int(document.get("NextToken") or 0), document.get("MaxResults", 100)
        more = {"NextToken": str(first + size)} if first + size < len(quotas) else {}
        return {"Quotas": quotas[first : first + size], **more}

    def _passed_on(self, request: Request) -> Answer:
        connection = HTTPConnection(urlsplit(self._moto.endpoint).netloc, timeout=60)
        try:
            target = f"{request.path}?{urlencode(request.query)}" if request.query else request.path
            connection.request(request.method, target, request.body, dict(request.headers))
            response = connection.getresponse()
            headers = {name: value for name, value in response.getheaders() if name.lower() not in ("content-length", "connection", "date")}
            return Answer(response.status, headers, response.read())
        finally:
            connection.close()

    def _make_role(self) -> None:
        try:
            self._iam.create_role(RoleName=ROLE.rpartition("/")[2], AssumeRolePolicyDocument=json.dumps(_TRUST))
        except self._iam.exceptions.EntityAlreadyExistsException:
            return  # moto is shared by the tests of this process


def _is_wanted(summary: Mapping[str, Any], document: Mapping[str, Any]) -> bool:
    return (
        document.get("NameContains", "") in summary["TrainingJobName"]
        and document.get("StatusEquals", summary["TrainingJobStatus"]) == summary["TrainingJobStatus"]
        and document.get("CreationTimeAfter", 0) <= summary["CreationTime"] <= document.get("CreationTimeBefore", float("inf"))
    )


@dataclass(frozen=True)
class AwsCloud:
    """AWS as it runs for a test."""

    simulator: SageMaker
    server: Server
    store: StoreServer
    """moto."""
    repository: str

    @property
    def environment(self) -> dict[str, str]:
        """The variables with which the AWS SDK finds all of it, and credentials for it."""
        return {**self.store.environment, **{f"AWS_ENDPOINT_URL_{name}": self.server.url for name in SERVICES}}

    @property
    def settings(self) -> dict[str, Any]:
        """The key ``aws`` of the config file."""
        return {"region": REGION, "role": ROLE, "repository": self.repository}

    def leftovers(self, run_id: str) -> list[str]:
        """What costs money of a run, in words."""
        jobs = [f"training job {name}" for name in self.simulator.jobs(run_id) if not self.simulator.job(name).has_ended]
        return jobs + [f"secret {name}" for name in self.secrets() if name.startswith(f"cloud-train/{run_id}")]

    def clear(self, run_id: str) -> None:
        """Take all of that away."""
        self.simulator.clear(run_id)
        for name in self.secrets():
            if name.startswith(f"cloud-train/{run_id}"):
                self.simulator.client("secretsmanager").delete_secret(SecretId=name, ForceDeleteWithoutRecovery=True)

    def new_store(self) -> str:
        """The URL of a store in a bucket that was made for this call."""
        return f"{self.store.new_url()}/runs"

    def secrets(self) -> dict[str, str]:
        """What lies in Secrets Manager: name → value."""
        client = self.simulator.client("secretsmanager")
        names = [each["Name"] for page in client.get_paginator("list_secrets").paginate() for each in page["SecretList"]]
        return {name: client.get_secret_value(SecretId=name)["SecretString"] for name in names}


@contextmanager
def aws_cloud(
    machines: Machines | None = None,
    repository: str = "127.0.0.1:1/cloud-train",
    clock: Clock | None = None,
    timing: Timing | None = None,
) -> Iterator[AwsCloud]:
    """AWS, for as long as the context. ``repository`` is that of a registry that knows ``aws_platform.LOGIN``, made by ``kit.registry``."""
    moto, time = kit.store("aws"), clock or RealClock()
    faults = Faults(time)
    simulator = SageMaker(moto, machines, time, timing or Timing(), faults)
    with Server(simulator, faults=faults, clock=time) as server:
        try:
            yield AwsCloud(simulator, server, moto, repository)
        finally:
            simulator.close()

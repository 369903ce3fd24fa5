"""The ``aws`` provider: the worker as the container of a SageMaker training job.

A training job's name prevents a second launch: an account never has two jobs of the same name in a region. The job's description contains
everything needed to find it again. SageMaker keeps jobs forever, at no cost; only a job's secret has to be deleted.
"""

from collections.abc import Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, nullcontext
from pathlib import Path
from typing import TYPE_CHECKING, Any

from cloud_train.errors import ProviderError
from cloud_train.providers.aws import jobs
from cloud_train.providers.aws.client import ANSWER_SECONDS, POLICY, Aws, login
from cloud_train.providers.aws.diagnosis import diagnose, diagnose_job
from cloud_train.providers.aws.request import console_url, is_ours, problems_of, region_of, request_of, secret_of, with_secret
from cloud_train.providers.aws.state import needs_more, observation_of
from cloud_train.providers.base import Diagnosis, Handle, Observation, Request, ended, unknown
from cloud_train.providers.cloud.provider import CloudProvider, cloud_capabilities, is_young
from cloud_train.providers.cloud.request import job_name
from cloud_train.retry import RetryPolicy
from cloud_train.run.states import Cause, State

if TYPE_CHECKING:
    from cloud_train.run.plan import Plan

_HAS_A_WORKER = frozenset({"Training", "Uploading", "Stopping"})


class SageMakerProvider(CloudProvider[Aws]):
    """Runs in SageMaker training jobs. It keeps nothing under ``home``, because the jobs' names are enough."""

    name = "aws"
    capabilities = cloud_capabilities(("s3",), max_nodes=16, starts_as_root=True)

    def __init__(self, home: Path, policy: RetryPolicy = POLICY, answer_seconds: float = ANSWER_SECONDS) -> None:
        """``policy`` is the retry policy; ``answer_seconds`` is the read timeout."""
        self._aws = Aws(policy, answer_seconds)

    def render(self, plan: "Plan") -> Request:
        """The body of CreateTrainingJob, and the values needed to send it. The settings are ``cloud_train.job.settings.AwsSettings``."""
        return request_of(plan)

    def check(self, request: Request) -> list[str]:
        """Problems according to SageMaker's API model and documentation. AWS is not contacted."""
        return list(problems_of(request))

    def remarks(self, plan: "Plan") -> Iterator[str]:
        """Accelerators that are not used, and a machine that SageMaker would start in vain."""
        yield from super().remarks(plan)
        if plan.job.resources.spot and not plan.program.retries(Cause.PREEMPTED, 1):
            yield (
                "resources.spot without a retry: if the machine is reclaimed, SageMaker starts and bills another one, on which the worker"
                " exits at once; set retry.attempts to 2 or more, so that the run continues there from its newest checkpoint"
            )

    def launch(self, request: Request, secrets: dict[str, str]) -> Handle:
        """Store the secrets in AWS Secrets Manager, if any, and create the training job; a failed launch leaves neither behind."""
        return super().launch(with_secret(request) if secrets else {**request, "secret": None}, secrets)

    def find(self, run_id: str, attempt: int, store: str, settings: Mapping[str, Any]) -> Handle | None:
        """The attempt's job, by its name, in the configured region; with retries, because a new job may take a moment to show up."""
        region, job = region_of(settings), job_name(run_id, attempt)
        if region is None:
            raise ProviderError("aws.region: not set, so the training job cannot be found", hint="set it in the config file")
        found = jobs.looked_for(self._aws, region, job)
        if found is None or not is_ours(found, store):
            return None
        reference = {"job": job, "region": region, "secret": secret_of(found), "launched": 0.0, "arn": found["TrainingJobArn"]}
        return Handle(run_id, attempt, self.name, store, reference)

    def cancel(self, handle: Handle, force: bool = False) -> None:
        """Stop the job through SageMaker: SIGTERM, and SIGKILL 120 seconds later, with or without ``force``."""
        jobs.stop(self._aws, handle.reference["region"], handle.reference["job"])

    def clean_up(self, handle: Handle) -> None:
        """Delete the job's secret, unless the job still waits for a machine, on which its worker will read the secret."""
        region, secret = handle.reference["region"], handle.reference.get("secret")
        if not secret:
            return
        try:
            found = jobs.described(self._aws, region, handle.reference["job"]) or {}
            waits = found.get("TrainingJobStatus") == "InProgress" and found.get("SecondaryStatus") not in _HAS_A_WORKER
            if not waits:
                jobs.delete_secret(self._aws, region, secret)
        except ProviderError:
            return  # not an error for the caller; the secret remains under the job's name

    def logs(self, handle: Handle, cursor: str | None) -> tuple[bytes, str | None]:
        """The log of node 0's containers in CloudWatch."""
        return jobs.output(self._aws, handle.reference["region"], handle.reference["job"], cursor)

    def registry_login(self, settings: Mapping[str, Any]) -> tuple[str, str] | None:
        """A login for Amazon ECR. If ``create_repository`` is set, the repository is created first, with immutable tags."""
        return login(self._aws, settings)

    def console_url(self, about: Handle | Request) -> str | None:
        """The job's page in SageMaker's console; known before the job exists, because cloud-train chooses its name."""
        where = about.reference if isinstance(about, Handle) else _reference(about)
        return console_url(where["region"], where["job"]) if where["region"] else None

    def diagnose(self, settings: Mapping[str, Any], store: str | None) -> Iterator[Diagnosis]:
        """Check credentials, role, bucket, repository and quota; findings say how to create whatever is missing."""
        return diagnose(self._aws, settings, store)

    def diagnose_job(self, plan: "Plan") -> Iterator[Diagnosis]:
        """Check the quota for the job's machine, on demand or spot, times its nodes."""
        request, resources = self.render(plan), plan.job.resources
        machine, region = request["body"]["ResourceConfig"].get("InstanceType"), request["region"]
        if machine and region:
            yield from diagnose_job(self._aws, region, machine, resources.nodes, is_spot=resources.spot)

    def _client(self, about: Mapping[str, Any]) -> AbstractContextManager[Aws]:
        return nullcontext(self._aws)

    def _put_secrets(self, client: Aws, request: Request, secrets: Mapping[str, str]) -> bool:
        return jobs.put_secret(client, request["region"], request["secret"], secrets)

    def _create(self, client: Aws, request: Request) -> dict[str, Any]:
        arn = jobs.create(client, request["region"], request["body"], request["store"])
        return {**_reference(request), "arn": arn}

    def _withdraw(self, client: Aws, request: Request) -> None:
        self.clean_up(Handle(request["run_id"], request["attempt"], self.name, request["store"], _reference(request)))

    def _delete_secrets(self, client: Aws, about: Mapping[str, Any]) -> None:
        jobs.delete_secret(client, about["region"], about["secret"])

    def _observed(self, handle: Handle) -> Observation:
        found = jobs.described(self._aws, handle.reference["region"], handle.reference["job"])
        return observation_of(found) if found is not None else self._missing(handle)

    def _place(self, handle: Handle) -> str:
        return str(handle.reference["region"])

    def _listed(self, handles: Sequence[Handle]) -> Iterator[tuple[str, Observation]]:
        """From listings of 100 jobs per page."""
        for job in jobs.listed(self._aws, self._place(handles[0]), handles):
            if not needs_more(job):
                yield job["TrainingJobName"], observation_of(job)

    def _missing(self, handle: Handle) -> Observation:
        """The observation of a missing job: it is too new, the credentials belong to another account, or it was deleted."""
        job, region, arn = handle.reference["job"], handle.reference["region"], handle.reference.get("arn")
        if is_young(handle):
            return Observation(State.QUEUED, Cause.UNKNOWN, f"SageMaker does not show the training job {job} yet")
        mine = self._aws.ask("sts", region, "get_caller_identity")["Account"]
        if arn is not None and arn.split(":")[4:5] != [mine]:
            return unknown(f"the training job is {arn}, but these credentials belong to account {mine}")
        return ended(Cause.INFRASTRUCTURE, f"SageMaker in {region} has no training job {job}: it was deleted")


def _reference(request: Request) -> dict[str, Any]:
    return {"job": request["body"]["TrainingJobName"], "region": request["region"], "secret": request["secret"]}

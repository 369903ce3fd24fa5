"""Removes what a session created, and lists what could not be removed, each with the command that removes it."""

import json
import shlex
from collections.abc import Callable, Iterator
from contextlib import suppress
from dataclasses import dataclass
from functools import partial

from cloud_train.client import Run
from cloud_train.errors import CloudTrainError, ConflictError
from cloud_train.providers.aws.client import Aws
from cloud_train.providers.aws.jobs import LOG_GROUP
from cloud_train.providers.cloud.errors import MissingError
from cloud_train.providers.cloud.request import job_name
from cloud_train.run.view import RunView
from tools.cloud_check.answers import Answer
from tools.cloud_check.bench import Bench, PatienceError
from tools.cloud_check.checks.interruptions import creates_job
from tools.cloud_check.registry import pushed_images, remove_image, removing_command


@dataclass(frozen=True)
class Left:
    """Something that is still in the account."""

    what: str
    why: str
    command: str
    """The command that removes it; empty if nothing can."""
    costs: bool = True
    """Whether it costs money."""


@dataclass(frozen=True)
class _Step:
    what: str
    act: Callable[[], str | None]
    """Removes it; returns why it cannot be removed."""
    command: str


def remove_all(bench: Bench, answers: list[Answer], note: Callable[[str], None]) -> list[Left]:
    """Remove the jobs, secrets, logs, objects and images of a session whose answers these are; returns what is left."""
    left: list[Left] = []
    try:
        runs = [(run, run.view) for run in bench.client.each_run(record=True)]
    except (Exception, KeyboardInterrupt) as error:  # noqa: BLE001 -- whatever went wrong, the user has to learn what is left
        why = "interrupted" if isinstance(error, KeyboardInterrupt) else _reason(error)
        again = f"make cloud-check ARGS={shlex.quote(f'--clean-up {bench.folder}')}"
        return [Left("everything that the checks created", why, again)]
    steps = [*_stop_steps(bench, runs), *_end_steps(bench, runs, answers)]
    steps += [_Step(f"the objects at {bench.store_url}", partial(_delete_objects, bench), _object_command(bench))]
    steps += _image_steps(bench, pushed_images(answers))
    for number, step in enumerate(steps):
        note(f"removing {step.what}")
        try:
            reason = step.act()
        except Exception as error:  # noqa: BLE001 -- whatever went wrong, the other steps have to be tried
            reason = _reason(error)
        except KeyboardInterrupt:
            left += [Left(other.what, "interrupted", other.command) for other in steps[number:]]
            break
        if reason is not None:
            left.append(Left(step.what, reason, step.command))
    return [*left, *_records(bench, runs)]


def _reason(error: BaseException) -> str:
    return str(error) if isinstance(error, CloudTrainError | PatienceError) else f"{type(error).__name__}: {error}"


def _stop_steps(bench: Bench, runs: list[tuple[Run, RunView]]) -> Iterator[_Step]:
    for run, view in runs:
        job = job_name(run.id, 1)  # later attempts run in the same job: checks never resume a run
        if not view.state.is_end:
            yield _Step(f"the running job {job}", partial(_stop, run), _stop_command(bench, job))


def _end_steps(bench: Bench, runs: list[tuple[Run, RunView]], answers: list[Answer]) -> Iterator[_Step]:
    for run, _ in runs:
        job = job_name(run.id, 1)
        yield _Step(f"the job {job} and its secrets", partial(_end, bench, run, answers), _stop_command(bench, job))
        if bench.cloud == "aws" and bench.region:
            act = partial(_delete_streams, bench.region, job)
            yield _Step(f"the log streams of {job}", act, _streams_command(bench.region, job))


def _image_steps(bench: Bench, digests: list[str]) -> Iterator[_Step]:
    for digest in digests:
        yield _Step(f"the image {bench.repository}@{digest}", partial(remove_image, bench, digest), removing_command(bench, digest))


def _stop(run: Run) -> None:
    with suppress(ConflictError):  # it has ended meanwhile
        run.cancel(wait=False, force=True)


def _end(bench: Bench, run: Run, answers: list[Answer]) -> str | None:
    """Wait until the cloud has ended the job, and remove what it left at the provider; returns why that is not possible."""
    handle = bench.handle(run)
    if handle is None:
        created = any(creates_job(answer) and run.id in json.dumps([answer.path, answer.body]) for answer in answers)
        return "it was created, but the cloud does not show it; it runs until its time limit" if created else None
    bench.until(lambda: True if bench.provider.observe(handle).state.is_end else None, f"the job of {run.id} ends", 900)
    run.status(record=True)
    bench.provider.clean_up(handle)
    return None


def _delete_objects(bench: Bench) -> None:
    store = bench.store
    for info in list(store.list()):
        store.delete(info.key)


def _delete_streams(region: str, job: str) -> None:
    aws = Aws()
    with suppress(MissingError):  # the first job of the account creates the group
        streams = aws.ask("logs", region, "describe_log_streams", logGroupName=LOG_GROUP, logStreamNamePrefix=f"{job}/")
        for stream in streams.get("logStreams", []):
            aws.ask("logs", region, "delete_log_stream", logGroupName=LOG_GROUP, logStreamName=stream["logStreamName"])


def _records(bench: Bench, runs: list[tuple[Run, RunView]]) -> Iterator[Left]:
    """Records of ended jobs that the services keep, at no cost."""
    why = "the service keeps a record of ended jobs"
    workspace = shlex.join(["-g", str(bench.settings.get("resource_group")), "-w", str(bench.settings.get("workspace"))])
    for run, _ in runs:
        command = f"az ml job archive {workspace} --name {job_name(run.id, 1)}" if bench.cloud == "azure" else ""
        yield Left(f"the record of the job of {run.id}", why, command, costs=False)
    if bench.cloud == "azure" and runs:
        why = "Azure ML deletes no environment; it only names the image"
        yield Left("the environments cloud-train-…", why, f"az ml environment list {workspace}", costs=False)


def _stop_command(bench: Bench, job: str) -> str:
    region = f" --region {bench.region}" if bench.region else ""
    if bench.cloud == "aws":
        return f"aws sagemaker stop-training-job{region} --training-job-name {job}"
    if bench.cloud == "gcp":
        run_id = job.rpartition("-")[0]
        where = f"{region} --project {bench.settings.get('project')}"
        listed = f"gcloud ai custom-jobs list{where} --filter labels.cloud-train-run={run_id} --format 'value(name)'"
        return f"{listed} | xargs -n1 gcloud ai custom-jobs cancel{where}"
    workspace = shlex.join(["-g", str(bench.settings.get("resource_group")), "-w", str(bench.settings.get("workspace"))])
    return f"az ml job cancel {workspace} --name {job}"


def _streams_command(region: str, job: str) -> str:
    flags = f"--region {region} --log-group-name {LOG_GROUP}"
    listed = f"--log-stream-name-prefix {job}/ --query 'logStreams[].[logStreamName]' --output text"
    return f"aws logs describe-log-streams {flags} {listed} | xargs -n1 aws logs delete-log-stream {flags} --log-stream-name"


def _object_command(bench: Bench) -> str:
    url = bench.store_url
    if bench.cloud == "aws":
        return f"aws s3 rm --recursive {url}/"
    if bench.cloud == "gcp":
        return f"gcloud storage rm --recursive {url}/"
    account, container, prefix = url.removeprefix("az://").split("/", 2)
    return f"az storage blob delete-batch --auth-mode login --account-name {account} --source {container} --pattern '{prefix}/*'"

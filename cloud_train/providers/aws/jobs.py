"""SageMaker's training jobs: created once, looked for, listed, stopped; their secrets and logs."""

import json
import re
from collections.abc import Iterator, Mapping, Sequence
from contextlib import suppress
from datetime import UTC, datetime, timedelta
from itertools import takewhile
from typing import Any

from cloud_train.providers.aws.client import Aws
from cloud_train.providers.aws.request import is_ours
from cloud_train.providers.base import AlreadyLaunchedError, Handle
from cloud_train.providers.cloud.errors import ExistsError, MissingError, RefusedError, with_field
from cloud_train.providers.cloud.provider import create_once

LOG_GROUP = "/aws/sagemaker/TrainingJobs"
_PAGE = 100
"""Jobs of one listing, the most that SageMaker returns."""
_MOST_LOG_BYTES = 16 << 20
"""The most of a log that is read at once; the rest is read from the cursor on."""
_DRAWN = re.compile(r"-(\d{6}-\d{6})-[0-9a-z]{4}")
_LONGEST_NAME = 63


def create(aws: Aws, region: str, body: Mapping[str, Any], store: str) -> str | None:
    """Create the job, once; returns its ARN, or None where SageMaker has the job and does not show it yet.

    Raises AlreadyLaunchedError, LaunchUnknownError and CloudError.
    """
    name = f"the training job {body['TrainingJobName']} in {region}"

    def look() -> Mapping[str, Any] | None:
        found = looked_for(aws, region, body["TrainingJobName"])
        if found is not None and not is_ours(found, store):
            raise AlreadyLaunchedError(f"{name} was launched before, for another store")
        return found

    job = create_once(
        lambda: with_field("AWS", "TrainingJobArn", aws.ask_once("sagemaker", region, "create_training_job", **body)),
        look,
        aws.policy,
        job=name,
    )
    return None if job is None else str(job["TrainingJobArn"])


def put_secret(aws: Aws, region: str, name: str, secrets: Mapping[str, str]) -> bool:
    """Store the secrets in AWS Secrets Manager, as one JSON document; returns whether there was nothing of this name before."""
    text = json.dumps(dict(secrets))
    try:
        with_field("AWS", "ARN", aws.ask("secretsmanager", region, "create_secret", Name=name, SecretString=text))
    except ExistsError:
        aws.ask("secretsmanager", region, "put_secret_value", SecretId=name, SecretString=text)
        return False
    return True


def delete_secret(aws: Aws, region: str, name: str) -> None:
    """Delete the secret for good; nothing if there is none."""
    with suppress(MissingError):
        aws.ask("secretsmanager", region, "delete_secret", SecretId=name, ForceDeleteWithoutRecovery=True)


def described(aws: Aws, region: str, job: str) -> dict[str, Any] | None:
    """The job's description; None if SageMaker has no such job."""
    try:
        return with_field("AWS", "TrainingJobStatus", aws.ask("sagemaker", region, "describe_training_job", TrainingJobName=job))
    except MissingError:
        return None


def looked_for(aws: Aws, region: str, job: str) -> dict[str, Any] | None:
    """The description of a job that may be too new to show at the first look."""
    left = aws.policy.attempts_left()
    while (found := described(aws, region, job)) is None:
        if not left.wait():
            return None
    return found


def listed(aws: Aws, region: str, handles: Sequence[Handle]) -> Iterator[Mapping[str, Any]]:
    """Jobs of a region, the newest first, with fewer listings than there are handles; those of the handles are among them."""
    wanted = {str(handle.reference["job"]) for handle in handles}
    more: dict[str, Any] = _narrowed(handles)
    for _ in handles[1:]:
        if len(wanted) < 2:
            return
        query = {"MaxResults": _PAGE, "SortBy": "CreationTime", "SortOrder": "Descending", **more}
        answer = with_field("AWS", "TrainingJobSummaries", aws.ask("sagemaker", region, "list_training_jobs", **query))
        yield from answer["TrainingJobSummaries"]
        wanted -= {job["TrainingJobName"] for job in answer["TrainingJobSummaries"]}
        token = answer.get("NextToken")
        if not token or token == more.get("NextToken"):  # the same page would be returned again
            return
        more["NextToken"] = token


def _narrowed(handles: Sequence[Handle]) -> dict[str, Any]:
    """Filters of a listing: the common prefix of all names, and the time of the oldest run, less a day in case its clock was wrong."""
    narrow: dict[str, Any] = {}
    names = [str(handle.reference["job"]) for handle in handles]
    if begin := "".join(first for first, last in takewhile(lambda pair: pair[0] == pair[1], zip(min(names), max(names), strict=False))):
        narrow["NameContains"] = begin[:_LONGEST_NAME]
    drawn = [match[1] for handle in handles if (match := _DRAWN.search(handle.run_id))]
    if len(drawn) == len(handles):
        narrow["CreationTimeAfter"] = datetime.strptime(min(drawn), "%y%m%d-%H%M%S").replace(tzinfo=UTC) - timedelta(days=1)
    return narrow


def stop(aws: Aws, region: str, job: str) -> None:
    """SIGTERM for its containers, and SIGKILL 120 seconds later; nothing if it has ended, or is stopping."""
    try:
        aws.ask("sagemaker", region, "stop_training_job", TrainingJobName=job)
    except MissingError:
        return
    except RefusedError as error:
        if "is in status" not in error.said:
            raise


def output(aws: Aws, region: str, job: str, cursor: str | None) -> tuple[bytes, str | None]:
    """The output of node 0's containers since ``cursor``, and the next cursor: JSON, the name of each log stream → its next token."""
    tokens: dict[str, str] = json.loads(cursor) if cursor else {}
    said = bytearray()
    with suppress(MissingError):  # before the first job of all there is no log group
        for stream in _streams(aws, region, f"{job}/algo-1-"):
            for text, token in _pages(aws, region, stream, tokens.get(stream)):
                said += text
                tokens[stream] = token
                if len(said) >= _MOST_LOG_BYTES:
                    return bytes(said), json.dumps(tokens, sort_keys=True)
    return bytes(said), json.dumps(tokens, sort_keys=True) if tokens else cursor


def _streams(aws: Aws, region: str, prefix: str) -> Iterator[str]:
    """The log streams with this prefix, in the order in which they began; a replacement machine begins another one."""
    more: dict[str, str] = {}
    asked: set[str | None] = set()  # a page that repeats would repeat for ever
    while more.get("nextToken") not in asked:
        asked.add(more.get("nextToken"))
        query = {"logGroupName": LOG_GROUP, "logStreamNamePrefix": prefix, **more}
        answer = with_field("AWS", "logStreams", aws.ask("logs", region, "describe_log_streams", **query))
        yield from sorted(str(stream["logStreamName"]) for stream in answer["logStreams"])
        if not answer.get("nextToken"):
            return
        more = {"nextToken": answer["nextToken"]}


def _pages(aws: Aws, region: str, stream: str, token: str | None) -> Iterator[tuple[bytes, str]]:
    """The stream from ``token`` on, in pages, each with the token of the next; at the end, the token repeats."""
    asked: set[str | None] = set()
    while token not in asked:  # at the end the token repeats
        asked.add(token)
        query = {"logGroupName": LOG_GROUP, "logStreamName": stream, "startFromHead": True, **({"nextToken": token} if token else {})}
        answer = with_field("AWS", "nextForwardToken", aws.ask("logs", region, "get_log_events", **query))
        token = str(answer["nextForwardToken"])
        yield "".join(f"{event['message']}\n" for event in answer["events"]).encode(), token

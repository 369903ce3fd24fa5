"""SageMaker's training jobs: creating them once, finding, listing and stopping them; their secrets and logs."""

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
"""Jobs per page of a listing: SageMaker's maximum."""
_MOST_LOG_BYTES = 16 << 20
"""The most log to read in one call; the next call continues from the cursor."""
_RUN_TIME = re.compile(r"-(\d{6}-\d{6})-[0-9a-z]{4}")
_LONGEST_NAME = 63


def create(aws: Aws, region: str, body: Mapping[str, Any], store: str) -> str | None:
    """Create the job once; returns its ARN, or None if the job exists but SageMaker does not show it yet.

    Raises AlreadyLaunchedError, LaunchUnknownError and CloudError.
    """
    name = f"the training job {body['TrainingJobName']} in {region}"

    def look() -> Mapping[str, Any] | None:
        found = looked_for(aws, region, body["TrainingJobName"])
        if found is not None and not is_ours(found, store):
            raise AlreadyLaunchedError(f"{name} was already launched, for another store")
        return found

    job = create_once(
        lambda: with_field("AWS", "TrainingJobArn", aws.ask_once("sagemaker", region, "create_training_job", **body)),
        look,
        aws.policy,
        job=name,
    )
    return None if job is None else str(job["TrainingJobArn"])


def put_secret(aws: Aws, region: str, name: str, secrets: Mapping[str, str]) -> bool:
    """Store the secrets in AWS Secrets Manager as one JSON document; returns whether the secret is new."""
    text = json.dumps(dict(secrets))
    try:
        with_field("AWS", "ARN", aws.ask("secretsmanager", region, "create_secret", Name=name, SecretString=text))
    except ExistsError:
        aws.ask("secretsmanager", region, "put_secret_value", SecretId=name, SecretString=text)
        return False
    return True


def delete_secret(aws: Aws, region: str, name: str) -> None:
    """Delete the secret permanently, if it exists."""
    with suppress(MissingError):
        aws.ask("secretsmanager", region, "delete_secret", SecretId=name, ForceDeleteWithoutRecovery=True)


def described(aws: Aws, region: str, job: str) -> dict[str, Any] | None:
    """The job's description; None if SageMaker has no such job."""
    try:
        return with_field("AWS", "TrainingJobStatus", aws.ask("sagemaker", region, "describe_training_job", TrainingJobName=job))
    except MissingError:
        return None


def looked_for(aws: Aws, region: str, job: str) -> dict[str, Any] | None:
    """The job's description, with retries, because a new job may take a moment to show up; None if there is no such job."""
    left = aws.policy.attempts_left()
    while (found := described(aws, region, job)) is None:
        if not left.wait():
            return None
    return found


def listed(aws: Aws, region: str, handles: Sequence[Handle]) -> Iterator[Mapping[str, Any]]:
    """The region's jobs, the newest first, until those of all handles were seen, with fewer requests than there are handles."""
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
        if not token or token == more.get("NextToken"):  # a repeated token would return the same page forever
            return
        more["NextToken"] = token


def _narrowed(handles: Sequence[Handle]) -> dict[str, Any]:
    """Filters for a listing: the common prefix of all names, and the time of the oldest run, minus a day in case its clock was wrong."""
    narrow: dict[str, Any] = {}
    names = [str(handle.reference["job"]) for handle in handles]
    if begin := "".join(first for first, last in takewhile(lambda pair: pair[0] == pair[1], zip(min(names), max(names), strict=False))):
        narrow["NameContains"] = begin[:_LONGEST_NAME]
    times = [match[1] for handle in handles if (match := _RUN_TIME.search(handle.run_id))]
    if len(times) == len(handles):
        narrow["CreationTimeAfter"] = datetime.strptime(min(times), "%y%m%d-%H%M%S").replace(tzinfo=UTC) - timedelta(days=1)
    return narrow


def stop(aws: Aws, region: str, job: str) -> None:
    """Stop the job: SageMaker sends SIGTERM to its containers, and SIGKILL 120 seconds later. An ended or stopping job is left alone."""
    try:
        aws.ask("sagemaker", region, "stop_training_job", TrainingJobName=job)
    except MissingError:
        return
    except RefusedError as error:
        if "is in status" not in error.said:
            raise


def output(aws: Aws, region: str, job: str, cursor: str | None) -> tuple[bytes, str | None]:
    """The output of node 0's containers since ``cursor``, and the next cursor: a JSON object of log stream → next token."""
    tokens: dict[str, str] = json.loads(cursor) if cursor else {}
    said = bytearray()
    with suppress(MissingError):  # the first job in the account creates the log group
        for stream in _streams(aws, region, f"{job}/algo-1-"):
            for text, token in _pages(aws, region, stream, tokens.get(stream)):
                said += text
                tokens[stream] = token
                if len(said) >= _MOST_LOG_BYTES:
                    return bytes(said), json.dumps(tokens, sort_keys=True)
    return bytes(said), json.dumps(tokens, sort_keys=True) if tokens else cursor


def _streams(aws: Aws, region: str, prefix: str) -> Iterator[str]:
    """The log streams with this prefix, oldest first; a replacement machine begins a new stream."""
    more: dict[str, str] = {}
    asked: set[str | None] = set()  # a repeated token would loop forever
    while more.get("nextToken") not in asked:
        asked.add(more.get("nextToken"))
        query = {"logGroupName": LOG_GROUP, "logStreamNamePrefix": prefix, **more}
        answer = with_field("AWS", "logStreams", aws.ask("logs", region, "describe_log_streams", **query))
        yield from sorted(str(stream["logStreamName"]) for stream in answer["logStreams"])
        if not answer.get("nextToken"):
            return
        more = {"nextToken": answer["nextToken"]}


def _pages(aws: Aws, region: str, stream: str, token: str | None) -> Iterator[tuple[bytes, str]]:
    """The pages of the stream from ``token`` on, each with the token of the next page."""
    asked: set[str | None] = set()
    while token not in asked:  # at the end the token repeats
        asked.add(token)
        query = {"logGroupName": LOG_GROUP, "logStreamName": stream, "startFromHead": True, **({"nextToken": token} if token else {})}
        answer = with_field("AWS", "nextForwardToken", aws.ask("logs", region, "get_log_events", **query))
        token = str(answer["nextForwardToken"])
        yield "".join(f"{event['message']}\n" for event in answer["events"]).encode(), token

"""Requests to AWS: the SDK's clients, retries, AWS's errors with a next step, and Amazon ECR's logins and repositories.

Credentials and endpoints come from the AWS SDK's own chain (environment, ``~/.aws``, single sign-on, a machine's role). The SDK's own
retries are off, because only the caller knows whether a request may be repeated.
"""

import base64
import os
import re
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from threading import Lock
from typing import Any
from urllib.parse import urlsplit

from cloud_train.errors import MissingDependencyError, ProviderError
from cloud_train.job.cloud_names import AWS_REGION, EXPECTED, REPOSITORY, has_form
from cloud_train.job.loopback import is_loopback
from cloud_train.providers.aws.request import region_of, registry_of
from cloud_train.providers.cloud.errors import (
    PROXY_HINT,
    ExistsError,
    ForbiddenError,
    MissingError,
    RefusedError,
    ThrottledError,
    UnansweredError,
    UnreachableError,
    retried,
    with_field,
)
from cloud_train.retry import RetryPolicy
from cloud_train.storage.s3_access import CREDENTIAL_PROBLEMS, INSTALL, LOG_IN

_THROTTLES = frozenset(
    {"Throttling", "ThrottlingException", "ThrottledException", "TooManyRequestsException", "RequestLimitExceeded", "RequestThrottled"}
)
_CREDENTIALS = (
    (
        frozenset({"ExpiredToken", "ExpiredTokenException", "RequestExpired", "TokenRefreshRequired"}),
        "the AWS credentials have expired",
        LOG_IN,
    ),
    (
        frozenset({"UnrecognizedClientException", "InvalidClientTokenId", "AuthFailure", "MissingAuthenticationToken"}),
        "AWS does not recognize the credentials",
        f"{LOG_IN}; enable the region if it is off by default",
    ),
    (
        frozenset({"SignatureDoesNotMatch", "InvalidSignatureException", "RequestTimeTooSkewed"}),
        "AWS rejected the signature of the request",
        "correct this machine's clock; if it is right, the secret access key is wrong",
    ),
)
"""AWS's error codes → what they mean, and the next step."""
_DENIED = frozenset({"AccessDenied", "AccessDeniedException", "UnauthorizedOperation", "AuthorizationError"})
_EXISTS = frozenset({"ResourceInUse", "ResourceExistsException", "RepositoryAlreadyExistsException"})
_MISSING = frozenset({"NoSuchEntity", "NoSuchBucket"})
_POLICY = "docs/clouds/aws.md has the submitter's policy"
_REFUSALS = (
    (r"is not available in this region", "choose another aws.machine or aws.region: not every region has every machine"),
    (
        r"[Mm]anifest|media type",
        "SageMaker takes images in Docker's own format: push again, or use a base image in that format (image.base)",
    ),
    (r"does not grant ecr:|ecr:BatchGetImage", "let aws.role pull from aws.repository: docs/clouds/aws.md has its policy"),
)
"""Patterns in SageMaker's refusals of a request → the next step. Sources: docs/clouds/evidence.md."""
_SILENT = "AWS gave no reason; a known cause is an aws.volume that is larger than the machine's disk"
_QUOTA = re.compile(r"'([^']+ for [^']+)'")
_PERMISSION = re.compile(r"not authorized to perform:? ([\w-]+:\w+)(?: on resource:? (\S+))?")


POLICY = RetryPolicy(attempts=5, time_limit=None, first_wait=0.5, longest_wait=8.0)
"""The retries of a request."""
ANSWER_SECONDS = 30.0
"""The read timeout of a request."""


class Aws:
    """The SDK's clients, created on first use; thread-safe."""

    def __init__(self, policy: RetryPolicy = POLICY, answer_seconds: float = ANSWER_SECONDS) -> None:
        self.policy = policy
        self._answer_seconds = answer_seconds
        self._lock = Lock()
        self._session: Any = None
        self._clients: dict[tuple[str, str], Any] = {}

    def ask(self, service: str, region: str, operation: str, **parameters: Any) -> dict[str, Any]:
        """Call an operation, by its name in the SDK, with retries, and return the response. Raises CloudError."""
        return retried(self.policy, lambda: self.ask_once(service, region, operation, **parameters))

    def ask_once(self, service: str, region: str, operation: str, **parameters: Any) -> dict[str, Any]:
        """Like ``ask``, without retries."""
        with _in_words(service, region):
            answer: dict[str, Any] = getattr(self._client(service, region), operation)(**parameters)
            return answer

    def _client(self, service: str, region: str) -> Any:
        if not has_form(AWS_REGION, region):  # it becomes part of the host name of the signed request
            raise RefusedError(f"aws.region: {region!r} is not {EXPECTED[AWS_REGION]}", "correct aws.region")
        with self._lock:
            if (service, region) not in self._clients:
                self._clients[service, region] = self._new_client(service, region)
            return self._clients[service, region]

    def _new_client(self, service: str, region: str) -> Any:
        import botocore.session
        from botocore.config import Config

        if self._session is None:
            self._session = botocore.session.get_session()
        config = Config(
            retries={"total_max_attempts": 1},
            connect_timeout=10,
            read_timeout=self._answer_seconds,
            user_agent_appid="cloud-train",
        )
        return self._session.create_client(service, region_name=region, config=config)


@contextmanager
def _in_words(service: str, region: str) -> Iterator[None]:
    """Turn the SDK's exceptions into CloudErrors."""
    try:
        from botocore.exceptions import (
            BotoCoreError,
            ClientError,
            ConnectTimeoutError,
            EndpointConnectionError,
            HTTPClientError,
            ProxyConnectionError,
        )
        from botocore.parsers import ResponseParserError
    except ModuleNotFoundError as error:
        raise MissingDependencyError("the provider 'aws' needs boto3", hint=f"install it with: {INSTALL}") from error
    try:
        yield
    except ClientError as error:
        raise _explained(error.response, error.operation_name, region) from error
    except (EndpointConnectionError, ConnectTimeoutError, ProxyConnectionError) as error:
        hint = f"check the network connection, and that aws.region ({region!r}) is a valid region"
        raise UnreachableError(f"AWS ({service} in {region}) cannot be reached: {error}", hint) from error
    except HTTPClientError as error:
        raise UnansweredError(f"AWS ({service} in {region}) did not respond: {error}", hint="check the network connection") from error
    except BotoCoreError as error:
        kind = type(error).__name__
        words, hint = CREDENTIAL_PROBLEMS.get(kind, (f"the AWS SDK cannot call {service} in {region}", LOG_IN))
        raise RefusedError(f"{words}: {error}", hint, reason=kind) from error
    except (AttributeError, KeyError, TypeError, SyntaxError, UnicodeDecodeError, ResponseParserError) as error:
        # The SDK's parsers fail in these ways on a response that is not from AWS.
        message = f"unexpected response from AWS ({service} in {region}): {type(error).__name__}: {error}"
        raise UnansweredError(message, hint=PROXY_HINT) from error
    except ValueError as error:  # a malformed endpoint or region
        hint = "check aws.region, and the environment variables AWS_ENDPOINT_URL…"
        raise RefusedError(f"the AWS SDK cannot call {service} in {region!r}: {error}", hint) from error


def _explained(answer: dict[str, Any], operation: str, region: str) -> ProviderError:
    code = str(answer.get("Error", {}).get("Code", ""))
    said = str(answer.get("Error", {}).get("Message", ""))
    status = int(answer.get("ResponseMetadata", {}).get("HTTPStatusCode", 0))
    details: dict[str, Any] = {"reason": code, "said": said, "status": status}
    if code in _THROTTLES or status == 429:
        return ThrottledError(f"AWS throttled {operation} in {region}: {said}", "wait a moment, then retry", **details)
    if status >= 500:
        hint = "retry; see https://health.aws.amazon.com"
        return UnansweredError(f"AWS failed to carry out {operation} in {region}: {code} {said}", hint, **details)
    return _kind(code, said)(*_words(code, said, operation, region), **details)


def _kind(code: str, said: str) -> type[RefusedError]:
    """The class of an error. SageMaker reports missing resources differently from the other services."""
    if code in _DENIED:
        return ForbiddenError
    if code in _EXISTS:
        return ExistsError
    if "NotFound" in code or code in _MISSING or (code == "ValidationException" and "not found" in said.lower()):
        return MissingError
    return RefusedError


def _words(code: str, said: str, operation: str, region: str) -> tuple[str, str | None]:
    """The message and the next step."""
    for codes, words, remedy in _CREDENTIALS:
        if code in codes:
            return f"{words} ({region}): {said}", remedy
    if code in _DENIED:
        return _denied(said, operation)
    if code == "ResourceLimitExceeded":
        quota = _QUOTA.search(said)
        name = f" {quota[1]!r}" if quota else ""
        return (
            f"the account's quota{name} in {region} is exceeded: {said}",
            "request more under Service Quotas, Amazon SageMaker (docs/clouds/aws.md), or choose another aws.machine or aws.region",
        )
    if "assume role" in said.lower():
        hint = "check that aws.role exists, and that its trust policy names sagemaker.amazonaws.com (docs/clouds/aws.md)"
        return f"SageMaker cannot use the role: {said}", hint
    advice = next((remedy for pattern, remedy in _REFUSALS if re.search(pattern, said)), None)
    return f"AWS refused {operation} in {region}: {said or code}", advice or (None if said else _SILENT)


def _denied(said: str, operation: str) -> tuple[str, str]:
    found = _PERMISSION.search(said)
    if found is None:
        return f"AWS denied {operation}: {said}", _POLICY
    where = f" on {found[2]}" if found[2] else ""
    return f"the credentials lack the permission {found[1]}{where}: {said}", f"allow {found[1]}{where}; {_POLICY}"


def login(aws: Aws, settings: Mapping[str, Any]) -> tuple[str, str] | None:
    """User and password for Amazon ECR, valid for 12 hours; None for another registry. Creates the repository if the settings say so.

    Raises ProviderError if ``repository`` names one of ECR's registries, but no repository in it.
    """
    repository = str(settings.get("repository") or "")
    registry = registry_of(repository)
    region = registry[1] if registry else region_of(settings) if _stands_for_ecr(repository) else None
    if region is None:
        return None
    if not has_form(REPOSITORY, repository):
        hint = "such as 123456789012.dkr.ecr.eu-west-1.amazonaws.com/cloud-train"
        raise ProviderError(f"aws.repository: {repository!r} is not {EXPECTED[REPOSITORY]}", hint=hint)
    if settings.get("create_repository"):
        _make_repository(aws, region, repository.partition("/")[2])
    answer = with_field("AWS", "authorizationData", aws.ask("ecr", region, "get_authorization_token"))
    user, _, password = base64.b64decode(answer["authorizationData"][0]["authorizationToken"]).decode().partition(":")
    return user, password


def _stands_for_ecr(repository: str) -> bool:
    """Whether the environment redirects ECR's endpoint, and the repository is on that host or on loopback."""
    endpoint, host = os.environ.get("AWS_ENDPOINT_URL_ECR"), repository.partition("/")[0]
    return bool(endpoint) and (is_loopback(host) or host == urlsplit(endpoint).netloc)


def _make_repository(aws: Aws, region: str, name: str) -> None:
    with suppress(ExistsError):
        aws.ask("ecr", region, "create_repository", repositoryName=name, imageTagMutability="IMMUTABLE")

"""Questions to AWS: the SDK's clients, trying again where that may help, and AWS's errors in words that say what to do.

Credentials and endpoints come from the AWS SDK's own chain (environment, ``~/.aws``, single sign-on, a machine's role). The SDK itself
tries each request once: whether a request may have been carried out is for the caller to know.
"""

import random
import re
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from threading import Lock
from typing import Any

from cloud_train.errors import MissingDependencyError, ProviderError
from cloud_train.job.cloud_names import AWS_REGION, EXPECTED, has_form
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
        "AWS does not know these credentials",
        f"{LOG_IN}; a region that is off by default has to be enabled",
    ),
    (
        frozenset({"SignatureDoesNotMatch", "InvalidSignatureException", "RequestTimeTooSkewed"}),
        "AWS does not accept the signature",
        "set this machine's clock; if it is right, the secret access key is wrong",
    ),
)
"""AWS's codes → what they mean, and what to do."""
_DENIED = frozenset({"AccessDenied", "AccessDeniedException", "UnauthorizedOperation", "AuthorizationError"})
_POLICY = "docs/clouds/aws.md has the policy of whoever submits"
_PROXY = "is there a proxy in between that wants to be logged in at?"
_QUOTA = re.compile(r"'([^']+ for [^']+)'")
_PERMISSION = re.compile(r"not authorized to perform:? ([\w-]+:\w+)(?: on resource:? (\S+))?")


class AwsRefusalError(ProviderError):
    """AWS answered with an error, and nothing was carried out. ``reason`` is AWS's own code for it, ``said`` its own words."""

    def __init__(self, message: str, hint: str | None, reason: str, said: str) -> None:
        super().__init__(message, hint)
        self.reason = reason
        self.said = said


class AwsPassingError(AwsRefusalError):
    """Nothing was carried out, and the same request may succeed in a moment."""


class AwsThrottledError(AwsPassingError):
    """AWS answered that there were too many requests."""


class AwsUnreachableError(AwsPassingError):
    """No connection to AWS came about."""


class AwsUnansweredError(ProviderError):
    """AWS gave no answer, or one of its own failures: whether the request was carried out is not known."""


@dataclass(frozen=True)
class Patience:
    """How often a request is tried, and the waits between: random parts of a time that doubles, so that many do not come together."""

    tries: int = 5
    first_wait_seconds: float = 0.5
    longest_wait_seconds: float = 8.0
    answer_seconds: float = 30.0
    """How long an answer may take."""
    sleep: Callable[[float], None] = time.sleep
    dice: Callable[[], float] = field(default=random.random)
    """From 0 to 1."""

    def waits(self) -> Iterator[float]:
        """The seconds to wait before each try."""
        yield 0.0
        longest = self.first_wait_seconds
        for _ in range(self.tries - 1):
            yield longest * self.dice()
            longest = min(longest * 2, self.longest_wait_seconds)


class Aws:
    """The SDK's clients, made when they are needed, for any thread."""

    def __init__(self, patience: Patience) -> None:
        self.patience = patience
        self._lock = Lock()
        self._session: Any = None
        self._clients: dict[tuple[str, str], Any] = {}

    def ask(self, service: str, region: str, operation: str, **parameters: Any) -> dict[str, Any]:
        """The answer to an operation that may be tried again, by its name in the SDK; raises AwsRefusalError and AwsUnansweredError."""
        failure: ProviderError | None = None
        for wait in self.patience.waits():
            self.patience.sleep(wait)
            try:
                return self.ask_once(service, region, operation, **parameters)
            except (AwsPassingError, AwsUnansweredError) as error:
                failure = error
        assert failure is not None, "there is a first try"
        raise failure

    def ask_once(self, service: str, region: str, operation: str, **parameters: Any) -> dict[str, Any]:
        """The same with one try."""
        with _in_words(service, region):
            answer: dict[str, Any] = getattr(self._client(service, region), operation)(**parameters)
            return answer

    def _client(self, service: str, region: str) -> Any:
        if not has_form(AWS_REGION, region):  # it becomes part of the host to which the signed request goes
            raise AwsRefusalError(f"aws.region: {region!r} is not {EXPECTED[AWS_REGION]}", "correct aws.region", "ValueError", "")
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
            read_timeout=self.patience.answer_seconds,
            user_agent_appid="cloud-train",
        )
        return self._session.create_client(service, region_name=region, config=config)


@contextmanager
def _in_words(service: str, region: str) -> Iterator[None]:
    """No exception of the SDK leaves this."""
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
        hint = f"is {region!r} a region (aws.region), and is there a connection?"
        raise AwsUnreachableError(
            f"AWS ({service} in {region}) cannot be reached: {error}", hint, type(error).__name__, str(error)
        ) from error
    except HTTPClientError as error:
        raise AwsUnansweredError(f"AWS ({service} in {region}) gave no answer: {error}", hint="is the connection stable?") from error
    except BotoCoreError as error:
        kind = type(error).__name__
        words, hint = CREDENTIAL_PROBLEMS.get(kind, (f"the AWS SDK cannot ask {service} in {region}", LOG_IN))
        raise AwsRefusalError(f"{words}: {error}", hint, kind, str(error)) from error
    except (AttributeError, KeyError, TypeError, SyntaxError, UnicodeDecodeError, ResponseParserError) as error:
        # The SDK's parsers stumble in these ways over what has not the shape of an answer.
        message = f"AWS ({service} in {region}) seems to answer what is no answer of AWS ({type(error).__name__}: {error})"
        raise AwsUnansweredError(message, hint=_PROXY) from error
    except ValueError as error:  # a malformed endpoint or region
        hint = "see aws.region, and the variables AWS_ENDPOINT_URL…"
        raise AwsRefusalError(f"the AWS SDK cannot ask {service} in {region!r}: {error}", hint, "ValueError", str(error)) from error


def _explained(answer: dict[str, Any], operation: str, region: str) -> ProviderError:
    code = str(answer.get("Error", {}).get("Code", ""))
    said = str(answer.get("Error", {}).get("Message", ""))
    status = int(answer.get("ResponseMetadata", {}).get("HTTPStatusCode", 0))
    if code in _THROTTLES or status == 429:
        return AwsThrottledError(f"AWS throttles {operation} in {region}: {said}", "wait a moment, then try again", code, said)
    if status >= 500:
        return AwsUnansweredError(
            f"AWS failed at {operation} in {region}: {code} {said}", hint="try again; see https://health.aws.amazon.com"
        )
    message, hint = _words(code, said, operation, region)
    return AwsRefusalError(message, hint, code, said)


def _words(code: str, said: str, operation: str, region: str) -> tuple[str, str | None]:
    """What happened and what to do."""
    for codes, words, remedy in _CREDENTIALS:
        if code in codes:
            return f"{words} ({region}): {said}", remedy
    if code in _DENIED:
        return _denied(said, operation)
    if code == "ResourceLimitExceeded":
        quota = _QUOTA.search(said)
        name = f" {quota[1]!r}" if quota else ""
        return (
            f"the account's quota{name} in {region} does not allow this: {said}",
            "ask for more under Service Quotas, Amazon SageMaker (docs/clouds/aws.md), or choose another aws.machine or aws.region",
        )
    if "assume role" in said.lower():
        hint = "aws.role: the role has to exist, and its trust policy to name sagemaker.amazonaws.com (docs/clouds/aws.md)"
        return f"SageMaker cannot use the role: {said}", hint
    return f"AWS refuses {operation} in {region}: {said or code}", None


def _denied(said: str, operation: str) -> tuple[str, str]:
    found = _PERMISSION.search(said)
    if found is None:
        return f"AWS does not allow {operation}: {said}", _POLICY
    where = f" on {found[2]}" if found[2] else ""
    return f"these credentials lack the permission {found[1]}{where}: {said}", f"allow {found[1]}{where}; {_POLICY}"


def with_field(field: str, answer: dict[str, Any]) -> dict[str, Any]:
    """The answer, which has this field; raises AwsUnansweredError where something else answered."""
    if field not in answer:
        raise AwsUnansweredError(f"AWS seems to answer without {field}", hint=_PROXY)
    return answer


def is_denied(error: AwsRefusalError) -> bool:
    """Whether AWS says that a permission is missing."""
    return error.reason in _DENIED


def is_missing(error: AwsRefusalError) -> bool:
    """Whether AWS says that there is no such thing. SageMaker has another word for it than the rest."""
    return "NotFound" in error.reason or (error.reason == "ValidationException" and "not found" in error.said.lower())

"""The errors of requests to a cloud, the same for all clouds.

::

    ProviderError
    └── CloudError                 a request to a cloud failed
        ├── UnansweredError        it is unknown whether the request was carried out
        └── RefusedError           nothing was carried out
            ├── UnreachableError   the cloud could not be connected to
            ├── ThrottledError     too many requests
            ├── ForbiddenError     the caller lacks a permission
            ├── MissingError       the resource does not exist
            └── ExistsError        a resource of this name already exists
"""

from collections.abc import Callable, Mapping
from typing import Any, TypeVar

from cloud_train.errors import ProviderError
from cloud_train.retry import RetryPolicy

PROXY_HINT = "check for a proxy or captive portal"

Result = TypeVar("Result")


class CloudError(ProviderError):
    """A request to a cloud failed."""

    def __init__(
        self, message: str, hint: str | None = None, *, reason: str = "", status: int = 0, said: str = "", retry_after: float | None = None
    ) -> None:
        super().__init__(message, hint)
        self.reason = reason
        """The cloud's own code for the error, such as ``ResourceInUse``."""
        self.status = status
        """The HTTP status of the response; 0 without one."""
        self.said = said
        """The cloud's own message."""
        self.retry_after = retry_after
        """The wait that the cloud requested before a retry, in seconds."""


class UnansweredError(CloudError):
    """The cloud sent no response, or reported a failure of its own: it is unknown whether the request was carried out."""


class RefusedError(CloudError):
    """Nothing was carried out."""


class UnreachableError(RefusedError):
    """The cloud could not be connected to."""


class ThrottledError(RefusedError):
    """There were too many requests."""


class ForbiddenError(RefusedError):
    """The caller lacks a permission."""


class MissingError(RefusedError):
    """The resource does not exist."""


class ExistsError(RefusedError):
    """A resource of this name already exists."""


TRANSIENT = (UnansweredError, UnreachableError, ThrottledError)
"""Errors after which the same request may succeed."""


def retried(policy: RetryPolicy, request: Callable[[], Result]) -> Result:
    """Call ``request`` with retries, and return its result. Raises CloudError."""
    return policy.call(request, lambda error: isinstance(error, TRANSIENT), lambda error: getattr(error, "retry_after", None))


def with_field(cloud: str, field: str, response: Any) -> dict[str, Any]:
    """The response, which must have a field that all the cloud's responses have. Otherwise raises UnansweredError: a proxy sent it."""
    if not isinstance(response, Mapping) or field not in response:
        raise UnansweredError(f"unexpected response from {cloud}: it has no {field}", hint=PROXY_HINT)
    return dict(response)

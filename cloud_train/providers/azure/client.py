"""Requests to Azure's HTTP APIs: credentials from azure-identity's own chain, retries, and Azure's errors with a next step.

azure-core and azure-identity are enough for these requests; azure-ai-ml is ten times as large.
"""

import os
import re
from collections.abc import Mapping
from dataclasses import dataclass
from functools import lru_cache
from typing import TYPE_CHECKING, Any
from urllib.parse import urlsplit

from cloud_train.errors import MissingDependencyError, ProviderError
from cloud_train.job.loopback import is_loopback
from cloud_train.providers.azure.clouds import PUBLIC, AzureCloud, cloud_of, cloud_with
from cloud_train.providers.cloud import repositories
from cloud_train.providers.cloud.errors import (
    CloudError,
    ForbiddenError,
    MissingError,
    RefusedError,
    ThrottledError,
    UnansweredError,
    retried,
    with_field,
)
from cloud_train.retry import RetryPolicy, retry_after_seconds
from cloud_train.storage.azure_account import quiet_sdk
from cloud_train.storage.azure_identity import IDENTITIES
from cloud_train.storage.trusted_hosts import AZURE, AZURE_VAULT, check

if TYPE_CHECKING:
    from azure.core import PipelineClient
    from azure.core.rest import HttpRequest, HttpResponse

MANAGER = "manager"
"""The kind of token for the resource manager and the run history."""
VAULT = "vault"
"""The kind of token for a key vault."""

_AUTHORITY = "AZURE_AUTHORITY_HOST"
_IDENTITY = (*IDENTITIES, _AUTHORITY, "AZURE_TENANT_ID", "AZURE_CLIENT_SECRET", "IDENTITY_HEADER", "AZURE_CONFIG_DIR")
"""The environment variables that select azure-identity's credentials."""
API = {"api-version": "2025-12-01"}
"""The version of the resource manager's API."""

_BELONGING = {
    MANAGER: (AZURE, "azure.endpoint (or azure.history_endpoint, azure.location)"),
    VAULT: (AZURE_VAULT, "azure.vault"),
}
"""Kind of a token → the hosts that may receive it, and the setting that determines the URL."""
POLICY = RetryPolicy(attempts=4, time_limit=None, first_wait=1.0, longest_wait=20.0, longest_retry_after=20.0)
"""The retries of a request."""
_TIMEOUT_SECONDS = 30.0
_THROTTLED = 429
_TIMED_OUT = 408
_SHOWN_CHARACTERS = 400
_LOGIN_HINT = "sign in with: az login; or set AZURE_TENANT_ID, AZURE_CLIENT_ID and AZURE_CLIENT_SECRET"
_OF_THE_CLOCK = re.compile(r"not yet valid|not within its valid time|lifetime|time range|\bnbf\b", re.IGNORECASE)
"""Azure's messages when this machine's clock is wrong."""
_CLOCK_HINT = "correct this machine's clock: tokens are valid only for a limited time"
_DOCS = "docs/clouds/azure.md names the role that includes it"
_SETTINGS = {
    "SubscriptionNotFound": "azure.subscription",
    "InvalidSubscriptionId": "azure.subscription",
    "InvalidSubscription": "azure.subscription",
    "ResourceGroupNotFound": "azure.resource_group",
    "ResourceNotFound": "azure.workspace",
    "WorkspaceNotFound": "azure.workspace",
}
"""Error codes of the resource manager → the setting that names a missing resource."""


@dataclass(frozen=True)
class Answer:
    """A response with an expected status."""

    status: int
    headers: Mapping[str, str]
    data: bytes
    document: Any
    """The parsed body, if it is JSON."""

    def having(self, field: str) -> dict[str, Any]:
        """The document, which must have this field. Raises UnansweredError otherwise: the response is not from Azure."""
        return with_field("Azure", field, self.document)


def is_registry(host: str) -> bool:
    """Whether ``host`` is the address of an Azure container registry, such as ``myregistry.azurecr.io``."""
    return repositories.AZURE.hosts.fullmatch(host) is not None


def client(cloud: str | None = None) -> "Client":
    """The client for the credentials in the environment, in the public cloud or another. It is reused for the life of this process."""
    return _client(cloud_of(cloud), POLICY, tuple(os.environ.get(name) for name in _IDENTITY))


@lru_cache(maxsize=4)
def _client(cloud: AzureCloud, policy: RetryPolicy, _identity: tuple[str | None, ...]) -> "Client":
    return Client(cloud, policy)


class Client:
    """Requests to Azure with the caller's credentials; thread-safe."""

    def __init__(self, cloud: AzureCloud = PUBLIC, policy: RetryPolicy = POLICY) -> None:
        try:
            from azure.identity import DefaultAzureCredential
        except ImportError as error:
            raise MissingDependencyError(
                "the provider 'azure' needs azure-identity", hint="install it with: pip install 'cloud-train[azure]'"
            ) from error
        quiet_sdk()
        self.cloud = cloud
        self.policy = policy
        # AZURE_AUTHORITY_HOST, if it is set, overrides the cloud's own sign-in.
        authority = {} if cloud is PUBLIC or os.environ.get(_AUTHORITY) else {"authority": cloud.authority}
        self._credential = DefaultAzureCredential(**authority)
        self._pipelines: dict[str | None, PipelineClient[HttpRequest, HttpResponse]] = {}

    def token(self, scope: str | None = None) -> str:
        """An access token, by default for the resource manager; raises ProviderError without credentials."""
        from azure.core.exceptions import ClientAuthenticationError

        try:
            return self._credential.get_token(scope or self.cloud.scope).token
        except ClientAuthenticationError as error:
            raise _no_credentials(error) from error

    def call(self, method: str, url: str, doing: str, **options: Any) -> Answer:
        """Send a request with retries, and return the response; ``options`` are those of ``call_once``."""
        return retried(self.policy, lambda: self.call_once(method, url, doing, **options))

    def call_once(
        self,
        method: str,
        url: str,
        doing: str,
        *,
        permission: str = "",
        expect: tuple[int, ...] = (200,),
        token: str | None = MANAGER,
        **content: Any,
    ) -> Answer:
        """Send a request once, and return the response if its status is one of ``expect``.

        ``doing`` completes the sentence "Azure cannot …". ``permission`` is the Azure action that the request needs. ``content`` holds
        further parts of the request (``params``, ``json``, ``data``, ``headers``). ``token`` is the kind of token; it is sent only
        to its own hosts, and never follows a redirect. It is None for a URL that carries its own signature. Raises CloudError, and
        UntrustedHostError for a host that may not receive the token.
        """
        if token is not None:
            check(url, *_BELONGING[token])
        scope = {MANAGER: self.cloud.scope, VAULT: self.cloud.vault_scope}[token] if token is not None else None
        response = self._sent(method, url, scope, content)
        if response.status_code in expect:
            return Answer(response.status_code, response.headers, response.content, _json(response))
        raise _refusal(response, doing, permission)

    def registry_password(self, host: str) -> str:
        """A token for the Azure container registry at ``host``, valid for some hours, in exchange for a Microsoft Entra token.

        The exchange is described at https://azure.github.io/acr/AAD-OAuth.html.
        """
        if not (is_registry(host) or is_loopback(host)):
            raise ProviderError(f"{host!r} is not an Azure container registry, so no token is sent to it", hint="correct azure.repository")
        if (owner := cloud_with(host)) is not None and owner is not self.cloud:
            raise ProviderError(
                f"{host} belongs to {owner.name}, so no token of {self.cloud.name} is sent to it",
                hint="correct azure.repository or azure.cloud",
            )
        form = {"grant_type": "access_token", "service": host, "access_token": self.token(self.cloud.registry_scope)}
        url = f"{'http' if is_loopback(host) else 'https'}://{host}/oauth2/exchange"
        return str(self.call("POST", url, f"sign in at {host}", token=None, data=form).having("refresh_token")["refresh_token"])

    def _sent(self, method: str, url: str, scope: str | None, content: Mapping[str, Any]) -> "HttpResponse":
        from azure.core.exceptions import AzureError, ClientAuthenticationError
        from azure.core.rest import HttpRequest

        host = urlsplit(url).hostname or ""
        # A token is never sent unencrypted, except within this machine.
        plain = {"enforce_https": False} if scope and is_loopback(urlsplit(url).netloc) else {}
        try:
            request = HttpRequest(method, url, **content)
            response: HttpResponse = self._pipeline(scope).send_request(request, **plain)
            response.read()
        except ClientAuthenticationError as error:
            raise _no_credentials(error) from error
        except AzureError as error:
            raise UnansweredError(f"{host} did not respond: {_line(error)}", hint="check the network connection, and retry") from error
        return response

    def _pipeline(self, scope: str | None) -> "PipelineClient[HttpRequest, HttpResponse]":
        if scope not in self._pipelines:
            from azure.core import PipelineClient
            from azure.core.pipeline.policies import BearerTokenCredentialPolicy, UserAgentPolicy

            signing = [BearerTokenCredentialPolicy(self._credential, scope)] if scope else []
            self._pipelines[scope] = PipelineClient(
                "",
                policies=[UserAgentPolicy("cloud-train"), *signing],
                connection_timeout=_TIMEOUT_SECONDS,
                read_timeout=_TIMEOUT_SECONDS,
            )
        return self._pipelines[scope]


def error_of(document: Any) -> tuple[str, str]:
    """The code and message of an Azure error, including those of its details; empty without an error."""
    error = document.get("error") if isinstance(document, dict) else None
    if not isinstance(error, dict):
        return "", ""
    inner = [
        f"{each.get('target') or each.get('code')}: {each.get('message')}" for each in error.get("details") or [] if each.get("message")
    ]
    return str(error.get("code") or ""), " ".join("; ".join([str(error.get("message") or ""), *inner]).split())


def _refusal(response: "HttpResponse", doing: str, permission: str) -> CloudError:
    """The error for an unexpected response, with the setting or permission to correct."""
    status, (code, message) = response.status_code, error_of(_json(response))
    said = f"{code or status}: {message[:_SHOWN_CHARACTERS]}" if message else code or f"status {status}"
    kind, hint = _kind(status, code), None
    if status == 401:
        words, hint = f"Azure rejected the credentials: {said}", _CLOCK_HINT if _OF_THE_CLOCK.search(said) else _LOGIN_HINT
    elif kind is ForbiddenError:
        action = re.search(r"perform action '([^']+)'", message)
        words = f"Azure refused to {doing}: {said}; the permission {action[1] if action else permission} is missing"
        hint = _DOCS
    elif code in _SETTINGS:
        words, hint = f"Azure cannot {doing}: {said}; {_SETTINGS[code]} does not exist", "correct it in the config file"
    elif kind is MissingError:
        words = f"Azure cannot {doing}: {said}"
    elif kind in (ThrottledError, UnansweredError):
        words, hint = f"Azure cannot {doing} now: {said}", "retry in a few minutes"
    else:
        words, hint = f"Azure refused to {doing}: {said}", _hint(code, message)
    retry_after = retry_after_seconds(response.headers.get("Retry-After"))
    return kind(words, hint, reason=code, status=status, said=message, retry_after=retry_after)


def _kind(status: int, code: str) -> type[CloudError]:
    if status == 403:
        return ForbiddenError
    if status == 404 and code not in _SETTINGS:  # a missing workspace does not mean that a job in it is missing
        return MissingError
    if status == _THROTTLED:
        return ThrottledError
    return UnansweredError if status == _TIMED_OUT or status >= 500 else RefusedError


def _hint(code: str, message: str) -> str | None:
    words = f"{code} {message}".casefold()
    if "quota" in words:
        return "request more cores of this family in the portal (Azure ML, Quota), or choose another azure.machine"
    if "instancetype" in words or "vm size" in words or "vmsize" in words:
        named = re.search(r"\bStandard_\w+", message, re.IGNORECASE)
        near = f"; similar machines: {', '.join(_similar(named[0]))}" if named else ""
        return f"change azure.machine or azure.location: not every region has every machine{near}"
    if "identity" in words and ("not assigned" in words or "not found" in words):
        return "assign azure.identity to the cluster, or for serverless machines to the workspace: docs/clouds/azure.md"
    if "/computes/" in words or "computenotfound" in words:
        return "set azure.compute to a cluster of the workspace; list them with: az ml compute list"
    return None


def _similar(machine: str) -> list[str]:
    from cloud_train.providers.cloud.machines import similar  # imports pydantic, which observing runs does not need

    return similar("azure", machine)


def _no_credentials(error: Exception) -> ProviderError:
    """The error with one line of azure-identity's long message: Microsoft Entra's (with a code AADSTS…), otherwise the first."""
    refused = re.search(r"AADSTS\d+[^\n]{0,300}", str(error))
    said = refused[0] if refused else _line(error)
    return ProviderError(f"no credentials for Azure: {said}", hint=_CLOCK_HINT if _OF_THE_CLOCK.search(said) else _LOGIN_HINT)


def _json(response: "HttpResponse") -> Any:
    try:
        return response.json() if response.content else None
    except ValueError:
        return None


def _line(error: Exception) -> str:
    return next(iter(str(error).strip().splitlines()), type(error).__name__)[:_SHOWN_CHARACTERS]

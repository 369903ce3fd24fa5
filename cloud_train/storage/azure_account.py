"""Endpoint and credentials of an Azure storage account, from the settings that Azure's own tools read, in the same order.

1. ``AZURE_STORAGE_CONNECTION_STRING``: the endpoint, and an account key or a shared access signature (SAS).
2. ``AZURE_STORAGE_KEY`` or ``AZURE_STORAGE_ACCOUNT_KEY``: an account key.
3. ``AZURE_STORAGE_SAS_TOKEN``: a SAS.
4. ``azure.identity.DefaultAzureCredential``: environment, workload or managed identity, ``az login``, and so on.
5. Otherwise requests are not signed, which works only for public containers.

``AZURE_STORAGE_ENDPOINT`` overrides ``https://ACCOUNT.blob.core.windows.net``. In a sovereign cloud the domain is another one: that of the
sign-in which ``AZURE_AUTHORITY_HOST`` names, a variable that all of Azure's SDKs read. Keys, signatures and tokens never appear in a
message or a ``repr``.
"""

import base64
import binascii
import logging
import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import datetime, timezone
from threading import Lock
from typing import TYPE_CHECKING
from urllib.parse import parse_qs, urlsplit

from cloud_train.errors import StoreError, UsageError
from cloud_train.storage.azure_identity import ENDPOINTS, IDENTITIES
from cloud_train.storage.azure_identity import credential as default_credential
from cloud_train.storage.base import AccessDeniedError, TransientStoreError

if TYPE_CHECKING:
    from azure.core.credentials import AzureNamedKeyCredential, AzureSasCredential, TokenCredential
    from obstore.store import AzureCredential

CONNECTION_STRING = "AZURE_STORAGE_CONNECTION_STRING"
KEYS = ("AZURE_STORAGE_KEY", "AZURE_STORAGE_ACCOUNT_KEY")
SAS_TOKEN = "AZURE_STORAGE_SAS_TOKEN"
ENDPOINT = "AZURE_STORAGE_ENDPOINT"
ACCOUNTS = ("AZURE_STORAGE_ACCOUNT", "AZURE_STORAGE_ACCOUNT_NAME")

IDENTITY_HINT = (
    "assign a managed identity to the cluster, or to the workspace for serverless machines, and set azure.identity to its client ID:"
    " docs/clouds/azure.md"
)
LOGIN_HINT = "sign in with: az login; or set AZURE_STORAGE_CONNECTION_STRING, AZURE_STORAGE_KEY or AZURE_STORAGE_SAS_TOKEN"

_UNREACHED = re.compile(
    r"Failed to resolve|Failed to establish|Connection (?:refused|reset|aborted)|timed out|Too Many|\b(?:429|50[0-4])\b"
)
"""azure-identity's messages for an identity that could not be reached, or that is too busy."""
_MOST_REFUSALS = 4
"""After so many refusals in a row, an identity that never gave a token is taken to have none to give: that takes seconds, not minutes."""
_DOMAINS = {
    "login.microsoftonline.us": "core.usgovcloudapi.net",
    "login.chinacloudapi.cn": "core.chinacloudapi.cn",
    "login.partner.microsoftonline.cn": "core.chinacloudapi.cn",
}
"""Host of a sovereign cloud's sign-in → the domain of its storage (``azure/ai/ml/_azure_environments.py`` in azure-sdk-for-python)."""
_PUBLIC_DOMAIN = "core.windows.net"
_SCOPE = "https://storage.azure.com/.default"
_NAME = re.compile(r"[a-z0-9]{3,24}")
_DEVELOPMENT = {
    "accountname": "devstoreaccount1",
    "accountkey": "Eby8vdM02xNOcqFlqUwJPLlmEtlCDXJ1OUzFT50uSRZ6IFsuFq2UVErCz4I6tq/K1SZFPTOtr/KBHBeksoGMGw==",
    "blobendpoint": "http://127.0.0.1:10000/devstoreaccount1",
}
"""The published account and key of all emulators (https://learn.microsoft.com/azure/storage/common/storage-use-azurite)."""


@dataclass(frozen=True)
class AzureAccount:
    """A storage account: its endpoint, and the key or SAS from the settings, if any."""

    name: str
    endpoint: str
    """Without a trailing '/'; that of an emulator has the account's name as its path."""
    key: str | None = field(default=None, repr=False)
    sas: str | None = field(default=None, repr=False)
    source: str = ""
    """The setting that the key or the SAS comes from."""
    identity_configured: bool = False
    """Whether the environment configures an identity for this process."""
    on_platform: bool = False
    """Whether that identity is one that the machine's platform provides."""

    @property
    def sas_end(self) -> str:
        """The expiry time stated in the SAS; empty if there is none."""
        return "".join(parse_qs(self.sas or "").get("se", ())[:1])


def account_from(name: str, environment: Mapping[str, str]) -> AzureAccount:
    """The storage account ``name`` as configured by environment variables.

    Raises UsageError for an invalid name, and StoreError for settings that are invalid or belong to another account.
    """
    if not _NAME.fullmatch(name):
        raise UsageError(f"invalid storage account name {name!r}: use 3 to 24 characters of a-z and 0-9")
    identity = any(environment.get(variable) for variable in IDENTITIES)
    if settings := environment.get(CONNECTION_STRING):
        return _from_connection_string(name, settings, environment.get(ENDPOINT, ""), identity)
    key_from = next((variable for variable in KEYS if environment.get(variable)), "")
    key, sas = environment.get(key_from), environment.get(SAS_TOKEN, "").lstrip("?")
    source = key_from or (SAS_TOKEN if sas else "")
    for variable in ACCOUNTS:
        if source and environment.get(variable, name) != name:
            raise _other_account(name, environment[variable], variable)
    endpoint = _endpoint(name, environment.get(ENDPOINT) or f"https://{name}.blob.{domain(environment)}")
    platform = any(environment.get(variable) for variable in ENDPOINTS)
    return AzureAccount(name, endpoint, _checked(key, key_from), None if key else sas or None, source, identity, platform)


def domain(environment: Mapping[str, str]) -> str:
    """The domain of storage accounts in the cloud that this process signs in to."""
    authority = environment.get("AZURE_AUTHORITY_HOST", "")
    host = urlsplit(authority if "://" in authority else f"https://{authority}").hostname or ""
    return _DOMAINS.get(host, _PUBLIC_DOMAIN)


def quiet_sdk() -> None:
    """Keep the SDK's warnings off stderr, where Python prints them without a logging configuration; our errors are enough."""
    logger = logging.getLogger("azure")
    if not logger.handlers:
        logger.addHandler(logging.NullHandler())


def _from_connection_string(name: str, text: str, endpoint: str, identity: bool) -> AzureAccount:
    """https://learn.microsoft.com/azure/storage/common/storage-configure-connection-string"""
    fields = {label.strip().lower(): value.strip() for label, _, value in (part.partition("=") for part in text.split(";"))}
    if fields.get("usedevelopmentstorage", "").lower() == "true":
        fields = _DEVELOPMENT | fields
    sas = fields.get("sharedaccesssignature", "").lstrip("?")
    stated = fields.get("blobendpoint") or endpoint
    account = fields.get("accountname") or _account_of(stated)
    if not account and not stated:
        raise StoreError(f"{CONNECTION_STRING} has neither AccountName nor BlobEndpoint", hint="copy it from the account's access keys")
    if account != name and account:
        raise _other_account(name, account, CONNECTION_STRING)
    protocol, suffix = fields.get("defaultendpointsprotocol", "https"), fields.get("endpointsuffix", "core.windows.net")
    key = _checked(fields.get("accountkey"), CONNECTION_STRING)
    source = CONNECTION_STRING if key or sas else ""
    where = _endpoint(name, stated or f"{protocol}://{name}.blob.{suffix}")
    return AzureAccount(name, where, key, None if key else sas or None, source, identity)


def _endpoint(name: str, text: str) -> str:
    """The normalized endpoint. That of an emulator, which uses plain HTTP, gets the account's name as its path."""
    parts = urlsplit(text)
    if parts.scheme not in ("http", "https") or not parts.hostname or parts.query:
        raise StoreError(
            f"{text.partition('?')[0]!r} is not the endpoint of a storage account", hint=f"correct {ENDPOINT} or {CONNECTION_STRING}"
        )
    path = parts.path.rstrip("/")
    if not path and parts.scheme == "http" and parts.hostname.split(".")[0] != name:
        path = f"/{name}"
    return f"{parts.scheme}://{parts.netloc}{path}"


def _account_of(endpoint: str) -> str:
    """The account's name in an endpoint, which custom domains do not have."""
    parts = urlsplit(endpoint)
    host = parts.hostname or ""
    return host.split(".")[0] if ".blob." in host else parts.path.strip("/")


def _checked(key: str | None, source: str) -> str | None:
    try:
        base64.b64decode(key or "", validate=True)
    except binascii.Error as error:
        raise StoreError(
            f"the account key in {source} is not valid base64", hint="copy the whole key, including the '=' at its end"
        ) from error
    return key or None


def _other_account(name: str, other: str, source: str) -> StoreError:
    return StoreError(
        f"the URL has the storage account {name!r}, but {source} is for {other!r}",
        hint=f"use az://{other}/…, or set {source} to a value for {name!r}; if {name!r} is a container, write az://{other}/{name}/…",
    )


class Credentials:
    """The credentials of one account, for obstore and for the SDK. Thread-safe."""

    def __init__(self, account: AzureAccount) -> None:
        self.account = account
        self._identity: TokenCredential | None = None
        self._anonymous = False
        self._given = ""
        self._refusals = 0
        self._lock = Lock()

    @property
    def anonymous(self) -> bool:
        """Whether requests are not signed, because no credentials were found."""
        return self._anonymous

    @property
    def hint(self) -> str:
        """What to do where there is no token."""
        return IDENTITY_HINT if self.account.on_platform else LOGIN_HINT

    def __call__(self) -> "AzureCredential":
        """The credentials for obstore, which calls this again when they expire. Raises StoreError if an identity fails."""
        if self.account.key is not None:
            return {"access_key": self.account.key, "expires_at": None}
        if self.account.sas is not None:
            return {"sas_token": self.account.sas, "expires_at": None}
        with self._lock:
            token = self._token()
        if token is None:
            return {"sas_token": [], "expires_at": None}  # adds nothing to the request
        return {"token": token[0], "expires_at": token[1]}

    def renew(self) -> bool:
        """Ask the credential chain again after a refusal; returns whether it has another token now. Raises StoreError if it fails."""
        with self._lock:
            if self._identity is None:  # a key or a SAS, which come from the environment, or no credentials
                return False
            last, token = self._given, self._token(renewed=True)
            return token is not None and token[0] != last

    def for_sdk(self) -> "AzureNamedKeyCredential | AzureSasCredential | TokenCredential | None":
        """The credentials for azure-storage-blob; None for unsigned requests."""
        from azure.core.credentials import AzureNamedKeyCredential, AzureSasCredential

        if self.account.key is not None:
            return AzureNamedKeyCredential(self.account.name, self.account.key)
        if self.account.sas is not None:
            return AzureSasCredential(self.account.sas)
        with self._lock:
            self._token()
        return self._identity

    def failed(self, text: str, *, is_refusal: bool = False) -> StoreError:
        """The error for a failed token request: Microsoft Entra refused it (with a code AADSTS…), or could not be reached.

        ``is_refusal`` is whether the platform of this machine responded, and has no token for it.
        """
        refused = re.search(r"AADSTS\d+[^\n]{0,200}", text)
        lines = [line.strip() for line in text.splitlines()] or [""]
        reason = refused[0] if refused else next((line for line in lines if "error" in line.lower()), lines[0])[:300]
        kind = AccessDeniedError if refused or is_refusal else TransientStoreError
        return kind(f"no token for the storage account {self.account.name!r}: {reason}", hint=self.hint)

    def _token(self, renewed: bool = False) -> tuple[str, datetime] | None:
        """A token for the identity from Azure's credential chain, or None.

        The chain caches tokens until they expire; ``renewed`` uses a new chain, without a cache.
        """
        if self.account.endpoint.startswith("http://"):  # a token must not travel unencrypted
            self._anonymous = True
        if self._anonymous:
            return None
        from azure.core.exceptions import AzureError, ClientAuthenticationError

        quiet_sdk()
        identity = default_credential() if renewed or self._identity is None else self._identity
        try:
            token = identity.get_token(_SCOPE)
        except (AzureError, OSError) as error:
            if self._identity is None and not self.account.identity_configured:
                self._anonymous = True
                return None
            answered = isinstance(error, ClientAuthenticationError) and not _UNREACHED.search(str(error))
            self._refusals += answered
            is_final = answered and self._identity is None and self._refusals >= _MOST_REFUSALS
            raise self.failed(str(error), is_refusal=is_final) from error
        self._identity, self._given = identity, token.token
        return token.token, datetime.fromtimestamp(token.expires_on, timezone.utc)  # noqa: UP017 - containers with Python 3.10 have no datetime.UTC

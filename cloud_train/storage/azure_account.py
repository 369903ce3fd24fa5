"""Which endpoint and which credentials an Azure storage account is used with: the settings that Azure's own tools read, in their order.

1. ``AZURE_STORAGE_CONNECTION_STRING``: the endpoint, and an account key or a shared access signature (SAS).
2. ``AZURE_STORAGE_KEY`` or ``AZURE_STORAGE_ACCOUNT_KEY``: an account key.
3. ``AZURE_STORAGE_SAS_TOKEN``: a SAS.
4. ``azure.identity.DefaultAzureCredential``: environment, workload or managed identity, ``az login``, and so on.
5. None: requests are not signed, which containers with public access accept.

``AZURE_STORAGE_ENDPOINT`` says where a server is that is not ``https://ACCOUNT.blob.core.windows.net``. Keys, signatures and tokens never
show: not in a message, and not in a ``repr``.
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
from cloud_train.storage.base import AccessDeniedError, TransientStoreError

if TYPE_CHECKING:
    from azure.core.credentials import AzureNamedKeyCredential, AzureSasCredential, TokenCredential
    from obstore.store import AzureCredential

CONNECTION_STRING = "AZURE_STORAGE_CONNECTION_STRING"
KEYS = ("AZURE_STORAGE_KEY", "AZURE_STORAGE_ACCOUNT_KEY")
SAS_TOKEN = "AZURE_STORAGE_SAS_TOKEN"
ENDPOINT = "AZURE_STORAGE_ENDPOINT"
ACCOUNTS = ("AZURE_STORAGE_ACCOUNT", "AZURE_STORAGE_ACCOUNT_NAME")

IDENTITIES = ("AZURE_CLIENT_ID", "AZURE_FEDERATED_TOKEN_FILE", "IDENTITY_ENDPOINT", "MSI_ENDPOINT")
"""Where one of these is set, this process was given an identity, which must not be ignored silently."""

LOGIN_HINT = "sign in with: az login; or set AZURE_STORAGE_CONNECTION_STRING, AZURE_STORAGE_KEY or AZURE_STORAGE_SAS_TOKEN"

_SCOPE = "https://storage.azure.com/.default"
_NAME = re.compile(r"[a-z0-9]{3,24}")
_DEVELOPMENT = {
    "accountname": "devstoreaccount1",
    "accountkey": "Eby8vdM02xNOcqFlqUwJPLlmEtlCDXJ1OUzFT50uSRZ6IFsuFq2UVErCz4I6tq/K1SZFPTOtr/KBHBeksoGMGw==",
    "blobendpoint": "http://127.0.0.1:10000/devstoreaccount1",
}
"""Every emulator's account and key: no secret (https://learn.microsoft.com/azure/storage/common/storage-use-azurite)."""


@dataclass(frozen=True)
class AzureAccount:
    """A storage account: where it is reached, and the key or SAS that the settings give, if they do."""

    name: str
    endpoint: str
    """Without a '/' at its end; an emulator's has the account's name as its path."""
    key: str | None = field(default=None, repr=False)
    sas: str | None = field(default=None, repr=False)
    source: str = ""
    """The setting that the key or the SAS comes from."""
    identity_configured: bool = False
    """Whether the environment names an identity of this process."""

    @property
    def sas_end(self) -> str:
        """Until when the SAS is valid, as it says itself; empty where it does not."""
        return "".join(parse_qs(self.sas or "").get("se", ())[:1])


def account_from(name: str, environment: Mapping[str, str]) -> AzureAccount:
    """The storage account ``name`` as the environment variables describe it.

    Raises UsageError for a name that no account can have, and StoreError for settings that are broken or that belong to another account.
    """
    if not _NAME.fullmatch(name):
        raise UsageError(f"{name!r} cannot be the name of a storage account: those have 3 to 24 of a-z and 0-9")
    identity = any(environment.get(variable) for variable in IDENTITIES)
    if settings := environment.get(CONNECTION_STRING):
        return _from_connection_string(name, settings, environment.get(ENDPOINT, ""), identity)
    key_from = next((variable for variable in KEYS if environment.get(variable)), "")
    key, sas = environment.get(key_from), environment.get(SAS_TOKEN, "").lstrip("?")
    source = key_from or (SAS_TOKEN if sas else "")
    for variable in ACCOUNTS:
        if source and environment.get(variable, name) != name:
            raise _other_account(name, environment[variable], variable)
    endpoint = _endpoint(name, environment.get(ENDPOINT) or f"https://{name}.blob.core.windows.net")
    return AzureAccount(name, endpoint, _checked(key, key_from), None if key else sas or None, source, identity)


def quiet_sdk() -> None:
    """Keep the SDK's warnings off stderr, where Python puts those of a library that nobody configured: our errors say it all."""
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
        raise StoreError(f"{CONNECTION_STRING} names neither AccountName nor BlobEndpoint", hint="copy it from the account's access keys")
    if account != name and account:
        raise _other_account(name, account, CONNECTION_STRING)
    protocol, suffix = fields.get("defaultendpointsprotocol", "https"), fields.get("endpointsuffix", "core.windows.net")
    key = _checked(fields.get("accountkey"), CONNECTION_STRING)
    source = CONNECTION_STRING if key or sas else ""
    where = _endpoint(name, stated or f"{protocol}://{name}.blob.{suffix}")
    return AzureAccount(name, where, key, None if key else sas or None, source, identity)


def _endpoint(name: str, text: str) -> str:
    """An endpoint as it is used: an emulator, which speaks plain HTTP, has the account's name in the path."""
    parts = urlsplit(text)
    if parts.scheme not in ("http", "https") or not parts.hostname or parts.query:
        raise StoreError(
            f"{text.partition('?')[0]!r} is not an endpoint of a storage account", hint=f"see {ENDPOINT} and {CONNECTION_STRING}"
        )
    path = parts.path.rstrip("/")
    if not path and parts.scheme == "http" and parts.hostname.split(".")[0] != name:
        path = f"/{name}"
    return f"{parts.scheme}://{parts.netloc}{path}"


def _account_of(endpoint: str) -> str:
    """Whose endpoint it is, where it says so; a domain of one's own does not."""
    parts = urlsplit(endpoint)
    host = parts.hostname or ""
    return host.split(".")[0] if ".blob." in host else parts.path.strip("/")


def _checked(key: str | None, source: str) -> str | None:
    try:
        base64.b64decode(key or "", validate=True)
    except binascii.Error as error:
        raise StoreError(f"the account key in {source} is not base64", hint="copy it whole, with the '=' at its end") from error
    return key or None


def _other_account(name: str, other: str, source: str) -> StoreError:
    return StoreError(
        f"the URL names the storage account {name!r}, but {source} is about {other!r}",
        hint=f"write az://{other}/…, or set {source} to what belongs to {name!r}",
    )


class Credentials:
    """What signs the requests to one account, for obstore and for the SDK alike. May be used by several threads at once."""

    def __init__(self, account: AzureAccount) -> None:
        self.account = account
        self._identity: TokenCredential | None = None
        self._anonymous = False
        self._given = ""
        self._lock = Lock()

    @property
    def anonymous(self) -> bool:
        """Whether requests are not signed, because no credentials were found."""
        return self._anonymous

    def __call__(self) -> "AzureCredential":
        """Obstore asks for credentials here, and again when they expire. Raises StoreError where an identity fails."""
        if self.account.key is not None:
            return {"access_key": self.account.key, "expires_at": None}
        if self.account.sas is not None:
            return {"sas_token": self.account.sas, "expires_at": None}
        with self._lock:
            token = self._token()
        if token is None:
            return {"sas_token": [], "expires_at": None}  # nothing is added to the request
        return {"token": token[0], "expires_at": token[1]}

    def renew(self) -> bool:
        """After a refusal: whether the chain, asked again, gives another token than the last one. Raises StoreError where it fails."""
        with self._lock:
            if self._identity is None:  # a key or a SAS, which come from the environment, or nothing
                return False
            last, token = self._given, self._token(renewed=True)
            return token is not None and token[0] != last

    def for_sdk(self) -> "AzureNamedKeyCredential | AzureSasCredential | TokenCredential | None":
        """The same for azure-storage-blob; None for requests that are not signed."""
        from azure.core.credentials import AzureNamedKeyCredential, AzureSasCredential

        if self.account.key is not None:
            return AzureNamedKeyCredential(self.account.name, self.account.key)
        if self.account.sas is not None:
            return AzureSasCredential(self.account.sas)
        with self._lock:
            self._token()
        return self._identity

    def failed(self, text: str) -> StoreError:
        """The error for a token that could not be had: Microsoft Entra refused (its codes begin with AADSTS), or could not be asked."""
        refused = re.search(r"AADSTS\d+[^\n]{0,200}", text)
        lines = [line.strip() for line in text.splitlines()] or [""]
        reason = refused[0] if refused else next((line for line in lines if "error" in line.lower()), lines[0])[:300]
        kind = AccessDeniedError if refused else TransientStoreError
        return kind(f"no token for the storage account {self.account.name!r}: {reason}", hint=LOGIN_HINT)

    def _token(self, renewed: bool = False) -> tuple[str, datetime] | None:
        """A token of the identity that Azure's own chain finds, or None where it finds none.

        The chain keeps tokens until they expire; ``renewed``: a fresh chain is asked, which has kept none.
        """
        if self.account.endpoint.startswith("http://"):  # a token must not travel unencrypted
            self._anonymous = True
        if self._anonymous:
            return None
        from azure.core.exceptions import AzureError
        from azure.identity import DefaultAzureCredential

        quiet_sdk()
        identity = DefaultAzureCredential() if renewed or self._identity is None else self._identity
        try:
            token = identity.get_token(_SCOPE)
        except (AzureError, OSError) as error:
            if self._identity is None and not self.account.identity_configured:
                self._anonymous = True
                return None
            raise self.failed(str(error)) from error
        self._identity, self._given = identity, token.token
        return token.token, datetime.fromtimestamp(token.expires_on, timezone.utc)  # noqa: UP017 - containers with Python 3.10 have no datetime.UTC

"""The identity of this process at Azure: azure-identity's chain, and what Azure ML's machines need beside it.

- A cluster's identity gives tokens only to requests that name it. Azure ML puts its client ID into ``DEFAULT_IDENTITY_CLIENT_ID``, which
  azure-identity does not read (https://github.com/Azure/azure-sdk-for-python/issues/30427 and 15892). Without an identity, the variable
  contains a word instead of an ID (https://github.com/Azure/azure-sdk-for-python/pull/36047).
- A job with the identity of its user gets tokens from ``OBO_ENDPOINT`` (``AzureMLOnBehalfOfCredential`` in azure-ai-ml).

Runs on the caller's machine and on those of jobs.
"""

from __future__ import annotations  # the worker also runs on Python 3.10, in users' own images

import json
import os
import time
from collections.abc import Mapping
from datetime import datetime
from typing import TYPE_CHECKING, Any
from urllib.parse import urlencode

from cloud_train.job.cloud_names import CLIENT_ID, has_form

if TYPE_CHECKING:
    from azure.core.credentials import AccessToken, TokenCredential

ENDPOINTS = ("IDENTITY_ENDPOINT", "MSI_ENDPOINT", "OBO_ENDPOINT")
"""If one of these is set, the platform of this machine has given it an identity."""
IDENTITIES = ("AZURE_CLIENT_ID", "AZURE_FEDERATED_TOKEN_FILE", *ENDPOINTS)
"""If one of these is set, this process has an identity, which must not be ignored silently."""

_ON_BEHALF = "OBO_ENDPOINT"
_OF_PLATFORM = "DEFAULT_IDENTITY_CLIENT_ID"
_TIMEOUT_SECONDS = 30.0
_MOST_BYTES = 1 << 20


def credential(environment: Mapping[str, str] = os.environ) -> TokenCredential:
    """The credential of this process; needs azure-identity. No token is requested yet."""
    from azure.identity import DefaultAzureCredential

    if environment.get(_ON_BEHALF) and not environment.get("AZURE_CLIENT_ID"):
        return OnBehalfOfUser(environment[_ON_BEHALF])
    return DefaultAzureCredential(managed_identity_client_id=client_id(environment))


def client_id(environment: Mapping[str, str]) -> str | None:
    """The client ID of the managed identity: the configured one, otherwise that of the platform; None for the platform's default."""
    platform = environment.get(_OF_PLATFORM)
    return environment.get("AZURE_CLIENT_ID") or (platform if has_form(CLIENT_ID, platform) else None)


class OnBehalfOfUser:
    """Tokens of the user who submitted the job, from the platform; not cached, because the SDKs ask again only when a token expires."""

    def __init__(self, endpoint: str) -> None:
        self._endpoint = endpoint

    def get_token(
        self, *scopes: str, claims: str | None = None, tenant_id: str | None = None, enable_cae: bool = False, **_options: Any
    ) -> AccessToken:
        """A token for the first scope. Raises ClientAuthenticationError, or ServiceRequestError if the platform did not respond."""
        from urllib.error import HTTPError  # imports sockets, which most workers do not need
        from urllib.request import urlopen

        from azure.core.credentials import AccessToken
        from azure.core.exceptions import ClientAuthenticationError, ServiceRequestError

        resource = scopes[0].removesuffix("/.default")
        try:
            with urlopen(f"{self._endpoint}?{urlencode({'resource': resource})}", timeout=_TIMEOUT_SECONDS) as response:
                document = json.loads(response.read(_MOST_BYTES))
            return AccessToken(document.get("access_token") or document["token"], _expiry(document))
        except HTTPError as error:
            with error:
                raise ClientAuthenticationError(f"no token of the job's user: error {error.code}: {error.read(300).decode()}") from error
        except OSError as error:
            raise ServiceRequestError(f"no token of the job's user: error: {error}") from error
        except (ValueError, KeyError, AttributeError) as error:
            raise ClientAuthenticationError("no token of the job's user: error: the response has none") from error

    def close(self) -> None:
        """Nothing to close."""

    def __enter__(self) -> OnBehalfOfUser:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()


def _expiry(document: Mapping[str, Any]) -> int:
    """When a token expires, in seconds since 1970, in any of the forms that Azure ML uses."""
    if "expires_on" in document:
        return int(document["expires_on"])
    if "expires_in" in document:
        return int(time.time()) + int(document["expires_in"])
    return int(datetime.fromisoformat(document["expiresOn"].replace("Z", "+00:00")).timestamp())

"""Hosts to which a credential may be sent: those of the cloud that issued it, this machine, and hosts that the user trusts.

Endpoints, regions and vaults come from settings, and the URLs built from them decide who receives the caller's token. So every request with
a token is checked here at the last moment: the URL's form, https (except on this machine), and its host. A private endpoint under another
name can only be allowed by the environment variable CLOUD_TRAIN_TRUSTED_HOSTS, never by a file or a store.
"""

from __future__ import annotations  # the worker also runs on Python 3.10, in the user's images

import os
import re
from collections.abc import Mapping
from dataclasses import dataclass

from cloud_train.errors import ProviderError
from cloud_train.job.loopback import is_loopback
from cloud_train.spec.secret_names import without_credentials

VARIABLE = "CLOUD_TRAIN_TRUSTED_HOSTS"
"""Host names, separated by commas: ``api.example.com``, ``api.example.com:8443``, ``*.example.com`` for all its subdomains."""

_LABEL = r"[a-z0-9_]+(?:-+[a-z0-9_]+)*"
_URL = re.compile(
    rf"(?P<scheme>https?)://(?P<host>{_LABEL}(?:\.{_LABEL})*|\[[0-9a-f:.]+\])(?::(?P<port>[0-9]{{1,5}}))?(?P<path>/[^?]*)?(?:\?.*)?",
    re.IGNORECASE | re.ASCII,  # hosts and schemes ignore case; without ASCII, 'K' would match the Kelvin sign as well
)
_UNSAFE = re.compile(r"[\s\\#\x00-\x1f\x7f-\x9f]")
_DOTS = re.compile(r"/(?:\.|%2e){1,2}(?:/|$)", re.IGNORECASE)
_SPACES = re.compile(r"\s")
_HTTPS = "443"
_SHOWN_CHARACTERS = 120


@dataclass(frozen=True)
class Credential:
    """A kind of credential and its hosts."""

    name: str
    """Its name in messages."""
    hosts: tuple[str, ...]
    """Its hosts; a name that begins with '.' includes all its subdomains."""


GOOGLE = Credential("Google's access token", (".googleapis.com",))
"""Includes the names of Private Service Connect (``*.p.googleapis.com``)."""
AZURE = Credential(
    "the token of Azure's resource manager",
    (
        *("management.azure.com", ".management.azure.com", ".api.azureml.ms"),
        *("management.usgovcloudapi.net", ".api.ml.azure.us"),
        *("management.chinacloudapi.cn", ".api.ml.azure.cn"),
    ),
)
"""The resource manager and the run history of each of Azure's clouds
(https://github.com/Azure/azure-sdk-for-python, ``azure/ai/ml/_azure_environments.py``).
"""
AZURE_VAULT = Credential("the token of Azure Key Vault", (".vault.azure.net", ".vault.usgovcloudapi.net", ".vault.azure.cn"))
"""https://learn.microsoft.com/azure/key-vault/general/about-keys-secrets-certificates"""


class UntrustedHostError(ProviderError):
    """A URL is malformed, unencrypted, or leads to a host that must not receive the credential. Nothing was sent."""


def check(url: str, credential: Credential, setting: str, environment: Mapping[str, str] = os.environ) -> None:
    """Raise UntrustedHostError unless ``credential`` may be sent to ``url``. ``setting`` is the source of the URL."""
    read = _URL.fullmatch(url)
    if read is None or _UNSAFE.search(url) or _DOTS.search(read["path"] or ""):
        raise UntrustedHostError(
            f"refusing to send {credential.name} to {_shown(url)}, which is not a plain URL such as https://host/path", f"correct {setting}"
        )
    host, port = read["host"].lower(), read["port"]
    if is_loopback(host):
        return
    if read["scheme"].lower() != "https":
        raise UntrustedHostError(
            f"refusing to send {credential.name} to http://{host}, which is not encrypted", f"begin {setting} with https://"
        )
    if (port in (None, _HTTPS) and _is_among(host, credential.hosts)) or is_trusted(host, port, environment):
        return
    where = f"{host}:{port}" if port else host
    raise UntrustedHostError(
        f"refusing to send {credential.name} to {where}, which is not one of its hosts",
        f"correct {setting}; if {where} is your own private endpoint, add it to the environment variable {VARIABLE}",
    )


def check_google(url: str, credentials: object, setting: str, environment: Mapping[str, str] = os.environ) -> None:
    """Like ``check``, for Google's access token, which may also go to the universe (sovereign cloud) of google-auth's ``credentials``."""
    try:
        check(url, GOOGLE, setting, environment)
    except UntrustedHostError:
        universe = str(getattr(credentials, "universe_domain", None) or "")  # a machine's credentials get it from the metadata server
        if "." not in universe:
            raise
        check(url, Credential(GOOGLE.name, (f".{universe}",)), setting, environment)


def is_trusted(host: str, port: str | None = None, environment: Mapping[str, str] = os.environ) -> bool:
    """Whether the environment lists this host, and this port if it is not the default."""
    for entry in environment.get(VARIABLE, "").split(","):
        name, _, only = entry.strip().lower().partition(":")
        if name and (only or _HTTPS) == (port or _HTTPS) and _is_among(host, (name.removeprefix("*"),)):
            return True
    return False


def _is_among(host: str, names: tuple[str, ...]) -> bool:
    return any(host.endswith(name) and host != name if name.startswith(".") else host == name for name in names)


def _shown(url: str) -> str:
    """A URL for a message, with credentials removed, even if it contains white space."""
    return repr(without_credentials(_SPACES.sub("%20", url))[:_SHOWN_CHARACTERS])

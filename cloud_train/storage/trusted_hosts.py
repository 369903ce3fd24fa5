"""Where a credential may be sent: to the hosts of the cloud that gave it out, to this machine, and to hosts that its owner named.

Endpoints, regions and vaults come from settings, and a URL that is made of them decides who gets the caller's token. So every request that
carries one is checked here, last of all: the URL's form, https (except on this machine), and its host. A private endpoint under a name of
its own is allowed by the environment variable CLOUD_TRAIN_TRUSTED_HOSTS, and by nothing that a file or a store says.
"""

from __future__ import annotations  # the worker runs on Python 3.10 as well, in images of the user's

import os
import re
from collections.abc import Mapping
from dataclasses import dataclass

from cloud_train.errors import ProviderError
from cloud_train.job.loopback import is_loopback
from cloud_train.spec.secret_names import without_credentials

VARIABLE = "CLOUD_TRAIN_TRUSTED_HOSTS"
"""Names of hosts, separated by commas: ``api.example.com``, ``api.example.com:8443``, ``*.example.com`` for all below that name."""

_LABEL = r"[a-z0-9_]+(?:-+[a-z0-9_]+)*"
_URL = re.compile(
    rf"(?P<scheme>https?)://(?P<host>{_LABEL}(?:\.{_LABEL})*|\[[0-9a-f:.]+\])(?::(?P<port>[0-9]{{1,5}}))?(?P<path>/[^?]*)?(?:\?.*)?",
    re.IGNORECASE | re.ASCII,  # hosts and schemes mean the same in either case; without ASCII, 'K' would be the Kelvin sign as well
)
_UNSAFE = re.compile(r"[\s\\#\x00-\x1f\x7f-\x9f]")
_DOTS = re.compile(r"/(?:\.|%2e){1,2}(?:/|$)", re.IGNORECASE)
_SPACES = re.compile(r"\s")
_HTTPS = "443"
_SHOWN_CHARACTERS = 120


@dataclass(frozen=True)
class Credential:
    """A kind of credential and where it belongs."""

    name: str
    """What messages call it."""
    hosts: tuple[str, ...]
    """Its hosts; a name that begins with '.' stands for every host below it."""


GOOGLE = Credential("Google's access token", (".googleapis.com",))
"""Private Service Connect's names (``*.p.googleapis.com``) are among these."""
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
    """A URL is malformed, unencrypted, or leads to a host that a credential does not belong to. Nothing was sent."""


def check(url: str, credential: Credential, setting: str, environment: Mapping[str, str] = os.environ) -> None:
    """Raise UntrustedHostError unless ``credential`` may be sent to ``url``. ``setting`` is what the URL comes from."""
    read = _URL.fullmatch(url)
    if read is None or _UNSAFE.search(url) or _DOTS.search(read["path"] or ""):
        raise UntrustedHostError(
            f"{credential.name} is not sent to {_shown(url)}, which is not a plain URL such as https://host/path", f"correct {setting}"
        )
    host, port = read["host"].lower(), read["port"]
    if is_loopback(host):
        return
    if read["scheme"].lower() != "https":
        raise UntrustedHostError(
            f"{credential.name} is not sent to http://{host}, because that is not encrypted", f"begin {setting} with https://"
        )
    if (port in (None, _HTTPS) and _is_among(host, credential.hosts)) or is_trusted(host, port, environment):
        return
    where = f"{host}:{port}" if port else host
    raise UntrustedHostError(
        f"{credential.name} is not sent to {where}, which is not one of its hosts",
        f"correct {setting}; if {where} is your own private endpoint, add it to the environment variable {VARIABLE}",
    )


def check_google(url: str, credentials: object, setting: str, environment: Mapping[str, str] = os.environ) -> None:
    """The same for Google's access token. It may also go to the universe (a sovereign cloud) that google-auth's ``credentials`` are for."""
    try:
        check(url, GOOGLE, setting, environment)
    except UntrustedHostError:
        universe = str(getattr(credentials, "universe_domain", None) or "")  # a machine's own credentials ask the metadata server for it
        if "." not in universe:
            raise
        check(url, Credential(GOOGLE.name, (f".{universe}",)), setting, environment)


def is_trusted(host: str, port: str | None = None, environment: Mapping[str, str] = os.environ) -> bool:
    """Whether the environment names this host, with this port where it has one."""
    for entry in environment.get(VARIABLE, "").split(","):
        name, _, only = entry.strip().lower().partition(":")
        if name and (only or _HTTPS) == (port or _HTTPS) and _is_among(host, (name.removeprefix("*"),)):
            return True
    return False


def _is_among(host: str, names: tuple[str, ...]) -> bool:
    return any(host.endswith(name) and host != name if name.startswith(".") else host == name for name in names)


def _shown(url: str) -> str:
    """A URL for a message, without the credentials that may be in it, also where white space tears it apart."""
    return repr(without_credentials(_SPACES.sub("%20", url))[:_SHOWN_CHARACTERS])

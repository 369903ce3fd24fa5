"""Environment variables that give a container or another machine this machine's access to a store: the SDKs' own settings.

They are secrets: they are passed to the worker's environment and never recorded. A variable may name a file, which has to be copied too.
"""

import os
import re
from collections.abc import Iterable, Mapping
from pathlib import Path
from urllib.parse import urlsplit

from cloud_train.job.loopback import leads_to_this_machine
from cloud_train.storage.registry import scheme_of

FILES = ("GOOGLE_APPLICATION_CREDENTIALS", "AWS_CA_BUNDLE", "AWS_WEB_IDENTITY_TOKEN_FILE")
"""Variables that contain the path of a file."""

FORWARDED = "_CLOUD_TRAIN_FORWARDED"
"""A variable in a worker's environment: the names of the variables from ``settings_for``, separated by commas."""
_CONFIDENTIAL = re.compile(r"KEY|SECRET|TOKEN|CONNECTION_STRING|CREDENTIALS")
_NAMES = {
    "s3": (
        *("AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY", "AWS_SESSION_TOKEN", "AWS_REGION", "AWS_DEFAULT_REGION", "AWS_ENDPOINT_URL"),
        *("AWS_ENDPOINT_URL_S3", "AWS_ROLE_ARN", "AWS_WEB_IDENTITY_TOKEN_FILE", "AWS_CA_BUNDLE", "AWS_EC2_METADATA_DISABLED"),
    ),
    "gs": (
        *("GOOGLE_APPLICATION_CREDENTIALS", "GOOGLE_CLOUD_PROJECT", "GOOGLE_CLOUD_QUOTA_PROJECT", "API_ENDPOINT_OVERRIDE"),
        *("STORAGE_EMULATOR_HOST", "NO_GCE_CHECK"),
    ),
    "az": (
        *("AZURE_STORAGE_CONNECTION_STRING", "AZURE_STORAGE_KEY", "AZURE_STORAGE_ACCOUNT_KEY", "AZURE_STORAGE_SAS_TOKEN"),
        *("AZURE_STORAGE_ENDPOINT", "AZURE_TENANT_ID", "AZURE_CLIENT_ID", "AZURE_CLIENT_SECRET"),
    ),
}
FORWARDABLE = frozenset(name for names in _NAMES.values() for name in names)
"""Every variable that ``settings_for`` may return."""


def settings_for(url: str, environment: Mapping[str, str] = os.environ) -> dict[str, str]:
    """The variables and values with which another environment can open ``url``; empty for a local folder.

    Credentials from elsewhere (a profile in ``~/.aws``, a gcloud login) are added where possible. Temporary credentials expire at the same
    time everywhere.
    """
    scheme = scheme_of(url)
    found = {name: environment[name] for name in _NAMES.get(scheme, ()) if environment.get(name)}
    if scheme == "s3" and not {"AWS_ACCESS_KEY_ID", "AWS_WEB_IDENTITY_TOKEN_FILE"} & found.keys():
        found |= _of_aws_profile()
    if scheme == "gs" and not {"GOOGLE_APPLICATION_CREDENTIALS", "STORAGE_EMULATOR_HOST"} & found.keys():
        login = Path("~/.config/gcloud/application_default_credentials.json").expanduser()
        found |= {"GOOGLE_APPLICATION_CREDENTIALS": str(login)} if login.is_file() else {}
    return found


def names_for(url: str, environment: Mapping[str, str] = os.environ) -> tuple[str, ...]:
    """The sorted names of the confidential variables among those of ``settings_for``."""
    return tuple(sorted(name for name in settings_for(url, environment) if _CONFIDENTIAL.search(name)))


def withheld(own: Mapping[str, str], wanted: Iterable[str]) -> frozenset[str]:
    """The variables to remove from the program's environment: forwarded ones that the job does not name as secrets."""
    return frozenset(filter(None, own.get(FORWARDED, "").split(","))) - set(wanted)


def forwarded_values(own: Mapping[str, str]) -> list[str]:
    """The confidential values that were forwarded to a worker, including each secret part of a connection string."""
    names = [name for name in own.get(FORWARDED, "").split(",") if _CONFIDENTIAL.search(name) and name not in FILES]
    values = [own.get(name, "") for name in names]
    parts = [part.partition("=")[2] for value in values for part in value.split(";") if part.startswith(("AccountKey=", "SharedAccess"))]
    return [value for value in (*values, *parts) if value]


def _of_aws_profile() -> dict[str, str]:
    try:
        import botocore.session
        from botocore.exceptions import BotoCoreError
    except ModuleNotFoundError:  # opening the store reports the missing package
        return {}
    session = botocore.session.get_session()
    try:
        credentials = session.get_credentials()
        frozen = credentials.get_frozen_credentials() if credentials else None
    except BotoCoreError:  # such as an expired login; opening the store reports it
        return {}
    keys = ("AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY", "AWS_SESSION_TOKEN")
    values = (frozen.access_key, frozen.secret_key, frozen.token) if frozen else ()
    region = session.get_config_variable("region")
    return {name: value for name, value in zip((*keys, "AWS_DEFAULT_REGION"), (*values, region), strict=False) if value and frozen}


def loopback_endpoint(settings: Mapping[str, str]) -> str | None:
    """An endpoint in the settings that only this machine can reach, or None."""
    for name, value in settings.items():
        endpoints = [part.partition("=")[2] for part in value.split(";") if "=" in part] if "CONNECTION_STRING" in name else [value]
        for endpoint in endpoints:
            if "://" in endpoint and leads_to_this_machine(urlsplit(endpoint).netloc.rpartition("@")[2]):
                return endpoint
    return None

"""Fetching the job's secrets from a cloud's secret service. The worker's command line has their location, never their values.

A location is ``aws-secret:NAME@REGION`` (AWS Secrets Manager), ``gcp-secret:projects/P/secrets/NAME`` (Google Secret Manager) or
``azure-secret:https://VAULT.vault.azure.net/secrets/NAME`` (Azure Key Vault). Other providers use ``file-secret:PATH``, a file on the
machine, or ``url-secret:`` with the JSON of a request (``run.platform_rules.SecretUrl``). Each holds one JSON object, name → value.

The machine's token is only sent to its cloud's own hosts, over https and without following redirects (``storage.trusted_hosts``).
"""

from __future__ import annotations  # the worker also runs on Python 3.10, in users' own images

import base64
import json
import os
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

from cloud_train.errors import CloudTrainError, UsageError
from cloud_train.job.cloud_names import AWS_REGION, has_form
from cloud_train.run.platform_rules import SecretUrl
from cloud_train.storage import azure_identity
from cloud_train.storage.trusted_hosts import AZURE_VAULT, Credential, UntrustedHostError, check, check_google

_GOOGLE = "https://secretmanager.googleapis.com/v1/"
_TIMEOUT_SECONDS = 30.0
_MOST_BYTES = 32_000
_AWS_NAME = re.compile(r"[A-Za-z0-9/_+=.@-]{1,512}")
_GOOGLE_NAME = re.compile(r"projects/[a-z0-9.:-]+/secrets/[A-Za-z0-9_-]{1,255}")
_VARIABLE = re.compile(r"\{([A-Za-z_][A-Za-z0-9_]*)\}")
_AZURE_PATH = re.compile(r"https?://[^/?]+/secrets/[A-Za-z0-9-]{1,127}")


class SecretsError(CloudTrainError):
    """The job's secrets cannot be read. The message contains the next step, because a child process can only return a string."""

    code = "secrets"


def fetch(place: str) -> str:
    """The secrets at ``place``, as JSON; raises SecretsError. Call it in a child of the worker, because the SDKs start threads."""
    kind, _, name = place.partition(":")
    readers = {
        "aws-secret": _from_aws,
        "gcp-secret": _from_google,
        "azure-secret": _from_azure,
        "file-secret": _from_file,
        "url-secret": _from_url,
    }
    if kind not in readers:
        raise UsageError(f"--secrets must begin with one of {', '.join(readers)}, not with {kind!r}")
    text = readers[kind](name)
    if len(text) > _MOST_BYTES:
        raise SecretsError(f"the job's secrets have {len(text):,} bytes; the limit is {_MOST_BYTES:,}")
    return text


def parsed(text: str, place: str) -> dict[str, str]:
    """Parse the secrets, name → value; raises SecretsError."""
    try:
        values = json.loads(text)
    except ValueError:  # not chained: its text contains the secrets
        values = None
    if not isinstance(values, dict) or not all(isinstance(value, str) for value in values.values()):
        raise SecretsError(f"the secret at {place} is not a JSON object with string values")
    return values


def _from_aws(name: str) -> str:
    try:
        import boto3
        from botocore.exceptions import BotoCoreError, ClientError
    except ImportError as error:
        raise SecretsError(
            "reading AWS Secrets Manager needs boto3, which the image does not have: add it to image.requirements"
        ) from error
    identifier, _, region = name.rpartition("@")
    if not (_AWS_NAME.fullmatch(identifier) and has_form(AWS_REGION, region)):
        raise SecretsError(f"{name!r} is not a secret in AWS Secrets Manager, written as NAME@REGION")
    try:
        client = boto3.client("secretsmanager", region_name=region)
        return str(client.get_secret_value(SecretId=identifier)["SecretString"])
    except (BotoCoreError, ClientError, KeyError) as error:
        advice = "the machines' role needs secretsmanager:GetSecretValue on cloud-train/*: see docs/clouds/aws.md"
        raise SecretsError(f"the secret {identifier} cannot be read: {error}; {advice}") from error


def _from_google(name: str) -> str:
    try:
        import google.auth
        from google.auth.exceptions import GoogleAuthError
        from google.auth.transport.requests import AuthorizedSession
        from requests import RequestException
    except ImportError as error:
        advice = "add google-auth and requests to image.requirements"
        raise SecretsError(f"reading Google Secret Manager needs google-auth, which the image does not have: {advice}") from error
    url = name if "://" in name else f"{_GOOGLE}{name}"
    if not _GOOGLE_NAME.fullmatch(url.rpartition("/v1/")[2]):
        raise SecretsError(f"{name!r} is not a secret in Google Secret Manager, written as projects/PROJECT/secrets/NAME")
    try:
        credentials, _ = google.auth.default(scopes=["https://www.googleapis.com/auth/cloud-platform"])
        check_google(url, credentials, "the address of the secret")
        with AuthorizedSession(credentials) as session:  # type: ignore[no-untyped-call]  # google-auth has no types here
            response = session.get(f"{url}/versions/latest:access", timeout=_TIMEOUT_SECONDS, allow_redirects=False)
            response.raise_for_status()
            if response.is_redirect:
                raise SecretsError(f"the secret {name} cannot be read: {url} redirects to another address, to which no token is sent")
            return base64.b64decode(response.json()["payload"]["data"]).decode()
    except UntrustedHostError as error:
        raise SecretsError(f"{error.message}; {error.hint}") from error
    except (GoogleAuthError, RequestException, KeyError, ValueError) as error:
        advice = "the machines' service account needs roles/secretmanager.secretAccessor: see docs/clouds/gcp.md"
        raise SecretsError(f"the secret {name} cannot be read: {error}; {advice}") from error


def _from_file(path: str) -> str:
    try:
        with Path(path).open(encoding="utf-8") as file:
            return file.read(_MOST_BYTES + 1)
    except (OSError, ValueError) as error:
        raise SecretsError(f"the job's secrets in {path} cannot be read: {error}") from error


def _from_url(text: str) -> str:
    rule = SecretUrl.from_json(text)
    try:
        host = urlsplit(rule.url).hostname or ""
        check(rule.url, Credential("the token for the job's secrets", (host,)), "the address of the job's secrets")
        headers = {name: _VARIABLE.sub(lambda match: os.environ[match[1]], value) for name, value in rule.headers.items()}
        if rule.token_file is not None:
            headers["Authorization"] = f"Bearer {Path(rule.token_file).read_text(encoding='utf-8').strip()}"
        document = _document_at(rule.url, headers)
        for key in rule.path:
            document = document[key]
        return document if isinstance(document, str) else json.dumps(document)
    except UntrustedHostError as error:
        raise SecretsError(f"{error.message}; {error.hint}") from error
    except (OSError, ValueError, KeyError, TypeError, IndexError) as error:  # urllib's errors are OSErrors
        raise SecretsError(f"the job's secrets at {rule.url} cannot be read: {type(error).__name__}: {error}") from error


def _document_at(url: str, headers: Mapping[str, str]) -> Any:
    """The JSON response to a request; raises OSError, also for a redirect, and ValueError."""
    from urllib.error import HTTPError
    from urllib.request import HTTPRedirectHandler, Request, build_opener  # imports sockets, which most workers do not need

    class Unredirected(HTTPRedirectHandler):
        def redirect_request(self, *_: Any) -> None:
            return None  # makes urllib raise an HTTPError with the redirect's status

    try:
        with build_opener(Unredirected).open(Request(url, headers=dict(headers)), timeout=_TIMEOUT_SECONDS) as response:
            return json.load(response)
    except HTTPError as error:
        error.close()
        raise


def _from_azure(url: str) -> str:
    if not _AZURE_PATH.fullmatch(url):
        raise SecretsError(f"{url!r} is not a secret in Azure Key Vault, such as https://VAULT.vault.azure.net/secrets/NAME")
    try:
        check(url, AZURE_VAULT, "the address of the secret (azure.vault)")
    except UntrustedHostError as error:
        raise SecretsError(f"{error.message}; {error.hint}") from error
    try:
        from azure.core.exceptions import AzureError

        identity = azure_identity.credential()
    except ImportError as error:
        advice = "add azure-identity to image.requirements"
        raise SecretsError(f"reading Azure Key Vault needs azure-identity, which the image does not have: {advice}") from error
    try:
        token = identity.get_token("https://vault.azure.net/.default").token
        return str(_document_at(f"{url}?api-version=7.4", {"Authorization": f"Bearer {token}"})["value"])
    except (AzureError, OSError, KeyError, ValueError) as error:
        advice = "the machines' identity needs the role Key Vault Secrets User on the vault: see docs/clouds/azure.md"
        raise SecretsError(f"the secret {url} cannot be read: {error}; {advice}") from error

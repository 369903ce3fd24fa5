"""Artifact Registry, from which the machines pull images: a login that is valid for an hour, and creating a missing repository.

An image's name is ``LOCATION-docker.pkg.dev/PROJECT/REPOSITORY/IMAGE``
(https://cloud.google.com/artifact-registry/docs/docker/names). Container Registry's old names (gcr.io) use the same login.
"""

import re
from contextlib import suppress
from typing import Any

from cloud_train.errors import ProviderError
from cloud_train.job.cloud_names import REPOSITORY, has_form
from cloud_train.providers.cloud.errors import ExistsError, MissingError
from cloud_train.providers.cloud.repositories import GOOGLE
from cloud_train.providers.gcp.client import Google, no_token

_USER = "oauth2accesstoken"  # https://cloud.google.com/artifact-registry/docs/docker/authentication#token
_PART = r"[a-z0-9](?:[a-z0-9._-]*[a-z0-9])?"
_NAME = re.compile(rf"(?P<location>[a-z0-9-]+)-docker\.pkg\.dev/(?P<project>{_PART})/(?P<repository>{_PART})(?:/{_PART})+")
_LOOKS = 30
_PACE_SECONDS = 2.0


def is_google(repository: str) -> bool:
    """Whether the repository is in one of Google's registries. Raises ProviderError for a registry without a repository."""
    if GOOGLE.hosts.fullmatch(repository.partition("/")[0]) is None:
        return False
    if not has_form(REPOSITORY, repository):
        raise _not_an_image(repository)
    return True


def login(credentials: Any) -> tuple[str, str]:
    """User and password for the registry, from google-auth's ``credentials``. Raises CloudError."""
    from google.auth.exceptions import GoogleAuthError
    from google.auth.transport.requests import Request

    try:
        if not credentials.valid:
            credentials.refresh(Request())
    except GoogleAuthError as error:
        raise no_token(error) from error
    return _USER, str(credentials.token)


def exists(google: Google, repository: str) -> bool:
    """Whether the repository exists; raises ProviderError."""
    try:
        google.call("GET", "artifactregistry", _path(repository))
    except MissingError:
        return False
    return True


def prepare(google: Google, repository: str) -> None:
    """Create the repository if it is missing, and wait until it exists. Raises ProviderError."""
    if exists(google, repository):
        return
    folder, _, name = _path(repository).rpartition("/")
    with suppress(ExistsError):
        google.call("POST", "artifactregistry", folder, query={"repositoryId": name}, body={"format": "DOCKER"})
    for _ in range(_LOOKS):
        if exists(google, repository):
            return
        google.policy.sleep(_PACE_SECONDS)
    raise ProviderError(f"gcp.repository: {repository} was created, but is not available yet", hint="retry in a minute")


def _path(repository: str) -> str:
    match = _NAME.fullmatch(repository)
    if match is None:
        raise _not_an_image(repository)
    return f"v1/projects/{match['project']}/locations/{match['location']}/repositories/{match['repository']}"


def _not_an_image(repository: str) -> ProviderError:
    return ProviderError(
        f"gcp.repository: {repository!r} is not the name of an image in Artifact Registry",
        hint="use a name such as europe-west4-docker.pkg.dev/my-project-123456/cloud-train/jobs",
    )

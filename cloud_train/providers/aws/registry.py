"""Amazon ECR, from which the machines pull images: a login for 12 hours, and creating the repository if it is missing."""

import base64
import os
from collections.abc import Mapping
from contextlib import suppress
from typing import Any
from urllib.parse import urlsplit

from cloud_train.errors import ProviderError
from cloud_train.job.cloud_names import EXPECTED, REPOSITORY, has_form
from cloud_train.job.loopback import is_loopback
from cloud_train.providers.aws.client import Aws
from cloud_train.providers.aws.request import region_of, registry_of
from cloud_train.providers.cloud.errors import ExistsError, with_field


def login(aws: Aws, settings: Mapping[str, Any]) -> tuple[str, str] | None:
    """User and password for Amazon ECR, for 12 hours; None for another registry. Creates the repository if the settings ask for it.

    Raises ProviderError for one of ECR's registries without a repository in it.
    """
    repository = str(settings.get("repository") or "")
    registry = registry_of(repository)
    region = registry[1] if registry else region_of(settings) if _stands_for_ecr(repository) else None
    if region is None:
        return None
    if not has_form(REPOSITORY, repository):
        hint = "such as 123456789012.dkr.ecr.eu-west-1.amazonaws.com/cloud-train"
        raise ProviderError(f"aws.repository: {repository!r} is not {EXPECTED[REPOSITORY]}", hint=hint)
    if settings.get("create_repository"):
        _make_repository(aws, region, repository.partition("/")[2])
    answer = with_field("AWS", "authorizationData", aws.ask("ecr", region, "get_authorization_token"))
    user, _, password = base64.b64decode(answer["authorizationData"][0]["authorizationToken"]).decode().partition(":")
    return user, password


def _stands_for_ecr(repository: str) -> bool:
    """Whether the environment redirects ECR's endpoint, and the repository is on that host or on loopback."""
    endpoint, host = os.environ.get("AWS_ENDPOINT_URL_ECR"), repository.partition("/")[0]
    return bool(endpoint) and (is_loopback(host) or host == urlsplit(endpoint).netloc)


def _make_repository(aws: Aws, region: str, name: str) -> None:
    with suppress(ExistsError):
        aws.ask("ecr", region, "create_repository", repositoryName=name, imageTagMutability="IMMUTABLE")

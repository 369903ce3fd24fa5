"""Finds and removes the images of a session."""

import re
from collections.abc import Sequence

from cloud_train.errors import CloudTrainError
from cloud_train.image.connection import Connection
from cloud_train.image.reference import Reference, parse_reference
from cloud_train.image.tokens import Login
from cloud_train.providers.aws.client import Aws
from cloud_train.providers.aws.request import registry_of
from cloud_train.providers.base import RegistryLogin
from tools.cloud_check.answers import Answer
from tools.cloud_check.bench import Bench

_MANIFEST = re.compile(r"/v2/.+/manifests/(?P<version>[^/?]+)$")
_DIGEST = re.compile(r"sha256:[0-9a-f]{64}")


def pushed_images(answers: Sequence[Answer]) -> list[str]:
    """The digests of the images that were put into the repository, and of a base that was missing first and there later.

    An engine pushes the base itself, so only the requests for it before and after are recorded.
    """
    found: dict[str, None] = {}
    missing: set[str] = set()
    for answer in answers:
        match = _MANIFEST.search(answer.path)
        if match is None:
            continue
        version = match["version"]
        digest = next((each for each in (answer.headers.get("docker-content-digest", ""), version) if _DIGEST.fullmatch(each)), "")
        if answer.method == "DELETE" and answer.status in (200, 202):
            found.pop(version, None)
        elif answer.method == "GET" and answer.status == 404:
            missing.add(version)
        elif digest and ((answer.method, answer.status) == ("PUT", 201) or (answer.method == "GET" and version in missing)):
            found[digest] = None
    return list(found)


def remove_image(bench: Bench, digest: str) -> str | None:
    """Remove an image from the repository; returns why it cannot be removed, or None."""
    try:
        registry = registry_of(bench.repository) if bench.cloud == "aws" else None
        if registry is not None:
            images = [{"imageDigest": digest}]
            answer = Aws().ask("ecr", registry[1], "batch_delete_image", repositoryName=_name(bench), imageIds=images)
            failures = [f"{each.get('failureCode')}: {each.get('failureReason')}" for each in answer.get("failures", [])]
            return "; ".join(failures) or None
        reference = parse_reference(bench.repository)
        connection = Connection(reference, login=login_of(bench, reference))
        try:
            path, scope = f"/v2/{reference.name}/manifests/{digest}", f"repository:{reference.name}:pull,push,delete"
            connection.request("DELETE", path, scope, expect=(200, 202, 404), about=f"remove the image {digest}")
        finally:
            connection.close()
    except CloudTrainError as error:
        return error.message
    return None


def removing_command(bench: Bench, digest: str) -> str:
    """The command with which a user removes an image."""
    if bench.cloud == "aws":
        region = f" --region {bench.region}" if bench.region else ""
        return f"aws ecr batch-delete-image{region} --repository-name {_name(bench)} --image-ids imageDigest={digest}"
    if bench.cloud == "gcp":
        return f"gcloud artifacts docker images delete {bench.repository}@{digest} --delete-tags --quiet"
    return f"az acr manifest delete --yes {bench.repository}@{digest}"


def login_of(bench: Bench, reference: Reference) -> Login | None:
    """The provider's login for its registry; None to use Docker's own."""
    provider = bench.provider
    given = provider.registry_login(bench.settings) if isinstance(provider, RegistryLogin) else None
    return Login(*given).bound_to(reference.host) if given else None


def _name(bench: Bench) -> str:
    """The repository without the registry's host."""
    return bench.repository.partition("/")[2]

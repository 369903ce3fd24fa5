"""The registries of the clouds, and the validation of repositories' names.

A login goes only to a host that matches its cloud's pattern. A host that only resembles one of them is refused before
anything is sent, because the image would go there.
"""

import re
from collections.abc import Iterator
from dataclasses import dataclass
from itertools import chain

from cloud_train.job.cloud_names import EXPECTED, REPOSITORY, has_form
from cloud_train.job.loopback import is_loopback

_ALIASES_OF_DOCKER_HUB = ("index.docker.io", "registry-1.docker.io", "registry.hub.docker.com", "hub.docker.com")
_DOCKER_HUB = "docker.io"
_ADDRESS = re.compile(r"[0-9]+(?:\.[0-9]+){3}")
_PARTS_OF_GOOGLE = {".pkg.dev": 2, "gcr.io": 1}
"""An image in Artifact Registry is called PROJECT/REPOSITORY/IMAGE, in Container Registry PROJECT/IMAGE: at least so many slashes."""


@dataclass(frozen=True)
class Registry:
    """A cloud's registry service."""

    name: str
    hosts: re.Pattern[str]
    """Its hosts, in lower case and without a port."""
    domain: re.Pattern[str]
    """Part of its hosts, at label boundaries; also part of hosts that resemble them."""
    example: str


ECR = Registry(
    "Amazon ECR",
    re.compile(r"([0-9]{12})\.dkr\.ecr(?:-fips)?\.([a-z0-9-]+)\.(?:amazonaws\.com(?:\.cn)?|amazonaws\.eu)"),
    re.compile(r"(?:^|\.)(?:dkr\.ecr|amazonaws\.(?:com|eu))(?:\.|$)"),
    "123456789012.dkr.ecr.eu-west-1.amazonaws.com/cloud-train",
)
"""The groups of ``hosts`` are account and region."""
GOOGLE = Registry(
    "Artifact Registry",
    re.compile(r"[a-z0-9](?:[a-z0-9-]{0,54}[a-z0-9])?-docker\.pkg\.dev|(?:(?:us|eu|asia)\.)?gcr\.io"),
    re.compile(r"(?:^|\.)(?:[a-z0-9-]*\.?pkg\.dev|gcr\.io)(?:\.|$)"),
    "europe-west4-docker.pkg.dev/my-project-123456/cloud-train/jobs",
)
"""With Container Registry (gcr.io), which has the same login."""
AZURE = Registry(
    "Azure Container Registry",
    re.compile(r"[a-z0-9](?:[a-z0-9-]{0,61}[a-z0-9])?\.azurecr\.(?:io|cn|us)"),
    re.compile(r"(?:^|\.)azurecr\.(?:io|cn|us)(?:\.|$)"),
    "myregistry.azurecr.io/cloud-train",
)
_CLOUDS = (ECR, GOOGLE, AZURE)


def problem_of(setting: str, repository: str, own: Registry) -> str | None:
    """The problem with the repository that ``setting`` names, for a cloud with the registry service ``own``; None if it is valid.

    A registry that belongs to no cloud is accepted, and so is loopback, for simulations. A login in the name is never shown.
    """
    host, _, path = repository.partition("/")
    if is_loopback(host) and has_form(REPOSITORY, repository):
        return None
    problem = next(chain(_of_form(repository, own), _of_host(host, path, own)), None)
    shown = f"…@{repository.rpartition('@')[2]}" if "@" in repository else repository
    return f"{setting}: {shown!r} {problem}" if problem else None


def _of_form(repository: str, own: Registry) -> Iterator[str]:
    """Problems with the form of the name, regardless of its host; the most informative first."""
    scheme, has_scheme, _ = repository.partition("://")
    if has_scheme:
        yield f"is a URL; leave out {scheme[:20]}://"
    if "@" in repository:
        yield "contains '@'; a repository's name has no user and no digest"
    lower, (untagged, _, _), host = repository.lower(), repository.rpartition(":"), repository.partition("/")[0].partition(":")[0]
    if has_form(REPOSITORY, lower) and lower != repository:
        yield f"has capital letters, which registries do not accept; write {lower}"
    if has_form(REPOSITORY, f"{host}/x") and not repository.partition("/")[2]:
        yield f"is a registry without a repository; add one, such as {host}/{own.example.partition('/')[2]}"
    if not has_form(REPOSITORY, repository) and has_form(REPOSITORY, untagged):
        yield f"has a tag; write {untagged}"
    if has_form(REPOSITORY, f"{_DOCKER_HUB}/{repository}") and not has_form(REPOSITORY, repository):
        yield f"names no registry, so it would be a repository on Docker Hub; start with the registry's host, such as {own.example}"
    if not has_form(REPOSITORY, repository):
        yield f"is not {EXPECTED[REPOSITORY]}"


def _of_host(host: str, path: str, own: Registry) -> Iterator[str]:
    """Problems with the host of a name whose form is valid."""
    name, _, port = host.partition(":")
    cloud = next((each for each in _CLOUDS if each.hosts.fullmatch(name)), None)
    if cloud is not None and port:
        yield f"has a port, which {cloud.name} does not use; leave out :{port}"
    elif cloud is not None and cloud is not own:
        yield f"is in {cloud.name}; the machines pull from {own.name}, so use one such as {own.example}"
    elif any(name.endswith(end) and path.count("/") < least for end, least in _PARTS_OF_GOOGLE.items() if cloud is GOOGLE):
        yield f"has too few parts for an image's name in {GOOGLE.name}; use one such as {GOOGLE.example}"
    elif cloud is None:
        for resembled in (each for each in _CLOUDS if each.domain.search(name)):
            yield f"is not in {resembled.name}, though {name} resembles its hosts; use one such as {resembled.example}"
    if name in _ALIASES_OF_DOCKER_HUB:
        yield f"is on Docker Hub, whose registry is called {_DOCKER_HUB}; write {_DOCKER_HUB}/{path}"
    first = path.partition("/")[0]
    if name == _DOCKER_HUB and "." in first:
        yield f"is a repository on Docker Hub with the name {path}, not one at {first}; leave out {_DOCKER_HUB}/"
    if _ADDRESS.fullmatch(name):
        yield "is at an IP address, from which a cloud's machines do not pull; use the registry's name"

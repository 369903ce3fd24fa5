"""Image names, parsed as Docker parses them: ``[host[:port]/]name[:tag][@digest]``.

The grammar is that of the distribution project (https://pkg.go.dev/github.com/distribution/reference).
"""

import re
from dataclasses import dataclass

from cloud_train.image.errors import ImageError
from cloud_train.job.loopback import is_loopback

DOCKER_HUB = "docker.io"

_NAME = re.compile(r"[a-z0-9]+(?:(?:\.|_|__|-+)[a-z0-9]+)*(?:/[a-z0-9]+(?:(?:\.|_|__|-+)[a-z0-9]+)*)*")
_TAG = re.compile(r"[A-Za-z0-9_][A-Za-z0-9._-]{0,127}")
_DIGEST = re.compile(r"sha256:[0-9a-f]{64}")
_LABEL = r"[A-Za-z0-9]+(?:-+[A-Za-z0-9]+)*"
_HOST = re.compile(rf"(?:{_LABEL}(?:\.{_LABEL})*|\[[0-9A-Fa-f:]+\])(?::[0-9]{{1,5}})?")


@dataclass(frozen=True)
class Reference:
    """A repository in a registry, and an image in it."""

    host: str
    name: str
    tag: str | None = None
    digest: str | None = None
    explicit_host: bool = True
    """Whether the text includes the host; otherwise the host is Docker Hub."""

    @property
    def repository(self) -> str:
        """``host/name``."""
        return f"{self.host}/{self.name}"

    @property
    def version(self) -> str:
        """The digest, otherwise the tag, by default ``latest``."""
        return self.digest or self.tag or "latest"

    @property
    def registry_url(self) -> str:
        """The URL of the registry's API: https, or plain http on this machine."""
        if self.host == DOCKER_HUB:
            return "https://registry-1.docker.io"
        return f"{'http' if is_loopback(self.host) else 'https'}://{self.host}"

    def __str__(self) -> str:
        tag = f":{self.tag}" if self.tag else ""
        return f"{self.repository}{tag}{f'@{self.digest}' if self.digest else ''}"


def parse_reference(text: str) -> Reference:
    """Parse an image's name; raises ImageError."""
    rest, at, digest = text.partition("@")
    if at and not _DIGEST.fullmatch(digest):
        raise _wrong(text, f"{digest!r} is not a valid digest ('sha256:' and 64 characters 0-9a-f)")
    first, slash, remainder = rest.partition("/")
    explicit = bool(slash) and ("." in first or ":" in first or first == "localhost" or first.lower() != first)
    host, rest = (first, remainder) if explicit else (DOCKER_HUB, rest)
    if host == "index.docker.io":
        host = DOCKER_HUB
    name, colon, tag = rest.partition(":")
    if colon and not _TAG.fullmatch(tag):
        raise _wrong(text, f"{tag!r} is not a valid tag")
    if not _HOST.fullmatch(host):
        raise _wrong(text, f"{host!r} is not a valid host")
    if host == DOCKER_HUB and "/" not in name:
        name = f"library/{name}"
    if not _NAME.fullmatch(name):
        raise _wrong(text, f"{name!r} is not a valid repository; use a-z, 0-9, '.', '_', '-' and '/'")
    return Reference(host, name, tag or None, digest or None, explicit)


def parse_target(text: str) -> Reference:
    """Parse the name of a repository to push to; raises ImageError.

    A registry's address without a repository is an error: Docker would read it as the name of an image on Docker Hub, and send the image
    and the login there.
    """
    if text and "/" not in text:
        raise ImageError(
            f"{text!r} does not include a repository", hint=f"use a registry and a repository, such as {text.partition(':')[0]}/cloud-train"
        )
    return parse_reference(text)


def _wrong(text: str, reason: str) -> ImageError:
    return ImageError(f"{text!r} is not a valid image name: {reason}", hint="use a name such as registry.example.com/me/digits:1.0")

"""The inputs of an image, and the result of building it."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path


@dataclass(frozen=True)
class Recipe:
    """The inputs of an image."""

    folder: Path | None
    """The user's code, which becomes /workspace; None for a job without code."""
    base: str
    """Reference of the base image."""
    requirements: Path | None = None
    """A requirements file, which pip installs on top of the base."""
    dockerfile: Path | None = None
    """The user's own Dockerfile, used instead of ``base``, with ``folder`` as its context."""
    labels: Mapping[str, str] = field(default_factory=dict)
    """OCI labels, such as org.opencontainers.image.revision."""
    starts_as_root: bool = False
    """Whether containers start as root, and the worker then becomes the image's user: for platforms whose folders belong to root."""
    uses_gpus: bool = False
    """Whether containers get the GPUs of their machine, where NVIDIA's container runtime decides by the image's variables."""
    platform: str = "linux/amd64"
    """``os/architecture``, or ``os/architecture/variant``."""


@dataclass(frozen=True)
class Built:
    """A finished image."""

    reference: str
    """``sha256:<image id>`` in an engine, ``host/name@sha256:<manifest digest>`` in a registry."""
    sent_bytes: int
    """Bytes that were loaded into the engine or uploaded."""
    reused: bool
    """Whether nothing had to be built or sent."""

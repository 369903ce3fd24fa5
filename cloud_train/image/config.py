"""The configuration of an image. Its digest is the image's id.

The format is that of the OCI image specification (https://github.com/opencontainers/image-spec/blob/main/config.md), which is Docker's too.
"""

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import pairwise
from typing import Any

from cloud_train.docker import container_paths
from cloud_train.image.errors import ImageError
from cloud_train.image.layers import Layer, digest_of
from cloud_train.run.platform_rules import RUN_AS

EPOCH = "1970-01-01T00:00:00Z"
USER = "65532:65532"
"""The container's user, unless the base sets one that is not root."""

BELOW = "cloud-train.below"
"""The label with the chain id of the layers below the code: an engine that has an image with the same label has those layers."""

GPU_VARIABLES = {"NVIDIA_VISIBLE_DEVICES": "all", "NVIDIA_DRIVER_CAPABILITIES": "compute,utility"}
"""The variables by which NVIDIA's container runtime decides which GPUs and which of the driver's libraries a container gets; NVIDIA's own
images set them (https://docs.nvidia.com/datacenter/cloud-native/container-toolkit/latest/docker-specialized.html). An image for a job
without GPUs leaves them out: on a machine where that runtime is the default one, the job would get GPUs that it did not ask for.
"""

_KEPT = ("User", "ExposedPorts", "Env", "Volumes", "Labels", "StopSignal", "Shell", "Healthcheck")


@dataclass(frozen=True)
class Base:
    """A base image: its platform, its layers, and how its containers start."""

    os: str
    architecture: str
    variant: str
    diff_ids: tuple[str, ...]
    settings: Mapping[str, Any]
    """The field ``config`` of its configuration, with Docker's keys (Env, User, …)."""


def check_platform(base: Base, name: str, platform: str) -> None:
    """Raise ImageError if a base is not for ``platform``."""
    os, architecture, *variant = platform.split("/")
    if (base.os, base.architecture) != (os, architecture) or (variant and base.variant != variant[0]):
        runs_on = "/".join(part for part in (base.os, base.architecture, base.variant) if part)
        raise ImageError(f"the base image {name} is for {runs_on}, not for {platform}", hint=f"use a base image for {platform}")


def configuration(
    base: Base, layers: Sequence[Layer], labels: Mapping[str, str], *, starts_as_root: bool = False, uses_gpus: bool = False
) -> bytes:
    """The configuration of ``base`` with ``layers`` on top: the same bytes for the same inputs, wherever the base was read from.

    The first of ``layers`` is the worker's. Engines do not report a base's exact history, so the history here has one entry per layer. The
    configuration is sent with every change, so it is kept short: an entry without a description repeats the one before.
    With ``starts_as_root``, the worker is told which user to become. With ``uses_gpus``, it has ``GPU_VARIABLES`` that
    the base does not set.
    """
    settings = {key: base.settings[key] for key in _KEPT if base.settings.get(key)}
    if is_root(settings.get("User", "")):
        settings["User"] = USER
    settings["Env"] = _environment(settings.get("Env", []), GPU_VARIABLES if uses_gpus else {})
    if starts_as_root:
        settings["Env"].append(f"{RUN_AS}={settings['User']}")
        settings["User"] = "0:0"
    diff_ids = [*base.diff_ids, *(layer.diff_id for layer in layers)]
    settings["Labels"] = {**settings.get("Labels", {}), **labels, BELOW: _chain_id(diff_ids[: len(base.diff_ids) + 1])}
    settings["WorkingDir"] = container_paths.CODE
    settings["Entrypoint"] = [container_paths.PYTHON, "-m", "cloud_train.worker"]
    words = ["", *["the base image"] * len(base.diff_ids), *(layer.created_by for layer in layers)]
    document = {
        "created": EPOCH,
        "os": base.os,
        "architecture": base.architecture,
        **({"variant": base.variant} if base.variant else {}),
        "config": settings,
        "rootfs": {"type": "layers", "diff_ids": diff_ids},
        "history": [{"created_by": text} if text != below else {} for below, text in pairwise(words)],
    }
    return json.dumps(document, sort_keys=True, separators=(",", ":")).encode()


def is_root(user: str) -> bool:
    """Whether an image's ``User`` is root: by name, by number, or by default."""
    return user.partition(":")[0] in ("", "0", "root")


def _chain_id(diff_ids: Sequence[str]) -> str:
    """The chain id of a stack of layers, as the OCI specification defines it."""
    chain, *others = diff_ids or [""]
    for diff_id in others:
        chain = digest_of(f"{chain} {diff_id}".encode())
    return chain


def _environment(variables: Sequence[str], defaults: Mapping[str, str]) -> list[str]:
    names = {**defaults, **dict(variable.partition("=")[::2] for variable in variables)}
    path = names.get("PYTHONPATH")
    names["PYTHONPATH"] = f"{container_paths.LIBRARY}:{path}" if path else container_paths.LIBRARY
    if not names.get("HOME"):
        names["HOME"] = "/tmp"  # in the container, where the provider mounts scratch space
    return [f"{name}={value}" for name, value in names.items()]

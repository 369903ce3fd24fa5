"""Base images that BuildKit has to build first: a base with requirements, or the user's own Dockerfile."""

import hashlib
import os
import re
import shutil
import subprocess
import tempfile
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from dataclasses import replace
from io import BufferedRandom
from pathlib import Path

from cloud_train.docker.engine import FREE_SPACE, is_full
from cloud_train.docker.host import client_environment
from cloud_train.image.config import is_root
from cloud_train.image.context import Context
from cloud_train.image.engine_images import EngineBase, EngineImages
from cloud_train.image.errors import ImageError
from cloud_train.image.layers import Member, context_members, write_tar
from cloud_train.image.recipe import Recipe

PREPARED = "cloud-train-base"
"""The repository of the images built here; the tag is a hash of an image's inputs."""
NETWORK = "CLOUD_TRAIN_BUILD_NETWORK"
"""The environment variable with the ``--network`` for builds, for a package index that only the host's network reaches."""

_DOCKERFILE = ".cloud-train.Dockerfile"
_SHOWN_LINES = 15


def prepare(engine: EngineImages, recipe: Recipe, context: Context | None, note: Callable[[str], None]) -> EngineBase:
    """The base with the recipe's additions; built if the engine does not have it yet."""
    found = _with_dockerfile(engine, recipe, context, note) if recipe.dockerfile else engine.base(recipe.base, recipe.platform, note)
    return _with_requirements(engine, recipe, found, note) if recipe.requirements else found


def _with_requirements(engine: EngineImages, recipe: Recipe, base: EngineBase, note: Callable[[str], None]) -> EngineBase:
    assert recipe.requirements is not None
    content = _read(recipe.requirements, "requirements file")
    key = hashlib.sha256(base.image_id.encode() + b"\n" + content).hexdigest()[:32]
    name = f"{PREPARED}:{key}"
    if engine.find(name):
        return replace(engine.base(name, recipe.platform, note), built=base.built)
    start = engine.name_for_building(base.image_id, f"{PREPARED}:{base.image_id[7:39]}")
    user = base.base.settings.get("User", "")
    # The file is mounted, not copied, so that it leaves no trace in a layer.
    lines = [
        f"FROM {start}",
        "USER 0:0",
        "RUN --mount=type=bind,source=requirements.txt,target=/requirements.txt "
        "python3 -m pip install --no-cache-dir --no-compile -r /requirements.txt",
        *([] if is_root(user) else [f"USER {user}"]),
    ]
    members = [Member("requirements.txt", "file", content=content), Member(_DOCKERFILE, "file", content="\n".join(lines).encode())]
    below = recipe.dockerfile or recipe.base
    note(f"installing {recipe.requirements.name} on top of {below}")
    with _context(members) as file:
        _build(engine.address, file, name, recipe.platform, f"cannot install {recipe.requirements} on top of {below}")
    return replace(engine.base(name, recipe.platform, note), built=True)


def _with_dockerfile(engine: EngineImages, recipe: Recipe, context: Context | None, note: Callable[[str], None]) -> EngineBase:
    assert recipe.dockerfile is not None
    content = _read(recipe.dockerfile, "Dockerfile")
    members = [*(context_members(context) if context else ()), Member(_DOCKERFILE, "file", content=content)]
    with _context(members) as file:
        key = hashlib.file_digest(file, "sha256")
        key.update(recipe.platform.encode())
        name = f"{PREPARED}:{key.hexdigest()[:32]}"
        if engine.find(name):
            return engine.base(name, recipe.platform, note)
        note(f"building {recipe.dockerfile}")
        _build(engine.address, file, name, recipe.platform, f"cannot build {recipe.dockerfile}")
    return replace(engine.base(name, recipe.platform, note), built=True)


def _read(file: Path, what: str) -> bytes:
    try:
        return file.read_bytes()
    except OSError as error:
        raise ImageError(f"cannot read the {what} {file}: {error.strerror}", hint="check `image` in the job file") from error


@contextmanager
def _context(members: Iterable[Member]) -> Iterator[BufferedRandom]:
    with tempfile.TemporaryFile() as file:
        write_tar(members, file)
        file.seek(0)
        yield file


def _build(engine: str, context: BufferedRandom, name: str, platform: str, failure: str) -> None:
    network = os.environ.get(NETWORK)
    options = {
        "--progress": "plain",
        "--platform": platform,
        "--tag": name,
        "--file": _DOCKERFILE,
        **({"--network": network} if network else {}),
    }
    arguments = ["build", *(f"{option}={value}" for option, value in options.items()), "-"]
    for client in clients():
        context.seek(0)
        finished = subprocess.run(
            [client, *arguments],
            stdin=context,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            # The context comes through the pipe, so buildx need not run git in the current folder.
            env={**client_environment(engine), "DOCKER_BUILDKIT": "1", "BUILDX_GIT_INFO": "false"},
            text=True,
            errors="replace",
            check=False,
        )
        if finished.returncode == 0:
            return
        if not _lacks_buildkit(finished.stdout):
            hint = FREE_SPACE if is_full(finished.stdout) else "correct the error in the last lines, and retry"
            raise ImageError(f"{failure}:\n{_excerpt(finished.stdout)}", hint=hint)
    raise ImageError(
        f"{failure}: no Docker client with BuildKit is installed", hint="install Docker's buildx plugin (package docker-buildx-plugin)"
    )


def clients() -> list[str]:
    """The installed Docker clients, the one on PATH first. A newer client may lack the buildx plugin, which an older one does not need."""
    found = [shutil.which("docker"), "/usr/bin/docker", "/usr/local/bin/docker"]
    return list(dict.fromkeys(client for client in found if client and Path(client).exists()))


def _lacks_buildkit(output: str) -> bool:
    return "buildx component is missing" in output or "unknown flag: --progress" in output


def _excerpt(output: str) -> str:
    """The failed step and the end of its output, as BuildKit marks them; otherwise the last lines of the output."""
    lines = [line for line in output.splitlines() if line.strip()]
    failed = next((match for line in lines if (match := re.match(r"#(\d+) ERROR", line))), None)
    if failed is None:
        return "\n".join(lines[-3:])
    of_step = [line.removeprefix(f"#{failed[1]} ") for line in lines if line.startswith(f"#{failed[1]} ")]
    # Each line of output begins with a time in seconds.
    said = [re.sub(r"^\d+\.\d+ ", "", line) for line in of_step[1:] if not line.startswith(("sha256:", "ERROR:"))]
    return "\n".join([of_step[0], *said[-_SHOWN_LINES:], *lines[-1:]])

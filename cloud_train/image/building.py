"""Builds an image from a recipe, in the local engine or in a registry."""

import tempfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING

from cloud_train.image.config import configuration
from cloud_train.image.context import Context, check, survey
from cloud_train.image.engine_images import EngineBase, EngineImages, engine_images_or_none
from cloud_train.image.errors import ImageError, RegistryError
from cloud_train.image.layers import Layer, code_members, digest_of, make_layer, worker_members
from cloud_train.image.prepared import prepare
from cloud_train.image.recipe import Built, Recipe
from cloud_train.image.reference import Reference, parse_reference, parse_target
from cloud_train.image.splitting import split

if TYPE_CHECKING:
    from cloud_train.image.registry import Repository
    from cloud_train.image.tokens import Login


def build_in_engine(recipe: Recipe, note: Callable[[str], None], host: str | None = None) -> Built:
    """Build the image in a Docker Engine, or reuse it. Its reference is its id.

    ``note`` receives a line about each slow step and each suspicious file. ``host`` is the engine's URL, by default chosen by Docker's own
    rules. Raises ImageError, for example for a folder with secrets or a base that does not exist.
    """
    context = _surveyed(recipe, note)
    layers = _layers(context)
    with EngineImages(host) as engine:
        found = prepare(engine, recipe, context, note)
        config = configuration(found.base, layers, recipe.labels, starts_as_root=recipe.starts_as_root, uses_gpus=recipe.uses_gpus)
        existing = engine.existing(digest_of(config))
        if existing:
            return Built(existing, 0, reused=not found.built)
        with _temporary_folder() as folder:
            image_id, sent_bytes = engine.put(config, layers, found, folder)
        return Built(image_id, sent_bytes, reused=False)


def build_in_registry(
    recipe: Recipe,
    repository: str,
    note: Callable[[str], None],
    host: str | None = None,
    memory: Path | None = None,
    *,
    login: "Login | None" = None,
) -> Built:
    """Build the image in a repository of a registry, or reuse it. Its reference has its digest.

    The engine at ``host`` is needed only to install requirements, to build a Dockerfile, or for a base that exists only there. ``memory``
    is a folder for notes about pushed images, whose layers are then neither built nor checked again. ``login`` is for the repository's
    registry, if it is not in Docker's config file, and is sent to no other.
    """
    # These take 50 ms to import, and images in an engine do not need them.
    from cloud_train.image.appending import append, read_base
    from cloud_train.image.pushed import Pushed, recall, remember
    from cloud_train.image.registry import Repository

    context = _surveyed(recipe, note)
    layers = _layers(context)
    place, login = _destination(repository, login)
    with Repository(place, login=login, note=note) as target, _temporary_folder() as folder:
        base, pushed_bytes = _base_in_registry(recipe, context, target, note, host=host, login=login)
        before = Pushed() if memory is None else recall(memory, target, recipe)
        with Repository(base, login=login if base.host == place.host else None) as source:
            found = read_base(source, base.version, recipe.platform)
            try:
                built = append(found, layers, recipe, target, before, folder=folder, note=note)
            except RegistryError as error:
                # Blobs of the known image may have been deleted from the registry.
                if not before.blobs or error.status not in (400, 404):
                    raise
                built = append(found, layers, recipe, target, Pushed(), folder=folder, note=note)
        if memory is not None:
            remember(memory, target, recipe, built.reference)
        return replace(built, sent_bytes=built.sent_bytes + (pushed_bytes or 0), reused=built.reused and pushed_bytes is None)


def _destination(repository: str, login: "Login | None") -> tuple[Reference, "Login | None"]:
    """The repository to push to, and the login bound to its registry."""
    place = replace(parse_target(repository), tag=None, digest=None)
    if login is None:
        return place, None
    if not place.explicit_host:
        raise ImageError(
            f"{repository!r} has no registry host, but a login was given", hint="begin the repository with the registry's host"
        )
    return place, login.bound_to(place.host)


def _base_in_registry(
    recipe: Recipe,
    context: Context | None,
    target: "Repository",
    note: Callable[[str], None],
    *,
    host: str | None,
    login: "Login | None",
) -> tuple[Reference, int | None]:
    """The base in a registry, and the number of bytes sent to push it there; None if it was already there."""
    to_build = recipe.requirements is not None or recipe.dockerfile is not None
    named = None if to_build or recipe.base.startswith("sha256:") else parse_reference(recipe.base)
    if named is not None and named.explicit_host:
        return named, None
    engine = engine_images_or_none(host)
    if engine is not None:
        with engine:
            # A name without a registry may be an image that was built here and never pushed.
            if to_build or engine.find(recipe.base):
                return _push_base(engine, prepare(engine, recipe, context, note), target, note, login)
    if named is None:
        raise ImageError(
            "no Docker Engine is running, but requirements, a Dockerfile or a base with an image id need one",
            hint="start Docker, or use a base image from a registry that contains everything, without requirements and dockerfile",
        )
    return named, None


def _push_base(
    engine: EngineImages, found: EngineBase, target: "Repository", note: Callable[[str], None], login: "Login | None"
) -> tuple[Reference, int | None]:
    tag = f"cloud-train-base-{found.image_id[7:39]}"
    if _has_image(target, tag, found.image_id):
        return replace(target.reference, tag=tag), None
    note(f"pushing the base image to {target.reference.repository}")
    try:
        sent_bytes = engine.push(found.image_id, target.reference.repository, tag, login)
    except ImageError:
        # Where tags cannot be changed, only the first of two pushes at the same time sets it.
        if not _has_image(target, tag, found.image_id):
            raise
        sent_bytes = 0
    return replace(target.reference, tag=tag), sent_bytes


def _has_image(target: "Repository", tag: str, image_id: str) -> bool:
    """Whether the tag names the image that has this id in an engine."""
    there = target.manifest(tag)
    # With containerd's image store, an engine's image ids are digests of manifests.
    return there is not None and (there.has_config(image_id) or image_id == there.digest)


def _surveyed(recipe: Recipe, note: Callable[[str], None]) -> Context | None:
    if recipe.folder is None:
        return None
    context = survey(recipe.folder, note)
    check(context, note)
    return context


def _layers(context: Context | None) -> list[Layer]:
    """The worker's layer, and the layers of the code."""
    code = split(code_members(context)) if context is not None else []
    return [make_layer(worker_members(), "the worker"), *(make_layer(members, "the code") for members in code)]


@contextmanager
def _temporary_folder() -> Iterator[Path]:
    with tempfile.TemporaryDirectory(prefix="cloud-train-image-") as name:
        yield Path(name)

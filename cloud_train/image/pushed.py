"""Remembers images that were pushed, so that their layers need not be compressed, checked or sent again.

This machine stores only the digest of an image that it pushed. The registry reports the image's content, which digests verify, and keeps
everything that belongs to an image. If the note is lost or outdated, the next push makes more requests; nothing else changes.
"""

import hashlib
from collections.abc import Mapping
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from cloud_train.errors import CorruptError
from cloud_train.image.answers import read_json
from cloud_train.image.errors import RegistryError
from cloud_train.image.recipe import Recipe
from cloud_train.image.registry import Repository


@dataclass(frozen=True)
class Pushed:
    """The known content of a repository."""

    blobs: frozenset[str] = frozenset()
    """Digests of blobs."""
    layers: Mapping[str, Mapping[str, Any]] = field(default_factory=dict)
    """Digest of a layer's tar → descriptor of the compressed layer."""


def recall(memory: Path, repository: Repository, recipe: Recipe) -> Pushed:
    """The content of the image that was last pushed for this job from this machine; empty if it is gone or unreadable."""
    try:
        digest = _note(memory, repository, recipe).read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError):
        return Pushed()
    if not digest.startswith("sha256:"):
        return Pushed()
    with suppress(RegistryError, CorruptError, LookupError, TypeError, ValueError):
        manifest = repository.manifest(digest)
        if manifest is not None:
            config = read_json(repository.small_blob(manifest.config_digest), "the configuration")
            layers = manifest.layers
            return Pushed(frozenset(layer["digest"] for layer in layers), dict(zip(config["rootfs"]["diff_ids"], layers, strict=True)))
    return Pushed()


def remember(memory: Path, repository: Repository, recipe: Recipe, reference: str) -> None:
    """Note that the image ``reference`` is in the repository. If the note cannot be written, the next push only takes longer."""
    note = _note(memory, repository, recipe)
    with suppress(OSError):
        memory.mkdir(parents=True, exist_ok=True)
        written = note.with_suffix(".new")
        written.write_text(reference.partition("@")[2], encoding="utf-8")
        written.replace(note)


def _note(memory: Path, repository: Repository, recipe: Recipe) -> Path:
    job = f"{repository.reference.repository}\n{recipe.folder}\n{recipe.base}"
    return memory / hashlib.sha256(job.encode(errors="surrogateescape")).hexdigest()[:32]

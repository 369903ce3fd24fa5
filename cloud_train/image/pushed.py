"""What was pushed into a repository before, and need not be compressed, checked or sent again.

Noted on this machine is only the digest of an image that it pushed itself. What is in that image the registry tells, and digests prove it;
what belongs to an image in a repository, the registry keeps. The note may be lost or old: then more is asked for, and nothing else changes.
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
    """What a repository is known to hold."""

    blobs: frozenset[str] = frozenset()
    """Digests."""
    layers: Mapping[str, Mapping[str, Any]] = field(default_factory=dict)
    """Descriptors of compressed layers, by the digest of the layer's tar."""


def recall(memory: Path, repository: Repository, recipe: Recipe) -> Pushed:
    """What is known from the image of this job that was pushed last from here; nothing if it is gone or unreadable."""
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
    """Note that the image ``reference`` is in the repository. Where nothing can be written, the next push does more."""
    note = _note(memory, repository, recipe)
    with suppress(OSError):
        memory.mkdir(parents=True, exist_ok=True)
        written = note.with_suffix(".new")
        written.write_text(reference.partition("@")[2], encoding="utf-8")
        written.replace(note)


def _note(memory: Path, repository: Repository, recipe: Recipe) -> Path:
    job = f"{repository.reference.repository}\n{recipe.folder}\n{recipe.base}"
    return memory / hashlib.sha256(job.encode(errors="surrogateescape")).hexdigest()[:32]

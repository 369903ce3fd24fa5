"""Builds an image in a registry without an engine: mounts the base's blobs, uploads new layers, and writes a new manifest."""

from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeVar

from cloud_train.errors import CorruptError
from cloud_train.image.answers import read_json
from cloud_train.image.config import Base, check_platform, configuration
from cloud_train.image.errors import ImageError, RegistryError
from cloud_train.image.layers import Layer, compress, digest_of
from cloud_train.image.manifest import (
    DOCKER_INDEX,
    DOCKER_MANIFEST,
    OCI_INDEX,
    OCI_MANIFEST,
    Manifest,
    in_docker_format,
    write_manifest,
)
from cloud_train.image.pushed import Pushed
from cloud_train.image.recipe import Built, Recipe
from cloud_train.image.registry import Repository
from cloud_train.image.registry_rules import rules_of
from cloud_train.retry import TRANSIENT_STATUSES

Value = TypeVar("Value")

_KINDS_OF_SETTINGS: dict[str, tuple[type, type]] = {"User": (str, str), "Env": (list, str), "Labels": (dict, str)}
"""Setting in a configuration → its type, and the type of its items. All other settings are passed on unread."""
_AT_ONCE = 4
"""Parallel requests to a registry."""


@dataclass(frozen=True)
class RegistryBase:
    """A base image in a registry."""

    repository: Repository
    name: str
    manifest: Manifest
    base: Base

    @property
    def layers(self) -> list[dict[str, Any]]:
        """The descriptors of its layers."""
        return self.manifest.layers


def read_base(repository: Repository, version: str, platform: str) -> RegistryBase:
    """The base image with this tag or digest, for ``platform``. Raises ImageError if there is none, CorruptError for malformed data."""
    name = f"{repository.reference.repository}:{version}"
    manifest = repository.manifest(version)
    if manifest is None:
        raise ImageError(f"image not found: {name}", hint="check the name and the tag of the base image")
    if manifest.media_type in (OCI_INDEX, DOCKER_INDEX):
        digest = _pick(manifest, name, platform)
        manifest = repository.manifest(digest)
        if manifest is None:
            raise ImageError(f"{name} lists an image for {platform}, but the registry does not have it: {digest}")
    if manifest.media_type not in (OCI_MANIFEST, DOCKER_MANIFEST):
        raise ImageError(f"{name} is not an image, but has the type {manifest.media_type!r}", hint="use another base image")
    layers = manifest.layers
    base = _base_of(read_json(repository.small_blob(manifest.config_digest), f"the configuration of {name}"), name)
    if len(base.diff_ids) != len(layers):
        raise CorruptError(f"the manifest of {name} has {len(layers)} layers, but its configuration has {len(base.diff_ids)}")
    check_platform(base, name, platform)
    return RegistryBase(repository, name, manifest, base)


def append(
    found: RegistryBase,
    layers: Sequence[Layer],
    recipe: Recipe,
    target: Repository,
    before: Pushed,
    *,
    folder: Path,
    note: Callable[[str], None],
) -> Built:
    """Put ``layers`` on a base in the repository ``target``. ``before`` is its known content; ``folder`` is for temporary files.

    Raises ImageError for a base that cannot be expressed in the format that the registry needs, and RegistryError.
    """
    converts = rules_of(target.reference.host).needs_docker_format
    base = in_docker_format(found.layers, found.name, target.reference.host) if converts else found.layers
    docker = converts or found.manifest.media_type == DOCKER_MANIFEST
    config = configuration(found.base, layers, recipe.labels, starts_as_root=recipe.starts_as_root, uses_gpus=recipe.uses_gpus)
    wanted = _Wanted(digest_of(config), DOCKER_MANIFEST if converts else None)
    tag = f"cloud-train-{wanted.config[7:39]}"
    existing = target.manifest(tag)
    if existing is not None and wanted.is_there(existing):
        return Built(f"{target.reference.repository}@{existing.digest}", 0, reused=True)
    sent_before = target.sent_bytes
    with ThreadPoolExecutor(_AT_ONCE) as threads:  # most of a request's time is latency
        for missing in _missing(found, target, before, threads):
            _bring(missing, found.repository, target, folder, note)
        new = list(threads.map(lambda layer: before.layers.get(layer.diff_id) or _sent(layer, target, folder), layers))
    target.push_bytes(config, folder)
    added = [{"digest": each["digest"], "size": each["size"]} for each in new]
    data, media_type = write_manifest(config, wanted.config, [*base, *added], docker=docker)
    try:
        # Without a tag, the garbage collection of many registries would delete it.
        digest = target.push_manifest(data, media_type, tag)
    except RegistryError as error:
        digest = _pushed_by_another(target, tag, wanted, error)
    return Built(f"{target.reference.repository}@{digest}", target.sent_bytes - sent_before, reused=False)


@dataclass(frozen=True)
class _Wanted:
    """What makes an image the same as another: its configuration, which has the digests of all unpacked layers."""

    config: str
    """The digest of the configuration."""
    media_type: str | None
    """The required media type of the manifest; None if each will do."""

    def is_there(self, manifest: Manifest) -> bool:
        return self.media_type in (None, manifest.media_type) and manifest.has_config(self.config)


def _pushed_by_another(target: Repository, tag: str, wanted: _Wanted, refusal: RegistryError) -> str:
    """The digest of the same image, if another push was faster and the registry refuses to set its tag again.

    Amazon ECR answers such a push with 400 TAG_INVALID, even for the same digest (https://github.com/aws/containers-roadmap/issues/2179),
    Artifact Registry with 400 MANIFEST_INVALID, others with 403, 409 or 412. Raises ``refusal`` if that is not the reason, and ImageError
    if the tag names another image.
    """
    if not 400 <= refusal.status < 500 or refusal.status in TRANSIENT_STATUSES:
        raise refusal
    existing = target.manifest(tag)
    if existing is None:
        raise refusal
    if wanted.is_there(existing):
        return existing.digest
    place = target.reference.repository
    raise ImageError(
        f"the tag {tag} in {place} already names another image, {existing.digest}: {refusal.message}",
        hint="delete this tag in the registry, or push to another repository",
    ) from refusal


def _missing(found: RegistryBase, target: Repository, before: Pushed, threads: ThreadPoolExecutor) -> list[dict[str, Any]]:
    """The base's layers that the repository ``target`` does not have."""
    unknown = [layer for layer in found.layers if layer["digest"] not in before.blobs]
    there = threads.map(lambda layer: _has(layer, found, target), unknown)
    return [layer for layer, is_there in zip(unknown, there, strict=True) if not is_there]


def _sent(layer: Layer, target: Repository, folder: Path) -> dict[str, Any]:
    """Compress a layer, upload it if it is missing, and return its digest and size for a manifest."""
    blob = compress(layer, folder / f"{layer.diff_id[7:]}.tar.gz")
    target.push_blob(blob)
    blob.file.unlink()
    return {"digest": blob.digest, "size": blob.size}


def _base_of(document: Any, name: str) -> Base:
    """The base that a configuration describes. Raises CorruptError if a value has the wrong type."""
    try:
        settings = _typed(document.get("config") or {}, dict)
        for key, (kind, inside) in _KINDS_OF_SETTINGS.items():
            value: Any = _typed(settings.get(key) or kind(), kind)
            for each in value.values() if isinstance(value, dict) else value:
                _typed(each, inside)
        diff_ids = _typed(document["rootfs"]["diff_ids"], list)
        return Base(
            os=_typed(document["os"], str),
            architecture=_typed(document["architecture"], str),
            variant=_typed(document.get("variant") or "", str),
            diff_ids=tuple(_typed(each, str) for each in diff_ids),
            settings=settings,
        )
    except (AttributeError, LookupError, TypeError) as error:
        raise CorruptError(f"the configuration of {name} is malformed: {error}") from error


def _typed(value: Any, kind: type[Value]) -> Value:
    if not isinstance(value, kind):
        raise TypeError(f"it has a {type(value).__name__} instead of a {kind.__name__}")
    return value


def _pick(index: Manifest, name: str, platform: str) -> str:
    os, architecture, *variant = platform.split("/")
    images = [entry for entry in index.images if not _is_attestation(entry)]
    offered = [(has if isinstance(has := entry.get("platform"), dict) else {}, str(entry["digest"])) for entry in images]
    for has, digest in offered:
        if (has.get("os"), has.get("architecture")) == (os, architecture) and (not variant or has.get("variant") == variant[0]):
            return digest
    names = sorted({f"{has.get('os')}/{has.get('architecture')}" for has, _ in offered if has.get("os") not in (None, "unknown")})
    raise ImageError(f"the base image {name} is for {', '.join(names) or 'no platform'}, not for {platform}", hint="use another base image")


def _is_attestation(entry: dict[str, Any]) -> bool:
    """Whether an entry of an index is provenance or an SBOM, which BuildKit puts beside the images
    (https://docs.docker.com/build/metadata/attestations/attestation-storage/).
    """
    annotations = entry.get("annotations")
    return isinstance(annotations, dict) and annotations.get("vnd.docker.reference.type") == "attestation-manifest"


def _has(layer: dict[str, Any], found: RegistryBase, target: Repository) -> bool:
    """Whether a layer of the base is in the repository ``target``, or need not be there."""
    is_same = found.repository.reference.repository == target.reference.repository
    return is_same or bool(layer.get("urls")) or target.has_blob(str(layer["digest"]))


def _bring(layer: dict[str, Any], source: Repository, target: Repository, folder: Path, note: Callable[[str], None]) -> None:
    """Copy a layer of the base into the repository ``target``."""
    digest, size = layer["digest"], layer["size"]
    if source.reference.host == target.reference.host and target.mount(digest, source.reference):
        return
    note(f"copying a layer of the base image ({size / 1e6:.1f} MB) from {source.reference.host}")
    blob = source.fetch_blob(digest, size, folder / "base-layer")
    target.push_blob(blob)
    blob.file.unlink()

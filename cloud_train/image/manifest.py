"""Manifests of images: the media types of both formats, reading what a registry sent, and writing a new one.

The formats are OCI's (https://github.com/opencontainers/image-spec/blob/main/manifest.md) and Docker's, called schema 2
(https://github.com/distribution/distribution/blob/release/2.8/docs/spec/manifest-v2-2.md). They differ in their media types.
"""

import json
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, TypeGuard

from cloud_train.errors import CorruptError
from cloud_train.image.answers import read_json
from cloud_train.image.errors import ImageError

OCI_MANIFEST = "application/vnd.oci.image.manifest.v1+json"
OCI_INDEX = "application/vnd.oci.image.index.v1+json"
OCI_CONFIG = "application/vnd.oci.image.config.v1+json"
OCI_LAYER = "application/vnd.oci.image.layer.v1.tar+gzip"
DOCKER_MANIFEST = "application/vnd.docker.distribution.manifest.v2+json"
DOCKER_INDEX = "application/vnd.docker.distribution.manifest.list.v2+json"
DOCKER_CONFIG = "application/vnd.docker.container.image.v1+json"
DOCKER_LAYER = "application/vnd.docker.image.rootfs.diff.tar.gzip"

_OCI_LAYERS, _DOCKER_LAYERS = "application/vnd.oci.image.layer", "application/vnd.docker.image.rootfs"
_IN_DOCKER_FORMAT = {
    OCI_LAYER: DOCKER_LAYER,
    f"{_OCI_LAYERS}.v1.tar": f"{_DOCKER_LAYERS}.diff.tar",
    f"{_OCI_LAYERS}.nondistributable.v1.tar+gzip": f"{_DOCKER_LAYERS}.foreign.diff.tar.gzip",
    f"{_OCI_LAYERS}.nondistributable.v1.tar": f"{_DOCKER_LAYERS}.foreign.diff.tar",
}
"""Media type of a layer in OCI's format → the same in Docker's
(https://github.com/opencontainers/image-spec/blob/main/media-types.md#compatibility-matrix).
"""


_DIGEST = re.compile(r"[a-z0-9]{1,32}(?:[.+_-][a-z0-9]{1,32}){0,4}:[A-Za-z0-9=_-]{1,256}")
"""https://github.com/opencontainers/image-spec/blob/main/descriptor.md#digests; it becomes part of a URL."""


@dataclass(frozen=True)
class Manifest:
    """A manifest in the registry."""

    data: bytes
    media_type: str
    digest: str

    @property
    def document(self) -> dict[str, Any]:
        """The parsed manifest. Like all properties here, raises CorruptError for a malformed one."""
        document = read_json(self.data, f"the manifest {self.digest}")
        if not isinstance(document, dict):
            raise CorruptError(f"the manifest {self.digest} is not a JSON object")
        return document

    @property
    def layers(self) -> list[dict[str, Any]]:
        """The descriptors of its layers, each with a ``digest`` and a ``size``."""
        layers = self.document.get("layers")
        if not isinstance(layers, list) or not all(_is_descriptor(layer) and _is_size(layer.get("size")) for layer in layers):
            raise CorruptError(f"the manifest {self.digest} has no valid list of layers")
        return layers

    @property
    def images(self) -> list[dict[str, Any]]:
        """The descriptors of the images in an index, each with a ``digest``."""
        images = self.document.get("manifests")
        if not isinstance(images, list) or not all(_is_descriptor(image) for image in images):
            raise CorruptError(f"the index {self.digest} has no valid list of images")
        return images

    @property
    def config_digest(self) -> str:
        """The digest of its configuration."""
        config = self.document.get("config")
        if not _is_descriptor(config):
            raise CorruptError(f"the manifest {self.digest} has no valid configuration")
        return str(config["digest"])

    def has_config(self, digest: str) -> bool:
        """Whether its configuration has this digest."""
        config = self.document.get("config")
        return isinstance(config, dict) and config.get("digest") == digest


def _is_descriptor(value: Any) -> TypeGuard[dict[str, Any]]:
    if not isinstance(value, dict):
        return False
    digest = value.get("digest")
    return isinstance(digest, str) and _DIGEST.fullmatch(digest) is not None


def _is_size(value: Any) -> bool:
    return isinstance(value, int) and not isinstance(value, bool) and value >= 0


def write_manifest(config: bytes, config_digest: str, layers: Sequence[Mapping[str, Any]], *, docker: bool) -> tuple[bytes, str]:
    """A manifest in Docker's format or OCI's, always the same bytes for the same input, and its media type.

    ``layers`` are descriptors; one without a media type is a tar with gzip.
    """
    media_type, config_type, layer_type = (
        (DOCKER_MANIFEST, DOCKER_CONFIG, DOCKER_LAYER) if docker else (OCI_MANIFEST, OCI_CONFIG, OCI_LAYER)
    )
    document = {
        "schemaVersion": 2,
        "mediaType": media_type,
        "config": {"mediaType": config_type, "digest": config_digest, "size": len(config)},
        "layers": [{"mediaType": layer_type, **layer} for layer in layers],
    }
    return json.dumps(document, sort_keys=True, separators=(",", ":")).encode(), media_type


def in_docker_format(layers: Sequence[Mapping[str, Any]], name: str, host: str) -> list[dict[str, Any]]:
    """The descriptors of the layers of the image ``name`` in Docker's format, which has no annotations.

    Raises ImageError for a layer that this format cannot express, such as one compressed with zstd. ``host`` is the registry that needs it.
    """
    converted = []
    for layer in layers:
        given = str(layer.get("mediaType", ""))
        media_type = _IN_DOCKER_FORMAT.get(given, given)
        if media_type not in _IN_DOCKER_FORMAT.values():
            kind = "compressed with zstd" if given.endswith("zstd") else f"of the type {given[:100]!r}"
            raise ImageError(
                f"{name} has layers {kind}, but images for {host} have to be in Docker's format, which does not have them",
                hint="use a base image whose layers are compressed with gzip;"
                " `docker buildx build --output type=registry,compression=gzip,force-compression=true` builds one",
            )
        kept = {key: layer[key] for key in ("digest", "size", "urls") if key in layer}
        converted.append({"mediaType": media_type, **kept})
    return converted

"""Images in a real registry, made without any engine."""

import base64
import hashlib
import io
import json
import os
import shutil
import tarfile
import tracemalloc
import zlib
from pathlib import Path
from typing import Any

import pytest

from cloud_train.image.building import build_in_registry
from cloud_train.image.errors import ImageError
from cloud_train.image.layers import Blob, digest_of
from cloud_train.image.manifest import (
    DOCKER_CONFIG,
    DOCKER_INDEX,
    DOCKER_LAYER,
    DOCKER_MANIFEST,
    OCI_CONFIG,
    OCI_INDEX,
    OCI_LAYER,
    OCI_MANIFEST,
    Manifest,
)
from cloud_train.image.recipe import Built, Recipe
from cloud_train.image.reference import parse_reference
from cloud_train.image.registry import Repository
from tests.image.real_registry import RunningRegistry, push_base, running_registry

OCI_TYPES = (OCI_MANIFEST, OCI_CONFIG, OCI_LAYER)
DOCKER_TYPES = (DOCKER_MANIFEST, DOCKER_CONFIG, DOCKER_LAYER)


def test_the_image_is_the_base_with_the_worker_and_the_code_on_top(registry: RunningRegistry, code: Path, tmp_path: Path) -> None:
    push_base(f"{registry.place}/base:1", tmp_path / "base")
    built = build(code, registry, labels={"org.opencontainers.image.revision": "abc"})
    assert built.reference.startswith(f"{registry.place}/digits@sha256:")
    config, layers = contents(built.reference)
    assert config["config"]["User"] == "65532:65532"
    assert config["config"]["WorkingDir"] == "/workspace"
    assert config["config"]["Entrypoint"] == ["python3", "-m", "cloud_train.worker"]
    assert config["config"]["Env"] == ["PATH=/usr/bin", "PYTHONPATH=/opt/cloud-train/lib", "HOME=/tmp"]
    assert config["config"]["Labels"]["org.opencontainers.image.revision"] == "abc"
    assert "Cmd" not in config["config"]
    assert layers[0] == {"base.txt": b"a base\n"}
    assert "opt/cloud-train/lib/cloud_train/worker/__main__.py" in layers[1]
    assert layers[2] == {"workspace/main.py": b"print('training')\n", "workspace/package/layers.py": b"SIZE = 3\n"}


def test_a_copy_with_other_times_and_owners_gives_the_same_digest_in_another_registry(
    registry: RunningRegistry, code: Path, tmp_path: Path
) -> None:
    push_base(f"{registry.place}/base:1", tmp_path / "base")
    copy = tmp_path / "copy"
    shutil.copytree(code, copy)
    (copy / "main.py").chmod(0o600)
    os.utime(copy / "main.py", (1, 1))
    with running_registry(tmp_path / "other") as other:
        push_base(f"{other.place}/base:1", tmp_path / "base")
        assert build(code, registry).reference.partition("@")[2] == build(copy, other).reference.partition("@")[2]


def test_a_second_build_sends_nothing(registry: RunningRegistry, code: Path, tmp_path: Path) -> None:
    push_base(f"{registry.place}/base:1", tmp_path / "base")
    first, second = build(code, registry), build(code, registry)
    assert not first.reused
    assert first.sent_bytes > 0
    assert (second.reference, second.sent_bytes, second.reused) == (first.reference, 0, True)


def test_a_changed_line_sends_only_the_layer_of_the_code(registry: RunningRegistry, code: Path, tmp_path: Path) -> None:
    push_base(f"{registry.place}/base:1", tmp_path / "base")
    (code / "weights.txt").write_bytes(os.urandom(50_000))
    build(code, registry)
    (code / "main.py").write_text("print('training well')\n")
    changed = build(code, registry)
    compressed = len(zlib.compress(b"".join(path.read_bytes() for path in sorted(code.rglob("*")) if path.is_file())))
    assert not changed.reused
    assert changed.sent_bytes <= compressed + 10_000


def test_blobs_of_a_base_in_the_same_registry_are_mounted_not_sent(registry: RunningRegistry, code: Path, tmp_path: Path) -> None:
    base_layer = os.urandom(500_000)
    push_base(f"{registry.place}/base:1", tmp_path / "base", content=base_layer)
    built = build(code, registry)
    assert built.sent_bytes < 450_000
    assert contents(built.reference)[1][0] == {"base.txt": base_layer}


def test_a_large_layer_is_streamed_from_its_file(registry: RunningRegistry, tmp_path: Path) -> None:
    size = 100_000_000
    with (tmp_path / "layer").open("wb") as file:
        file.truncate(size)
    with (tmp_path / "layer").open("rb") as file:
        digest = f"sha256:{hashlib.file_digest(file, 'sha256').hexdigest()}"
    with Repository(parse_reference(f"{registry.place}/large")) as repository:
        tracemalloc.start()
        try:
            repository.push_blob(Blob(tmp_path / "layer", digest, size))
            most = tracemalloc.get_traced_memory()[1]
        finally:
            tracemalloc.stop()
        assert repository.has_blob(digest)
    assert most < 8_000_000


def test_a_base_in_another_registry_is_copied(registry: RunningRegistry, code: Path, tmp_path: Path) -> None:
    notes: list[str] = []
    with running_registry(tmp_path / "other") as other:
        push_base(f"{other.place}/base:1", tmp_path / "base")
        recipe = Recipe(code, f"{other.place}/base:1")
        built = build_in_registry(recipe, f"{registry.place}/digits", notes.append)
    assert contents(built.reference)[1][0] == {"base.txt": b"a base\n"}
    assert any("copying a layer" in line for line in notes)


def test_a_base_in_the_same_repository_works(registry: RunningRegistry, code: Path, tmp_path: Path) -> None:
    push_base(f"{registry.place}/digits:base", tmp_path / "base")
    built = build_in_registry(Recipe(code, f"{registry.place}/digits:base"), f"{registry.place}/digits", print)
    assert contents(built.reference)[1][0] == {"base.txt": b"a base\n"}


def test_a_base_of_dockers_media_types_makes_an_image_of_dockers_media_types(registry: RunningRegistry, code: Path, tmp_path: Path) -> None:
    push_base(f"{registry.place}/base:1", tmp_path / "base", types=DOCKER_TYPES)
    manifest = manifest_of(build(code, registry).reference)
    assert manifest.media_type == DOCKER_MANIFEST
    assert {layer["mediaType"] for layer in manifest.document["layers"]} == {DOCKER_LAYER}
    assert manifest.document["config"]["mediaType"] == DOCKER_CONFIG


@pytest.mark.parametrize(("index_type", "types"), [(OCI_INDEX, OCI_TYPES), (DOCKER_INDEX, DOCKER_TYPES)])
def test_of_an_index_the_image_for_the_platform_is_taken(
    registry: RunningRegistry, code: Path, tmp_path: Path, index_type: str, types: tuple[str, str, str]
) -> None:
    push_index(registry, tmp_path, index_type, types)
    built = build_in_registry(Recipe(code, f"{registry.place}/base:all", platform="linux/arm64"), f"{registry.place}/digits", print)
    config, layers = contents(built.reference)
    assert config["architecture"] == "arm64"
    assert layers[0] == {"base.txt": b"arm64"}


def test_an_index_without_the_platform_is_refused_with_what_it_has(registry: RunningRegistry, code: Path, tmp_path: Path) -> None:
    push_index(registry, tmp_path, OCI_INDEX, OCI_TYPES)
    recipe = Recipe(code, f"{registry.place}/base:all", platform="linux/riscv64")
    with pytest.raises(ImageError, match=r"is for linux/amd64, linux/arm64, not for linux/riscv64"):
        build_in_registry(recipe, f"{registry.place}/digits", print)


def test_a_base_for_other_machines_is_refused(registry: RunningRegistry, code: Path, tmp_path: Path) -> None:
    push_base(f"{registry.place}/base:1", tmp_path / "base", architecture="arm64")
    with pytest.raises(ImageError, match=r"base:1 is for linux/arm64, not for linux/amd64") as caught:
        build(code, registry)
    assert (caught.value.code, caught.value.exit_code) == ("image", 7)


def test_a_base_that_does_not_exist_is_named(registry: RunningRegistry, code: Path) -> None:
    with pytest.raises(ImageError, match=r"image not found: .*/base:1"):
        build(code, registry)


def test_a_tag_that_somebody_moved_to_another_image_is_not_believed(registry: RunningRegistry, code: Path, tmp_path: Path) -> None:
    push_base(f"{registry.place}/base:1", tmp_path / "base")
    first = build(code, registry)
    config = manifest_of(first.reference).document["config"]["digest"]
    push_base(f"{registry.place}/digits:cloud-train-{config[7:39]}", tmp_path / "base", content=b"another")
    again = build(code, registry)
    assert (again.reference, again.reused) == (first.reference, False)


def test_requirements_without_an_engine_are_refused_with_the_way_out(
    registry: RunningRegistry, code: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("DOCKER_HOST", f"unix://{tmp_path}/no-engine.sock")
    (tmp_path / "requirements.txt").write_text("six\n")
    recipe = Recipe(code, f"{registry.place}/base:1", requirements=tmp_path / "requirements.txt")
    with pytest.raises(
        ImageError, match="no Docker Engine is running, but requirements, a Dockerfile or a base with an image id need one"
    ) as caught:
        build_in_registry(recipe, f"{registry.place}/digits", print)
    assert "base image from a registry" in (caught.value.hint or "")


def test_nothing_secret_is_in_the_image(registry: RunningRegistry, code: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("WANDB_API_KEY", "canary-variable")
    monkeypatch.setenv("DOCKER_CONFIG", str(tmp_path / "docker"))
    (tmp_path / "docker").mkdir()
    login = base64.b64encode(b"trainer:canary-password").decode()
    (tmp_path / "docker" / "config.json").write_text(json.dumps({"auths": {registry.host: {"auth": login}}}))
    (code / ".env").write_text("KEY=canary-file\n")
    (code / ".dockerignore").write_text(".env\n")
    push_base(f"{registry.place}/base:1", tmp_path / "base")
    built = build(code, registry)
    config, layers = contents(built.reference)
    everything = (
        json.dumps(config).encode() + manifest_of(built.reference).data + b"".join(b"".join(layer.values()) for layer in layers[2:])
    )
    names = [name for layer in layers for name in layer]
    for canary in (b"canary", login.encode(), str(tmp_path).encode()):
        assert canary not in everything
        assert not any(canary in data for data in layers[1].values())
    assert not any(".env" in name or "docker/config" in name for name in names)


def build(code: Path, registry: RunningRegistry, labels: dict[str, str] | None = None) -> Built:
    return build_in_registry(Recipe(code, f"{registry.place}/base:1", labels=labels or {}), f"{registry.place}/digits", print)


def push_index(registry: RunningRegistry, tmp_path: Path, index_type: str, types: tuple[str, str, str]) -> None:
    manifests = []
    for architecture in ("amd64", "arm64"):
        name = f"{registry.place}/base:{architecture}"
        digest = push_base(name, tmp_path / "base", content=architecture.encode(), architecture=architecture, types=types)
        manifest = manifest_of(f"{registry.place}/base@{digest}")
        platform = {"os": "linux", "architecture": architecture}
        manifests.append({"mediaType": manifest.media_type, "digest": digest, "size": len(manifest.data), "platform": platform})
    index = json.dumps({"schemaVersion": 2, "mediaType": index_type, "manifests": manifests}).encode()
    with Repository(parse_reference(f"{registry.place}/base")) as repository:
        repository.push_manifest(index, index_type, "all")


def manifest_of(reference: str) -> Manifest:
    parsed = parse_reference(reference)
    with Repository(parsed) as repository:
        manifest = repository.manifest(parsed.version)
    assert manifest is not None
    return manifest


def contents(reference: str) -> tuple[dict[str, Any], list[dict[str, bytes]]]:
    """The configuration of an image, and of each layer its files; every digest is checked on the way."""
    document = manifest_of(reference).document
    with Repository(parse_reference(reference)) as repository:
        config = json.loads(repository.small_blob(document["config"]["digest"]))
        layers = []
        for descriptor, diff_id in zip(document["layers"], config["rootfs"]["diff_ids"], strict=True):
            data = zlib.decompress(repository.small_blob(descriptor["digest"]), zlib.MAX_WBITS | 16)
            assert digest_of(data) == diff_id
            with tarfile.open(fileobj=io.BytesIO(data)) as archive:
                files = {member.name: archive.extractfile(member) for member in archive if member.isfile()}
                layers.append({name: file.read() for name, file in files.items() if file is not None})
    return config, layers

"""Images in registries that behave as the clouds' do (``cloud_registries``), under those registries' own names."""

import gzip
import json
import os
import threading
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import pytest

from cloud_train.image import building
from cloud_train.image.building import build_in_registry
from cloud_train.image.connection import POLICY
from cloud_train.image.errors import BrokenConnectionError, ImageError, RegistryError
from cloud_train.image.layers import Blob, digest_of
from cloud_train.image.manifest import (
    DOCKER_CONFIG,
    DOCKER_LAYER,
    DOCKER_MANIFEST,
    OCI_CONFIG,
    OCI_INDEX,
    OCI_LAYER,
    OCI_MANIFEST,
)
from cloud_train.image.recipe import Built, Recipe
from cloud_train.image.reference import parse_reference
from cloud_train.image.registry import Repository
from cloud_train.image.tokens import Login
from tests.clouds.registries import Basic, Bearer, Gate, Registries
from tests.image.cloud_registries import Acr, ArtifactRegistry, Ecr, Manners
from tests.image.real_registry import RunningRegistry, push_base
from tests.image.test_building_registry import contents, manifest_of

PASSWORD = "canary-password"
HOSTS = {"ECR": "123456789012.dkr.ecr.eu-west-1.amazonaws.com", "GAR": "europe-west4-docker.pkg.dev", "ACR": "ctreg.azurecr.io"}
LARGE_BYTES = {"ECR": 1_000_000, "GAR": 17_000_000, "ACR": 21_000_000}
"""More than ACR takes by one request."""
ZSTD_LAYER = "application/vnd.oci.image.layer.v1.tar+zstd"


@dataclass
class CloudRegistry:
    """A cloud's registry, and the real one behind it."""

    host: str
    registries: Registries
    real: RunningRegistry

    @property
    def manners(self) -> Any:
        return self.registries.manners[self.host]

    @property
    def place(self) -> str:
        return f"{self.host}/{self.real.path}"

    def build(self, code: Path, base: str = "base:1", **options: Any) -> Built:
        login = Login("me", PASSWORD)
        return build_in_registry(Recipe(code, f"{self.place}/{base}"), f"{self.place}/digits", print, login=login, **options)

    def push_base(self, folder: Path, **options: Any) -> str:
        return push_base(f"{self.real.place}/base:1", folder / "base", **options)

    def behind(self, reference: str) -> str:
        """The same image in the real registry."""
        return reference.replace(self.host, self.real.host)

    def count(self, method: str, path: str) -> int:
        return sum(1 for _, asked, where in self.registries.asked if asked == method and path in where)


def registry_named(name: str, real: RunningRegistry, folder: Path, monkeypatch: pytest.MonkeyPatch) -> CloudRegistry:
    def is_password(login: str) -> bool:
        return login == f"me:{PASSWORD}"

    gates: dict[str, tuple[Gate, Manners]] = {
        "ECR": (Basic(is_password), Ecr()),
        "GAR": (Bearer("/v2/token", is_password), ArtifactRegistry()),
        "ACR": (Bearer("/oauth2/token", is_password), Acr()),
    }
    gate, manners = gates[name]
    registries = Registries(folder, real.host, {HOSTS[name]: gate}, {HOSTS[name]: manners})
    for variable, value in registries.environment.items():
        monkeypatch.setenv(variable, value)
    monkeypatch.setenv("DOCKER_HOST", f"unix://{folder}/no-engine.sock")
    return CloudRegistry(HOSTS[name], registries, real)


@pytest.fixture(params=HOSTS)
def cloud(
    request: pytest.FixtureRequest, registry: RunningRegistry, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> Iterator[CloudRegistry]:
    made = registry_named(request.param, registry, tmp_path, monkeypatch)
    with made.registries:
        yield made


@pytest.fixture(params=["ECR", "GAR"])
def immutable(
    request: pytest.FixtureRequest, registry: RunningRegistry, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> Iterator[CloudRegistry]:
    """A registry with immutable tags."""
    made = registry_named(request.param, registry, tmp_path, monkeypatch)
    with made.registries:
        yield made


@pytest.fixture
def ecr(registry: RunningRegistry, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[CloudRegistry]:
    made = registry_named("ECR", registry, tmp_path, monkeypatch)
    with made.registries:
        yield made


@pytest.fixture
def acr(registry: RunningRegistry, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[CloudRegistry]:
    made = registry_named("ACR", registry, tmp_path, monkeypatch)
    with made.registries:
        yield made


def test_an_image_with_a_large_layer_is_pushed(cloud: CloudRegistry, code: Path, tmp_path: Path) -> None:
    cloud.push_base(tmp_path)
    [name] = (name for name, host in HOSTS.items() if host == cloud.host)
    (code / "weights.bin").write_bytes(os.urandom(LARGE_BYTES[name]))
    built = cloud.build(code)
    assert built.reference.startswith(f"{cloud.host}/")
    assert holds(largest_layer(cloud.behind(built.reference), tmp_path), code / "weights.bin")
    assert cloud.count("PATCH", "/") == (2 if isinstance(cloud.manners, Acr) else 0)


def largest_layer(reference: str, folder: Path) -> bytes:
    """The largest layer of an image, without compression."""
    layer = max(manifest_of(reference).document["layers"], key=lambda layer: int(layer["size"]))
    with Repository(parse_reference(reference)) as repository:
        return gzip.decompress(repository.fetch_blob(layer["digest"], layer["size"], folder / "layer").file.read_bytes())


def holds(tar: bytes, file: Path) -> bool:
    return file.read_bytes() in tar


def test_an_upload_that_breaks_in_the_middle_starts_over(cloud: CloudRegistry, code: Path, tmp_path: Path) -> None:
    cloud.push_base(tmp_path)
    (code / "weights.bin").write_bytes(os.urandom(1_000_000))
    cloud.registries.cuts = [0.5, 0.25, 0.0]
    built = cloud.build(code)
    assert cloud.registries.cuts == []
    assert len(contents(cloud.behind(built.reference))[1]) >= 3


def test_an_empty_file_is_pushed_with_its_length(cloud: CloudRegistry, tmp_path: Path) -> None:
    with Repository(parse_reference(f"{cloud.place}/digits"), login=Login("me", PASSWORD).bound_to(cloud.host)) as repository:
        repository.push_bytes(b"", tmp_path)
        assert repository.has_blob(digest_of(b""))


@pytest.mark.parametrize("closes", [False, True])
def test_a_registry_with_a_limit_gets_a_large_layer_in_chunks(
    acr: CloudRegistry, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, *, closes: bool
) -> None:
    monkeypatch.setattr("cloud_train.image.uploads.CHUNK_BYTES", 200_000)
    acr.manners.closes, acr.manners.largest_request = closes, 300_000
    data = os.urandom(500_000)
    (tmp_path / "blob").write_bytes(data)
    login, policy = Login("me", PASSWORD).bound_to(acr.host), replace(POLICY, sleep=lambda seconds: None)
    with Repository(parse_reference(f"{acr.place}/digits"), policy, login) as repository:
        repository.push_blob(Blob(tmp_path / "blob", digest_of(data), len(data)))
        assert repository.small_blob(digest_of(data)) == data
    assert acr.count("PATCH", "/blobs/uploads/") == 2


def test_a_registry_that_takes_no_chunks_is_sent_none(immutable: CloudRegistry, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("cloud_train.image.uploads.CHUNK_BYTES", 200_000)
    immutable.registries.cuts = [0.5] * 5
    (tmp_path / "blob").write_bytes(bytes(500_000))
    login, policy = Login("me", PASSWORD).bound_to(immutable.host), replace(POLICY, sleep=lambda seconds: None)
    with Repository(parse_reference(f"{immutable.place}/digits"), policy, login) as repository:
        blob = Blob(tmp_path / "blob", digest_of(bytes(500_000)), 500_000)
        with pytest.raises(BrokenConnectionError, match=r"closed the connection of an upload 5 times; the blob has 500,000 bytes"):
            repository.push_blob(blob)
    assert immutable.count("PATCH", "/") == 0


@pytest.mark.parametrize("types", [(OCI_MANIFEST, OCI_CONFIG, OCI_LAYER), (DOCKER_MANIFEST, DOCKER_CONFIG, DOCKER_LAYER)])
def test_an_image_is_in_dockers_format_at_amazon_and_in_its_base_s_elsewhere(
    cloud: CloudRegistry, code: Path, tmp_path: Path, types: tuple[str, str, str]
) -> None:
    cloud.push_base(tmp_path, types=types)
    manifest = manifest_of(cloud.behind(cloud.build(code).reference))
    wanted = (DOCKER_MANIFEST, DOCKER_CONFIG, DOCKER_LAYER) if isinstance(cloud.manners, Ecr) else types
    kinds = {layer["mediaType"] for layer in manifest.document["layers"]}
    assert (manifest.media_type, manifest.document["config"]["mediaType"], kinds) == (wanted[0], wanted[1], {wanted[2]})
    assert manifest.document["mediaType"] == wanted[0]


def test_a_converted_image_has_the_digest_of_one_on_a_base_in_dockers_format(ecr: CloudRegistry, code: Path, tmp_path: Path) -> None:
    ecr.push_base(tmp_path, types=(DOCKER_MANIFEST, DOCKER_CONFIG, DOCKER_LAYER))
    first = ecr.build(code)
    ecr.push_base(tmp_path, annotations={"org.example.note": "lost"})
    second = ecr.build(code)
    assert (second.reference, second.reused) == (first.reference, True)


def test_layers_without_compression_are_converted_too(ecr: CloudRegistry, code: Path, tmp_path: Path) -> None:
    ecr.push_base(tmp_path, types=(OCI_MANIFEST, OCI_CONFIG, "application/vnd.oci.image.layer.v1.tar"))
    layers = manifest_of(ecr.behind(ecr.build(code).reference)).document["layers"]
    assert [layer["mediaType"] for layer in layers] == ["application/vnd.docker.image.rootfs.diff.tar", DOCKER_LAYER, DOCKER_LAYER]


@pytest.mark.parametrize(
    ("layer", "said"),
    [(ZSTD_LAYER, "compressed with zstd"), ("application/vnd.example", "of the type 'application/vnd.example'")],
)
def test_layers_that_dockers_format_cannot_express_are_refused_before_anything_is_sent(
    ecr: CloudRegistry, code: Path, tmp_path: Path, layer: str, said: str
) -> None:
    ecr.push_base(tmp_path, types=(OCI_MANIFEST, OCI_CONFIG, layer))
    with pytest.raises(ImageError, match=rf"base:1 has layers {said}, but images for {HOSTS['ECR']} have to be in Docker's") as caught:
        ecr.build(code)
    assert "compression=gzip" in (caught.value.hint or "")
    assert ecr.count("POST", "/uploads/") == 0


@pytest.mark.parametrize("annotated", [False, True])
def test_attestations_in_an_index_are_passed_over(cloud: CloudRegistry, code: Path, tmp_path: Path, annotated: bool) -> None:
    digest = cloud.push_base(tmp_path)
    attestation = {
        "digest": digest_of(b"provenance"),
        "platform": {"os": "linux", "architecture": "amd64"} if annotated else {"os": "unknown", "architecture": "unknown"},
        "annotations": {"vnd.docker.reference.type": "attestation-manifest"} if annotated else {},
    }
    image = {"digest": digest, "platform": {"os": "linux", "architecture": "amd64"}}
    entries = [{"mediaType": OCI_MANIFEST, "size": 1, **entry} for entry in (attestation, image)]
    index = json.dumps({"schemaVersion": 2, "mediaType": OCI_INDEX, "manifests": entries}).encode()
    place = parse_reference(f"{cloud.real.place}/base")
    folder = cloud.real.storage / f"docker/registry/v2/repositories/{place.name}"
    lay_manifest(folder, digest_of(b"provenance"))
    with Repository(place) as repository:
        repository.push_manifest(index, OCI_INDEX, "all")
    assert contents(cloud.behind(cloud.build(code, "base:all").reference))[1][0] == {"base.txt": b"a base\n"}


def lay_manifest(repository: Path, digest: str) -> None:
    """Let the registry believe that it has a manifest with this digest: it accepts no index without."""
    link = repository / f"_manifests/revisions/sha256/{digest[7:]}/link"
    link.parent.mkdir(parents=True)
    link.write_text(digest)
    blob = repository.parents[2] / f"blobs/sha256/{digest[7:9]}/{digest[7:]}/data"
    blob.parent.mkdir(parents=True, exist_ok=True)
    blob.write_bytes(b"provenance")


def test_two_first_pushes_at_the_same_time_both_end_well(cloud: CloudRegistry, code: Path, tmp_path: Path) -> None:
    cloud.push_base(tmp_path)
    meet = threading.Barrier(2)

    def before(method: str, path: str) -> None:
        if method == "PUT" and "/manifests/cloud-train-" in path:
            meet.wait(60)  # neither has set the tag when the other looks for it

    cloud.registries.before = before
    with ThreadPoolExecutor(2) as both:
        first, second = both.map(lambda number: cloud.build(code), range(2))
    assert first.reference == second.reference
    assert contents(cloud.behind(first.reference))[1][0] == {"base.txt": b"a base\n"}
    assert cloud.count("PUT", "/manifests/") == 2


def test_a_second_push_with_other_compression_takes_the_image_that_is_there(
    immutable: CloudRegistry, code: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    immutable.push_base(tmp_path)
    faster: list[str] = []

    def before(method: str, path: str) -> None:
        if method == "PUT" and "/manifests/cloud-train-" in path and not faster:
            faster.append("")
            with monkeypatch.context() as patch:  # as another version of zlib compresses
                patch.setattr("cloud_train.image.layers._GZIP_HEADER", gzip.compress(b"", mtime=0)[:10])
                faster[0] = immutable.build(code).reference

    immutable.registries.before = before
    assert [immutable.build(code).reference] == faster


def test_an_immutable_tag_with_another_image_is_an_error(immutable: CloudRegistry, code: Path, tmp_path: Path) -> None:
    immutable.push_base(tmp_path)
    built = immutable.build(code)
    tag = f"cloud-train-{manifest_of(immutable.behind(built.reference)).document['config']['digest'][7:39]}"
    digest = push_base(f"{immutable.real.place}/digits:{tag}", tmp_path / "other", content=b"another")
    with pytest.raises(ImageError, match=rf"the tag {tag} in {immutable.place}/digits already names another image, {digest}") as caught:
        immutable.build(code)
    assert "immutab" in caught.value.message, "the registry's own words"
    assert not isinstance(caught.value, RegistryError), "or the push would be repeated, as after the loss of a layer"
    assert "delete this tag" in (caught.value.hint or "")


def test_a_refusal_that_is_not_about_the_tag_is_told_as_it_is(ecr: CloudRegistry, code: Path, tmp_path: Path) -> None:
    ecr.push_base(tmp_path)
    elsewhere = build_in_registry(Recipe(code, f"{ecr.real.place}/base:1"), f"{ecr.real.place}/elsewhere", print)
    tag = f"cloud-train-{manifest_of(elsewhere.reference).document['config']['digest'][7:39]}"
    ecr.manners.set_tag(f"/v2/{ecr.real.path}/digits/manifests/{tag}")  # though nothing can be read there
    with pytest.raises(RegistryError, match=r"refused to accept the image .*400 \(TAG_INVALID The image tag"):
        ecr.build(code)


def test_the_base_that_an_engine_pushes_may_have_been_pushed_by_another_meanwhile(
    ecr: CloudRegistry, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    digest = push_base(f"{ecr.real.place}/digits:cloud-train-base-{'0' * 32}", tmp_path / "base")
    config = manifest_of(f"{ecr.real.place}/digits@{digest}").document["config"]["digest"]

    class Engine:
        def push(self, image_id: str, repository: str, tag: str, login: Login | None) -> int:
            push_base(f"{ecr.real.place}/digits:{tag}", tmp_path / "base")  # another one is faster
            raise ImageError("the Docker Engine cannot push: tag invalid: The image tag already exists and cannot be overwritten")

    @dataclass
    class Base:
        image_id: str

    target = parse_reference(f"{ecr.place}/digits")
    with Repository(target, login=Login("me", PASSWORD).bound_to(ecr.host)) as repository:
        place, sent = building._push_base(Engine(), Base(config), repository, print, None)  # type: ignore[arg-type] # all that it uses
        assert (place.tag, sent) == (f"cloud-train-base-{config[7:39]}", 0)
        with pytest.raises(ImageError, match="cannot be overwritten"):
            building._push_base(Engine(), Base(f"sha256:{'1' * 64}"), repository, print, None)  # type: ignore[arg-type] # as above

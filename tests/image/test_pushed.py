"""A push after an earlier one: what is sent, and what is asked."""

import gzip
from pathlib import Path

import pytest

from cloud_train.image.building import build_in_registry
from cloud_train.image.recipe import Built, Recipe
from cloud_train.image.reference import parse_reference
from cloud_train.image.registry import Repository
from tests.image.faulty_registry import faulty_registry
from tests.image.real_registry import RunningRegistry, push_base
from tests.image.test_building_registry import contents, manifest_of


def push(code: Path, place: str, memory: Path | None) -> Built:
    return build_in_registry(Recipe(code, f"{place}/base:1"), f"{place}/digits", print, memory=memory)


@pytest.fixture
def memory(tmp_path: Path) -> Path:
    return tmp_path / "pushed"


@pytest.mark.parametrize("name", ["package_0/module_0.py", "vocabulary_0.bin", "new.py"])
def test_a_change_in_a_large_folder_sends_the_file_and_at_most_10_kb(
    registry: RunningRegistry, large: Path, tmp_path: Path, memory: Path, name: str
) -> None:
    push_base(f"{registry.place}/base:1", tmp_path / "base")
    assert push(large, registry.place, memory).sent_bytes > 1_000_000
    for change, remembered in ((b"\nROUND = 1\n", memory), (b"\nROUND = 2\n", None)):
        with (large / name).open("ab") as file:
            file.write(change)
        changed = push(large, registry.place, remembered)
        assert 0 < changed.sent_bytes <= len(gzip.compress((large / name).read_bytes())) + 10_000


def test_what_is_remembered_changes_nothing_in_the_image(registry: RunningRegistry, large: Path, tmp_path: Path, memory: Path) -> None:
    push_base(f"{registry.place}/base:1", tmp_path / "base")
    push(large, registry.place, memory)
    (large / "package_0" / "module_0.py").unlink()
    (large / "package_1" / "module_1.py").rename(large / "renamed.py")
    (large / "package_2" / "module_2.py").write_text("print()\n")
    remembering = push(large, registry.place, memory)
    elsewhere = build_in_registry(Recipe(large, f"{registry.place}/base:1"), f"{registry.place}/another", print)
    assert remembering.reference.partition("@")[2] == elsewhere.reference.partition("@")[2]
    _, (_, _, *layers) = contents(remembering.reference)
    files = {name.removeprefix("workspace/"): data for layer in layers for name, data in layer.items()}
    assert files == {str(path.relative_to(large)): path.read_bytes() for path in large.rglob("*") if path.is_file()}


def test_what_is_remembered_is_not_asked_for_again(large: Path, tmp_path: Path, memory: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("DOCKER_CONFIG", str(tmp_path / "no-docker-config"))
    with faulty_registry() as server:
        push_base(f"{server.host}/me/base:1", tmp_path / "base")
        push(large, f"{server.host}/me", memory)
        asked_at_first = server.count("HEAD", "/blobs/")
        server.requests.clear()
        (large / "package_0" / "module_0.py").write_text("print()\n")
        push(large, f"{server.host}/me", memory)
        # Of the layer that is new, and the configuration.
        assert server.count("HEAD", "/blobs/") == 2 < asked_at_first
        assert server.count("POST", "/uploads/") == 2


@pytest.mark.parametrize("note", [b"", b"nonsense", b"\xff", b"sha256:" + b"0" * 64])
def test_a_note_that_tells_nothing_is_no_harm(registry: RunningRegistry, large: Path, tmp_path: Path, memory: Path, note: bytes) -> None:
    push_base(f"{registry.place}/base:1", tmp_path / "base")
    push(large, registry.place, memory)
    for path in memory.iterdir():
        path.write_bytes(note)
    (large / "main.py").write_text("print()\n")
    assert push(large, registry.place, memory).sent_bytes < 10_000


def test_where_nothing_can_be_noted_the_push_is_made(registry: RunningRegistry, code: Path, tmp_path: Path) -> None:
    push_base(f"{registry.place}/base:1", tmp_path / "base")
    (tmp_path / "file").touch()
    assert push(code, registry.place, tmp_path / "file" / "pushed").sent_bytes > 0


def test_a_layer_that_somebody_deleted_from_the_registry_is_sent_again(
    registry: RunningRegistry, large: Path, tmp_path: Path, memory: Path
) -> None:
    push_base(f"{registry.place}/base:1", tmp_path / "base")
    layers = manifest_of(push(large, registry.place, memory).reference).document["layers"]
    lost = max(layers[2:], key=lambda layer: int(layer["size"]))
    with Repository(parse_reference(f"{registry.place}/digits")) as repository:
        delete(repository, lost["digest"])
        assert not repository.has_blob(lost["digest"])
    (large / "main.py").write_text("print()\n")
    again = push(large, registry.place, memory)
    assert again.sent_bytes > lost["size"]
    assert len(contents(again.reference)[1]) >= len(layers)


def delete(repository: Repository, digest: str) -> None:
    import requests

    reference = repository.reference
    requests.delete(f"{reference.registry_url}/v2/{reference.name}/blobs/{digest}", timeout=10).raise_for_status()

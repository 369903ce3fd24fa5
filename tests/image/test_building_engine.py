"""Images in the real engine."""

import json
import os
import shutil
import uuid
import zlib
from pathlib import Path

import pytest

from cloud_train.docker.host import EngineUnavailableError
from cloud_train.image.building import build_in_engine, build_in_registry
from cloud_train.image.config import Base, configuration
from cloud_train.image.context import survey
from cloud_train.image.engine_images import EngineBase, EngineImages
from cloud_train.image.errors import ImageError
from cloud_train.image.layers import code_members, digest_of, make_layer, worker_members
from cloud_train.image.recipe import Built, Recipe
from tests.docker_engine import base_image
from tests.image.conftest import OwnImages
from tests.image.real_registry import RunningRegistry, push_base

SHOW = """
import cloud_train.worker, json, os
print(json.dumps([os.getuid(), os.getcwd(), sorted(os.listdir()), cloud_train.__file__, os.environ["HOME"]]))
"""


def test_the_image_runs_as_nobody_in_particular_and_has_the_worker(images: OwnImages, code: Path) -> None:
    built = images.build(code)
    user, folder, files, package, home = json.loads(images.run(built.reference, SHOW))
    assert user == 65532
    assert (folder, files) == ("/workspace", ["main.py", "package"])
    assert (package, home) == ("/opt/cloud-train/lib/cloud_train/__init__.py", "/tmp")


def test_the_worker_is_the_entrypoint_and_labels_are_there(images: OwnImages, code: Path) -> None:
    settings = images.inspect(images.build(code, **{"org.opencontainers.image.version": "1.2"}).reference)["Config"]
    assert settings["Entrypoint"] == ["python3", "-m", "cloud_train.worker"]
    assert not settings["Cmd"]
    assert settings["Labels"]["org.opencontainers.image.version"] == "1.2"


def test_a_copy_with_other_times_and_owners_is_the_same_image(images: OwnImages, code: Path, tmp_path: Path) -> None:
    shutil.copytree(code, tmp_path / "copy")
    os.utime(tmp_path / "copy" / "main.py", (1, 1))
    (tmp_path / "copy" / "main.py").chmod(0o600)
    first, second = images.build(code), images.build(tmp_path / "copy")
    assert first.reference == second.reference
    assert (second.sent_bytes, second.reused) == (0, True)


def test_a_changed_line_sends_only_the_layer_of_the_code(images: OwnImages, code: Path) -> None:
    (code / "weights.txt").write_bytes(os.urandom(50_000))
    first = images.build(code)
    (code / "main.py").write_text("print('training well')\n")
    changed = images.build(code)
    compressed = len(zlib.compress(b"".join(path.read_bytes() for path in sorted(code.rglob("*")) if path.is_file())))
    assert changed.reference != first.reference
    assert changed.sent_bytes <= compressed + 10_000
    assert images.run(changed.reference, "print(open('main.py').read())").strip() == b"print('training well')"


def test_a_job_without_code_gets_the_worker_alone(images: OwnImages) -> None:
    built = images.build(None, unique=uuid.uuid4().hex)
    assert json.loads(images.run(built.reference, SHOW))[2] == []


def test_names_with_newlines_and_of_any_length_and_links_arrive(images: OwnImages, code: Path) -> None:
    long = "/".join(["a" * 100] * 3)
    (code / long).mkdir(parents=True)
    (code / long / "two\nlines.txt").write_text("here")
    (code / "link").symlink_to(f"{long}/two\nlines.txt")
    (code / os.fsdecode(b"byte-\xff")).write_text("odd")
    built = images.build(code)
    assert (
        images.run(built.reference, "import os; print(open('link').read(), open(os.fsdecode(b'byte-\\xff')).read())").strip() == b"here odd"
    )


def test_engine_and_registry_make_the_same_image(images: OwnImages, code: Path, registry: RunningRegistry, tmp_path: Path) -> None:
    push_base(f"{registry.place}/base:1", tmp_path / "base", settings={"User": "1000", "Labels": {"a": "b"}})
    recipe = Recipe(code, f"{registry.place}/base:1", labels=images.labels)
    images.kept.append(recipe.base)
    pushed = build_in_registry(recipe, f"{registry.place}/digits", print)
    images.pull(pushed.reference)
    in_engine = images.keep(build_in_engine(recipe, print))
    assert images.inspect(pushed.reference)["Id"] == in_engine.reference
    assert in_engine.reused
    assert images.inspect(pushed.reference)["Config"]["User"] == "1000"


def test_a_missing_base_is_pulled(images: OwnImages, code: Path, registry: RunningRegistry, tmp_path: Path) -> None:
    push_base(f"{registry.place}/base:1", tmp_path / "base", content=os.urandom(10))
    notes: list[str] = []
    images.kept.append(f"{registry.place}/base:1")
    built = images.keep(build_in_engine(Recipe(code, f"{registry.place}/base:1", labels=images.labels), notes.append))
    assert notes == [f"pulling {registry.place}/base:1"]
    assert not built.reused


def test_a_base_that_does_not_exist_is_named(images: OwnImages, code: Path, registry: RunningRegistry) -> None:
    with pytest.raises(ImageError, match=rf"{registry.place}/base:1 does not exist") as caught:
        build_in_engine(Recipe(code, f"{registry.place}/base:1"), print)
    assert (caught.value.code, caught.value.exit_code) == ("image", 7)


def test_a_base_for_other_machines_is_refused(images: OwnImages, code: Path, registry: RunningRegistry, tmp_path: Path) -> None:
    push_base(f"{registry.place}/base:1", tmp_path / "base", architecture="arm64")
    images.kept.append(f"{registry.place}/base:1")
    with pytest.raises(ImageError, match=r"base:1 is for linux/arm64, not for linux/amd64"):
        build_in_engine(Recipe(code, f"{registry.place}/base:1"), print)


def test_an_engine_that_is_not_there_is_named_with_the_way_out(code: Path, tmp_path: Path) -> None:
    with pytest.raises(EngineUnavailableError, match=r"no Docker Engine is running at unix://.*none\.sock") as caught:
        build_in_engine(Recipe(code, base_image()), print, host=f"unix://{tmp_path}/none.sock")
    assert "systemctl start docker" in (caught.value.hint or "")


def test_an_engine_that_takes_no_partial_archive_gets_the_layers_through_a_container(images: OwnImages, code: Path, tmp_path: Path) -> None:
    with EngineImages() as engine:
        found = engine.base(base_image(), "linux/amd64", print)
        layers = [
            make_layer(worker_members(), "worker"),
            make_layer(code_members(survey(code)), "code"),
        ]
        # The engine at hand takes partial archives, so it is told of a base that it does not have.
        unknown = EngineBase(found.image_id, Base("linux", "amd64", "", ("sha256:" + 64 * "0",), found.base.settings))
        config = configuration(unknown.base, layers, {**images.labels, "unique": uuid.uuid4().hex})
        image_id, sent_bytes = engine.put(config, layers, unknown, tmp_path)
        images.keep(Built(image_id, sent_bytes, reused=False))
        assert engine.existing(digest_of(config)) == image_id
    user, folder, files, package, _ = json.loads(images.run(image_id, SHOW))
    assert (user, folder, files) == (65532, "/workspace", ["main.py", "package"])
    assert package.startswith("/opt/cloud-train/lib/")
    assert images.inspect(image_id)["Config"]["Entrypoint"] == ["python3", "-m", "cloud_train.worker"]


def test_a_change_in_a_large_folder_sends_no_large_file_again_and_the_folder_is_there_with_its_modes(
    images: OwnImages, large: Path
) -> None:
    first = images.build(large)
    assert first.sent_bytes > 1_000_000
    (large / "package_0" / "module_0.py").write_text("print('changed')\n")
    (large / "package_1" / "module_1.py").unlink()
    changed = images.build(large)
    assert changed.sent_bytes < 100_000
    seen = json.loads(images.run(changed.reference, LIST))
    assert seen["files"] == {
        str(path.relative_to(large)): digest_of(path.read_bytes()) for path in sorted(large.rglob("*")) if path.is_file()
    }
    assert set(seen["modes"]) == {"0o40755"}


LIST = """
import hashlib, json, os
files, modes = {}, []
for folder, _, names in os.walk("."):
    modes.append(oct(os.stat(folder).st_mode))
    for name in names:
        path = os.path.normpath(os.path.join(folder, name))
        files[path] = "sha256:" + hashlib.sha256(open(path, "rb").read()).hexdigest()
print(json.dumps({"files": files, "modes": modes}))
"""

"""Requirements and Dockerfiles, built by the real BuildKit."""

import json
import threading
import uuid
import zipfile
from collections.abc import Iterator
from functools import partial
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import pytest

from cloud_train.image.building import build_in_engine, build_in_registry
from cloud_train.image.errors import ImageError
from cloud_train.image.prepared import NETWORK
from cloud_train.image.recipe import Recipe
from tests.docker_engine import base_image
from tests.image.conftest import OwnImages
from tests.image.real_registry import RunningRegistry


@pytest.fixture
def index(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[str]:
    """The address of a folder with one small wheel in it, which builds reach over the host's network."""
    monkeypatch.setenv(NETWORK, "host")
    folder = tmp_path / "wheels"
    folder.mkdir()
    with zipfile.ZipFile(folder / "tiny_model-1.0-py3-none-any.whl", "w") as wheel:
        wheel.writestr("tiny_model.py", "ANSWER = 42\n")
        wheel.writestr("tiny_model-1.0.dist-info/METADATA", "Metadata-Version: 2.1\nName: tiny-model\nVersion: 1.0\n")
        wheel.writestr("tiny_model-1.0.dist-info/WHEEL", "Wheel-Version: 1.0\nGenerator: test\nRoot-Is-Purelib: true\nTag: py3-none-any\n")
        wheel.writestr("tiny_model-1.0.dist-info/RECORD", "")
    with ThreadingHTTPServer(("127.0.0.1", 0), partial(QuietHandler, directory=str(folder))) as server:
        thread = threading.Thread(target=server.serve_forever, args=(0.01,))
        thread.start()
        yield f"http://127.0.0.1:{server.server_address[1]}"
        server.shutdown()
        thread.join()


class QuietHandler(SimpleHTTPRequestHandler):
    def log_message(self, format: str, *args: object) -> None:
        """Say nothing."""


def requirements(folder: Path, index: str, name: str = "tiny-model==1.0") -> Path:
    file = folder / "requirements.txt"
    file.write_text(f"--no-index\n--find-links {index}/\n{name}\n")
    return file


def test_requirements_are_installed_once(images: OwnImages, code: Path, tmp_path: Path, index: str) -> None:
    recipe = Recipe(code, base_image(), requirements=requirements(tmp_path, index), labels=images.labels)
    notes: list[str] = []
    built = images.keep(build_in_engine(recipe, notes.append))
    images.kept += images.prepared_from(built.reference)
    assert notes == [f"installing requirements.txt on top of {base_image()}"]
    assert images.run(built.reference, "import tiny_model, cloud_train.worker; print(tiny_model.ANSWER)").strip() == b"42"
    assert images.inspect(built.reference)["Config"]["User"] == "65532:65532"

    again = build_in_engine(recipe, notes.append)
    assert (again.reference, again.sent_bytes, again.reused) == (built.reference, 0, True)
    (code / "main.py").write_text("print('changed')\n")
    changed = images.keep(build_in_engine(recipe, notes.append))
    assert changed.sent_bytes < 10_000
    assert len(notes) == 1


def test_what_an_engine_has_built_is_pushed_once(images: OwnImages, code: Path, tmp_path: Path, registry: RunningRegistry) -> None:
    (tmp_path / "Dockerfile").write_text("FROM scratch\nCOPY main.py /copy.py\n")
    recipe = Recipe(code, "unused", dockerfile=tmp_path / "Dockerfile", labels=images.labels)
    notes: list[str] = []
    pushed = build_in_registry(recipe, f"{registry.place}/digits", notes.append)
    assert notes[-1] == f"pushing the base image to {registry.place}/digits"
    assert not pushed.reused
    again = build_in_registry(recipe, f"{registry.place}/digits", notes.append)
    assert (again.reference, again.sent_bytes, again.reused) == (pushed.reference, 0, True)
    images.pull(pushed.reference)
    in_engine = images.keep(build_in_engine(recipe, notes.append))
    images.kept += images.prepared_from(in_engine.reference)
    assert images.inspect(pushed.reference)["Id"] == in_engine.reference


def test_a_base_that_only_the_engine_has_is_pushed_from_the_engine_that_is_named(
    images: OwnImages, code: Path, registry: RunningRegistry, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("DOCKER_HOST", "unix:///nowhere/docker.sock")
    name = f"cloud-train-test-only-here:{uuid.uuid4().hex}"
    images.client.api.import_image_from_data(bytes(1024), *name.split(":"))
    images.kept.append(name)
    notes: list[str] = []
    built = build_in_registry(Recipe(code, name), f"{registry.place}/digits", notes.append, "unix:///var/run/docker.sock")
    assert notes == [f"pushing the base image to {registry.place}/digits"]
    assert built.reference.startswith(f"{registry.place}/digits@sha256:")


def test_a_requirement_that_does_not_exist_is_told_in_pips_words(images: OwnImages, code: Path, tmp_path: Path, index: str) -> None:
    recipe = Recipe(code, base_image(), requirements=requirements(tmp_path, index, "nowhere-to-be-found==9"))
    with pytest.raises(ImageError, match=r"cannot install .*requirements\.txt on top of") as caught:
        build_in_engine(recipe, print)
    assert "No matching distribution found for nowhere-to-be-found==9" in caught.value.message
    assert "RUN" in caught.value.message
    assert len(caught.value.message.splitlines()) < 20


def test_a_dockerfile_of_ones_own_sees_the_folder(images: OwnImages, code: Path, tmp_path: Path) -> None:
    (code / ".dockerignore").write_text("secret.txt\n")
    (code / "secret.txt").write_text("canary")
    dockerfile = tmp_path / "Dockerfile"
    dockerfile.write_text(f"FROM {base_image()}\nCOPY . /copied\nRUN echo {images.labels} > /echo\nENV COLOUR=red\nUSER 1234\n")
    recipe = Recipe(code, "unused", dockerfile=dockerfile, labels=images.labels)
    built = images.keep(build_in_engine(recipe, print))
    images.kept += images.prepared_from(built.reference)
    show = "import json, os; print(json.dumps([os.getuid(), os.environ['COLOUR'], sorted(os.listdir('/copied')), sorted(os.listdir())]))"
    user, colour, copied, workspace = json.loads(images.run(built.reference, show))
    assert (user, colour) == (1234, "red")
    assert set(copied) - {".cloud-train.Dockerfile"} == set(workspace) == {"main.py", "package"}
    again = build_in_engine(recipe, print)
    assert (again.reference, again.reused) == (built.reference, True)


def test_a_dockerfile_that_fails_is_told_with_its_failing_line(images: OwnImages, code: Path, tmp_path: Path) -> None:
    dockerfile = tmp_path / "Dockerfile"
    dockerfile.write_text(f"FROM {base_image()}\nRUN echo fine\nRUN echo this went wrong && exit 3\n")
    with pytest.raises(ImageError, match=r"cannot build .*Dockerfile") as caught:
        build_in_engine(Recipe(code, "unused", dockerfile=dockerfile), print)
    assert "RUN echo this went wrong && exit 3" in caught.value.message
    assert "\nthis went wrong\n" in caught.value.message
    assert "exit code: 3" in caught.value.message
    assert "fine" not in caught.value.message


def test_a_dockerfile_that_is_none_is_told_with_the_line(images: OwnImages, code: Path, tmp_path: Path) -> None:
    dockerfile = tmp_path / "Dockerfile"
    dockerfile.write_text(f"FROM {base_image()}\nRUNN echo\n")
    with pytest.raises(ImageError, match=r"line 2: unknown instruction: RUNN"):
        build_in_engine(Recipe(code, "unused", dockerfile=dockerfile), print)


def test_a_file_that_is_not_there_is_named(images: OwnImages, code: Path, tmp_path: Path) -> None:
    with pytest.raises(ImageError, match=r"cannot read the Dockerfile .*/none: No such file"):
        build_in_engine(Recipe(code, "unused", dockerfile=tmp_path / "none"), print)
    with pytest.raises(ImageError, match=r"cannot read the requirements file .*/none: No such file"):
        build_in_engine(Recipe(code, base_image(), requirements=tmp_path / "none"), print)


def test_without_a_client_that_has_buildkit_the_plugin_is_named(
    images: OwnImages, code: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in ("docker", "second"):
        (tmp_path / name).write_text(
            "#!/bin/sh\necho 'ERROR: BuildKit is enabled but the buildx component is missing or broken.'; exit 1\n"
        )
        (tmp_path / name).chmod(0o755)
    monkeypatch.setattr("cloud_train.image.prepared.clients", lambda: [str(tmp_path / "docker"), str(tmp_path / "second")])
    (tmp_path / "requirements.txt").write_text(f"# {tmp_path}\n")
    with pytest.raises(ImageError, match="no Docker client with BuildKit") as caught:
        build_in_engine(Recipe(code, base_image(), requirements=tmp_path / "requirements.txt"), print)
    assert "buildx" in (caught.value.hint or "")

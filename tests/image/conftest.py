"""What the tests of this room share."""

import random
import uuid
from collections.abc import Iterator
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

from cloud_train.image.building import build_in_engine
from cloud_train.image.recipe import Built, Recipe
from tests.docker_engine import base_image, engine_or_skip
from tests.image.real_registry import RunningRegistry, running_registry

if TYPE_CHECKING:
    from docker import DockerClient


@dataclass
class OwnImages:
    """The images that a test makes in the real engine. They carry a label of its own and are removed after it."""

    client: "DockerClient"
    labels: dict[str, str] = field(default_factory=lambda: {"cloud-train-test.image": uuid.uuid4().hex})
    kept: list[str] = field(default_factory=list)

    def build(self, code: Path | None, **labels: str) -> Built:
        return self.keep(build_in_engine(Recipe(code, base_image(), labels={**self.labels, **labels}), print))

    def keep(self, built: Built) -> Built:
        self.kept.append(built.reference)
        return built

    def pull(self, reference: str) -> None:
        self.client.images.pull(reference)
        self.kept.append(reference)

    def inspect(self, reference: str) -> dict[str, Any]:
        found: dict[str, Any] = self.client.api.inspect_image(reference)
        return found

    def prepared_from(self, reference: str) -> list[str]:
        """The images with requirements, or from a Dockerfile, that this one was made on."""
        layers = self.inspect(reference)["RootFS"]["Layers"]
        return [image.id for image in self.client.images.list("cloud-train-base") if image.attrs["RootFS"]["Layers"] == layers[:-2]]

    def run(self, reference: str, program: str) -> bytes:
        """What a Python program prints in a container of the image."""
        output: bytes = self.client.containers.run(
            reference, ["-c", program], entrypoint=["python3"], network_mode="none", remove=True, labels=self.labels
        )
        return output


@pytest.fixture
def images() -> Iterator[OwnImages]:
    from docker.errors import ImageNotFound

    client = engine_or_skip()
    try:
        own = OwnImages(client)
        yield own
        (label,) = own.labels.items()
        for container in client.containers.list(all=True, filters={"label": "=".join(label)}):
            container.remove(force=True)
        for reference in own.kept:
            with suppress(ImageNotFound):
                client.images.remove(reference, force=True)
    finally:
        client.close()


@pytest.fixture
def code(tmp_path: Path) -> Path:
    """A small folder of user code."""
    folder = tmp_path / "code"
    (folder / "package").mkdir(parents=True)
    (folder / "main.py").write_text("print('training')\n")
    (folder / "package" / "layers.py").write_text("SIZE = 3\n")
    return folder


@pytest.fixture
def large(tmp_path: Path) -> Path:
    """A folder with program text, other small files, and large ones, always the same: 1.5 MB when compressed."""
    choose = random.Random(0)
    words = ["def", "return", "self", "loss", "batch", "for", "in", "model", "layer", "=", "+", "(", ")", "0.5", "optimizer", "step"]
    folder = tmp_path / "large"
    for number in range(60):
        path = folder / f"package_{number % 5}" / f"module_{number}.py"
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text("\n".join(" ".join(choose.choices(words, k=10)) for _ in range(50)))
    for number in range(300):
        (folder / f"icon_{number}.png").write_bytes(choose.randbytes(2_000))
    for number in range(4):
        (folder / f"vocabulary_{number}.bin").write_bytes(choose.randbytes(200_000))
    return folder


@pytest.fixture(scope="session")
def session_registry(tmp_path_factory: pytest.TempPathFactory) -> Iterator[RunningRegistry]:
    with running_registry(tmp_path_factory.mktemp("registry") / "registry") as running:
        yield running


@pytest.fixture
def registry(session_registry: RunningRegistry, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> RunningRegistry:
    """A registry that wants no login, with repositories of this test's own."""
    monkeypatch.setenv("DOCKER_CONFIG", str(tmp_path / "no-docker-config"))
    return RunningRegistry(session_registry.host, session_registry.log, session_registry.storage, uuid.uuid4().hex)

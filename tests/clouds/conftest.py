"""What the tests of the clouds share."""

from pathlib import Path

import pytest

from cloud_train.orchestrator.packaging import DEFAULT_BASE
from tests.clouds import kit
from tests.docker_engine import trainers_or_skip


@pytest.fixture(autouse=True)
def free_looks(monkeypatch: pytest.MonkeyPatch) -> None:
    """Nobody pays for a look into a store here, so there are more of them."""
    monkeypatch.setattr("cloud_train.orchestrator.connections.CLOUD_PAUSE_SECONDS", 0.5)


@pytest.fixture(scope="session")
def shared_clouds(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder of all processes of this session, with the images of its registries (``kit.registry``)."""
    return kit.shared_folder(tmp_path_factory)


@pytest.fixture(scope="session")
def small_base(shared_clouds: Path) -> str:
    """The `image.base` of jobs that train nothing. It lies in the session's registries."""
    base = kit.small_base(shared_clouds)
    kit.base_in_registry(shared_clouds, base)
    return base


@pytest.fixture(scope="session")
def trainer_base(shared_clouds: Path) -> str:
    """The project's own base, which jobs have that name none: with torch. It lies in the session's registries; its push takes a minute."""
    trainers_or_skip().close()
    kit.base_in_registry(shared_clouds, DEFAULT_BASE)
    return DEFAULT_BASE

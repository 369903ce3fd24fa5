"""Each test of this folder that asks for ``place`` runs at every place; the plugins that are tested are installed by pip, as users do."""

import json
import os
import shutil
import subprocess
import sys
import zlib
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from pathlib import Path
from typing import cast

import pytest

from cloud_train.errors import StoreError
from cloud_train.orchestrator.home import Home
from cloud_train.providers import local
from cloud_train.providers.base import Provider, worker_arguments
from cloud_train.providers.cloud import request as cloud_request
from cloud_train.providers.docker import request
from cloud_train.providers.registry import known_providers, load_provider
from cloud_train.run.plan import Plan
from cloud_train.storage.registry import open_store
from tests.conformance.bench import Bench
from tests.conformance.place import FarPlace, Place, named_by_environment, named_place

PLACES = {
    "local": "tests.conformance.places:LOCAL",
    "docker": "tests.conformance.places:DOCKER",
    "aws": "tests.conformance.cloud_places:AWS",
    "gcp": "tests.conformance.cloud_places:GCP",
    "azure": "tests.conformance.cloud_places:AZURE",
    "toy": "cloud_train_toy.place:PLACE",
}
"""The project's own; the toy's is found once its distribution is installed."""
CLOUDS = ("aws", "gcp", "azure")
LANES = {"docker": ("docker",), **dict.fromkeys(CLOUDS, ("docker", "cloud"))}
"""The lanes of the tests at a place: they find it by its name, which tests/lanes.py cannot see."""
TAKING_TURNS = ("test_nodes", "test_programs", "test_resumptions", "test_stops")
"""What is here is the worker's doing more than the cloud's, and each run takes seconds: each behaviour is tested on one cloud, in turns."""
EVERY_CLOUD = "CLOUD_TRAIN_EVERY_CLOUD"
"""The environment variable that runs every behaviour on every cloud, with the value 1."""
DISTRIBUTIONS = ("toy_provider", "broken_provider")


def pytest_generate_tests(metafunc: pytest.Metafunc) -> None:
    if "place" in metafunc.fixturenames:
        named = named_by_environment()
        places = {named: named} if named else _places_of(metafunc)
        values = [
            pytest.param(place, id=name, marks=[getattr(pytest.mark, lane) for lane in LANES.get(name, ())])
            for name, place in places.items()
        ]
        metafunc.parametrize("place", values, indirect=True)


def _places_of(metafunc: pytest.Metafunc) -> dict[str, str]:
    """All places; of the clouds one for each behaviour in ``TAKING_TURNS``, unless ``EVERY_CLOUD`` is set."""
    takes_turns = metafunc.module.__name__.rpartition(".")[2] in TAKING_TURNS and os.environ.get(EVERY_CLOUD) != "1"
    turn = zlib.crc32(metafunc.function.__name__.encode()) % len(CLOUDS)
    left_out = {cloud for number, cloud in enumerate(CLOUDS) if takes_turns and number != turn}
    return {name: place for name, place in PLACES.items() if name not in left_out}


@pytest.fixture(scope="session")
def installed(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder into which pip has installed a plugin that works and one whose import fails."""
    folder = tmp_path_factory.mktemp("plugins")
    here = Path(__file__).parent
    sources = [shutil.copytree(here / name, folder / "sources" / name) for name in DISTRIBUTIONS]  # building leaves nothing in the tree
    options = ("--quiet", "--disable-pip-version-check", "--no-index", "--no-deps", "--no-build-isolation", "--no-compile")
    command = [sys.executable, "-m", "pip", "install", *options, "--target", str(folder / "site"), *map(str, sources)]
    ended = subprocess.run(command, capture_output=True, text=True, check=False, stdin=subprocess.DEVNULL)
    assert ended.returncode == 0, ended.stderr
    return folder / "site"


@pytest.fixture
def plugins(installed: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The two plugins are installed, for this process and for those that it starts."""
    monkeypatch.syspath_prepend(installed)
    monkeypatch.setenv("PYTHONPATH", str(installed), prepend=":")
    return installed


@pytest.fixture
def home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Home:
    monkeypatch.setenv("CLOUD_TRAIN_HOME", str(tmp_path / "home"))
    monkeypatch.setenv("HOME", str(tmp_path))
    return Home(tmp_path / "home")


@pytest.fixture(scope="session")
def running(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Callable[[FarPlace], None]]:
    """Starts a place for the rest of the session."""
    with ExitStack() as running:
        yield lambda place: place.start(running, tmp_path_factory)


@pytest.fixture
def place(
    plugins: Path,
    home: Home,
    running: Callable[[FarPlace], None],
    request: pytest.FixtureRequest,
    monkeypatch: pytest.MonkeyPatch,
) -> Place:
    """The place that this test runs at."""
    place = named_place(request.param)
    if hasattr(place, "start"):
        far = cast(FarPlace, place)
        far.require()
        running(far)
        monkeypatch.setattr("cloud_train.orchestrator.connections.CLOUD_PAUSE_SECONDS", 0.2)  # nobody pays for a look here
        for name, value in far.environment.items():
            monkeypatch.setenv(name, value)
    known = {provider.name: provider.error for provider in known_providers(home.folder)}
    problem = known.get(place.name, "it is not installed")
    assert problem is None, f"the provider {place.name!r}: {problem}"
    place.require()
    return place


@pytest.fixture
def provider(place: Place, home: Home) -> Provider:
    return load_provider(place.name, home.folder)


@pytest.fixture
def retries_at_once(provider: Provider, monkeypatch: pytest.MonkeyPatch) -> None:
    """A worker begins another attempt at once, not after 15 s, at the places whose provider gets the worker's arguments where ours do."""

    def arguments(plan: Plan) -> list[str]:
        return [*worker_arguments(plan), "--retry-delay", "0.1"]

    for module in (cloud_request, local, request, sys.modules[type(provider).__module__]):
        if vars(module).get("worker_arguments") is worker_arguments:
            monkeypatch.setattr(module, "worker_arguments", arguments)


@pytest.fixture
def bench(place: Place, home: Home, tmp_path: Path) -> Iterator[Bench]:
    """Makes jobs for the place and runs them; nothing of them is left afterwards."""
    (tmp_path / "code").mkdir()
    (tmp_path / "code" / "greeting.txt").write_text("hello from the job's folder\n")
    config = tmp_path / "place.yaml"
    config.write_text(json.dumps({place.name: dict(place.settings)} if place.settings else {}))
    store = place.store(tmp_path)
    yield Bench(place, home, tmp_path, store, config)
    try:
        run_ids = list(open_store(store).folders())
    except StoreError:
        run_ids = []
    for run_id in run_ids:
        place.clear(home.folder, run_id)

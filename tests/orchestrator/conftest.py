"""A home, a store and script jobs for the orchestrator's tests; every process started is ended."""

from collections.abc import Callable, Iterator
from pathlib import Path

import psutil
import pytest

from cloud_train.orchestrator.home import Home
from cloud_train.orchestrator.planning import make_plan
from cloud_train.orchestrator.submitting import submit
from cloud_train.run.view import RunView
from tests.orchestrator.unfinished import PLACES, Desk, opened_desk
from tests.support import wait_until

Submit = Callable[..., RunView]


@pytest.fixture
def home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Home]:
    folder = tmp_path / "home"
    monkeypatch.setenv("CLOUD_TRAIN_HOME", str(folder))
    monkeypatch.setenv("HOME", str(tmp_path))
    yield Home(folder)
    for process in psutil.process_iter():
        try:
            if process.environ().get("CLOUD_TRAIN_HOME") == str(folder) and process.pid != psutil.Process().pid:
                process.kill()
        except psutil.Error:
            continue


@pytest.fixture
def write_job(tmp_path: Path) -> Callable[..., Path]:
    def write(command: str, more: str = "") -> Path:
        path = tmp_path / "job.yaml"
        text = "".join(f"    {line}\n" for line in command.splitlines())
        path.write_text(f"name: test\nmodel:\n  kind: script\n  command: |\n{text}store: runs\n{more}\n")
        return path

    return write


@pytest.fixture
def start(home: Home, write_job: Callable[..., Path]) -> Submit:
    def start(command: str, more: str = "", *overrides: str) -> RunView:
        return submit(home, make_plan(home, write_job(command, more), overrides))

    return start


def run_folder(run: RunView) -> Path:
    return Path(run.run_directory)


def wait_for_file(path: Path) -> None:
    wait_until(path.exists, f"{path} exists")


@pytest.fixture(params=PLACES)
def desk(request: pytest.FixtureRequest, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Desk]:
    with opened_desk(request.param, tmp_path, monkeypatch) as desk:
        yield desk

"""A folder from a stranger holds Python files named like modules that cloud-train needs. Nothing of cloud-train's own imports them."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

from cloud_train.orchestrator.home import Home
from cloud_train.orchestrator.planning import make_plan
from cloud_train.training.__main__ import keep_compiled_code_private

ROOT = Path(__file__).parents[2]
PLANTED = ("torch", "sklearn", "numpy", "json", "pydantic", "safetensors", "psutil", "tensorboardX", "cloud_train/__init__", "PIL/__init__")

JOB = """name: planted
model: {{kind: cnn, blocks: [{{filters: 2}}]}}
data: {{dataset: digits, size: 8}}
train: {{epochs: 1, batch_size: 512}}
resources: {{cpus: 1{more}}}
store: {store}
"""


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """A cloned repository with a job and planted modules; each writes its name into ``canary`` when it is imported."""
    folder = tmp_path / "clone"
    for name in PLANTED:
        path = folder / f"{name}.py"
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(f"open({str(tmp_path / 'canary')!r}, 'a').write({name!r} + '\\n')\nraise ImportError('planted')\n")
    return folder


def cloud_train(folder: Path, *arguments: str, **variables: str) -> subprocess.CompletedProcess[str]:
    """The command in ``folder``, started like its entry point: the folder itself is not searched for modules."""
    environment = {name: value for name, value in os.environ.items() if not name.startswith("CLOUD_TRAIN") and name != "PYTHONSAFEPATH"}
    home = folder.parent / "home"
    return subprocess.run(
        [sys.executable, "-P", "-m", "cloud_train", *arguments],
        cwd=folder,
        env={**environment, "HOME": str(folder.parent), "CLOUD_TRAIN_HOME": str(home), "PYTHONPATH": str(ROOT), **variables},
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
    )


@pytest.mark.slow
@pytest.mark.parametrize("processes", [1, 2])
def test_a_built_in_job_imports_nothing_that_is_beside_its_job_file_or_in_the_current_folder(folder: Path, processes: int) -> None:
    pytest.importorskip("torch")
    more = f", processes: {processes}" if processes > 1 else ""
    (folder / "job.yaml").write_text(JOB.format(store=folder.parent / "runs", more=more))
    ended = cloud_train(folder, "submit", "job.yaml", "--follow")
    canary = folder.parent / "canary"
    assert not canary.exists(), canary.read_text()
    assert ended.returncode == 0, ended.stdout + ended.stderr

    predicted = cloud_train(folder, "predict", "planted", "--text", "x", "--json")
    assert not canary.exists(), canary.read_text()
    assert "this model classifies images" in predicted.stdout, predicted.stdout + predicted.stderr


@pytest.mark.slow
def test_no_other_verb_imports_what_is_in_the_current_folder(folder: Path) -> None:
    (folder / "job.yaml").write_text(JOB.format(store=folder.parent / "runs", more=""))
    (folder / "images" / "a").mkdir(parents=True)
    for words in (["validate", "job.yaml"], ["submit", "job.yaml", "--dry-run"], ["doctor"], ["pack", "images", "packed"], ["list"]):
        cloud_train(folder, *words)
    canary = folder.parent / "canary"
    assert not canary.exists(), canary.read_text()


def test_a_built_in_job_starts_in_the_root_folder_here_and_in_a_container(folder: Path) -> None:
    (folder / "job.yaml").write_text(JOB.format(store=folder.parent / "runs", more=""))
    home = Home(folder.parent / "home")
    for provider in ("local", "docker"):
        assert make_plan(home, folder / "job.yaml", provider=provider).program.directory == "/"


@pytest.mark.slow
def test_compiled_code_is_not_looked_for_where_another_user_can_plant_it(tmp_path: Path) -> None:
    pytest.importorskip("torch")
    code = """
from cloud_train.training.__main__ import keep_compiled_code_private
keep_compiled_code_private()
from torch._inductor.runtime.cache_dir_utils import cache_dir
print(cache_dir())
"""
    environment = {**os.environ, "CLOUD_TRAIN_HOME": str(tmp_path / "home"), "PYTHONPATH": str(ROOT)}
    environment.pop("TORCHINDUCTOR_CACHE_DIR", None)
    said = subprocess.run([sys.executable, "-c", code], env=environment, capture_output=True, text=True, check=True).stdout
    assert said == f"{tmp_path / 'home' / 'compiled'}\n"
    assert (tmp_path / "home" / "compiled").stat().st_mode & 0o777 == 0o700


@pytest.mark.parametrize("there", [True, False])
def test_the_folder_of_compiled_code_and_the_home_that_is_made_for_it_are_the_owners_alone(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, there: bool
) -> None:
    home = tmp_path / "home"
    if there:
        (home / "compiled").mkdir(parents=True)
        (home / "compiled").chmod(0o777)
        home.chmod(0o700)
    monkeypatch.setenv("CLOUD_TRAIN_HOME", str(home))
    monkeypatch.setenv("TORCHINDUCTOR_CACHE_DIR", "")
    monkeypatch.delenv("TORCHINDUCTOR_CACHE_DIR")
    keep_compiled_code_private()
    assert os.environ["TORCHINDUCTOR_CACHE_DIR"] == str(home / "compiled")
    assert [path.stat().st_mode & 0o777 for path in (home, home / "compiled")] == [0o700, 0o700]

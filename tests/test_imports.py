"""The arrows between the rooms, and what a command may load before it needs it."""

import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent
CLOUD_SDKS = {"azure", "boto3", "botocore", "docker", "google"}
TORCH_AND_KIN = {"PIL", "numpy", "safetensors", "scipy", "sklearn", "tensorboardX", "torch"}

_LOADED = """
import sys
sys.argv = ["cloud-train", *{arguments!r}]
try:
    {run}
except SystemExit as exit:
    assert not exit.code, exit.code
with open({file!r}, "w") as file:
    file.write("\\n".join(sys.modules))
"""


def test_every_import_follows_the_arrows() -> None:
    finished = lint_imports(ROOT)
    assert finished.returncode == 0, finished.stdout


VIOLATIONS = {
    "spec/facts.py": ("cloud_train.run.view", "Imports point down: cli"),
    "storage/base.py": ("cloud_train.run.view", "Imports point down: training"),
    "worker/contract.py": ("cloud_train.providers.base", "What runs inside the container"),
    "orchestrator/home.py": ("cloud_train.worker.contract", "Nobody but the trainers imports the worker"),
    "cli/__init__.py": ("cloud_train.training", "Nobody imports the trainers"),
    "cli/verbs/__init__.py": ("cloud_train.orchestrator.state", "The command line goes through the client"),
    "run/view.py": ("cloud_train.run.plan", "A plan is made and carried out outside"),
    "providers/base.py": ("cloud_train.run.ledger", "The ledger belongs to the orchestrator"),
    "training/__init__.py": ("cloud_train.worker.nodes", "Of the worker, the trainers use"),
    "errors.py": ("numpy", "Only the trainers import torch"),
    "providers/registry.py": ("rich", "Only the CLI imports"),
    "run/states.py": ("pydantic", "The worker starts in a moment"),
}


def test_the_trainers_have_no_networking_of_their_own() -> None:
    networking = re.compile(r"^\s*(from|import) (urllib\.request|http|urllib3|requests)\b", re.MULTILINE)
    modules = (ROOT / "cloud_train" / "training").rglob("*.py")
    assert not [module for module in modules if networking.search(module.read_text(encoding="utf-8"))]


def test_an_import_against_the_arrows_is_found(tmp_path: Path) -> None:
    shutil.copytree(ROOT / "cloud_train", tmp_path / "cloud_train")
    shutil.copy(ROOT / "pyproject.toml", tmp_path)
    for module, (imported, _) in VIOLATIONS.items():
        with (tmp_path / "cloud_train" / module).open("a") as file:
            file.write(f"\nimport {imported}\n")
    finished = lint_imports(tmp_path)
    broken = [line for line in finished.stdout.splitlines() if " BROKEN" in line]
    missed = [rule for _, rule in VIOLATIONS.values() if not any(line.startswith(rule) for line in broken)]
    assert finished.returncode == 1
    assert not missed, finished.stdout


def test_help_loads_nothing_that_only_a_verb_needs(tmp_path: Path) -> None:
    loaded = modules_of_command(tmp_path, "--help")
    assert "cloud_train.cli.main" in loaded
    assert loaded.isdisjoint({"pydantic", "ruamel", "sqlite3", "psutil", "plotext", *TORCH_AND_KIN, *CLOUD_SDKS})


def test_help_loads_no_other_room(tmp_path: Path) -> None:
    loaded = modules_of_command(tmp_path, "--help")
    assert {name.split(".")[1] for name in loaded if name.startswith("cloud_train.")} <= {
        "cli",
        "environment",
        "errors",
        "exit_status",
        "version",
    }


def test_a_dry_run_loads_no_torch_and_no_ledger(tmp_path: Path) -> None:
    loaded = modules_of_command(tmp_path, "submit", str(ROOT / "jobs" / "digits-cnn.yaml"), "--dry-run")
    assert "cloud_train.orchestrator.planning" in loaded
    assert loaded.isdisjoint({"sqlite3", "psutil", "plotext", *TORCH_AND_KIN, *CLOUD_SDKS})


@pytest.mark.parametrize(("verb", "asks"), [(["list"], set()), (["list", "--json"], set()), (["doctor"], {"docker"})])
def test_looking_at_runs_loads_no_torch(tmp_path: Path, verb: list[str], asks: set[str]) -> None:
    assert modules_of_command(tmp_path, *verb).isdisjoint({*TORCH_AND_KIN, *CLOUD_SDKS} - asks)


def test_the_worker_loads_neither_pydantic_nor_torch_nor_anything_for_terminals(tmp_path: Path) -> None:
    loaded = loaded_modules(tmp_path, "import cloud_train.worker.__main__")
    assert "cloud_train.worker" in loaded
    assert loaded.isdisjoint({"pydantic", "ruamel", "rich", "typer", "click", "psutil", "sqlite3", *TORCH_AND_KIN, *CLOUD_SDKS})


def test_the_api_for_user_programs_loads_only_the_standard_library_and_the_rooms_below(tmp_path: Path) -> None:
    loaded = loaded_modules(tmp_path, "import cloud_train.worker.api")
    foreign = {name.partition(".")[0] for name in loaded} - set(sys.stdlib_module_names) - {"cloud_train", "__main__"}
    # A .pth file of the environment (an editable install, say) may load something at every start.
    assert foreign - {name.partition(".")[0] for name in loaded_modules(tmp_path, "pass")} == set()
    assert {name.split(".")[1] for name in loaded if name.startswith("cloud_train.")} <= {
        "beneath",
        "errors",
        "exit_status",
        "locks",
        "private",
        "run",
        "version",
        "worker",
    }


def lint_imports(folder: Path) -> subprocess.CompletedProcess[str]:
    # The folder goes first on the path, before the installed package, so that a copy is what is looked at.
    code = f"import sys; sys.path.insert(0, {str(folder)!r}); from importlinter.cli import lint_imports_command as run; run()"
    return subprocess.run(
        [sys.executable, "-c", code, "--no-cache", "--no-logo"],
        cwd=folder,
        env={**os.environ, "COLUMNS": "300"},  # the names of the rules are longer than a terminal is wide
        capture_output=True,
        text=True,
        check=False,
    )


def rooms_of(modules: set[str]) -> set[str]:
    return {name.split(".")[1] for name in modules if name.startswith("cloud_train.")}


def modules_of_command(folder: Path, *arguments: str) -> set[str]:
    return loaded_modules(folder, "from cloud_train.cli.main import main; sys.exit(main())", *arguments)


def loaded_modules(folder: Path, run: str, *arguments: str) -> set[str]:
    environment = {**os.environ, "CLOUD_TRAIN_HOME": str(folder / "home"), "HOME": str(folder)}
    code = _LOADED.format(arguments=list(arguments), run=run, file=str(folder / "modules"))
    finished = subprocess.run([sys.executable, "-c", code], cwd=ROOT, env=environment, capture_output=True, text=True, check=False)
    assert finished.returncode == 0, finished.stderr
    names = set((folder / "modules").read_text().splitlines())
    return names | {name.partition(".")[0] for name in names}

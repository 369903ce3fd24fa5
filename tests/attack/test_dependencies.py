"""What cloud-train is made of cannot be swapped on its way: files are known by hashes, and versions with known holes are not admitted."""

import os
import re
import subprocess
import sys
import tomllib
import zipfile
from pathlib import Path

import pytest
from packaging.requirements import Requirement

from tools.own_wheels import Wheel, fitted

ROOT = Path(__file__).parents[2]
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
EXTRAS = PROJECT["optional-dependencies"]
LOCK = (ROOT / "requirements.lock").read_text()

VULNERABLE = {  # the last version with the hole, and where it is described
    "torch": ("2.9.1", "https://github.com/pytorch/pytorch/security/advisories/GHSA-63cw-57p8-fm3p"),  # CVE-2026-24747
    "pillow": ("12.2.0", "https://osv.dev/vulnerability/PYSEC-2026-2253"),  # and 2254 to 2257, CVE-2026-25990, CVE-2026-40192
    "requests": ("2.32.3", "https://github.com/psf/requests/security/advisories/GHSA-9hjg-9r4m-mvj7"),  # CVE-2024-47081
    "urllib3": ("2.6.3", "https://github.com/urllib3/urllib3/security/advisories/GHSA-qccp-gfcp-xxvc"),  # CVE-2026-44431
}


@pytest.mark.parametrize("name", VULNERABLE)
def test_a_version_with_a_known_hole_is_not_admitted(name: str) -> None:
    requirements = [Requirement(text) for extra in ("train", "docker") for text in EXTRAS[extra]]
    (found,) = (requirement for requirement in requirements if requirement.name == name)
    assert VULNERABLE[name][0] not in found.specifier
    assert constrained()[name] in found.specifier


def test_the_trainers_refuse_a_torch_that_runs_what_a_checkpoint_says(tmp_path: Path) -> None:
    torch = pytest.importorskip("torch")
    from cloud_train.training.__main__ import LEAST_TORCH
    from tests.training.program import Program
    from tests.training.test_training_processes import RAGGED, patched

    (needed,) = (requirement for text in EXTRAS["train"] if (requirement := Requirement(text)).name == "torch")
    assert str(needed.specifier) == f">={'.'.join(map(str, LEAST_TORCH))}"
    assert torch.__version__ in needed.specifier
    program = Program(tmp_path / "run", RAGGED)
    ended = program.run(**patched("import torch\ntorch.__version__ = '2.9.1+cu128'\n", tmp_path))
    assert ended.returncode == 1
    assert "torch 2.9.1+cu128 is too old" in program.said()["message"]
    assert not program.checkpoints.exists() or not list(program.checkpoints.iterdir())


@pytest.mark.parametrize("lock", ["requirements.lock", "requirements-dev.lock"])
def test_each_locked_package_is_known_by_its_hashes_in_the_version_that_is_tested(lock: str) -> None:
    text = (ROOT / lock).read_text()
    names = re.findall(r"^([A-Za-z0-9._-]+)==(\S+).*\\\n((?:    --hash=sha256:[0-9a-f]{64}(?: \\)?\n)+)", text, re.MULTILINE)
    assert len(names) == len(re.findall(r"^[A-Za-z0-9]", text, re.MULTILINE))
    versions = {_normal(name): version for name, version, _ in names}
    tested = constrained()
    assert {name: version for name, version in versions.items() if tested.get(name, version) != version} == {}
    others = {name for name in versions.keys() - tested.keys() if not name.startswith(("cuda-", "nvidia-"))}
    assert others <= {"triton", "colorama", "pywin32"}  # of torch's CUDA build, and of other operating systems


def test_the_base_image_has_what_was_asked_for() -> None:
    asked = [line for line in (ROOT / "requirements.in").read_text().splitlines() if not line.startswith("#")]
    assert {_normal(name) for name in asked} <= _locked(LOCK)


def test_developers_install_every_tested_package_by_its_hashes() -> None:
    assert constrained().keys() <= _locked((ROOT / "requirements-dev.lock").read_text())
    (install,) = re.findall(r"^\t.* install .*--require-hashes.*$", (ROOT / "Makefile").read_text(), re.MULTILINE)
    assert "requirements.txt" in install
    assert "own_wheels.py requirements-dev.lock" in (ROOT / "Makefile").read_text()


def test_the_base_image_is_built_from_an_image_and_packages_that_are_named_by_digest() -> None:
    dockerfile = (ROOT / "Dockerfile").read_text()
    assert re.search(r"^ARG PYTHON=\S+@sha256:[0-9a-f]{64}$", dockerfile, re.MULTILINE)
    (install,) = (command for command in dockerfile.replace("\\\n", "").splitlines() if "pip install" in command)
    assert {"--require-hashes", "--only-binary"} <= set(install.split())


@pytest.mark.slow
def test_of_ones_own_wheels_only_those_very_files_are_installed(tmp_path: Path) -> None:
    lock = "toy==1.0 \\\n    --hash=sha256:" + "0" * 64 + "\n    # via -r requirements.in\n"
    wheel = made(tmp_path / "wheels", "toy", "1.0+own", [])
    (tmp_path / "own.txt").write_text(fitted(lock, {"toy": Wheel.of(wheel)}))
    assert installed(tmp_path, "own.txt") == ""
    wheel.unlink()
    made(tmp_path / "wheels", "toy", "1.0+own", [], code="import os\n")
    assert "THESE PACKAGES DO NOT MATCH THE HASHES" in installed(tmp_path, "own.txt")
    (tmp_path / "lock.txt").write_text(lock)
    assert installed(tmp_path, "lock.txt") != ""


def test_what_only_the_other_build_of_a_package_needs_is_left_out(tmp_path: Path) -> None:
    lock = "".join(
        f"{name}==1 \\\n    --hash=sha256:{'0' * 64}\n{via}"
        for name, via in {
            "torch": "    # via -r requirements.in\n",
            "cuda-toolkit": "    # via torch\n",
            "nvidia-cublas": "    # via\n    #   cuda-toolkit\n    #   nvidia-cudnn\n",
            "nvidia-cudnn": "    # via torch\n",
            "filelock": "    # via\n    #   -c constraints.txt\n    #   torch\n",
            "numpy": "    # via\n    #   -c constraints.txt\n    #   -r requirements.in\n",
        }.items()
    )
    wheel = made(tmp_path, "torch", "1+cpu", ["filelock", 'nvidia-cudnn ; extra == "cuda"'])
    assert re.findall(r"^\S+==\S+", fitted(lock, {"torch": Wheel.of(wheel)}), re.MULTILINE) == ["torch==1+cpu", "filelock==1", "numpy==1"]
    assert fitted(LOCK, {}) == LOCK


def constrained() -> dict[str, str]:
    """The versions that the tests run with."""
    lines = (line.partition("==") for line in (ROOT / "constraints.txt").read_text().splitlines() if "==" in line)
    return {_normal(name): version for name, _, version in lines}


def _locked(lock: str) -> set[str]:
    return {_normal(name) for name in re.findall(r"^([A-Za-z0-9._-]+)==", lock, re.MULTILINE)}


def made(folder: Path, name: str, version: str, needs: list[str], code: str = "") -> Path:
    """A wheel of one empty module."""
    folder.mkdir(exist_ok=True)
    path = folder / f"{name}-{version}-py3-none-any.whl"
    about = f"Metadata-Version: 2.1\nName: {name}\nVersion: {version}\n" + "".join(f"Requires-Dist: {need}\n" for need in needs)
    files = {f"{name}.py": code, f"{name}-{version}.dist-info/METADATA": about}
    files[f"{name}-{version}.dist-info/WHEEL"] = "Wheel-Version: 1.0\nGenerator: test\nRoot-Is-Purelib: true\nTag: py3-none-any\n"
    files[f"{name}-{version}.dist-info/RECORD"] = "".join(f"{file},,\n" for file in files)
    with zipfile.ZipFile(path, "w") as archive:
        for file, content in files.items():
            archive.writestr(file, content)
    return path


def installed(folder: Path, requirements: str) -> str:
    """Install as the Dockerfile does, without the index; returns what pip says of what is wrong."""
    options = ["--require-hashes", "--only-binary", ":all:", "--no-index", "--no-compile", "--quiet", "--isolated", "--no-cache-dir"]
    ended = subprocess.run(
        [sys.executable, "-m", "pip", "install", *options, "--find-links", "wheels", "--target", "target", "--upgrade", "-r", requirements],
        cwd=folder,
        env={**os.environ, "PIP_CONFIG_FILE": os.devnull},
        capture_output=True,
        text=True,
        check=False,
    )
    return ended.stderr if ended.returncode else ""


def _normal(name: str) -> str:
    return re.sub(r"[-_.]+", "-", name).lower()

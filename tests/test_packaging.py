"""What is shipped: the wheel, the source archive, the pinned versions and the Makefile."""

import re
import subprocess
import sys
import tarfile
import tomllib
import zipfile
from email.parser import Parser
from pathlib import Path

import pytest
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

import cloud_train

ROOT = Path(__file__).parent.parent
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]


@pytest.fixture(scope="module")
def wheel(tmp_path_factory: pytest.TempPathFactory) -> zipfile.ZipFile:
    return zipfile.ZipFile(build(ROOT, tmp_path_factory.mktemp("wheel"), "wheel"))


def test_the_wheel_carries_every_file_of_the_package(wheel: zipfile.ZipFile) -> None:
    wanted = {
        str(path.relative_to(ROOT))
        for path in (ROOT / "cloud_train").rglob("*")
        if path.is_file() and "__pycache__" not in path.parts and path.suffix != ".pyc"
    }
    assert {name for name in wheel.namelist() if name.startswith("cloud_train/")} == wanted


def test_the_wheel_carries_its_types_and_its_starter_jobs(wheel: zipfile.ZipFile) -> None:
    names = wheel.namelist()
    assert "cloud_train/py.typed" in names
    assert any(re.fullmatch(r"cloud_train/job/starters/.+\.yaml", name) for name in names)


def test_the_wheel_says_what_it_is(wheel: zipfile.ZipFile) -> None:
    folder = f"cloud_train-{cloud_train.__version__}.dist-info"
    metadata = Parser().parsestr(wheel.read(f"{folder}/METADATA").decode())
    assert metadata["Version"] == cloud_train.__version__
    assert metadata["License-Expression"] == "Apache-2.0"
    assert metadata["Requires-Python"] == ">=3.11"
    assert set(metadata.get_all("Provides-Extra", [])) == {"all", "aws", "azure", "dev", "docker", "docs", "gcp", "train"}
    assert f"{folder}/licenses/LICENSE" in wheel.namelist()
    assert "cloud-train = cloud_train.cli.main:entry_point" in wheel.read(f"{folder}/entry_points.txt").decode()


def test_the_wheel_built_from_the_source_archive_is_the_same(wheel: zipfile.ZipFile, tmp_path: Path) -> None:
    with tarfile.open(build(ROOT, tmp_path, "sdist")) as archive:
        archive.extractall(tmp_path / "source", filter="data")
    (source,) = (tmp_path / "source").iterdir()
    again = zipfile.ZipFile(build(source, tmp_path / "again", "wheel"))
    assert sorted(again.namelist()) == sorted(wheel.namelist())


def test_the_license_is_apache_2() -> None:
    text = (ROOT / "LICENSE").read_text()
    assert "Apache License" in text
    assert "Version 2.0, January 2004" in text
    assert "END OF TERMS AND CONDITIONS" in text


def test_the_changelog_has_an_entry_for_this_version() -> None:
    assert re.search(rf"^## {re.escape(cloud_train.__version__)}\b", (ROOT / "CHANGELOG.md").read_text(), re.MULTILINE)


@pytest.mark.parametrize("extra", ["", "train", "dev", "docs"])
def test_every_dependency_is_pinned_to_a_version_that_its_range_allows(extra: str) -> None:
    wanted = PROJECT["optional-dependencies"][extra] if extra else PROJECT["dependencies"]
    pins = pinned(ROOT / "constraints.txt")
    for requirement in map(Requirement, wanted):
        assert canonicalize_name(requirement.name) in pins, f"{requirement.name} is not in constraints.txt"
        assert requirement.specifier.contains(pins[canonicalize_name(requirement.name)]), f"constraints.txt and {requirement} disagree"


def test_every_extra_that_documents_and_messages_install_exists() -> None:
    named = {
        (str(file.relative_to(ROOT)), extra)
        for file in [*ROOT.glob("*.md"), *ROOT.glob("docs/**/*.md"), *ROOT.glob("cloud_train/**/*.py")]
        for extras in re.findall(r"'(?:cloud-train|\.)\[([^\]']+)\]'", file.read_text(encoding="utf-8"))
        for extra in extras.split(",")
    }
    assert {extra for _, extra in named} >= {"train", "docker", "aws", "gcp", "azure"}
    assert [(file, extra) for file, extra in sorted(named) if extra not in PROJECT["optional-dependencies"]] == []


def test_the_checks_install_the_cpu_build_of_the_same_torch() -> None:
    assert pinned(ROOT / ".ci" / "cpu-only.txt") == {"torch": pinned(ROOT / "constraints.txt")["torch"] + "+cpu"}


def test_make_help_lists_every_target() -> None:
    targets = re.search(r"^\.PHONY: (.*)$", (ROOT / "Makefile").read_text(), re.MULTILINE)
    assert targets
    finished = make("help")
    assert finished.returncode == 0, finished.stderr
    assert re.findall(r"^\s*make ([\w-]+)", finished.stdout, re.MULTILINE) == targets[1].split()


def test_make_refuses_an_old_python_and_says_how_to_name_another(tmp_path: Path) -> None:
    old = tmp_path / "python3"
    old.write_text(
        '#!/bin/sh\ncase "$1" in --version) echo "Python 3.9.2";; -c) exit 1;; *) echo "must not be asked for $*"; exit 99;; esac\n'
    )
    old.chmod(0o755)
    finished = make("venv", f"PYTHON={old}", f"VENV={tmp_path / 'venv'}")
    assert finished.returncode != 0
    assert "is Python 3.9.2; cloud-train needs Python 3.11 or later: make venv PYTHON=" in finished.stderr
    assert "must not be asked" not in finished.stdout
    assert not (tmp_path / "venv").exists()


def test_make_says_that_a_python_is_not_there(tmp_path: Path) -> None:
    finished = make("test", "PYTHON=no-such-python", f"VENV={tmp_path / 'venv'}")
    assert finished.returncode != 0
    assert "'no-such-python' not found" in finished.stderr


def build(source: Path, folder: Path, kind: str) -> Path:
    """Build a wheel or an sdist of ``source`` into ``folder`` with the build backend of this environment; needs no network."""
    folder.mkdir(exist_ok=True)
    hook = f"from hatchling.build import build_{kind} as build; print(build({str(folder)!r}))"
    finished = subprocess.run([sys.executable, "-c", hook], cwd=source, capture_output=True, text=True, check=False)
    assert finished.returncode == 0, finished.stderr
    return folder / finished.stdout.split()[-1]


def make(*arguments: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(["make", "--no-print-directory", *arguments], cwd=ROOT, capture_output=True, text=True, check=False)


def pinned(file: Path) -> dict[str, str]:
    lines = [line for line in file.read_text().splitlines() if line and not line.startswith("#")]
    return {canonicalize_name(name): version for name, version in (line.split("==") for line in lines)}

"""``image.requirements`` where no container runs: the packages are looked for in the Python that runs the job."""

import json
import os
import sys
from pathlib import Path

import pytest

from cloud_train.job.program_file import program_python
from cloud_train.orchestrator.requirements import unmet
from tests.cli.command import CommandLine, command_line_of


@pytest.fixture
def cloud_train(tmp_path: Path) -> CommandLine:
    return command_line_of(tmp_path)


def python_with(folder: Path, name: str = "python", **installed: str) -> Path:
    """An interpreter that has these packages, and runs no program."""
    markers = {"python_version": "3.8", "sys_platform": "linux", "platform_system": "Linux", "os_name": "posix"}
    rest = ("implementation_name", "implementation_version", "platform_machine", "platform_python_implementation", "platform_release")
    markers |= dict.fromkeys((*rest, "platform_version", "python_full_version"), "1")
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "answer.json").write_text(json.dumps({"installed": installed, "markers": markers}))
    (folder / name).write_text(f"#!/bin/sh\ncat '{folder}/answer.json'\n")
    (folder / name).chmod(0o755)
    return folder / name


def unmet_by(folder: Path, text: str, **installed: str) -> list[str]:
    (folder / "requirements.txt").write_text(text)
    return unmet(folder / "requirements.txt", str(python_with(folder / "bin", **installed)), os.environ)


@pytest.mark.parametrize(
    ("text", "missing"),
    [
        ("numpy", []),
        ("NumPy>=2,<3", []),
        ("numpy>=3", ["numpy>=3 (has 2.3.1)"]),
        ("keras==3.9", ["keras==3.9 (not installed)"]),
        ("# keras\n\n--index-url https://example.org\nnumpy # keras\n", []),
        ("numpy==2.3.1 \\\n    --hash=sha256:00 \\\n    --hash=sha256:11\n", []),
        ("keras; python_version >= '3.9'", []),
        ("keras; python_version < '3.9'", ["keras (not installed)"]),
        ("keras[jax]>=3", ["keras>=3 (not installed)"]),
        ("nightly", []),
        ("nightly>=1", ["nightly>=1 (has 1.0.dev2)"]),
        ("./here\n-e .\nhttps://example.org/a.whl\n${NAME}\ngit+https://example.org/a\n", []),
        ("keras @ https://example.org/keras.whl", ["keras (not installed)"]),
        ("-r more.txt\n--requirement=more.txt\n", ["inner (not installed)", "inner (not installed)"]),
        ("-r requirements.txt\nkeras", ["keras (not installed)"] * 6),
        ("-r absent.txt\n-c constraints.txt\n", []),
    ],
)
def test_what_a_requirements_file_asks_for(tmp_path: Path, text: str, missing: list[str]) -> None:
    (tmp_path / "more.txt").write_text("inner\n")
    assert unmet_by(tmp_path, text, numpy="2.3.1", nightly="1.0.dev2") == missing


def test_the_real_python_is_asked(tmp_path: Path) -> None:
    (tmp_path / "requirements.txt").write_text("pydantic>=2\npydantic>=99; python_version >= '3.8'\nno-such-package-here\n")
    missing = unmet(tmp_path / "requirements.txt", sys.executable, os.environ)
    assert [each.partition(" ")[0] for each in missing] == ["pydantic>=99", "no-such-package-here"]


@pytest.mark.parametrize("script", ["exit 1", "echo no JSON", "echo '[]'"])
def test_a_python_that_does_not_answer_is_not_refused(tmp_path: Path, script: str) -> None:
    (tmp_path / "requirements.txt").write_text("keras")
    (tmp_path / "python").write_text(f"#!/bin/sh\n{script}\n")
    (tmp_path / "python").chmod(0o755)
    assert unmet(tmp_path / "requirements.txt", str(tmp_path / "python"), os.environ) == []
    assert unmet(tmp_path / "requirements.txt", str(tmp_path / "absent"), os.environ) == []


@pytest.mark.parametrize(
    ("command", "word"),
    [
        ("python train.py", "python"),
        ("SEED=1 python3.12 -u train.py", "python3.12"),
        (["venv/bin/python3", "train.py"], "venv/bin/python3"),
        ("PATH=venv/bin python train.py", None),
        ("cd x && python train.py", None),
        ("torchrun train.py", None),
        ("", None),
    ],
)
def test_the_python_of_a_command(command: str | list[str], word: str | None) -> None:
    assert program_python(command) == word


def job(line: CommandLine, command: str, more: str = "") -> Path:
    (line.folder / "requirements.txt").write_text("keras==3.9\nnumpy\n")
    (line.folder / "train.py").write_text("")
    return line.job(command, more=f"image: {{requirements: requirements.txt}}\n{more}")


def test_a_run_without_its_packages_is_refused_before_it_starts(cloud_train: CommandLine) -> None:
    python = python_with(cloud_train.folder / "bin", numpy="2.3.1", keras="2.0")
    path = f"{python.parent}:{os.environ['PATH']}"
    ended = cloud_train("submit", job(cloud_train, "python train.py"), PATH=path)
    requirements = cloud_train.folder / "requirements.txt"
    assert ended.status == 5
    assert f"error: image.requirements: {python} does not have what {requirements} asks for: keras==3.9 (has 2.0)\n" in ended.err
    assert f"install it with: {python} -m pip install -r {requirements}\n" in ended.err
    assert not (cloud_train.folder / "runs").exists()
    shown = cloud_train("submit", job(cloud_train, "python train.py"), "--dry-run", "--json", PATH=path)
    assert shown.status == 7
    assert "keras==3.9 (has 2.0)" in shown.text
    python_with(cloud_train.folder / "bin", numpy="2.3.1", keras="3.9")
    assert cloud_train("submit", job(cloud_train, "python train.py"), "--dry-run", PATH=path).status == 0


def test_the_python_of_the_job_s_own_path_and_folder_is_asked(cloud_train: CommandLine) -> None:
    bare = python_with(cloud_train.folder / "venv" / "bin", numpy="2")
    for command, more in (("venv/bin/python train.py", ""), ("python train.py", f"env: {{PATH: '{bare.parent}:/usr/bin:/bin'}}\n")):
        ended = cloud_train("submit", job(cloud_train, command, more))
        assert (ended.status, f"{bare} does not have" in ended.err) == (5, True)


def test_a_built_in_model_is_trained_by_the_configured_python(cloud_train: CommandLine) -> None:
    (cloud_train.folder / "requirements.txt").write_text("no-such-package-here\n")
    text = "name: d\nmodel: {kind: cnn}\ndata: {dataset: digits}\nimage: {requirements: requirements.txt}\nstore: runs\n"
    (cloud_train.folder / "job.yaml").write_text(text)
    ended = cloud_train("submit", "job.yaml")
    assert (ended.status, f"{sys.executable} does not have" in ended.err) == (5, True)


def test_a_command_that_hides_its_python_is_not_refused_and_the_plan_says_so(cloud_train: CommandLine) -> None:
    ended = cloud_train("submit", job(cloud_train, "cd . && python train.py"), "--dry-run")
    assert ended.status == 0
    assert "image.requirements: not checked, because the command does not show which Python it runs" in ended.text

"""The file that a script's command runs has to be there before anything is submitted."""

from collections.abc import Sequence
from pathlib import Path

import pytest

from cloud_train.job.loading import load_job
from cloud_train.job.program_file import program_file
from cloud_train.spec.problems import JobFileError


@pytest.mark.parametrize(
    ("command", "expected"),
    [
        ("python train.py", "train.py"),
        ("python3.11 -u src/train.py --epochs 3", "src/train.py"),
        (["python", "train.py"], "train.py"),
        ("OMP_NUM_THREADS=1 python train.py", "train.py"),
        ("bash run.sh", "run.sh"),
        ("./run.sh now", "./run.sh"),
        ("/usr/bin/python3 train.py", "train.py"),
        ("python -m package.train", None),
        ("python -c 'print(1)'", None),
        ("python - < train.py", None),
        ("python -W ignore train.py", None),
        ("python -um train", None),
        ("bash -e train.sh", "train.sh"),
        ("bash -o pipefail train.sh", None),
        ("bash -lc 'python train.py'", None),
        (["bash", "-lc", "set -e; python train.py"], None),
        ("julia -t 4 train.jl", None),
        ("node -r esm train.js", None),
        ("python $SCRIPT", None),
        ("cd src && python train.py", None),
        ("python /opt/train.py", None),
        ("torchrun train.py", None),
        ("true", None),
        ("echo 'unclosed", None),
        ("python", None),
    ],
)
def test_the_file_of_a_plain_command_is_known(command: str | Sequence[str], expected: str | None) -> None:
    assert program_file(command) == expected


def _mistakes(folder: Path, more: str = "") -> list[tuple[int | None, str, str]]:
    (folder / "job.yaml").write_text(f"name: x\nmodel:\n  kind: script\n  command: python train.py\n{more}")
    try:
        load_job(folder / "job.yaml")
    except JobFileError as error:
        return [(problem.place.line, problem.message, problem.expected) for problem in error.problems]
    return []


def test_a_missing_program_is_a_mistake_that_says_where_it_was_looked_for(tmp_path: Path) -> None:
    assert _mistakes(tmp_path) == [(4, f"there is no file train.py in {tmp_path}", "a file in model.directory")]
    (tmp_path / "trian.py").touch()
    assert _mistakes(tmp_path) == [(4, f"there is no file train.py in {tmp_path}", "'trian.py'?")]
    (tmp_path / "train.py").touch()
    assert _mistakes(tmp_path) == []


def test_the_file_is_looked_for_in_the_folder_of_the_program(tmp_path: Path) -> None:
    (tmp_path / "src").mkdir()
    (tmp_path / "train.py").touch()
    assert _mistakes(tmp_path, "  directory: src\n")[0][1] == f"there is no file train.py in {tmp_path / 'src'}"
    (tmp_path / "src" / "train.py").touch()
    assert _mistakes(tmp_path, "  directory: src\n") == []


def test_a_dockerfile_may_make_the_file(tmp_path: Path) -> None:
    (tmp_path / "Dockerfile").write_text("FROM scratch\n")
    assert _mistakes(tmp_path, "image: {dockerfile: Dockerfile}\n") == []

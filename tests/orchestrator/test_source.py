"""The commit of a job's folder, and whether its files are those of the commit."""

import os
import shutil
import subprocess
from pathlib import Path

import pytest

from cloud_train.run.repository import commit_of

pytestmark = pytest.mark.skipif(shutil.which("git") is None, reason="there is no git here")


@pytest.fixture
def repository(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("HOME", str(tmp_path))
    folder = tmp_path / "repository"
    (folder / "jobs").mkdir(parents=True)
    (folder / "jobs" / "job.yaml").write_text("name: job\n")
    (folder / "code.py").write_text("print()\n")
    git(folder, "init", "-q")
    commit(folder)
    return folder


def git(folder: Path, *arguments: str) -> str:
    command = ["git", "-c", "user.name=a", "-c", "user.email=a@example.com", *arguments]
    return subprocess.run(command, cwd=folder, check=True, capture_output=True, text=True).stdout.strip()


def commit(folder: Path) -> None:
    git(folder, "add", ".")
    git(folder, "commit", "-q", "-m", "a commit")


def dirty(folder: Path) -> bool | None:
    found = commit_of(folder)
    assert found is not None
    assert found["commit"] == git(folder, "rev-parse", "HEAD")
    return found["dirty"]  # type: ignore[no-any-return]  # JSON


def test_a_folder_inside_a_repository_has_its_commit(repository: Path) -> None:
    assert dirty(repository) is False
    assert dirty(repository / "jobs") is False


def test_a_changed_a_deleted_and_a_staged_file_are_dirty_and_an_unknown_one_is_not(repository: Path) -> None:
    (repository / "new.txt").touch()
    assert dirty(repository / "jobs") is False
    (repository / "code.py").write_text("print(1)\n")
    assert dirty(repository / "jobs") is True
    git(repository, "add", "code.py")
    assert dirty(repository) is True
    git(repository, "commit", "-q", "-m", "changed")
    (repository / "code.py").unlink()
    assert dirty(repository) is True


def test_a_file_with_another_time_and_the_same_content_is_not_dirty(repository: Path) -> None:
    os.utime(repository / "code.py", (1, 1))
    assert dirty(repository) is False


def test_settings_for_comparing_files_apply(repository: Path) -> None:
    (repository / "code.py").chmod(0o755)
    assert dirty(repository) is True
    git(repository, "config", "core.fileMode", "false")
    assert dirty(repository) is False
    git(repository, "config", "core.autocrlf", "true")
    (repository / "code.py").unlink()
    git(repository, "checkout", "code.py")
    assert (repository / "code.py").read_bytes() == b"print()\r\n"
    os.utime(repository / "code.py", (1, 1))
    assert dirty(repository) is False


def test_another_work_tree_of_a_repository_is_compared_with_its_own_commit(repository: Path, tmp_path: Path) -> None:
    git(repository, "worktree", "add", "-q", str(tmp_path / "second"))
    (tmp_path / "second" / "code.py").write_text("print(2)\n")
    assert dirty(tmp_path / "second") is True
    assert dirty(repository) is False


def test_packed_objects_and_a_repository_of_sha256_are_read(repository: Path, tmp_path: Path) -> None:
    git(repository, "gc", "-q")
    assert dirty(repository) is False
    other = tmp_path / "sha256"
    other.mkdir()
    (other / "a").touch()
    git(other, "init", "-q", "--object-format=sha256")
    commit(other)
    assert dirty(other) is False


def test_a_folder_that_cannot_be_compared_is_neither_clean_nor_dirty(repository: Path) -> None:
    tree = git(repository, "rev-parse", "HEAD^{tree}")
    (repository / ".git" / "objects" / tree[:2] / tree[2:]).unlink()
    assert dirty(repository) is None


def test_without_a_repository_or_a_commit_there_is_none(tmp_path: Path) -> None:
    assert commit_of(tmp_path) is None
    git(tmp_path, "init", "-q")
    assert commit_of(tmp_path) is None

"""Repositories planted in a job's folder: submitting runs nothing that they name, and the commit is still known."""

import os
import shutil
import subprocess
from collections.abc import Callable
from pathlib import Path

import pytest

from cloud_train.run.repository import commit_of

pytestmark = pytest.mark.skipif(shutil.which("git") is None, reason="there is no git here")


@pytest.fixture
def repository(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A repository with one commit; whatever a test plants into it writes a file ``ran`` beside it."""
    for name in list(os.environ):
        if name.startswith("GIT_"):
            monkeypatch.delenv(name)
    monkeypatch.setenv("HOME", str(tmp_path))
    folder = tmp_path / "repository"
    folder.mkdir()
    (folder / "job.yaml").write_text("name: job\n")
    git(folder, "init", "-q")
    git(folder, "add", ".")
    git(folder, "-c", "user.name=a", "-c", "user.email=a@example.com", "commit", "-q", "-m", "first")
    program = tmp_path / "planted"
    program.write_text(f'#!/bin/sh\necho "$0" "$@" >> {tmp_path}/ran\ncat\n')
    program.chmod(0o755)
    return folder


def git(folder: Path, *arguments: str) -> str:
    return subprocess.run(["git", *arguments], cwd=folder, check=True, capture_output=True, text=True).stdout.strip()


def touched(folder: Path) -> None:
    """Make git look into the file: its time is another than in the index."""
    os.utime(folder / "job.yaml", (1, 1))


def _filter(folder: Path, program: str) -> None:
    (folder / ".gitattributes").write_text("* filter=planted diff=planted merge=planted\n")
    for key in ("clean", "smudge", "process"):
        git(folder, "config", f"filter.planted.{key}", program)
    git(folder, "config", "filter.planted.required", "true")
    touched(folder)


def _filter_in_info(folder: Path, program: str) -> None:
    _filter(folder, program)
    (folder / ".gitattributes").rename(folder / ".git" / "info" / "attributes")


def _filter_by_include(folder: Path, program: str) -> None:
    (folder / "more").write_text(f'[filter "planted"]\n\tclean = {program}\n[core]\n\tfsmonitor = {program}\n')
    git(folder, "config", "include.path", "../more")
    (folder / ".gitattributes").write_text("* filter=planted\n")
    touched(folder)


def _filter_by_worktree_config(folder: Path, program: str) -> None:
    git(folder, "config", "extensions.worktreeConfig", "true")
    git(folder, "config", "--worktree", "core.fsmonitor", program)
    _filter(folder, program)


def _fsmonitor(folder: Path, program: str) -> None:
    git(folder, "config", "core.fsmonitor", program)
    git(folder, "config", "core.fsmonitorHookVersion", "2")


def _hooks(folder: Path, program: str) -> None:
    for hook in ("post-index-change", "fsmonitor-watchman", "reference-transaction", "post-checkout", "pre-auto-gc"):
        shutil.copy(program, folder / ".git" / "hooks" / hook)
    git(folder, "config", "core.fsmonitor", ".git/hooks/fsmonitor-watchman")
    touched(folder)


def _hooks_elsewhere(folder: Path, program: str) -> None:
    (folder / "hooks").mkdir()
    shutil.copy(program, folder / "hooks" / "post-index-change")
    git(folder, "config", "core.hooksPath", "hooks")
    touched(folder)


def _helpers(folder: Path, program: str) -> None:
    for key in (
        "core.pager", "pager.status", "pager.rev-parse", "core.editor", "core.sshCommand", "core.askPass", "core.gitProxy", "diff.external",
        "diff.planted.command", "diff.planted.textconv", "credential.helper", "gpg.program", "alias.status", "alias.config",
        "sequence.editor", "core.alternateRefsCommand", "uploadpack.packObjectsHook", "trace2.eventTarget",
    ):  # fmt: skip
        git(folder, "config", key, f"!{program}" if key.startswith("alias") else program)
    (folder / ".gitattributes").write_text("* diff=planted\n")
    touched(folder)


def _lazy_fetch(folder: Path, program: str) -> None:
    git(folder, "config", "extensions.partialClone", "origin")
    git(folder, "config", "core.repositoryFormatVersion", "1")
    git(folder, "config", "remote.origin.url", f"ext::{program}")
    git(folder, "config", "remote.origin.promisor", "true")
    git(folder, "config", "protocol.ext.allow", "always")
    git(folder, "config", "core.sshCommand", program)
    tree = git(folder, "rev-parse", "HEAD^{tree}")
    (folder / ".git" / "objects" / tree[:2] / tree[2:]).unlink()


def _submodule(folder: Path, program: str) -> None:
    inside = folder / "module"
    inside.mkdir()
    git(inside, "init", "-q")
    git(inside, "-c", "user.name=a", "-c", "user.email=a@example.com", "commit", "-q", "--allow-empty", "-m", "inside")
    git(inside, "config", "core.fsmonitor", program)
    (inside / ".gitattributes").write_text("* filter=planted\n")
    git(inside, "config", "filter.planted.clean", program)
    git(folder, "add", "module")
    git(folder, "-c", "user.name=a", "-c", "user.email=a@example.com", "commit", "-q", "-m", "with a module")


PLANTED: dict[str, Callable[[Path, str], None]] = {
    "a file system monitor": _fsmonitor,
    "filters": _filter,
    "filters by its own attributes": _filter_in_info,
    "filters by an included file": _filter_by_include,
    "filters by the configuration of a work tree": _filter_by_worktree_config,
    "hooks": _hooks,
    "hooks elsewhere": _hooks_elsewhere,
    "helpers": _helpers,
    "a remote to fetch from": _lazy_fetch,
    "a submodule": _submodule,
}


@pytest.mark.parametrize("planted", PLANTED)
def test_nothing_that_a_repository_names_is_run(repository: Path, planted: str) -> None:
    PLANTED[planted](repository, str(repository.parent / "planted"))
    head = git(repository, "-c", "core.fsmonitor=false", "rev-parse", "HEAD")
    (repository.parent / "ran").unlink(missing_ok=True)
    found = commit_of(repository)
    assert not (repository.parent / "ran").exists(), (repository.parent / "ran").read_text()
    assert found is not None
    assert found["commit"] == head
    assert not (repository / ".git" / "index.lock").exists()


def test_nothing_of_the_environment_leads_git_elsewhere(repository: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    program = str(repository.parent / "planted")
    for name, value in {
        "GIT_DIR": "/nowhere", "GIT_WORK_TREE": "/nowhere", "GIT_EXTERNAL_DIFF": program, "GIT_PAGER": program, "GIT_SSH_COMMAND": program,
        "GIT_CONFIG_COUNT": "1", "GIT_CONFIG_KEY_0": "core.fsmonitor", "GIT_CONFIG_VALUE_0": program,
        "GIT_CONFIG_PARAMETERS": f"'core.fsmonitor'='{program}'",
    }.items():  # fmt: skip
        monkeypatch.setenv(name, value)
    found = commit_of(repository)
    assert found is not None
    assert found["dirty"] is False
    assert not (repository.parent / "ran").exists()


def test_a_git_file_that_points_elsewhere_runs_nothing_there(repository: Path) -> None:
    elsewhere = repository.parent / "elsewhere"
    (repository / ".git").rename(elsewhere)
    (repository / ".git").write_text(f"gitdir: {elsewhere}\n")
    _fsmonitor(repository, str(repository.parent / "planted"))
    _filter(repository, str(repository.parent / "planted"))
    (repository.parent / "ran").unlink(missing_ok=True)
    found = commit_of(repository)
    assert found is not None
    assert not (repository.parent / "ran").exists()


def test_a_work_tree_that_a_configuration_names_is_not_looked_at(repository: Path) -> None:
    other = repository.parent / "other"
    other.mkdir()
    (other / "job.yaml").write_text("something else\n")
    git(repository, "config", "core.worktree", str(other))
    found = commit_of(repository)
    assert found is not None
    assert found["dirty"] is False


def test_a_folder_that_only_holds_the_files_of_a_repository_is_none(repository: Path) -> None:
    bare = repository / "bare"
    shutil.copytree(repository / ".git", bare)
    git(repository, "config", "--file", str(bare / "config"), "core.bare", "true")
    git(repository, "config", "--file", str(bare / "config"), "core.fsmonitor", str(repository.parent / "planted"))
    assert commit_of(bare) is None
    assert not (repository.parent / "ran").exists()


@pytest.mark.skipif(os.geteuid() != 0, reason="only root can give a folder to somebody else")
def test_a_repository_of_another_user_is_refused_by_git_and_so_none(repository: Path) -> None:
    for path in [repository, *repository.rglob("*")]:
        os.lchown(path, 12345, 12345)
    assert commit_of(repository) is None


def test_a_pipe_in_place_of_the_repository_is_none(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / ".git")
    assert commit_of(tmp_path) is None

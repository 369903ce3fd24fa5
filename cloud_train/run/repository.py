"""The git commit that is checked out in a folder.

The folder may come from someone who is not trusted. Programs named in a repository's own configuration and attributes (a file system
monitor, hooks, filters, pagers, an ssh command) are never run: asking git for the commit runs nothing, and the files are compared in a
temporary repository with a configuration written here.
"""

from __future__ import annotations  # the worker also runs on Python 3.10, in users' own images

import os
import re
import subprocess
import tempfile
from pathlib import Path
from typing import Any

_SECONDS = 5
_HARMLESS = ("core.filemode", "core.autocrlf", "core.eol", "core.ignorecase", "core.symlinks", "core.trustctime", "core.checkstat")
"""Settings of a repository that control how files are compared, and run nothing."""
_WANTED = f"^({'|'.join(name.replace('.', '[.]') for name in _HARMLESS)})$"
_RUNS_NOTHING = ("-c", "core.fsmonitor=false", "-c", f"core.hooksPath={os.devnull}", "-c", "safe.bareRepository=explicit", "--no-pager")
"""``safe.bareRepository=explicit``: a folder with the files of a repository, but not called .git, does not count as one."""
_QUIET = {"GIT_OPTIONAL_LOCKS": "0", "GIT_NO_LAZY_FETCH": "1", "GIT_NO_REPLACE_OBJECTS": "1", "GIT_TERMINAL_PROMPT": "0"}
"""Nothing is written or fetched, and no credentials are asked for."""
_COMMIT = re.compile(r"[0-9a-f]{40}|[0-9a-f]{64}")


def commit_of(folder: Path) -> dict[str, Any] | None:
    """The folder's commit, and whether it is ``dirty``: True, False, or None if that cannot be determined.

    None outside a repository, without git, and for a repository that git refuses, such as another user's (``safe.directory``).
    """
    top = next((parent for parent in (folder, *folder.parents) if (parent / ".git").exists()), None)
    if top is None:  # saves three git processes, 8 ms
        return None
    try:
        objects, index, commit = _ask_git(folder, "rev-parse", "--git-path", "objects", "--git-path", "index", "HEAD").split("\n")
    except (OSError, subprocess.SubprocessError, ValueError):
        return None
    if not _COMMIT.fullmatch(commit):
        return None
    try:
        dirty = _is_dirty(top, folder / objects, folder / index, commit)
    except (OSError, subprocess.SubprocessError):
        dirty = None
    return {"commit": commit, "dirty": dirty}


def _is_dirty(top: Path, objects: Path, index: Path, commit: str) -> bool:
    """Whether a tracked file differs from the commit.

    The comparison uses an empty temporary repository, which borrows objects and index. It has only the harmless settings, so filters named
    in ``.gitattributes`` have no effect there.
    """
    settings = _ask_git(top, "config", "--null", "--get-regexp", _WANTED, fine=(0, 1)).split("\0")
    options = [option for setting in settings if setting for option in ("-c", setting.replace("\n", "=", 1))]
    with tempfile.TemporaryDirectory(prefix="cloud-train-git-") as repository:
        _make_repository(Path(repository), commit)
        own = {
            "GIT_DIR": repository,
            "GIT_WORK_TREE": str(top),
            "GIT_INDEX_FILE": str(index),
            "GIT_OBJECT_DIRECTORY": str(objects),
            "GIT_CONFIG_GLOBAL": os.devnull,
            "GIT_CONFIG_SYSTEM": os.devnull,
        }
        # Submodules are skipped: they have their own configurations.
        return bool(_ask_git(top, *options, "status", "--porcelain", "--untracked-files=no", "--ignore-submodules=all", own=own))


def _make_repository(folder: Path, commit: str) -> None:
    for name in ("objects", "refs"):
        (folder / name).mkdir()
    (folder / "HEAD").write_text(f"{commit}\n", encoding="ascii")
    form, extensions = (1, "[extensions]\n\tobjectFormat = sha256\n") if len(commit) == 64 else (0, "")
    (folder / "config").write_text(f"[core]\n\trepositoryformatversion = {form}\n\tbare = false\n{extensions}", encoding="ascii")


def _ask_git(folder: Path, *arguments: str, own: dict[str, str] | None = None, fine: tuple[int, ...] = (0,)) -> str:
    """The output of git in ``folder``. GIT_… variables of the environment are ignored, and only a folder called .git is a repository."""
    environment = {name: value for name, value in os.environ.items() if not name.startswith("GIT_")} | _QUIET | (own or {})
    finished = subprocess.run(
        ["git", *_RUNS_NOTHING, *arguments],
        cwd=folder,
        env=environment,
        check=False,
        capture_output=True,
        timeout=_SECONDS,
        stdin=subprocess.DEVNULL,
    )
    if finished.returncode not in fine:
        raise subprocess.CalledProcessError(finished.returncode, "git")
    return os.fsdecode(finished.stdout).rstrip("\n")

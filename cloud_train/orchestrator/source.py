"""Where a job's source stands: the git commit of its folder."""

import subprocess
from pathlib import Path
from typing import Any


def commit_of(folder: Path) -> dict[str, Any] | None:
    """The commit that the folder is at, and whether it is dirty; None outside a repository, or without git."""
    # Two git processes cost 5 ms; a folder without a repository above it is not asked.
    if not any((parent / ".git").exists() for parent in (folder, *folder.parents)):
        return None
    try:
        commit = _ask_git(folder, "rev-parse", "HEAD")
        return {"commit": commit, "dirty": bool(_ask_git(folder, "status", "--porcelain", "--untracked-files=no"))}
    except (OSError, subprocess.SubprocessError):
        return None


def _ask_git(folder: Path, *arguments: str) -> str:
    return subprocess.run(
        ["git", *arguments], cwd=folder, check=True, capture_output=True, text=True, timeout=5, stdin=subprocess.DEVNULL
    ).stdout.strip()

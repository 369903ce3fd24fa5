"""Paths as a job file writes them."""

from pathlib import Path


def has_home(path: str) -> bool:
    """Whether the home folder that ``path`` may begin with, such as ``~`` or ``~ada``, is known."""
    try:
        Path(path).expanduser()
    except RuntimeError:
        return False
    return True


def is_there(path: Path) -> bool:
    """Whether there is anything at ``path``."""
    try:
        return path.exists()
    except OSError:  # a name that is too long, or a folder that may not be entered
        return False

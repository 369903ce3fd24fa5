"""The rules of a folder's ``.gitignore``: https://git-scm.com/docs/gitignore. A test compares them with git itself.

A library for them (pathspec) makes regular expressions that backtrack: a line of stars in another person's folder could then hold up a
submission for ever. So each line becomes one for Docker's matcher, which takes time in proportion to a path's length.
"""

from dataclasses import dataclass

from cloud_train.image.errors import ImageError
from cloud_train.image.ignore import Pattern, parse_patterns


@dataclass(frozen=True)
class _Line:
    pattern: Pattern
    is_for_folders: bool


class GitPatterns:
    """All lines. The last one that matches a path decides, unless a folder above it is left out already."""

    def __init__(self, text: str, source: str) -> None:
        """A line that the matcher does not support is passed over. ``source`` is the file's name."""
        self._lines = [line for written in text.removeprefix("\ufeff").splitlines() if (line := _parsed(written, source))]

    def ignores(self, path: str, is_folder: bool) -> bool:
        """Whether this file or folder, relative to the folder of the ``.gitignore``, is left out."""
        parts = path.split("/") if self._lines else []
        steps = ("/".join(parts[:length]) for length in range(1, len(parts) + 1))
        return any(self._matches(step, is_folder or step != path) for step in steps)

    def _matches(self, path: str, is_folder: bool) -> bool:
        for line in reversed(self._lines):
            if (is_folder or not line.is_for_folders) and line.pattern.matches(path):
                return not line.pattern.brings_back
        return False


def _parsed(line: str, source: str) -> _Line | None:
    if line.startswith("#"):
        return None
    line = _without_trailing_spaces(line)
    sign, name = ("!", line[1:]) if line.startswith("!") else ("", line)
    is_for_folders, name = name.endswith("/"), name.rstrip("/").replace("[!", "[^")
    if not name:
        return None
    above = "" if "/" in name else "**/"  # a slash anywhere but at the end refers to this folder
    try:
        patterns = parse_patterns(f"{sign}{above}{name.lstrip('/')}", source)
    except ImageError:
        return None
    return _Line(patterns[0], is_for_folders) if patterns else None


def _without_trailing_spaces(line: str) -> str:
    stripped = line.rstrip(" \t")
    is_escaped = stripped.endswith("\\") and len(stripped) < len(line)
    return f"{stripped[:-1]}[ ]" if is_escaped else stripped

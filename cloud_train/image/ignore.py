r"""Which files of a folder Docker would leave out: the rules of ``.dockerignore``.

The rules are those of today's engine (https://pkg.go.dev/github.com/moby/patternmatcher, and how BuildKit walks a folder with it); a test
compares them with a real build. They are not those of ``fnmatch``, and the Docker SDK's matcher departs from them: it takes ``README`` and
``readme`` for the same name, knows neither ``\*`` nor ``[^a]``, and brings back what lies below a folder that ``**/name`` ignores once any
line starts with ``!``.
"""

import posixpath
import re
from collections.abc import Iterable
from dataclasses import dataclass

from cloud_train.image.errors import ImageError

_ESCAPED = frozenset(".+()|{}$^")
_WILDCARDS = frozenset("*?[]^\\")


@dataclass(frozen=True)
class Pattern:
    """One line: what it matches, and whether it brings back (``!``) rather than ignores."""

    text: str
    expression: re.Pattern[str]
    brings_back: bool

    def matches(self, path: str) -> bool:
        """Whether the line matches exactly this path, relative to the folder, with ``/``."""
        return self.expression.fullmatch(path) is not None

    def matches_any(self, paths: Iterable[str]) -> bool:
        """Whether the line matches one of these paths."""
        fullmatch = self.expression.fullmatch  # looked up once: this is asked for every file and every line
        for path in paths:  # noqa: SIM110 -- any() takes twice as long here
            if fullmatch(path):
                return True
        return False


class Patterns:
    """All lines, of which the last that matches a path or a folder above it decides."""

    def __init__(self, patterns: Iterable[Pattern]) -> None:
        self.patterns = tuple(patterns)
        returning = (pattern.text for pattern in self.patterns if pattern.brings_back)
        self._returning = tuple(text.removesuffix("/**").removesuffix("/*") for text in returning)
        self._returning_anywhere = any(_WILDCARDS & set(text) for text in self._returning)

    def ignores(self, path: str) -> bool:
        """Whether this file or folder is left out."""
        parts = path.split("/")
        steps = ["/".join(parts[:length]) for length in range(1, len(parts) + 1)]
        ignored = False
        for pattern in self.patterns:
            if pattern.brings_back == ignored and pattern.matches_any(steps):
                ignored = not pattern.brings_back
        return ignored

    def may_bring_back_below(self, folder: str) -> bool:
        """Whether something in an ignored folder may be wanted after all, so that it has to be looked through."""
        return self._returning_anywhere or any(f"{text}/".startswith(f"{folder}/") for text in self._returning)


def parse_patterns(text: str, source: str) -> list[Pattern]:
    """The patterns of a file's text; ``source`` is what an error calls it."""
    patterns = []
    for number, line in enumerate(text.removeprefix("\ufeff").split("\n"), start=1):
        written = line.strip()
        if line.startswith("#") or not written:
            continue
        brings_back = written.startswith("!")
        name = written.removeprefix("!").strip()
        if not name:
            raise ImageError(f"{source}, line {number}: '!' says nothing to bring back", hint="write the file or folder after the '!'")
        cleaned = posixpath.normpath(name)
        # Python keeps two slashes at the front, which mean nothing here.
        cleaned = cleaned.lstrip("/") or "."
        try:
            expression = re.compile(_expression(cleaned))
        except re.error as error:
            raise ImageError(f"{source}, line {number}: {written!r} is not a pattern: {error.msg}", hint="close the bracket") from error
        patterns.append(Pattern(cleaned, expression, brings_back))
    return patterns


def _expression(pattern: str) -> str:
    """The regular expression of a pattern: ``*`` and ``?`` stay within a name, ``**/`` is any number of folders."""
    if pattern.startswith("**") and not _WILDCARDS & set(pattern[2:]):
        # "**.txt" matches the end of any path, "**/name" the end of one from a "/" on.
        return f"(?:[\\s\\S]*/)?{re.escape(pattern[3:])}" if pattern[2:3] == "/" else f"[\\s\\S]*{re.escape(pattern[2:])}"
    parts = []
    position = 0
    while position < len(pattern):
        character = pattern[position]
        position += 1
        if pattern.startswith("**", position - 1):
            position += 1
            position += pattern.startswith("/", position)
            parts.append("[\\s\\S]*" if position == len(pattern) else "(?:.*/)?")
        elif character == "*":
            parts.append("[^/]*")
        elif character == "?":
            parts.append("[^/]")
        elif character == "[":
            end = _class_end(pattern, position)
            # Python's classes may nest one day, Go's do not.
            parts.append("[" + pattern[position:end].replace("[", "\\["))
            position = end
        elif character == "\\" and position < len(pattern):
            parts.append(re.escape(pattern[position]))
            position += 1
        else:
            parts.append(f"\\{character}" if character in _ESCAPED or character == "\\" else character)
    return "".join(parts)


def _class_end(pattern: str, start: int) -> int:
    """Where the character class that opened before ``start`` ends; without an end, the whole rest, which no expression accepts."""
    position = start + (pattern[start : start + 1] == "^") + 1
    while position < len(pattern) and pattern[position] != "]":
        position += 1
    return position + 1

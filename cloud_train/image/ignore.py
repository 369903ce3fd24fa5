r"""Which files of a folder Docker would leave out: the rules of ``.dockerignore``.

The rules are those of today's engine (https://pkg.go.dev/github.com/moby/patternmatcher, and how BuildKit walks a folder with it); a test
compares them with a real build. They are not those of ``fnmatch``, and the Docker SDK's matcher departs from them: it takes ``README`` and
``readme`` for the same name, knows neither ``\*`` nor ``[^a]``, and brings back what lies below a folder that ``**/name`` ignores once any
line starts with ``!``.
"""

import posixpath
import re
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass

from cloud_train.image.errors import ImageError

_ESCAPED = frozenset(".+()|{}$^")
_WILDCARDS = frozenset("*?[]^\\")


@dataclass(frozen=True)
class Pattern:
    """One line: what it matches, and whether it includes (``!``) rather than ignores."""

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
        """Whether something in an ignored folder may be included after all, so that it has to be searched."""
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
            raise ImageError(f"{source}, line {number}: '!' names nothing to include", hint="write the file or folder after the '!'")
        cleaned = posixpath.normpath(name)
        # Python keeps two leading slashes, which have no meaning here.
        cleaned = cleaned.lstrip("/") or "."
        try:
            expression = re.compile(_expression(cleaned))
        except re.error as error:
            raise ImageError(f"{source}, line {number}: {written!r} is not a pattern: {error.msg}", hint="close the bracket") from error
        except ValueError as error:
            hint = "write '**' between slashes, as in src/**/name"
            raise ImageError(f"{source}, line {number}: {written!r} is not supported: {error}", hint=hint) from error
        patterns.append(Pattern(cleaned, expression, brings_back))
    return patterns


def _expression(pattern: str) -> str:
    """The regular expression of a pattern: ``*`` and ``?`` stay within a name, ``**/`` is any number of folders.

    It takes time in proportion to the path, as that of Docker does, which is of a language without backtracking. Wherever a wildcard is
    followed by another, the first place where what stands between the two fits is as good as any later one, so none is tried again: that is
    what the atomic groups ``(?>…)`` say.
    """
    if pattern.startswith("**") and not _WILDCARDS & set(pattern[2:]):
        # "**.txt" matches the end of any path, "**/name" the end of one from a "/" on.
        return f"(?:[\\s\\S]*/)?{re.escape(pattern[3:])}" if pattern[2:3] == "/" else f"[\\s\\S]*{re.escape(pattern[2:])}"
    tokens = list(_tokens(pattern))
    if not _keeps_to_names(tokens):
        if sum(token in (_STAR, _FOLDERS, _PART, _REST) for token in tokens) > 1:
            raise ValueError("'**' inside a name, or a [class] that takes in '/', beside another wildcard")
        return "".join(tokens)
    groups: list[list[str]] = [[]]
    for token in tokens:
        if token != _FOLDERS:
            groups[-1].append(token)
        elif groups[-1] or len(groups) == 1:  # "**/**/" is "**/"
            groups.append([])
    first, *between = groups
    last = between.pop() if between else None
    middle = (f"(?>(?:[\\s\\S]*?/)??{_names(group)})" for group in between)
    return _names(first) + "".join(middle) + ("" if last is None else f"{_FOLDERS}{_names(last)}")


_STAR, _FOLDERS, _PART, _REST = "[^/]*", "(?:[\\s\\S]*/)?", "(?:[\\s\\S]*/)?(?#part)", "[\\s\\S]*"
"""What ``*`` is, ``**/`` after a slash, ``**`` elsewhere, and ``**`` at the end."""


def _tokens(pattern: str) -> Iterator[str]:
    """The regular expression of each wildcard and each character of a pattern, one after another."""
    position = 0
    while position < len(pattern):
        character = pattern[position]
        position += 1
        if pattern.startswith("**", position - 1):
            after_slash = pattern[: position - 1].endswith("/") or position == 1
            position += 1
            before_slash = pattern.startswith("/", position)
            position += before_slash
            yield _REST if position == len(pattern) else _FOLDERS if after_slash and before_slash else _PART
        elif character == "*":
            yield _STAR
        elif character == "?":
            yield "[^/]"
        elif character == "[":
            end = _class_end(pattern, position)
            # Python's classes may nest one day, Go's do not.
            yield "[" + pattern[position:end].replace("[", "\\[")
            position = end
        elif character == "\\" and position < len(pattern):
            yield re.escape(pattern[position])
            position += 1
        else:
            yield f"\\{character}" if character in _ESCAPED or character == "\\" else character


def _keeps_to_names(tokens: Sequence[str]) -> bool:
    """Whether every wildcard is one of whole folders, or stays within a name."""
    classes = (token for token in tokens if token[0] == "[" and token not in (_STAR, "[^/]", _REST))
    return _PART not in tokens and not any(re.fullmatch(each, "/") for each in classes)


def _names(tokens: Sequence[str]) -> str:
    """Names between slashes."""
    names: list[list[str]] = [[]]
    for token in tokens:
        if token == "/":
            names.append([])
        else:
            names[-1].append(token)
    return "/".join(_name(name) for name in names)


def _name(tokens: Sequence[str]) -> str:
    """One name, whose stars, but for the last, take as little as they can."""
    pieces = [""]
    for token in tokens:
        if token == _STAR:
            pieces.append("")
        else:
            pieces[-1] += token
    first, *starred = pieces
    last = starred.pop() if starred else None
    middle = (f"(?>[^/]*?{piece})" for piece in starred)
    return first + "".join(middle) + ("" if last is None else f"{_STAR}{last}")


def _class_end(pattern: str, start: int) -> int:
    """Where the character class that opened before ``start`` ends; without an end, the whole rest, which no expression accepts."""
    position = start + (pattern[start : start + 1] == "^") + 1
    while position < len(pattern) and pattern[position] != "]":
        position += 1
    return position + 1

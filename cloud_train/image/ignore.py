r"""The rules of ``.dockerignore``: which files of a folder Docker leaves out.

They are those of the current engine (https://pkg.go.dev/github.com/moby/patternmatcher, and BuildKit's way of walking a folder); a test
compares them with a real build. ``fnmatch`` has other rules, and so has the Docker SDK's matcher: it ignores case, supports neither ``\*``
nor ``[^a]``, and includes the contents of a folder ignored by ``**/name`` as soon as any line starts with ``!``.
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
    """One line: the paths that it matches, and whether it includes (``!``) or ignores them."""

    text: str
    expression: re.Pattern[str]
    brings_back: bool

    def matches(self, path: str) -> bool:
        """Whether the line matches exactly this path, which is relative to the folder and uses ``/``."""
        return self.expression.fullmatch(path) is not None

    def matches_any(self, paths: Iterable[str]) -> bool:
        """Whether the line matches one of these paths."""
        fullmatch = self.expression.fullmatch  # looked up once: this runs for every file and every line
        for path in paths:  # noqa: SIM110 -- any() takes twice as long here
            if fullmatch(path):
                return True
        return False


class Patterns:
    """All lines. The last line that matches a path, or a folder above it, decides."""

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

    def brings_back(self, path: str) -> bool:
        """Whether a line with ``!`` matches this file or folder, or a folder above it."""
        parts = path.split("/")
        steps = ["/".join(parts[:length]) for length in range(1, len(parts) + 1)]
        return any(pattern.brings_back and pattern.matches_any(steps) for pattern in self.patterns)

    def may_bring_back_below(self, folder: str) -> bool:
        """Whether a line may include something in an ignored folder, which then has to be searched."""
        return self._returning_anywhere or any(f"{text}/".startswith(f"{folder}/") for text in self._returning)


def parse_patterns(text: str, source: str) -> list[Pattern]:
    """Parse a file's text. ``source`` is its name in errors; raises ImageError."""
    patterns = []
    for number, line in enumerate(text.removeprefix("\ufeff").split("\n"), start=1):
        written = line.strip()
        if line.startswith("#") or not written:
            continue
        brings_back = written.startswith("!")
        name = written.removeprefix("!").strip()
        if not name:
            raise ImageError(f"{source}, line {number}: '!' without a pattern", hint="write a file or folder after the '!'")
        cleaned = posixpath.normpath(name)
        # Python keeps two leading slashes, which have no meaning here.
        cleaned = cleaned.lstrip("/") or "."
        try:
            expression = re.compile(_expression(cleaned))
        except re.error as error:
            raise ImageError(
                f"{source}, line {number}: {written!r} is not a valid pattern: {error.msg}", hint="close the bracket"
            ) from error
        except ValueError as error:
            hint = "write '**' between slashes, as in src/**/name"
            raise ImageError(f"{source}, line {number}: {written!r} is not supported: {error}", hint=hint) from error
        patterns.append(Pattern(cleaned, expression, brings_back))
    return patterns


def _expression(pattern: str) -> str:
    """The regular expression for a pattern: ``*`` and ``?`` stay within a name, ``**/`` matches any number of folders.

    Matching takes time proportional to the path's length, as in Docker, whose regular expressions do not backtrack. Between two wildcards,
    the first match of the text between them is as good as any later one, so the atomic groups ``(?>…)`` prevent further attempts.
    """
    if pattern.startswith("**") and not _WILDCARDS & set(pattern[2:]):
        # "**.txt" matches the end of any path, "**/name" the end of one from a "/" on.
        return f"(?:[\\s\\S]*/)?{re.escape(pattern[3:])}" if pattern[2:3] == "/" else f"[\\s\\S]*{re.escape(pattern[2:])}"
    tokens = list(_tokens(pattern))
    if not _keeps_to_names(tokens):
        if sum(token in (_STAR, _FOLDERS, _PART, _REST) for token in tokens) > 1:
            raise ValueError("'**' inside a name, or a [class] that includes '/', together with another wildcard")
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
"""The expressions for ``*``, for ``**/`` after a slash, for ``**`` elsewhere, and for ``**`` at the end."""


def _tokens(pattern: str) -> Iterator[str]:
    """The regular expression of each wildcard and each character of a pattern, in order."""
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
            # Python may support nested classes one day; Go does not.
            yield "[" + pattern[position:end].replace("[", "\\[")
            position = end
        elif character == "\\" and position < len(pattern):
            yield re.escape(pattern[position])
            position += 1
        else:
            yield f"\\{character}" if character in _ESCAPED or character == "\\" else character


def _keeps_to_names(tokens: Sequence[str]) -> bool:
    """Whether every wildcard matches whole folders or stays within a name."""
    classes = (token for token in tokens if token[0] == "[" and token not in (_STAR, "[^/]", _REST))
    return _PART not in tokens and not any(re.fullmatch(each, "/") for each in classes)


def _names(tokens: Sequence[str]) -> str:
    """The expression for names separated by slashes."""
    names: list[list[str]] = [[]]
    for token in tokens:
        if token == "/":
            names.append([])
        else:
            names[-1].append(token)
    return "/".join(_name(name) for name in names)


def _name(tokens: Sequence[str]) -> str:
    """The expression for one name; all stars but the last match as little as possible."""
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
    """The end of the character class that was opened before ``start``. An unclosed class extends to the end, and will not compile."""
    position = start + (pattern[start : start + 1] == "^") + 1
    while position < len(pattern) and pattern[position] != "]":
        position += 1
    return position + 1

"""Mistakes in a job or config file, each with its place, and how they are shown."""

from collections.abc import Sequence
from dataclasses import asdict, dataclass, replace
from typing import Any

from cloud_train.errors import JobError
from cloud_train.spec.facts import DataFacts
from cloud_train.spec.secret_names import without_credentials

Path = tuple[str | int, ...]
"""Where a value is in a file's data: keys of mappings, indices of lists."""
Finding = tuple[Path, str, str]
"""A mistake whose line is not known yet: path, message, and what was expected."""

_SHOWN = 50
_WIDTH = 100
_LONGEST = 60
_LONGEST_LINE = 2000


@dataclass(frozen=True)
class Place:
    """Where something was written: a file with line and column (both from 1), or a command-line option."""

    file: str
    line: int | None = None
    column: int | None = None
    source: str = ""
    """The line as it was written."""

    def __str__(self) -> str:
        return self.file if self.line is None else f"{self.file}:{self.line}:{self.column}"


@dataclass(frozen=True)
class Problem:
    """One mistake: where, what, what was expected, and the nearest valid name."""

    place: Place
    message: str
    expected: str = ""
    suggestion: str = ""

    def to_json(self) -> dict[str, Any]:
        """As JSON; a very long source line is left out, because every mistake in it would repeat it."""
        fields = asdict(self)
        if len(self.place.source) > _LONGEST_LINE:
            fields["place"]["source"] = ""
        return fields

    def render(self) -> str:
        """In a compiler's style: place and message, the line with a caret below the column, what was expected."""
        lines = [f"{self.place}: {self.message}"]
        if self.place.source and self.place.column:
            source, column = _cut(self.place.source, self.place.column)
            lines += [f"    {source}", f"    {' ' * (column - 1)}^"]
        if self.expected:
            lines.append(f"    expected: {self.expected}")
        if self.suggestion:
            lines.append(f"    did you mean {self.suggestion!r}?")
        return "\n".join(lines)

    def without_credentials(self) -> "Problem":
        """The same mistake, with the users, passwords and queries of URLs masked."""
        place = replace(self.place, file=without_credentials(self.place.file))  # lines of a file were masked when it was read
        return Problem(place, *map(without_credentials, (self.message, self.expected, self.suggestion)))


class JobFileError(JobError):
    """A job or config file has mistakes; ``problems`` lists every one of them, in the order of their places.

    They never contain credentials of URLs, whatever the file or command line contained.
    """

    code = "job-file"

    def __init__(self, problems: Sequence[Problem]) -> None:
        shown_problems = [problem.without_credentials() for problem in problems]
        self.problems = tuple(
            sorted(shown_problems, key=lambda problem: (problem.place.file, problem.place.line or 0, problem.place.column or 0))
        )
        shown = [problem.render() for problem in self.problems[:_SHOWN]]
        count = len(self.problems)
        if count > _SHOWN:
            shown.append(f"and {count - _SHOWN} more")
        title = "1 mistake" if count == 1 else f"{count} mistakes"
        files = list(dict.fromkeys(problem.place.file for problem in self.problems))
        where = f"{', '.join(files[:-1])} and {files[-1]}" if len(files) > 1 else files[0]
        super().__init__(f"{title} in {where}\n\n" + "\n\n".join(shown))


class FieldError(JobError):
    """A value of a job that cannot be used, found by checking what it refers to (such as a missing text file)."""

    code = "job-file"

    def __init__(self, path: Path, message: str, hint: str | None = None) -> None:
        message = without_credentials(message)
        super().__init__(f"{dotted(path)}: {message}", hint and without_credentials(hint))
        self.path = path
        self.reason = message


class AbsentDataError(FieldError):
    """The job's data is not on this machine; ``known`` is what is known about it nevertheless, or None."""

    def __init__(self, path: Path, message: str, hint: str | None = None, known: DataFacts | None = None) -> None:
        super().__init__(path, message, hint)
        self.known = known


def dotted(path: Path) -> str:
    """A path as ``--set`` takes it: ``model.blocks.0.filters``."""
    return ".".join(shortened(str(part)) for part in path)


def shortened(text: str) -> str:
    """``text`` as a message may quote it: with credentials of URLs masked, and truncated if it is too long."""
    text = without_credentials(text)
    return text if len(text) <= _LONGEST else f"{text[: _LONGEST - 1]}…"


def _cut(source: str, column: int) -> tuple[str, int]:
    """The part of a long line around ``column``, and the column's position in it; unprintable characters become dots."""
    start = max(0, column - 1 - _WIDTH // 2) if len(source) > _WIDTH else 0
    visible = "".join(character if character.isprintable() else "·" for character in source[start : start + _WIDTH])
    return visible, column - start

"""A YAML 1.2 document as plain data, with the place of every key and value.

ruamel.yaml parses; what its nodes mean is decided here by the core schema of YAML 1.2 (https://yaml.org/spec/1.2.2/#103-core-schema):
``no`` and ``2026-01-01`` are texts, ``1e-3`` is a number, ``0o17`` is 15. Everything that a file can do to its reader is bounded: its size,
its depth, and what its aliases expand to.
"""

import re
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path as FilePath
from typing import Any

from cloud_train.errors import JobError, NotFoundError
from cloud_train.job.problems import JobFileError, Path, Place, Problem

LARGEST_BYTES = 256_000
_DEEPEST = 32
_MOST_NODES = 20_000
_TAG = "tag:yaml.org,2002:"
_SCALARS = frozenset(_TAG + name for name in ("null", "bool", "int", "float", "str", "timestamp", "merge", "value"))
_INT = re.compile(r"[-+]?[0-9]+|0o[0-7]+|0x[0-9a-fA-F]+")
_FLOAT = re.compile(r"[-+]?(?:\.[0-9]+|[0-9]+(?:\.[0-9]*)?)(?:[eE][-+]?[0-9]+)?|[-+]?\.(?:inf|Inf|INF)|\.(?:nan|NaN|NAN)")


@dataclass(frozen=True)
class Document:
    """What a file says: mappings as dicts, lists as tuples, and where each key and each value was written."""

    data: dict[str, Any]
    values: dict[Path, Place] = field(default_factory=dict)
    keys: dict[Path, Place] = field(default_factory=dict)


def read_document(path: FilePath) -> Document:
    """Read a file that holds one mapping. Raises NotFoundError, or JobFileError with what is wrong and where."""
    return parse_document(_read(path), str(path))


def parse_document(text: str, name: str) -> Document:
    """The mapping that ``text`` holds; ``name`` is how its places are called. Raises JobFileError."""
    node = _compose(text, name)
    walk = _Walk(name, text.splitlines())
    if node is None or type(node).__name__ != "MappingNode":
        place = Place(name, 1, 1, walk.lines[0] if walk.lines else "") if node is None else walk.place(node)
        found = "nothing" if node is None else "something else"
        raise JobFileError([Problem(place, f"the file holds {found}", expected="keys and values, such as 'name: my-job'")])
    data = walk.convert(node, (), ())
    if walk.problems:
        raise JobFileError(walk.problems)
    return Document(data, walk.values, walk.keys)


def parse_value(text: str, name: str) -> Any:
    """One value as it stands on a command line, such as ``3``, ``1e-3`` or ``[1, 2]``; what is no YAML is taken as text."""
    try:
        node = _compose(text, name)
    except JobFileError:
        return text
    if node is None:
        return text
    walk = _Walk(name, [text])
    value = walk.convert(node, (), ())
    if walk.problems:
        raise JobFileError([Problem(Place(name), problem.message, problem.expected) for problem in walk.problems])
    return value


def _read(path: FilePath) -> str:
    hint = "cloud-train init writes a job to start from"
    try:
        if path.is_dir():
            raise NotFoundError(f"{path} is a folder, not a file", hint=hint)
        if not path.exists():
            raise NotFoundError(f"there is no file {path}", hint=hint)
        if not path.is_file():
            raise NotFoundError(f"{path} is not a regular file", hint=hint)
        with path.open("rb") as file:
            data = file.read(LARGEST_BYTES + 1)
    except OSError as error:
        raise NotFoundError(f"cannot read {path}: {(error.strerror or 'unknown reason').lower()}", hint="check its permissions") from error
    if len(data) > LARGEST_BYTES:
        size = path.stat().st_size
        raise JobError(
            f"{path} has {size:,} bytes; a job file has at most {LARGEST_BYTES:,}",
            hint="data belongs into files of its own, named by data.path",
        )
    try:
        return data.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        line = data.count(b"\n", 0, error.start) + 1
        column = error.start - data.rfind(b"\n", 0, error.start)
        message = f"the file is not UTF-8: byte {error.start:,} is 0x{data[error.start]:02x}"
        raise JobFileError([Problem(Place(str(path), line, column), message, expected="a text file in UTF-8")]) from error


def _compose(text: str, name: str) -> Any:
    # Imported here: nothing of cloud-train but a job file needs the parser, which takes 25 ms to import.
    from ruamel.yaml import YAML
    from ruamel.yaml.error import MarkedYAMLError, YAMLError
    from ruamel.yaml.reader import ReaderError

    parser = YAML(typ="safe", pure=True)
    parser.composer.warn_double_anchors = False
    lines = text.splitlines()
    try:
        return parser.compose(text)
    except ReaderError as error:
        before = text[: error.position]
        place = _place(name, lines, before.count("\n"), len(before) - before.rfind("\n") - 1)
        problem = Problem(place, f"a character that YAML does not allow: U+{ord(text[error.position]):04X}")
    except MarkedYAMLError as error:
        mark = error.problem_mark or error.context_mark
        place = _place(name, lines, mark.line, mark.column) if mark else Place(name, 1, 1)
        said = " ".join(part for part in (error.context, error.problem) if part)
        is_form = type(error).__name__ in ("ScannerError", "ParserError")
        expected = "spaces for indentation, and quotes around special characters" if is_form else ""
        problem = Problem(place, f"not valid YAML: {said}", expected)
    except RecursionError:
        problem = Problem(Place(name, 1, 1), f"nested more than {_DEEPEST} levels deep")
    except (YAMLError, ValueError, IndexError, AttributeError, TypeError, AssertionError, NotImplementedError) as error:
        # The parser's own slips on hostile input (an odd %-directive, say) are the file's mistake to a user, too.
        problem = Problem(Place(name, 1, 1), f"not valid YAML: {str(error).splitlines()[0] if str(error) else type(error).__name__}")
    raise JobFileError([problem])


def _place(name: str, lines: list[str], line: int, column: int) -> Place:
    line = min(line, max(0, len(lines) - 1))
    source = lines[line] if lines else ""
    return Place(name, line + 1, min(column, len(source)) + 1, source)


class _Walk:
    """From nodes to data; collects every mistake on the way."""

    def __init__(self, name: str, lines: list[str]) -> None:
        self.name, self.lines = name, lines
        self.values: dict[Path, Place] = {}
        self.keys: dict[Path, Place] = {}
        self.problems: list[Problem] = []
        self._nodes = 0

    def place(self, node: Any) -> Place:
        return _place(self.name, self.lines, node.start_mark.line, node.start_mark.column)

    def convert(self, node: Any, path: Path, above: tuple[Any, ...]) -> Any:
        self.values[path] = self.place(node)
        self._nodes += 1
        if self._nodes > _MOST_NODES:
            raise JobFileError([Problem(self.place(node), f"aliases expand to more than {_MOST_NODES:,} values")])
        if any(node is other for other in above):
            raise JobFileError([Problem(self.place(node), "an alias that contains itself")])
        if len(above) >= _DEEPEST:
            raise JobFileError([Problem(self.place(node), f"nested more than {_DEEPEST} levels deep")])
        kind = type(node).__name__
        if kind == "MappingNode" and node.tag == f"{_TAG}map":
            return {key: self.convert(value, (*path, key), (*above, node)) for key, value in self._items(node, path)}
        if kind == "SequenceNode" and node.tag == f"{_TAG}seq":
            return tuple(self.convert(value, (*path, place), (*above, node)) for place, value in enumerate(node.value))
        if kind == "ScalarNode" and node.tag in _SCALARS:
            return self._scalar(node)
        self._mistake(node, f"the tag {node.tag!r} means nothing here", "plain values, without tags")
        return None

    def _items(self, node: Any, path: Path) -> Iterator[tuple[str, Any]]:
        seen: dict[str, Place] = {}
        for key_node, value in node.value:
            place = self.place(key_node)
            if type(key_node).__name__ != "ScalarNode":
                self._mistake(key_node, "a key that is a list or a mapping", "a word")
                continue
            key = str(key_node.value)
            if key in seen:
                self._mistake(key_node, f"the key {key!r} stands here twice; the first is in line {seen[key].line}")
                continue
            self._check_text(key_node, key)
            seen[key] = self.keys[(*path, key)] = place
            yield key, value

    def _scalar(self, node: Any) -> Any:
        text, tag = str(node.value), node.tag.removeprefix(_TAG)
        if tag == "null":
            return None
        if tag == "bool":
            return text.lower() == "true"
        if tag in ("int", "float") and (match := _INT.fullmatch(text)):
            return self._integer(node, match[0])
        if tag in ("int", "float") and _FLOAT.fullmatch(text):
            return float(text.lower().replace(".inf", "inf").replace(".nan", "nan"))
        self._check_text(node, text)
        return text

    def _integer(self, node: Any, text: str) -> int:
        if len(text) > 30:
            self._mistake(node, "a number of more than 30 digits")
            return 0
        return int(text, 0) if text[:2] in ("0o", "0x") else int(text)

    def _check_text(self, node: Any, text: str) -> None:
        if any(character == "\0" or "\ud800" <= character <= "\udfff" for character in text):
            self._mistake(node, "a text with a character that no program can be given (NUL, or half of a surrogate pair)")

    def _mistake(self, node: Any, message: str, expected: str = "") -> None:
        self.problems.append(Problem(self.place(node), message, expected))

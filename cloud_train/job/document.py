"""A YAML 1.2 document as plain data, with the position of every key and value.

ruamel.yaml parses; this module interprets the nodes by YAML 1.2's core schema (https://yaml.org/spec/1.2.2/#103-core-schema):
``no`` and ``2026-01-01`` are strings, ``1e-3`` is a number, ``0o17`` is 15. A file's size, its depth, and what its aliases expand to are
limited.
"""

import re
from collections.abc import Iterator
from dataclasses import dataclass, field
from difflib import get_close_matches
from pathlib import Path as FilePath
from typing import Any

from cloud_train.errors import JobError, NotFoundError
from cloud_train.spec.paths import read_plain
from cloud_train.spec.problems import JobFileError, Path, Place, Problem, shortened
from cloud_train.spec.secret_names import covered, masked, without_credentials

LARGEST_BYTES = 256_000  # the parser takes about 10 µs a byte
_DEEPEST = 32
_LONGEST_REASON = 200
_VARIABLE = re.compile(r"[A-Za-z_][A-Za-z0-9_]*")
_MOST_NODES = 20_000
_TAG = "tag:yaml.org,2002:"
_SCALARS = frozenset(_TAG + name for name in ("null", "bool", "int", "float", "str", "timestamp", "merge", "value"))
_WORDS = {"": None, "~": None, "null": None, "Null": None, "NULL": None} | {
    word: value for value, name in ((True, "true"), (False, "false")) for word in (name, name.title(), name.upper())
}
_LINE_BREAK = re.compile(r"\r\n|[\n\r\x85\u2028\u2029]")  # those of ruamel.yaml's marks
_INT = re.compile(r"[-+]?[0-9]+|0o[0-7]+|0x[0-9a-fA-F]+")
_FLOAT = re.compile(r"[-+]?(?:\.[0-9]+|[0-9]+(?:\.[0-9]*)?)(?:[eE][-+]?[0-9]+)?|[-+]?\.(?:inf|Inf|INF)|\.(?:nan|NaN|NAN)")


@dataclass(frozen=True)
class Document:
    """The contents of a file: mappings as dicts, lists as tuples, and where each key and each value was written."""

    data: dict[str, Any]
    values: dict[Path, Place] = field(default_factory=dict)
    keys: dict[Path, Place] = field(default_factory=dict)
    duplicates: tuple[Problem, ...] = ()
    """Keys that were written twice, of which the first counts."""


def read_document(path: FilePath, hint: str = "cloud-train init writes a job to start from", *, keeps_duplicates: bool = False) -> Document:
    """Read a file that holds one mapping. Raises NotFoundError (with ``hint``), or JobFileError with what is wrong and where.

    With ``keeps_duplicates``, keys that were written twice are left to the caller, which has more mistakes to report.
    """
    return parse_document(_read(path, hint), str(path), keeps_duplicates=keeps_duplicates)


def parse_document(text: str, name: str, *, keeps_duplicates: bool = False) -> Document:
    """The mapping in ``text``; ``name`` is the file name in its places. Raises JobFileError."""
    node = _compose(text, name)
    walk = _Walk(name, _masked_lines(text))
    if node is not None:
        _mask(node, walk.lines)
    if node is None or type(node).__name__ != "MappingNode":
        place = Place(name, 1, 1, walk.lines[0]) if node is None else walk.place(node)
        found = "is empty" if node is None else f"contains a {'list' if type(node).__name__ == 'SequenceNode' else 'single value'}"
        raise JobFileError([Problem(place, f"the file {found}", expected="keys and values, such as 'name: my-job'")])
    data = walk.convert(node, (), ())
    if walk.problems or (walk.duplicates and not keeps_duplicates):
        raise JobFileError([*walk.duplicates, *walk.problems])
    return Document(data, walk.values, walk.keys, tuple(walk.duplicates))


def parse_value(text: str, name: str) -> Any:
    """One value as written on a command line, such as ``3``, ``1e-3`` or ``[1, 2]``; anything else is a string."""
    try:
        node = _compose(text, name)
    except JobFileError:
        return text
    if node is None:
        return text
    walk = _Walk(name, [text])
    value = walk.convert(node, (), ())
    if problems := [*walk.duplicates, *walk.problems]:
        raise JobFileError([Problem(Place(name), problem.message, problem.expected) for problem in problems])
    return value


def _read(path: FilePath, hint: str) -> str:
    try:
        if path.is_dir():
            raise NotFoundError(f"{path} is a folder, not a file", hint=hint)
        if not path.exists():
            raise NotFoundError(f"no such file: {path}", hint=_meant(path) or hint)
        if not path.is_file():
            raise NotFoundError(f"{path} is not a regular file", hint=hint)
        data = read_plain(path, LARGEST_BYTES)
    except OSError as error:
        raise NotFoundError(f"cannot read {path}: {(error.strerror or 'unknown reason').lower()}", hint="check its permissions") from error
    if data is None:
        size = path.stat().st_size
        raise JobError(
            f"{path} is too large: {size:,} bytes; the limit for a job or config file is {LARGEST_BYTES:,}",
            hint="put the data in its own file and point data.path at it",
        )
    try:
        return data.decode().removeprefix("\ufeff")
    except UnicodeDecodeError as error:
        before = _LINE_BREAK.split(data[: error.start].decode().removeprefix("\ufeff"))
        place = Place(str(path), len(before), len(before[-1]) + 1)
        message = f"the file is not UTF-8: byte {error.start:,} is 0x{data[error.start]:02x}"
        raise JobFileError([Problem(place, message, expected="a text file in UTF-8")]) from error


def _meant(path: FilePath) -> str | None:
    """The YAML file of the same folder whose name is the closest to the one asked for, as a question."""
    try:
        names = [file.name for file in path.parent.iterdir() if file.suffix in {".yaml", ".yml"} and file.is_file()]
    except OSError:
        return None
    close = get_close_matches(path.name, names, 1)
    return f"did you mean {str(path.with_name(close[0]))!r}?" if close else None


def _compose(text: str, name: str) -> Any:
    # Imported here, because only job and config files need the parser, which takes 25 ms to import.
    from ruamel.yaml import YAML
    from ruamel.yaml.error import MarkedYAMLError, YAMLError
    from ruamel.yaml.reader import ReaderError

    parser = YAML(typ="safe", pure=True)
    parser.composer.warn_double_anchors = False
    parser.Scanner = _shallow_scanner()
    try:
        return parser.compose(text)
    except ReaderError as error:
        before = _LINE_BREAK.split(text[: error.position])
        place = _place(name, _masked_lines(text), len(before) - 1, len(before[-1]))
        problem = Problem(place, f"a character that YAML does not allow: U+{ord(text[error.position]):04X}")
    except MarkedYAMLError as error:
        # Something that is not closed is shown where it was opened.
        is_open = "end of stream" in str(error.problem) or "stream end" in str(error.problem)
        mark = (is_open and error.context_mark) or error.problem_mark or error.context_mark
        place = _place(name, _masked_lines(text), mark.line, mark.column) if mark else Place(name, 1, 1)
        said = " ".join(part for part in (error.context, error.problem) if part)
        if said.startswith("expected a single document"):
            said = "a second document begins here, but a file may contain only one"
        if "'\\t' that cannot start" in said:
            said = "a tab at the beginning of a line"
        is_form = type(error).__name__ in ("ScannerError", "ParserError")
        expected = "spaces for indentation, and quotes around special characters" if is_form else ""
        problem = Problem(place, f"not valid YAML: {said[:_LONGEST_REASON]}", expected)
    except RecursionError:
        problem = Problem(Place(name, 1, 1), f"nested more than {_DEEPEST} levels deep")
    except (YAMLError, ValueError, IndexError, AttributeError, TypeError, AssertionError, NotImplementedError) as error:
        # The parser's own failures on hostile input (such as an odd %-directive) are reported as mistakes in the file.
        problem = Problem(Place(name, 1, 1), f"not valid YAML: {str(error).splitlines()[0] if str(error) else type(error).__name__}")
    raise JobFileError([problem])


def _shallow_scanner() -> Any:
    """The parser's scanner with a limit on nested brackets: at every character it goes through what it keeps for every level."""
    from ruamel.yaml.scanner import Scanner

    class ShallowScanner(Scanner):
        def scan_to_next_token(self) -> None:
            """As YAML allows, tabs may separate tokens, but not indent a line; ruamel.yaml allows them only within brackets."""
            super().scan_to_next_token()
            while self.reader.peek() == "\t" and self.reader.column > 0 and not self.allow_simple_key:
                while self.reader.peek() in " \t":
                    self.reader.forward()
                super().scan_to_next_token()

        def fetch_flow_collection_start(self, *arguments: Any, **options: Any) -> None:
            if len(self.flow_context) > _DEEPEST:
                raise RecursionError
            super().fetch_flow_collection_start(*arguments, **options)

    return ShallowScanner


def _place(name: str, lines: list[str], line: int, column: int) -> Place:
    line = min(line, len(lines) - 1)
    source = lines[line]
    return Place(name, line + 1, min(column, len(source)) + 1, source)


def _masked_lines(text: str) -> list[str]:
    return [masked(line) for line in _LINE_BREAK.split(text)]


def _mask(root: Any, lines: list[str]) -> None:
    """Mask, in the lines that messages show, secrets that only the parsed file reveals: the values under ``env``, where a secret may have
    been put by mistake; values under ``secrets`` that are not names; and URLs with credentials that are written with escapes.
    """
    spans: dict[int, list[tuple[int, int]]] = {}
    waiting = [(root, "", False)]
    seen: set[tuple[int, str]] = set()
    while waiting:
        node, kind, may_be_name = waiting.pop()
        if (id(node), kind) in seen:
            continue
        seen.add((id(node), kind))
        if type(node).__name__ == "MappingNode":
            for key, value in node.value:
                waiting.append((key, "", False))
                below = key.value if node is root and key.value in ("env", "secrets") else kind
                waiting.append((value, below, node is root and below == "secrets"))
        elif type(node).__name__ == "SequenceNode":
            waiting += [(value, kind, may_be_name) for value in node.value]
        elif (kind and not (may_be_name and _VARIABLE.fullmatch(node.value))) or _hides_credentials(node, lines):
            _note_spans(spans, node, lines)
    for number, found in spans.items():
        lines[number] = covered(lines[number], found)


def _hides_credentials(node: Any, lines: list[str]) -> bool:
    """Whether a string is a URL with credentials that were not masked in its line because escapes hide them."""
    if ":/" not in node.value:
        return False
    shown = "".join(lines[node.start_mark.line : node.end_mark.line + 1])
    return ":/" not in shown and without_credentials(node.value) != node.value


def _note_spans(spans: dict[int, list[tuple[int, int]]], node: Any, lines: list[str]) -> None:
    start, end = node.start_mark, node.end_mark
    for number in range(start.line, min(end.line + 1, len(lines))):
        first = start.column if number == start.line else 0
        last = end.column if number == end.line else len(lines[number])
        spans.setdefault(number, []).append((first, last))


class _Walk:
    """Converts nodes to data and collects every mistake."""

    def __init__(self, name: str, lines: list[str]) -> None:
        self.name, self.lines = name, lines
        self.values: dict[Path, Place] = {}
        self.keys: dict[Path, Place] = {}
        self.problems: list[Problem] = []
        self.duplicates: list[Problem] = []
        self._nodes = 0

    def place(self, node: Any) -> Place:
        return _place(self.name, self.lines, node.start_mark.line, node.start_mark.column)

    def convert(self, node: Any, path: Path, above: tuple[Any, ...]) -> Any:
        self.values.setdefault(path, self.place(node))
        self._nodes += 1
        if self._nodes > _MOST_NODES:
            raise JobFileError([Problem(self.place(node), f"more than {_MOST_NODES:,} values, counting what each alias expands to")])
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
        self._mistake(node, f"unsupported tag {shortened(node.tag)!r}", "plain values, without tags")
        return None

    def _items(self, node: Any, path: Path) -> Iterator[tuple[str, Any]]:
        seen: dict[str, Place] = {}
        for key_node, value in node.value:
            place = self.place(key_node)
            if type(key_node).__name__ != "ScalarNode":
                self._mistake(key_node, "a key cannot be a list or a mapping", "a string")
                continue
            key = str(key_node.value)
            if key_node.tag == f"{_TAG}merge":
                self._mistake(key_node, "YAML 1.2 has no merge keys", "each key written out; an alias can replace a whole value")
                continue
            if key in seen:
                self.duplicates.append(Problem(place, f"duplicate key {shortened(key)!r} (first defined on line {seen[key].line})"))
                continue
            key = self._text(key_node, key)
            seen[key] = self.keys[(*path, key)] = place
            if value.start_mark.line > key_node.end_mark.line and value.start_mark.index == value.end_mark.index:
                # The parser places a missing value where the next token begins; a reader looks for it after the colon.
                self.values[(*path, key)] = _place(self.name, self.lines, key_node.end_mark.line, key_node.end_mark.column + 1)
            yield key, value

    def _scalar(self, node: Any) -> Any:
        # Decided by the text alone, because a %YAML directive changes what the parser takes for a number or a boolean.
        text, tag = str(node.value), node.tag.removeprefix(_TAG)
        if tag in ("null", "bool") and text in _WORDS:
            return _WORDS[text]
        if tag in ("int", "float") and _INT.fullmatch(text):
            return self._integer(node, text)
        if tag in ("int", "float") and _FLOAT.fullmatch(text):
            return float(text.lower().replace(".inf", "inf").replace(".nan", "nan"))
        return self._text(node, text)

    def _integer(self, node: Any, text: str) -> int:
        if len(text) > 30:
            self._mistake(node, "the number has more than 30 digits")
            return 0
        return int(text, 0) if text[:2] in ("0o", "0x") else int(text)

    def _text(self, node: Any, text: str) -> str:
        try:
            # JSON, which YAML 1.2 contains, writes a character beyond U+FFFF as the two halves of a surrogate pair.
            text = text.encode("utf-16", "surrogatepass").decode("utf-16")
        except UnicodeDecodeError:
            self._mistake(node, "the string contains half of a surrogate pair")
        if "\0" in text:
            self._mistake(node, "the string contains a NUL character, which cannot be passed to a program")
        return text

    def _mistake(self, node: Any, message: str, expected: str = "") -> None:
        self.problems.append(Problem(self.place(node), message, expected))

"""Every regular expression of the package, and every reader of a job's files, on inputs that are made to take long."""

import ast
import fnmatch
import importlib
import re
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import suppress
from functools import cache
from pathlib import Path
from re import _constants as constants  # type: ignore[attr-defined] # what the module compiles with; there is no public parser
from re import _parser as parser  # type: ignore[attr-defined]  # private, and without types
from typing import Any, NamedTuple

import pytest

from cloud_train.cli.output.terminal import SafeForTerminal
from cloud_train.data import sequences
from cloud_train.docker import engine as docker_engine
from cloud_train.errors import CloudTrainError
from cloud_train.image.context import DATA, NOT_SECRET, SECRETS
from cloud_train.image.ignore import parse_patterns
from cloud_train.job import cloud_names
from cloud_train.job.loading import load_job
from cloud_train.providers.aws import client as aws_client
from cloud_train.providers.aws import state as aws_state
from cloud_train.providers.azure import diagnosis as azure_diagnosis
from cloud_train.providers.azure import state as azure_state
from cloud_train.providers.cloud import request as cloud_request
from cloud_train.spec import types
from cloud_train.spec.secret_names import looks_secret, masked, without_credentials
from cloud_train.storage import azure_errors
from cloud_train.worker.worker_log import Redactor
from tests.attack.doubling import TooSlowError, check_linear

pytestmark = pytest.mark.slow

ROOMS = ("cli", "data", "docker", "image", "job", "orchestrator", "providers", "run", "spec", "storage", "training", "worker")
"""Those with patterns of their own."""
PACKAGE = Path(__file__).parents[2] / "cloud_train"
USES = {"match": "match", "search": "search", "fullmatch": "fullmatch"} | dict.fromkeys(("sub", "split", "findall", "finditer"), "findall")
CALLS = {"compile", *USES}
LARGEST, FLOOR = 16_384, 0.004
"""Characters at most; seconds from which growth is looked at. A linear pattern needs a tenth of that for the largest input."""

REPEATS = (constants.MAX_REPEAT, constants.MIN_REPEAT, constants.POSSESSIVE_REPEAT)

IGNORE_LINES = (
    "**/**/**/**/a",
    "**/**/**/**/**/*a",
    "**/a/**/a/**/a/**/b",
    "**/a*/**/*a/**/*a*/**/b",
    "*a*a*a*a*a*b",
    "**/*a*a*a*a*b/**",
    "a*/a*/a*/*a*a*a?b",
    "[a-c]*[a-c]*[a-c]*[a-c]*d",
    "**/[ab]?*[ab]?*[ab]?*c",
    "a**b",
)


class Found(NamedTuple):
    """A regular expression, and where it stands."""

    place: str
    pattern: "re.Pattern[Any]"
    uses: frozenset[str]
    """The methods that the package calls: search, match, fullmatch, or findall for all that look for every match."""


Made = Callable[[], Sequence[str]]
IN_FUNCTIONS: dict[tuple[str, str], tuple[str, Made]] = {
    ("image/context.py", "'|'.join((fnmatch.translate(pattern) for pattern in patterns))"): (
        "match",
        lambda: ["|".join(map(fnmatch.translate, patterns)) for patterns in (SECRETS, DATA, NOT_SECRET)],
    ),
    ("image/ignore.py", "_expression(cleaned)"): ("fullmatch", lambda: _of_lines(IGNORE_LINES)),
    ("image/ignore.py", "each"): ("fullmatch", list),  # one character class
    ("data/sequences.py", "f\"{word}(?:'{word})*|[^\\\\w\\\\s{_characters('Cc', 'Cf')}]|_\""): (
        "findall",
        lambda: [sequences._pattern().pattern],
    ),
    ("spec/types.py", "cls.pattern"): ("fullmatch", lambda: [each.pattern for each in types.Shorthand.__subclasses__()]),
    ("docker/engine.py", "pattern"): ("search", lambda: [each[0] for each in docker_engine._REFUSALS]),
    ("providers/aws/client.py", "pattern"): ("search", lambda: [each[0] for each in aws_client._REFUSALS]),
    ("providers/cloud/request.py", r"_END.sub('\\\\Z', pattern)"): ("search", lambda: list(_of_descriptions())),
    ("providers/aws/state.py", "pattern"): ("search", lambda: [f"(?i){each[0]}" for each in aws_state._FAILURES]),
    ("providers/aws/request.py", "f'{re.escape(path)}(?=[.:\\\\[])'"): ("match", lambda: [r"Resource\.Volume(?=[.:\[])"]),
    ("image/keyfiles.py", "pattern"): ("search", list),  # the module holds them
    ("job/cloud_names.py", "pattern"): ("fullmatch", lambda: list(cloud_names.EXPECTED)),
    ("storage/registry.py", "form"): (
        "fullmatch",
        lambda: [cloud_names.AZURE_ACCOUNT, cloud_names.AZURE_CONTAINER, *(form for form, _ in cloud_names.BUCKETS.values())],
    ),
    ("providers/gcp/state.py", "pattern"): ("search", list),  # as above
    ("providers/azure/state.py", "pattern"): ("search", lambda: [f"(?i){each[0]}" for each in azure_state._WORDS]),
    ("providers/azure/diagnosis.py", "_action_pattern(each)"): (
        "fullmatch",
        lambda: [f"(?i){azure_diagnosis._action_pattern('*/read*/a*/*a*a*a*b')}"],
    ),
    ("storage/azure_errors.py", "f'({unknown}).{{0,300}}({_NO_SUCH_HOST})'"): (
        "search",
        lambda: [f"(?s)(dns error|Failed to resolve 'a').{{0,300}}({azure_errors._NO_SUCH_HOST})"],
    ),
}
"""File and expression of each pattern that is put together where it is used → how it is used, and what it may come to."""


def _of_lines(ignored: Iterable[str]) -> list[str]:
    return [pattern.expression.pattern for pattern in parse_patterns("\n".join(ignored), "test")]


def _of_descriptions() -> set[str]:
    """The patterns in the clouds' own descriptions of their requests."""
    found: set[str] = set()

    def look(node: object) -> None:
        if isinstance(node, dict):
            if isinstance(node.get("pattern"), str):
                found.add(cloud_request._END.sub(r"\\Z", node["pattern"]))
            for each in node.values():
                look(each)
        elif isinstance(node, list):
            for each in node:
                look(each)

    for cloud in ("aws", "gcp", "azure"):
        look(cloud_request.description(cloud))
    return found - {r"\d+[bBkKmMgG]"}  # of shmSize, which is made here from a number


@cache
def patterns() -> tuple[Found, ...]:
    """All of them: what modules hold, and what is passed to ``re`` in their functions."""
    trees = {path: ast.parse(path.read_text(encoding="utf-8")) for path in sorted(PACKAGE.rglob("*.py"))}
    uses = _uses(trees.values())
    found = (each for path, tree in trees.items() for each in _in_module(path, tree, uses))
    return tuple({(each.place, each.pattern.pattern, each.pattern.flags, each.uses): each for each in found}.values())


def _uses(trees: Iterable[ast.AST]) -> dict[str, set[str]]:
    """Name of a variable → the methods of patterns that are called on it, anywhere in the package."""
    uses: dict[str, set[str]] = {}
    for node in (node for tree in trees for node in ast.walk(tree)):
        if isinstance(node, ast.Attribute) and node.attr in USES and isinstance(node.value, ast.Name | ast.Attribute):
            name = node.value.id if isinstance(node.value, ast.Name) else node.value.attr
            uses.setdefault(name, set()).add(USES[node.attr])
    return uses


def _in_module(path: Path, tree: ast.AST, uses: dict[str, set[str]]) -> Iterator[Found]:
    name = str(path.relative_to(PACKAGE))
    calls = [node for node in ast.walk(tree) if isinstance(node, ast.Call) and _is_of_re(node)]
    if not calls and name != "spec/types.py":
        return
    module = importlib.import_module(f"cloud_train.{name.removesuffix('.py').replace('/', '.')}".removesuffix(".__init__"))
    for key, value in vars(module).items():
        for pattern in _held(value, 3):
            yield Found(name, pattern, frozenset(uses.get(key, {"search"})))
        if key.endswith("_PATTERN") and name == "spec/types.py":
            yield Found(name, re.compile(value), frozenset({"search"}))
    for call in calls:
        yield from _of_call(name, call, vars(module))


def _is_of_re(node: ast.Call) -> bool:
    called = node.func
    return isinstance(called, ast.Attribute) and called.attr in CALLS and isinstance(called.value, ast.Name) and called.value.id == "re"


def _held(value: object, depth: int) -> Iterator["re.Pattern[Any]"]:
    if isinstance(value, re.Pattern):
        yield value
    elif isinstance(value, tuple | list | dict) and depth:
        for each in value.values() if isinstance(value, dict) else value:
            yield from _held(each, depth - 1)


def _of_call(name: str, call: ast.Call, namespace: dict[str, Any]) -> Iterator[Found]:
    method = ast.unparse(call.func).removeprefix("re.")
    written, place = ast.unparse(call.args[0]), f"{name}:{call.lineno}"
    if (name, written) in IN_FUNCTIONS:
        used, made = IN_FUNCTIONS[name, written]
        yield from (Found(place, re.compile(pattern), frozenset({used})) for pattern in made())
        return
    try:
        pattern = eval(written, vars(types) | namespace)  # our own source; some functions import the patterns of sections
    except NameError as error:
        raise AssertionError(f"{place}: add to IN_FUNCTIONS what {written} may come to") from error
    if method != "compile":  # what is compiled is held by its module, or by a function's cache
        flags = (argument.attr for argument in ast.walk(call) if isinstance(argument, ast.Attribute) and argument.attr.isupper())
        yield Found(place, re.compile(pattern, sum(getattr(re, flag) for flag in flags)), frozenset({USES[method]}))
    elif call.col_offset > 0 and not any(each.pattern == pattern for value in namespace.values() for each in _held(value, 3)):
        yield Found(place, re.compile(pattern), frozenset({"findall"}))


def attacks(pattern: "re.Pattern[Any]") -> Iterator[Callable[[int], Any]]:
    """Inputs for a pattern: what it repeats, many times, with and without what it needs before, and with an end that fits nothing."""
    text = pattern.pattern if isinstance(pattern.pattern, str) else pattern.pattern.decode("latin-1")
    tree = parser.parse(text, pattern.flags & ~re.UNICODE if isinstance(pattern.pattern, bytes) else pattern.flags)
    whole = _sample(tree)
    pieces = {("", unit) for unit in _units(tree)} | set(_repeated(tree, ""))
    pieces |= {("", whole), ("", whole[:-1]), ("", whole[1:]), (whole, whole[-1:]), ("", whole + "\n"), (whole[:1], whole[1:])}
    for before, unit in sorted(pieces):
        if not unit:
            continue
        for end in ("", "\0 "):

            def made(size: int, before: str = before, unit: str = unit, end: str = end) -> Any:
                text = before + unit * (size // len(unit)) + end
                return text.encode("latin-1", "replace") if isinstance(pattern.pattern, bytes) else text

            yield made


def _sample(tree: Any) -> str:
    """A text that a parsed pattern fits, or nearly."""
    return "".join(_of_one(kind, value) for kind, value in tree)


def _of_one(kind: Any, value: Any) -> str:
    if kind is constants.LITERAL:
        return chr(value)
    if kind is constants.IN:
        return _member(value)
    if kind in (constants.NOT_LITERAL, constants.ANY):
        return "x"
    if kind in (constants.ASSERT, constants.ASSERT_NOT):
        return ""
    times = max(1, min(value[0], 8)) if kind in REPEATS else 1
    inside = _inside(kind, value)
    return _sample(inside[0]) * times if inside else ""


def _member(items: Any) -> str:
    """A character of a class."""
    for kind, value in items:
        if kind is constants.LITERAL:
            return chr(value)
        if kind is constants.RANGE:
            return chr(value[0])
        if kind is constants.CATEGORY:
            return {"CATEGORY_DIGIT": "1", "CATEGORY_SPACE": " ", "CATEGORY_NOT_SPACE": "x"}.get(str(value), "x")
    return "x"


def _units(tree: Any) -> Iterator[str]:
    """What each part of a pattern fits, by itself."""
    for kind, value in tree:
        yield _of_one(kind, value)
        for inner in _inside(kind, value):
            yield _sample(inner)
            yield from _units(inner)


def _repeated(tree: Any, before: str) -> Iterator[tuple[str, str]]:
    """What each repetition of a pattern repeats, behind what has to come before it."""
    for kind, value in tree:
        if kind in REPEATS and value[1] > 2:
            yield before, _sample(value[2])
            yield before, before + _sample(value[2])
        for inner in _inside(kind, value):
            yield from _repeated(inner, before)
        before += _of_one(kind, value)


def _inside(kind: Any, value: Any) -> Sequence[Any]:
    if kind is constants.BRANCH:
        return [*value[1]]
    if kind in REPEATS:
        return [value[2]]
    if kind is constants.SUBPATTERN:
        return [value[3]]
    if kind in (constants.ASSERT, constants.ASSERT_NOT):
        return [value[1]]
    return [value] if kind is constants.ATOMIC_GROUP else []


@pytest.mark.parametrize("room", ROOMS)
def test_every_pattern_takes_twice_as_long_for_twice_the_input(room: str) -> None:
    slow = []
    for found in patterns():
        if found.place.partition("/")[0] == room:
            try:
                _check(found)
            except TooSlowError as error:
                slow.append(str(error))
    assert not slow, "\n".join(slow)


def _check(found: Found) -> None:
    for attack in attacks(found.pattern):
        for use in found.uses:
            what = f"{found.place}: {found.pattern.pattern!r}: {use} in {attack(64)!r}"
            check_linear(getattr(found.pattern, use), attack, largest=LARGEST, floor=FLOOR, what=what)


def test_the_package_has_patterns_and_a_slow_one_is_found_out() -> None:
    assert len(patterns()) > 80
    assert {found.place.partition("/")[0] for found in patterns()} == set(ROOMS)
    assert {found.pattern.pattern for found in patterns()} >= {types.URL_PATTERN, types.NAME_PATTERN}
    for slow in (r"(?:^|[^a])KEY(?:_[A-Z_]*)?=", r"(a+)+b", r"\s*$", r"a.*b.*c", r"x*x*y"):
        with pytest.raises(TooSlowError):
            _check(Found("a slow one", re.compile(slow), frozenset({"search"})))


TEXTS: dict[str, Callable[[int], str]] = {
    "names of secrets": lambda size: "_KEY" * (size // 4),
    "names that are almost secrets": lambda size: "A_TOKEN_" * (size // 8) + " ",
    "spaces behind a name": lambda size: "TOKEN" + " " * size,
    "names and spaces": lambda size: "TOKEN " * (size // 6),
    "quotes": lambda size: "KEY'" * (size // 4),
    "schemes": lambda size: "a://" * (size // 4),
    "users": lambda size: "a://b:c@" * (size // 8),
    "users without an end": lambda size: "a://b:c" * (size // 7),
    "queries": lambda size: "a://b?c" * (size // 7),
    "ports": lambda size: "a://b:1/" * (size // 8) + "@",
    "one long address": lambda size: "https://" + "a" * size,
    "addresses with spaces": lambda size: "https://a:b@c?d " * (size // 16),
    "escapes": lambda size: "\x1b[" * (size // 2),
    "an open escape": lambda size: "\x1b[" + "0" * size,
    "open titles": lambda size: "\x1b]" * (size // 2),
    "escapes with spaces": lambda size: "\x1b[0 " * (size // 4),
    "combining marks": lambda size: "a" + "\u0301" * size,
}
READERS: dict[str, Callable[[str], object]] = {
    "masked": masked,
    "without_credentials": without_credentials,
    "looks_secret": looks_secret,
    "a redactor": Redactor(["secret", "_KEY_KEY_KEY"]).clean,
    "a terminal": lambda text: SafeForTerminal().add(text.encode()),
    "words": lambda text: sequences.tokenize(text, "words"),
}


@pytest.mark.parametrize("reader", READERS)
@pytest.mark.parametrize("text", TEXTS)
def test_a_reader_of_text_takes_twice_as_long_for_twice_the_text(reader: str, text: str) -> None:
    check_linear(READERS[reader], TEXTS[text], largest=131_072, floor=0.02, what=f"{reader} of {text}")


@pytest.mark.parametrize("line", IGNORE_LINES)
@pytest.mark.parametrize("path", ["a/", "a", "aa/", "ab/a", "aaaa/b"])
def test_a_line_of_dockerignore_takes_twice_as_long_for_twice_the_path(line: str, path: str) -> None:
    (pattern,) = parse_patterns(line, ".dockerignore")
    for end in ("", "a", "b", "x"):

        def long(size: int, end: str = end) -> str:
            return path * (size // len(path)) + end

        check_linear(pattern.matches, long, largest=LARGEST, floor=FLOOR, what=f"{line} {path}")


HEAD = "name: a\nmodel: {kind: script, command: 'true'}\n"
JOBS: dict[str, Callable[[int], str]] = {
    "names of secrets in a comment": lambda size: f"{HEAD}# {'_KEY' * (size // 4)}\n",
    "values under env on one line": lambda size: HEAD + "env: {" + ", ".join(f"a{number}: b" for number in range(size // 10)) + "}\n",
    "numbers under env on one line": lambda size: HEAD + "env: {" + ", ".join(f"a{number}: 1" for number in range(size // 10)) + "}\n",
    "secrets that are no names": lambda size: HEAD + "secrets: [" + ", ".join(["a-"] * (size // 4)) + "]\n",
    "env and secrets alike": lambda size: (
        HEAD
        + "env: {"
        + ", ".join(f"A{number}: x" for number in range(size // 20))
        + "}\nsecrets: ["
        + ", ".join(f"A{number}" for number in range(size // 20))
        + "]\n"
    ),
    "numbers in a command": lambda size: HEAD.replace("'true'", "[" + ", ".join(["1"] * (size // 3)) + "]"),
    "unknown keys": lambda size: HEAD + "".join(f"k{number}: 1\n" for number in range(size // 9)),
    "one key again and again": lambda size: HEAD + "a: 1\n" * (size // 5),
    "blocks": lambda size: "name: a\nmodel: {kind: cnn, blocks: [" + ", ".join(["{a: 1}"] * (size // 8)) + "]}\n",
    "brackets in brackets": lambda size: f"{HEAD}x: {'[' * (size // 2)}{']' * (size // 2)}\n",
    "brackets without an end": lambda size: f"{HEAD}x: {'[' * size}\n",
    "mappings in mappings": lambda size: f"{HEAD}x: {'{a: ' * (size // 5)}{'}' * (size // 5)}\n",
    "deeper with every line": lambda size: HEAD + "".join(f"{' ' * depth}a:\n" for depth in range(int((2 * size) ** 0.5))),
    "keys of keys": lambda size: "? " * (size // 2),
    "a billion laughs": lambda size: (
        f"{HEAD}a0: &a0 [1, 1]\n" + "".join(f"a{number}: &a{number} [{f'*a{number - 1}, ' * 9}1]\n" for number in range(1, size // 90))
    ),
    "aliases of one value": lambda size: f"{HEAD}x: [&a 1{', *a' * (size // 4)}]\n",
    "an alias of itself": lambda size: f"{HEAD}x: &a [*a]\n" + "#" * size,
    "escapes": lambda size: HEAD + 'x: "' + "\\ud83d\\ude00" * (size // 12) + '"\n',
    "addresses": lambda size: f"{HEAD}store: {'https://a:b@c?d=e&' * (size // 18)}\n",
    "a long number": lambda size: f"{HEAD}x: {'1' * size}\n",
    "tags": lambda size: HEAD + "x: [" + ", ".join(["!a 1"] * (size // 6)) + "]\n",
}


@pytest.mark.parametrize("job", JOBS)
def test_a_job_file_takes_twice_as_long_for_twice_the_text(job: str, tmp_path: Path) -> None:
    def load(text: str) -> None:
        (tmp_path / "job.yaml").write_text(text)
        with suppress(CloudTrainError):
            load_job(tmp_path / "job.yaml")

    check_linear(load, JOBS[job], largest=16_384, floor=0.08, what=job)


def test_deep_nesting_is_refused_at_once_in_words(tmp_path: Path) -> None:
    (tmp_path / "job.yaml").write_text(HEAD + "x: " + "[" * 100_000 + "\n")
    with pytest.raises(CloudTrainError, match="nested more than 32 levels deep"):
        load_job(tmp_path / "job.yaml")

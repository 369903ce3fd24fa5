"""The rules of .dockerignore, compared with what BuildKit itself does."""

import io
import os
import re
import subprocess
import tarfile
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from cloud_train.image.context import survey
from cloud_train.image.errors import ImageError
from cloud_train.image.ignore import Patterns, parse_patterns
from cloud_train.image.prepared import clients
from tests.docker_engine import engine_or_skip

FILES = """
README readme main.py main.pyo notes+draft.txt a.b axb x[1].txt x1.txt -dash (odd)$^.txt star*.txt
data/train.csv data/keep.csv data/deep/more/test.csv data/deep/keep.csv
cache/x.txt cache/keep.txt src/cache/y.txt src/cache/deep/keep.txt src/main.py src/Main.py src/a/b/c.py src/a/b/d.txt
sub/data/x.csv sub/secret/key sub/secret/public/key secrets secretive/file empty/only.tmp
"""

RULES = {
    "plain": "data\nreadme\n",
    "slashes": "/data/\n./src/main.py\nsub/../cache\n//secretive\n",
    "stars": "*.py\ndata/*.csv\n*/*.txt\n",
    "double stars": "**/cache\n**/*.csv\nsrc/**/c.py\n",
    "everything but": "*\n!src\n!data/keep.csv\n",
    "again ignored": "data\n!data/deep\ndata/deep/more\n",
    "classes": "x[0-9].txt\nsrc/[^M]ain.py\na[.x]b\n",
    "question marks": "a?b\nsrc/?/b/?.py\n",
    "escapes": "x\\[1].txt\nstar\\*.txt\n",
    "comments and spaces": "# data\n  readme  \n\n #main.py\n! readme\n",
    "a trailing double star": "src/**\n!src/a/b\n",
    "windows": "\ufeffdata\r\nreadme\r\n",
    "everything": "**\n",
    "a dot": ".\n",
    "a name's beginning": "secret\nempty/*\n!empty/only.tm\n",
}


@pytest.mark.parametrize("rules", RULES.values(), ids=RULES.keys())
def test_the_same_files_are_left_out_as_by_buildkit(tmp_path: Path, rules: str) -> None:
    engine_or_skip().close()
    fill(tmp_path, rules)
    assert {entry.path for entry in survey(tmp_path).entries} == by_buildkit(tmp_path) - {".dockerignore"}


# What Docker does since version 23; the engine that CI has is older.
@pytest.mark.parametrize(
    ("rules", "expected"),
    [
        ("**\n!**/*.py\n", {"main.py", "src/main.py", "src/Main.py", "src/a/b/c.py"}),
        ("**\n!sub/*/public\n", {"sub/secret/public/key"}),
        ("*\n!cache\n**/cache\n!cache/keep.txt\n", {"cache/keep.txt"}),
        ("**/*\n!**/deep/keep.txt\n", {"src/cache/deep/keep.txt"}),
        ("*\n!src\n**c.py\n**/cache\nsrc/?ain.py\n", {"src/a/b/d.txt"}),
    ],
)
def test_a_wildcard_brings_back_from_ignored_folders_too(tmp_path: Path, rules: str, expected: set[str]) -> None:
    fill(tmp_path, rules)
    assert {entry.path for entry in survey(tmp_path).entries if entry.kind == "file"} == expected


def test_characters_that_mean_something_elsewhere_mean_themselves() -> None:
    patterns = Patterns(parse_patterns("(odd)$^.txt\nnotes+*.txt\na|b\n{x}", "test"))
    assert all(patterns.ignores(name) for name in ("(odd)$^.txt", "notes+draft.txt", "a|b", "{x}"))
    assert not any(patterns.ignores(name) for name in ("odd", "notessdraft.txt", "a", "x"))


def fill(folder: Path, rules: str) -> None:
    for name in FILES.split():
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_text("x")
    (folder / ".dockerignore").write_text(rules)


def by_buildkit(folder: Path) -> set[str]:
    dockerfile = folder.parent / f"{folder.name}.Dockerfile"
    dockerfile.write_text("FROM scratch\nCOPY . /\n")
    for client in clients():
        finished = subprocess.run(
            [client, "build", "--output", "-", "-f", str(dockerfile), str(folder)],
            env={**os.environ, "DOCKER_BUILDKIT": "1"},
            capture_output=True,
            check=False,
        )
        if finished.returncode == 0:
            with tarfile.open(fileobj=io.BytesIO(finished.stdout)) as archive:
                return {name.strip("/") for name in archive.getnames()}
    raise AssertionError(finished.stderr.decode())


@pytest.mark.parametrize("line", ["[a", "!", "a[]"])
def test_a_line_that_is_no_pattern_is_an_error_with_its_number(line: str) -> None:
    with pytest.raises(ImageError, match=r"\.dockerignore, line 2"):
        parse_patterns(f"fine\n{line}\n", ".dockerignore")


def test_a_newline_in_a_name_is_a_character_like_others() -> None:
    patterns = Patterns(parse_patterns("*.txt\nexact", "test"))
    assert patterns.ignores("two\nlines.txt")
    assert not patterns.ignores("exact\n")


@given(st.lists(st.sampled_from(["a", "b", "/", "*", "**", "**/", "/**/", "?", "[ab]", "[!-.]"]), min_size=1, max_size=8), st.data())
def test_what_a_line_matches_is_what_a_plain_translation_of_it_matches(parts: list[str], data: st.DataObject) -> None:
    line = "".join(parts)
    try:
        patterns = parse_patterns(line, "test")
    except ImageError:
        return  # '**' inside a name beside other wildcards, which is refused
    path = data.draw(st.text("ab/.", max_size=10))
    for pattern in patterns:
        assert pattern.matches(path) is (re.fullmatch(plain(pattern.text), path) is not None), (pattern.text, path)


def plain(pattern: str) -> str:
    """Docker's own translation: its regular expressions need not mind how often wildcards follow each other."""
    expression = ""
    while pattern:
        if pattern.startswith("**"):
            pattern = pattern[2:].removeprefix("/")
            expression += r"([\s\S]*/)?" if pattern else r"[\s\S]*"
        else:
            found = re.match(r"\[[^]]*\]", pattern)
            token = found[0] if found else pattern[0]
            expression += {"*": "[^/]*", "?": "[^/]"}.get(token, token if found else re.escape(token))
            pattern = pattern[len(token) :]
    return expression


@pytest.mark.parametrize("line", ["a**b*", "**a*", "*[^a]*"])
def test_wildcards_that_would_be_tried_in_every_combination_are_refused_in_words(line: str) -> None:
    with pytest.raises(ImageError, match=r"line 1: .* is not supported"):
        parse_patterns(line, "test")

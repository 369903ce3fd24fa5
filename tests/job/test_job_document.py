import os
import stat
from pathlib import Path
from typing import Any

import pytest

from cloud_train.errors import JobError, NotFoundError
from cloud_train.job.document import LARGEST_BYTES, parse_document, parse_value, read_document
from cloud_train.spec.problems import JobFileError, Problem

SCALARS: dict[str, Any] = {
    "1e-3": 0.001,
    "1e3": 1000.0,
    ".5": 0.5,
    "1.": 1.0,
    "-.INF": float("-inf"),
    "12": 12,
    "+12": 12,
    "012": 12,
    "0o17": 15,
    "0x1F": 31,
    "true": True,
    "FALSE": False,
    "~": None,
    "null": None,
    "": None,
    "no": "no",
    "Yes": "Yes",
    "on": "on",
    "2026-01-01": "2026-01-01",
    "12:30:45": "12:30:45",
    "1_000": "1_000",
    "0b11": "0b11",
    "1.5e": "1.5e",
    "'12'": "12",
    '"true"': "true",
    "!!str 12": "12",
    "!!bool yes": "yes",
    "=": "=",
}


def problems(text: str) -> tuple[Problem, ...]:
    with pytest.raises(JobFileError) as caught:
        parse_document(text, "job.yaml")
    return caught.value.problems


@pytest.mark.parametrize(("text", "value"), SCALARS.items())
def test_a_plain_word_means_what_the_core_schema_of_yaml_1_2_says(text: str, value: Any) -> None:
    found = parse_document(f"a: {text}\n", "job.yaml").data["a"]
    assert (found, type(found)) == (value, type(value))


def test_a_directive_for_yaml_1_1_changes_no_value() -> None:
    assert parse_document("%YAML 1.1\n---\na: yes\nb: 010\nc: 1_0\n", "job.yaml").data == {"a": "yes", "b": 10, "c": "1_0"}


def test_every_key_and_value_has_its_place() -> None:
    document = parse_document("a:\n  - b: 1\n  - [2, x]\n", "job.yaml")
    assert document.data == {"a": ({"b": 1}, (2, "x"))}
    places = {path: (place.line, place.column) for path, place in document.values.items()}
    assert places[("a", 0, "b")] == (2, 8)
    assert places[("a", 1, 1)] == (3, 9)
    assert (document.keys[("a", 0, "b")].line, document.keys[("a", 0, "b")].column) == (2, 5)


@pytest.mark.parametrize("line_break", ["\n", "\r\n", "\r"])
def test_lines_are_counted_whatever_ends_them(line_break: str) -> None:
    place = parse_document(f"a: 1{line_break}{line_break}b: 2{line_break}", "job.yaml").values[("b",)]
    assert (place.line, place.column, place.source) == (3, 4, "b: 2")


def test_json_is_yaml_also_beyond_the_basic_plane() -> None:
    assert parse_document('{"a": "\\ud83d\\ude00"}', "job.yaml").data == {"a": "\U0001f600"}


def test_an_alias_stands_for_its_value() -> None:
    assert parse_document("a: &x [1, 2]\nb: *x\n", "job.yaml").data == {"a": (1, 2), "b": (1, 2)}


MISTAKES = {
    "a: 1\na: 2\n": (2, 1, "duplicate key 'a' (first defined on line 1)"),
    "a: &x {b: *x}\n": (1, 4, "an alias that contains itself"),
    "a: *x\n": (1, 4, "undefined alias"),
    "a: 1\nb: !thing 3\n": (2, 4, "unsupported tag '!thing'"),
    "a: !!python/object:os.system x\n": (1, 4, "python/object"),
    "a: !!binary aGk=\n": (1, 4, "binary"),
    "a: 1\n---\nb: 2\n": (2, 1, "a second document"),
    "? [a]\n: b\n": (1, 3, "a key cannot be a list or a mapping"),
    "a: {<<: {b: c}}\n": (1, 5, "no merge keys"),
    "a: 'x\n\nb: 1\n": (1, 4, "unexpected end of stream"),
    "a: [1\n\n": (1, 4, "while parsing a flow sequence"),
    "a: b: c\n": (1, 5, "not valid YAML"),
    "\ta: b\n": (1, 1, "not valid YAML"),
    "ok: 1\na: \x07\n": (2, 4, "U+0007"),
    'a: "\\0"\n': (1, 4, "contains a NUL"),
    'a: "\\ud800"\n': (1, 4, "half of a surrogate pair"),
    f"a: {'9' * 31}\n": (1, 4, "more than 30 digits"),
    "": (1, 1, "the file is empty"),
    "# only words\n": (1, 1, "the file is empty"),
    "- a\n": (1, 1, "the file contains a list"),
    "word\n": (1, 1, "the file contains a single value"),
}


@pytest.mark.parametrize(("text", "wanted"), MISTAKES.items(), ids=[repr(text)[:20] for text in MISTAKES])
def test_what_a_document_may_not_hold_is_refused_at_its_place(text: str, wanted: tuple[int, int, str]) -> None:
    (problem,) = problems(text)
    assert (problem.place.line, problem.place.column) == wanted[:2]
    assert wanted[2] in problem.message


def test_mistakes_of_form_are_reported_together() -> None:
    found = problems("a: 1\na: 2\nb: !x 1\nc: {<<: 1}\n")
    assert [problem.place.line for problem in found] == [2, 3, 4]


@pytest.mark.slow
def test_an_alias_bomb_is_refused_without_being_expanded() -> None:
    lines = ["a0: &a0 [x, x]", *(f"a{n}: &a{n} [*a{n - 1}, *a{n - 1}]" for n in range(1, 60))]  # 2^60 values
    (problem,) = problems("\n".join(lines))
    assert "more than 20,000 values" in problem.message


@pytest.mark.parametrize("bracket", ["[", "{", "- ", "? ", "[{a: "])
def test_nesting_without_end_is_refused(bracket: str) -> None:
    (problem,) = problems("a:\n  " + bracket * 1_000)
    assert "levels deep" in problem.message or "not valid YAML" in problem.message


def test_a_long_line_is_cut_around_the_mistake() -> None:
    rendered = problems(f"a: [{'x, ' * 500}!no 1, {'x, ' * 500}x]\n")[0].render()
    line, caret = rendered.splitlines()[1:3]
    assert len(line) < 110
    assert line[caret.index("^") :].startswith("!no 1")


def test_a_value_under_env_is_never_shown() -> None:
    text = 'a: 1\na: 2\nenv:\n  A: hunter2\n  B: |\n    hunter2\n    hunter2\n  A: "hunter2"\nsecrets: [hunter-2, NAME]\n'
    with pytest.raises(JobFileError) as caught:
        parse_document(text, "job.yaml")
    assert [problem.place.line for problem in caught.value.problems] == [2, 8]
    assert "hunter" not in caught.value.message


def test_a_secret_is_not_shown_though_the_file_cannot_be_parsed() -> None:
    with pytest.raises(JobFileError) as caught:
        parse_document("env: {WANDB_API_KEY: 'hunter2\n", "job.yaml")
    assert "hunter2" not in caught.value.message
    assert "WANDB_API_KEY" in caught.value.message


def test_a_value_of_the_command_line_is_yaml_and_otherwise_text() -> None:
    texts = ["3", "1e-3", "[1, a]", "{a: 1}", "", "a: b: c", "[", "no"]
    assert [parse_value(text, "--set") for text in texts] == [3, 0.001, (1, "a"), {"a": 1}, "", "a: b: c", "[", "no"]


def test_a_byte_order_mark_is_no_mistake(tmp_path: Path) -> None:
    (tmp_path / "job.yaml").write_bytes(b"\xef\xbb\xbfa: 1\n")
    assert read_document(tmp_path / "job.yaml").data == {"a": 1}


@pytest.mark.parametrize(
    ("data", "place"), [(b"a: 1\nb: \xff\n", (2, 4)), ("a: 1\n".encode("utf-16"), (1, 1)), ("a: ä\n".encode("latin-1"), (1, 4))]
)
def test_what_is_not_utf_8_is_refused_at_its_place(tmp_path: Path, data: bytes, place: tuple[int, int]) -> None:
    (tmp_path / "job.yaml").write_bytes(data)
    with pytest.raises(JobFileError, match="not UTF-8") as caught:
        read_document(tmp_path / "job.yaml")
    (problem,) = caught.value.problems
    assert (problem.place.line, problem.place.column) == place


def test_a_file_of_10_mb_is_refused_by_its_size_and_not_read(tmp_path: Path) -> None:
    file = tmp_path / "job.yaml"
    with file.open("wb") as stream:
        stream.truncate(10_000_000)
    with pytest.raises(JobError) as caught:
        read_document(file)
    assert f"{file} is too large: 10,000,000 bytes" in caught.value.message
    assert f"{LARGEST_BYTES:,}" in caught.value.message
    assert caught.value.hint


@pytest.mark.parametrize("name", ["missing.yaml", "folder", "pipe", "folder/x\0y", "a" * 300, "/dev/zero"])
def test_what_is_no_file_is_said_to_be_none(tmp_path: Path, name: str) -> None:
    (tmp_path / "folder").mkdir()
    os.mkfifo(tmp_path / "pipe")
    with pytest.raises(NotFoundError) as caught:
        read_document(tmp_path / name)
    assert name in caught.value.message
    assert caught.value.hint


@pytest.mark.skipif(os.geteuid() == 0, reason="root may read everything")
def test_a_file_without_permission_is_told_so(tmp_path: Path) -> None:
    file = tmp_path / "job.yaml"
    file.write_text("a: 1\n")
    file.chmod(stat.S_IWUSR)
    with pytest.raises(NotFoundError, match="permission denied"):
        read_document(file)


def test_a_mistyped_file_name_is_answered_with_the_nearest_yaml_file_of_the_folder(tmp_path: Path) -> None:
    for name in ("job.yaml", "other.yaml", "jbo.txt"):
        (tmp_path / name).write_text("a: 1\n")
    (tmp_path / "jab.yaml").mkdir()
    with pytest.raises(NotFoundError) as caught:
        read_document(tmp_path / "jb.yml")
    assert caught.value.hint == f"did you mean {str(tmp_path / 'job.yaml')!r}?"
    with pytest.raises(NotFoundError) as caught:
        read_document(tmp_path / "missing" / "jb.yaml", "as given")
    assert caught.value.hint == "as given"

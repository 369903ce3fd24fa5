"""Labelled lines: reading, cutting into tokens, numbering."""

from pathlib import Path
from typing import Any

import pytest

from cloud_train.data.sequences import Line, SequencesData, encode, numbered, tokenize, vocabulary
from cloud_train.spec.problems import FieldError


def data(**fields: Any) -> SequencesData:
    return SequencesData(**{"dataset": "sequences", "path": "lines.tsv", **fields})


def refused(path: Path, **fields: Any) -> FieldError:
    with pytest.raises(FieldError) as caught:
        data(**fields).read(path)
    return caught.value


def test_a_line_is_a_label_a_tab_and_a_text(tmp_path: Path) -> None:
    (tmp_path / "lines.tsv").write_text("good\tfine film\nbad\tno, no\n good \t with\ttabs \n", encoding="utf-8")
    lines, validation, *_ = data().read(tmp_path / "lines.tsv")
    assert lines == [Line("good", "fine film"), Line("bad", "no, no"), Line("good", " with\ttabs ")]
    assert validation is None


def test_a_byte_order_mark_windows_line_ends_and_empty_lines_are_no_text(tmp_path: Path) -> None:
    (tmp_path / "lines.tsv").write_bytes(b"\xef\xbb\xbf\r\ngood\tone\r\n\r\n  \nbad\ttwo")
    assert data().read(tmp_path / "lines.tsv")[0] == [Line("good", "one"), Line("bad", "two")]


def test_only_a_line_feed_ends_a_line(tmp_path: Path) -> None:
    (tmp_path / "lines.tsv").write_text("a\tone\u2028two\x0bthree\x85four\rfive\nb\tx\n", encoding="utf-8", newline="")
    assert data().read(tmp_path / "lines.tsv")[0][0].text == "one\u2028two\x0bthree\x85four\rfive"


def test_a_folder_has_lines_to_train_on_and_perhaps_lines_to_validate_with(tmp_path: Path) -> None:
    (tmp_path / "train.tsv").write_text("a\t1\nb\t2\n")
    assert data().read(tmp_path)[:3] == ([Line("a", "1"), Line("b", "2")], None, None)
    (tmp_path / "validation.tsv").write_text("b\t3\n")
    assert data().read(tmp_path)[:3] == ([Line("a", "1"), Line("b", "2")], [Line("b", "3")], None)
    (tmp_path / "TEST.tsv").write_text("a\t4\n")
    assert data().read(tmp_path).test == [Line("a", "4")]
    (tmp_path / "dev.tsv").write_text("b\t3\n")
    assert refused(tmp_path).reason == f"{tmp_path / 'dev.tsv'} and {tmp_path / 'validation.tsv'} have the same purpose"


def test_the_other_files_of_a_folder_and_labels_of_one_line_are_remarked_on(tmp_path: Path) -> None:
    (tmp_path / "train.tsv").write_text("a\t1\na\t2\nb\t3\n")
    for name in ("more.tsv", "notes.md", "unlabelled.csv", ".hidden.tsv", "._train.tsv"):
        (tmp_path / name).write_text("c\t4\n")
    assert data().read(tmp_path).remarks == (
        "3 files are not read as lines: 1 .csv, 1 .md, 1 .tsv (only train.tsv, validation.tsv, test.tsv are)",
        "a label has a single training line: 'b'",
    )
    (tmp_path / "train.tsv").write_text("".join(f"{label}\t1\n" for label in "abcde"))
    assert data().read(tmp_path).remarks[1] == "5 labels have a single training line: 'a', 'b', 'c', …"


def test_names_of_columns_are_no_sample(tmp_path: Path) -> None:
    (tmp_path / "lines.tsv").write_text("Label\tText\ngood\tfine\nbad\tpoor\n")
    assert refused(tmp_path / "lines.tsv").reason == f"{tmp_path / 'lines.tsv'}:1: 'Label' and 'Text' look like the names of columns"
    (tmp_path / "lines.tsv").write_text("x\tx\nx\ty\nbad\tpoor\n")
    assert len(data().read(tmp_path / "lines.tsv").train) == 3, "a label that occurs again is one"


def test_two_spellings_of_a_label_are_refused(tmp_path: Path) -> None:
    (tmp_path / "lines.tsv").write_text("caf\u00e9\tone\ncafe\u0301\ttwo\nth\u00e9\tthree\n", encoding="utf-8")
    assert "the label 'café' occurs with composed and with decomposed characters" in refused(tmp_path / "lines.tsv").reason


@pytest.mark.parametrize(
    ("third", "problem"),
    [
        (b"no tab here", "no tab in 'no tab here'"),
        (b"x" * 1000, "no tab in 'xxx"),
        (b"\ttext", "no label before the tab"),
        (b"  \ttext", "no label before the tab"),
        (b"label\t", "no text after the tab"),
        (b"label\t \t \xe2\x80\x8b", "no text after the tab"),
        (b"label\tb\xf6se", "not UTF-8: byte 24 of the file is 0xf6"),
    ],
)
@pytest.mark.parametrize("unit", ["words", "characters"])
def test_a_line_that_cannot_be_used_is_named_with_its_number(tmp_path: Path, third: bytes, problem: str, unit: str) -> None:
    path = tmp_path / "lines.tsv"
    path.write_bytes(b"a\tfirst\n\nb\tthird\n" + third + b"\nb\tfifth\n")
    error = refused(path, tokens=unit)
    assert error.path == ("data", "path")
    assert error.reason.startswith(f"{path}:4: {problem}")
    assert len(error.reason) < 400
    assert error.hint


def test_the_number_of_a_line_that_is_not_utf_8_counts_lines_behind_a_byte_order_mark(tmp_path: Path) -> None:
    (tmp_path / "lines.tsv").write_bytes(b"\xef\xbb\xbfa\tone\n\xff")
    assert refused(tmp_path / "lines.tsv").reason.startswith(f"{tmp_path / 'lines.tsv'}:2: not UTF-8")


def test_a_label_that_training_lacks_is_named(tmp_path: Path) -> None:
    (tmp_path / "train.tsv").write_text("a\t1\nb\t2\n")
    (tmp_path / "validation.tsv").write_text("b\t3\nc\t4\n")
    assert refused(tmp_path).reason == f"{tmp_path / 'validation.tsv'}:2: the label 'c' does not occur in the training lines"


@pytest.mark.parametrize("content", ["", "\n \n\r\n", "\ufeff"])
def test_a_file_without_a_line_is_refused(tmp_path: Path, content: str) -> None:
    (tmp_path / "lines.tsv").write_text(content, encoding="utf-8")
    assert refused(tmp_path / "lines.tsv").reason == f"{tmp_path / 'lines.tsv'} contains no lines"


def test_a_validation_file_without_a_line_is_refused(tmp_path: Path) -> None:
    (tmp_path / "train.tsv").write_text("a\t1\nb\t2\n")
    (tmp_path / "validation.tsv").write_text("")
    assert refused(tmp_path).reason == f"{tmp_path / 'validation.tsv'} contains no lines"


def test_one_label_for_all_lines_leaves_nothing_to_learn(tmp_path: Path) -> None:
    (tmp_path / "lines.tsv").write_text("same\tone\nsame\ttwo\n")
    assert refused(tmp_path / "lines.tsv").reason == f"{tmp_path / 'lines.tsv'}: every training line has the label 'same'"


def test_a_path_without_lines_is_named(tmp_path: Path) -> None:
    import os

    os.mkfifo(tmp_path / "pipe")
    for path, reason in (
        (tmp_path / "gone.tsv", f"{tmp_path / 'gone.tsv'}: no such file or directory"),
        (tmp_path, f"{tmp_path / 'train.tsv'}: no such file or directory"),
        (tmp_path / "pipe", f"{tmp_path / 'pipe'} is not a file"),
    ):
        assert refused(path).reason == reason


def test_more_than_a_gibibyte_is_refused_unread(tmp_path: Path) -> None:
    with (tmp_path / "lines.tsv").open("wb") as file:
        file.truncate((1 << 30) + 1)
    assert refused(tmp_path / "lines.tsv").reason == f"{tmp_path / 'lines.tsv'} is larger than 1 GiB"


def test_what_is_wrong_with_a_download_is_said_of_its_url(tmp_path: Path) -> None:
    (tmp_path / "lines.tsv").write_text("no tab")
    with pytest.raises(FieldError) as caught:
        data(path=None, url="https://x/y", sha256="0" * 64).read(tmp_path / "lines.tsv")
    assert caught.value.path == ("data", "url")


@pytest.mark.parametrize(
    ("text", "tokens"),
    [
        ("Two words, 3 marks!", ["two", "words", ",", "3", "marks", "!"]),
        ("Don't; don’t", ["don't", ";", "don't"]),
        ("'quoted' dogs' rock'n'roll", ["'", "quoted", "'", "dogs", "'", "rock'n'roll"]),
        ("snake_case 3.14 a-b", ["snake", "_", "case", "3", ".", "14", "a", "-", "b"]),
        ("...", [".", ".", "."]),
        ("ÜBER straße ΑΣ", ["über", "straße", "ας"]),
        ("e\u0301te\u0301 हिन्दी में", ["e\u0301te\u0301", "हिन्दी", "में"]),
        ("İx", ["i\u0307x"]),
        ("映画 great😀", ["映画", "great", "😀"]),
        ("a\u200bb\x00c\u2028d\u00a0e\tf", ["a", "b", "c", "d", "e", "f"]),
        (" \u0301 ", ["\u0301"]),
        ("", []),
        (" \n ", []),
    ],
)
def test_words_are_runs_of_letters_and_digits_and_single_marks(text: str, tokens: list[str]) -> None:
    assert tokenize(text, "words") == tokens


def test_plain_and_other_texts_are_cut_by_the_same_rule() -> None:
    plain = "".join(map(chr, range(128))) + " it's 'x' 1'2 a''b"
    with_others = " ".join(f"{piece}—" for piece in plain.split())
    assert [token for token in tokenize(with_others, "words") if token != "—"] == tokenize(plain, "words")


def test_characters_are_those_of_the_text_as_they_are() -> None:
    assert tokenize("A ’b\t", "characters") == ["A", " ", "’", "b", "\t"]


def test_the_vocabulary_is_the_most_frequent_tokens_and_ties_are_in_order() -> None:
    lines = [Line("x", "b a, b a"), Line("y", "c. B")]
    assert vocabulary(lines, "words", 10) == ("b", "a", ",", ".", "c")
    assert vocabulary(lines, "words", 2) == ("b", "a")
    assert vocabulary([Line("x", "abba b")], "characters", 2) == ("b", "a")


def test_tokens_are_numbered_from_1_and_others_are_0() -> None:
    numbers = numbered(("b", "a"))
    assert encode("A b c a", numbers, "words", 10) == [2, 1, 0, 2]
    assert encode("A b c a", numbers, "words", 2) == [2, 1]

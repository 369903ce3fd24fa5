from pathlib import Path

import pytest

from cloud_train.job.corpus import read_text, split, vocabulary
from cloud_train.job.datasets import describe, sequences
from cloud_train.job.models import DigitsData, PythonDocsData, TextData
from cloud_train.job.problems import FieldError


def own(path: str, sequence_length: int = 4, validation: float = 0.5) -> TextData:
    return TextData(dataset="text", path=path, sequence_length=sequence_length, validation=validation)


def refused(data: TextData | DigitsData, directory: Path) -> FieldError:
    with pytest.raises(FieldError) as caught:
        describe(data, directory)
    return caught.value


def test_the_digits_are_split_by_the_fraction(tmp_path: Path) -> None:
    facts = describe(DigitsData(dataset="digits", size=12, validation=0.25), tmp_path)
    assert (facts.sample_shape, facts.classes, facts.train_samples, facts.validation_samples) == ((12, 12, 1), 10, 1348, 449)


def test_the_python_documentation_is_there_and_is_english(tmp_path: Path) -> None:
    text = read_text(PythonDocsData(dataset="python-docs"), tmp_path)
    assert len(text) > 400_000
    assert 'The "return" statement' in text
    assert text == read_text(PythonDocsData(dataset="python-docs"), tmp_path)


def test_a_text_is_cut_into_sequences_that_follow_each_other(tmp_path: Path) -> None:
    (tmp_path / "a.txt").write_text("abcdefghijklmnopqrst", encoding="utf-8")  # 14 to train on, 6 to validate with
    facts = describe(own("a.txt", 4, 0.3), tmp_path)
    assert (facts.classes, facts.train_samples, facts.validation_samples, facts.sample_shape) == (20, 3, 1, (4,))


def test_a_sequence_needs_one_character_more_than_its_length() -> None:
    assert [sequences(characters, 4) for characters in (4, 5, 8, 9)] == [0, 1, 1, 2]


def test_the_validation_text_is_the_end_of_the_text() -> None:
    assert split("abcdefghij", 0.3) == ("abcdefg", "hij")


def test_the_vocabulary_is_sorted_by_code_points() -> None:
    assert vocabulary("büb a\n") == "\n abü"


def test_a_folder_is_read_in_the_order_of_its_names(tmp_path: Path) -> None:
    for name in ("b.txt", "a.txt", "c.md"):
        (tmp_path / name).write_text(f"this is {name}", encoding="utf-8")
    assert read_text(own("."), tmp_path) == "this is a.txt\n\nthis is b.txt"


def test_windows_line_ends_and_a_byte_order_mark_are_not_learned(tmp_path: Path) -> None:
    (tmp_path / "a.txt").write_bytes(b"\xef\xbb\xbfone line\r\nanother one\r\n")
    assert read_text(own("a.txt"), tmp_path) == "one line\nanother one\n"


def test_text_that_is_not_utf_8_is_named_with_its_byte(tmp_path: Path) -> None:
    (tmp_path / "a.txt").write_bytes(b"good\xff")
    error = refused(own("a.txt"), tmp_path)
    assert error.path == ("data", "path")
    assert error.reason == f"{tmp_path / 'a.txt'} is not UTF-8: byte 4 is 0xff"
    assert "iconv" in str(error.hint)


@pytest.mark.parametrize("path", ["gone.txt", "empty-folder", "pipe", "x" * 300, "locked/a.txt"])
def test_a_path_that_holds_no_text_is_refused(tmp_path: Path, path: str) -> None:
    import os

    (tmp_path / "empty-folder").mkdir()
    (tmp_path / "locked").write_text("a file, and no folder")
    os.mkfifo(tmp_path / "pipe")
    error = refused(own(path), tmp_path)
    assert error.path == ("data", "path")
    assert path in error.reason


@pytest.mark.parametrize("text", ["", "abcdefg"])
def test_a_text_that_is_too_short_for_one_sequence_is_refused(tmp_path: Path, text: str) -> None:
    (tmp_path / "a.txt").write_text(text)
    error = refused(own("a.txt", 4), tmp_path)
    assert error.path == ("data", "sequence_length")
    assert "one sequence takes 5" in error.reason


def test_a_split_that_leaves_no_digits_is_refused(tmp_path: Path) -> None:
    assert refused(DigitsData(dataset="digits", validation=0.0001), tmp_path).path == ("data", "validation")
    assert refused(DigitsData(dataset="digits", validation=0.9999), tmp_path).path == ("data", "validation")

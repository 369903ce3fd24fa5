from pathlib import Path

import pytest

from cloud_train.data.base import DataSection, FilesData
from cloud_train.data.cifar10 import Cifar10Data
from cloud_train.data.digits import DigitsData
from cloud_train.data.images import ImagesData
from cloud_train.data.mnist import MnistData
from cloud_train.data.python_docs import PythonDocsData
from cloud_train.data.sequences import SequencesData
from cloud_train.data.text import TextData, sequences, split, validation_length, vocabulary
from cloud_train.spec.facts import DataFacts
from cloud_train.spec.problems import AbsentDataError, FieldError

CHECKSUM = "a" * 64


def own(path: str, sequence_length: int = 4, validation: float = 0.5) -> TextData:
    return TextData(dataset="text", path=path, sequence_length=sequence_length, validation=validation)


def described(data: DataSection, directory: Path) -> DataFacts:
    facts = data.describe(directory)
    assert facts is not None
    return facts


def refused(data: DataSection, directory: Path) -> FieldError:
    with pytest.raises(FieldError) as caught:
        data.describe(directory)
    return caught.value


def test_the_digits_are_split_by_the_fraction(tmp_path: Path) -> None:
    facts = described(DigitsData(dataset="digits", size=12, validation=0.25), tmp_path)
    assert (facts.sample_shape, facts.classes, facts.train_samples, facts.validation_samples) == ((12, 12, 1), 10, 1348, 449)


def test_the_python_documentation_is_there_and_is_english(tmp_path: Path) -> None:
    text = PythonDocsData(dataset="python-docs").read(tmp_path)
    assert len(text) > 400_000
    assert 'The "return" statement' in text
    assert text == PythonDocsData(dataset="python-docs").read(tmp_path)


def test_a_text_is_cut_into_sequences_that_follow_each_other(tmp_path: Path) -> None:
    (tmp_path / "a.txt").write_text("abcdefghijklmnopqrst", encoding="utf-8")  # 14 to train on, 6 to validate with
    facts = described(own("a.txt", 4, 0.3), tmp_path)
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
    assert own(".").read(tmp_path) == "this is a.txt\n\nthis is b.txt"


def test_a_folder_s_texts_end_in_any_case_and_are_in_sub_folders_too(tmp_path: Path) -> None:
    for name in ("B.TXT", "a.txt", "z/c.txt", "more.md", "README", "._a.txt", ".b.txt"):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).write_text(f"this is {name}", encoding="utf-8")
    assert own(".").read(tmp_path) == "this is B.TXT\n\nthis is a.txt\n\nthis is z/c.txt"
    assert own(".").facts_at(tmp_path).remarks == ("2 files are not read as text: 1 .md, 1 without an extension (only .txt is)",)


def test_a_folder_without_texts_says_what_it_has(tmp_path: Path) -> None:
    (tmp_path / "a.md").touch()
    assert refused(own("."), tmp_path).reason.endswith("contains no *.txt files; 1 file is not read as text: 1 .md (only .txt is)")


def test_a_link_to_a_missing_text_is_named(tmp_path: Path) -> None:
    (tmp_path / "a.txt").write_text("a text")
    (tmp_path / "b.txt").symlink_to("gone.txt")
    assert refused(own("."), tmp_path).reason == f"{tmp_path / 'b.txt'}: no such file or directory"


def test_the_line_ends_of_old_macs_are_not_learned(tmp_path: Path) -> None:
    (tmp_path / "a.txt").write_bytes(b"one line\ranother one\r")
    assert own("a.txt").read(tmp_path / "a.txt") == "one line\nanother one\n"


@pytest.mark.parametrize(
    ("content", "reason", "hint"),
    [
        ("wide text".encode("utf-16-le"), "1: NUL bytes, the first at byte 1 of the file: it looks like UTF-16LE", "iconv -f UTF-16LE"),
        ("wide text".encode("utf-16-be"), "1: NUL bytes, the first at byte 0 of the file: it looks like UTF-16BE", "iconv -f UTF-16BE"),
        (b"text\n" * 20 + b"\0\0", "21: NUL bytes, the first at byte 100 of the file: it is not text, or it is damaged", "tr -d '\\000'"),
    ],
)
def test_a_text_with_nul_bytes_is_none(tmp_path: Path, content: bytes, reason: str, hint: str) -> None:
    (tmp_path / "a.txt").write_bytes(content)
    error = refused(own("a.txt"), tmp_path)
    assert error.reason == f"{tmp_path / 'a.txt'}:{reason}"
    assert hint in str(error.hint)


def test_windows_line_ends_and_a_byte_order_mark_are_not_learned(tmp_path: Path) -> None:
    (tmp_path / "a.txt").write_bytes(b"\xef\xbb\xbfone line\r\nanother one\r\n")
    assert own("a.txt").read(tmp_path / "a.txt") == "one line\nanother one\n"


def test_text_that_is_not_utf_8_is_named_with_its_byte(tmp_path: Path) -> None:
    (tmp_path / "a.txt").write_bytes(b"good\xff")
    error = refused(own("a.txt"), tmp_path)
    assert error.path == ("data", "path")
    assert error.reason == f"{tmp_path / 'a.txt'}:1: not UTF-8: byte 4 of the file is 0xff"
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


@pytest.mark.parametrize("path", ["gone.txt", "x" * 300, "locked/a.txt"])
def test_a_path_at_which_there_is_nothing_is_absent_data(tmp_path: Path, path: str) -> None:
    (tmp_path / "locked").write_text("a file, and no folder")
    error = refused(own(path), tmp_path)
    assert isinstance(error, AbsentDataError)
    assert (error.reason, error.known) == (f"no such file or folder: {tmp_path / path}", None)


def test_a_text_of_one_character_is_refused(tmp_path: Path) -> None:
    (tmp_path / "a.txt").write_text("a" * 100)
    assert "contains only the character 'a'" in refused(own("a.txt"), tmp_path).reason


def test_what_is_wrong_with_a_downloaded_text_is_located_at_its_address(tmp_path: Path) -> None:
    (tmp_path / "a.txt").write_bytes(b"good\xff")
    with pytest.raises(FieldError) as caught:
        TextData(dataset="text", url="https://x/a.txt", sha256=CHECKSUM).read(tmp_path / "a.txt")
    assert caught.value.path == ("data", "url")


@pytest.mark.parametrize("text", ["", "abcdefg"])
def test_a_text_that_is_too_short_for_one_sequence_is_refused(tmp_path: Path, text: str) -> None:
    (tmp_path / "a.txt").write_text(text)
    error = refused(own("a.txt", 4), tmp_path)
    assert error.path == ("data", "sequence_length")
    assert "one sequence takes 5" in error.reason


def test_a_split_that_leaves_no_digits_is_refused(tmp_path: Path) -> None:
    assert refused(DigitsData(dataset="digits", validation=0.0001), tmp_path).path == ("data", "validation")
    assert refused(DigitsData(dataset="digits", validation=0.9999), tmp_path).path == ("data", "validation")


@pytest.mark.parametrize(
    ("data", "shape", "samples"),
    [
        (MnistData(dataset="mnist"), (28, 28, 1), (54_000, 6_000)),
        (MnistData(dataset="mnist", validation=0.2), (28, 28, 1), (48_000, 12_000)),
        (Cifar10Data(dataset="cifar10"), (32, 32, 3), (45_000, 5_000)),
        (Cifar10Data(dataset="cifar10", validation=0.02), (32, 32, 3), (49_000, 1_000)),
    ],
)
def test_mnist_and_cifar10_are_known_without_their_files(
    tmp_path: Path, data: MnistData | Cifar10Data, shape: tuple[int, ...], samples: tuple[int, int]
) -> None:
    facts = described(data, tmp_path)
    assert (facts.sample_shape, facts.classes, (facts.train_samples, facts.validation_samples)) == (shape, 10, samples)
    assert (facts.test_samples, facts.remarks) == (10_000, ())
    there = data.model_copy(update={"path": "."})
    assert (described(there, tmp_path).train_samples, described(there, tmp_path).source) == (samples[0], ".")


def test_the_source_says_where_the_data_comes_from(tmp_path: Path) -> None:
    assert described(MnistData(dataset="mnist", url="https://x/"), tmp_path).source == "four files from https://x/"
    assert described(Cifar10Data(dataset="cifar10", url="https://x/c"), tmp_path).source == "https://x/c"


@pytest.mark.parametrize("data", [MnistData(dataset="mnist", path="no"), Cifar10Data(dataset="cifar10", path="no")])
def test_what_is_known_of_absent_data_goes_with_the_error(tmp_path: Path, data: MnistData | Cifar10Data) -> None:
    error = refused(data, tmp_path)
    assert isinstance(error, AbsentDataError)
    assert error.known
    assert error.known.test_samples == 10_000


def test_a_split_that_leaves_no_images_is_refused(tmp_path: Path) -> None:
    assert refused(MnistData(dataset="mnist", validation=1e-9), tmp_path).path == ("data", "validation")


def photographs(folder: Path) -> None:
    for name in ("a/1.png", "a/2.jpg", "a/3.jpg", "b/4.JPEG", "b/5.png"):
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).touch()


def test_photographs_are_counted_and_split_by_the_fraction(tmp_path: Path) -> None:
    photographs(tmp_path / "all")
    facts = described(ImagesData(dataset="images", path="all", size=64, channels=1, validation=0.4), tmp_path)
    assert (facts.sample_shape, facts.classes, facts.train_samples, facts.validation_samples) == ((64, 64, 1), 2, 3, 2)


def test_photographs_with_a_validation_folder_are_not_split(tmp_path: Path) -> None:
    photographs(tmp_path / "all" / "train")
    photographs(tmp_path / "all" / "val")
    facts = described(ImagesData(dataset="images", path="all"), tmp_path)
    assert (facts.sample_shape, facts.train_samples, facts.validation_samples) == ((224, 224, 3), 5, 5)


def test_photographs_that_are_not_here_are_known_by_their_classes_alone(tmp_path: Path) -> None:
    absent = refused(ImagesData(dataset="images", path="no", classes=7), tmp_path)
    assert isinstance(absent, AbsentDataError)
    downloaded = ImagesData(dataset="images", url="https://x/y.zip", sha256=CHECKSUM, classes=7).describe(tmp_path)
    for known in (absent.known, downloaded):
        assert known
        assert (known.classes, known.train_samples, known.validation_samples) == (7, None, None)


@pytest.mark.parametrize(
    "data",
    [
        ImagesData(dataset="images", url="https://x/y.zip", sha256=CHECKSUM),
        TextData(dataset="text", url="https://x/a.txt", sha256=CHECKSUM),
        SequencesData(dataset="sequences", url="https://x/a.tsv", sha256=CHECKSUM),
    ],
)
def test_nothing_is_known_of_what_is_still_to_be_downloaded(tmp_path: Path, data: DataSection) -> None:
    assert data.describe(tmp_path) is None


def test_of_a_scripts_files_it_is_only_known_whether_they_are_there(tmp_path: Path) -> None:
    assert FilesData(dataset="files", path=".").describe(tmp_path) is None
    with pytest.raises(AbsentDataError, match="no such file or folder"):
        FilesData(dataset="files", path="no").describe(tmp_path)


def test_a_relative_path_starts_at_the_folder_and_a_tilde_at_home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HOME", "/home/ada")
    assert own("x/y.txt").place(tmp_path) == tmp_path / "x" / "y.txt"
    assert own("/abs").place(tmp_path) == Path("/abs")
    assert own("~/y.txt").place(tmp_path) == Path("/home/ada/y.txt")
    assert [data.place(tmp_path) for data in (MnistData(dataset="mnist"), DigitsData(dataset="digits"))] == [None] * 2


def lines(folder: Path, *texts: str, name: str = "lines.tsv") -> None:
    (folder / name).parent.mkdir(exist_ok=True)
    (folder / name).write_text("".join(f"{text}\n" for text in texts), encoding="utf-8")


def test_lines_are_counted_with_their_labels_and_their_vocabulary(tmp_path: Path) -> None:
    lines(tmp_path, "good\tone two", "bad\ttwo three", "good\tThree four", "bad\tone", "so-so\tfive")
    facts = described(SequencesData(dataset="sequences", path="lines.tsv", max_length=9, validation=0.2), tmp_path)
    assert (facts.classes, facts.train_samples, facts.validation_samples, facts.sample_shape) == (3, 3, 2, (9,))
    assert facts.tokens == 5 + 1  # one, two, three, four, five; and all others
    assert any("2 of 5 lines are held out for validation, not 1" in remark for remark in facts.remarks)
    few = described(SequencesData(dataset="sequences", path="lines.tsv", vocabulary=2, validation=0.2), tmp_path)
    assert few.tokens == 3


def test_lines_with_a_validation_file_are_not_split(tmp_path: Path) -> None:
    lines(tmp_path / "data", "a\tx", "b\ty", name="train.tsv")
    lines(tmp_path / "data", "a\tx", "b\ty", "a\tz", name="validation.tsv")
    facts = described(SequencesData(dataset="sequences", path="data"), tmp_path)
    assert (facts.train_samples, facts.validation_samples) == (2, 3)


def test_lines_of_one_label_are_refused(tmp_path: Path) -> None:
    lines(tmp_path, "good\tone", "good\ttwo")
    error = refused(SequencesData(dataset="sequences", path="lines.tsv", validation=0.5), tmp_path)
    assert error.path == ("data", "path")
    assert "every training line has the label 'good'" in error.reason


@pytest.mark.parametrize(("characters", "length", "left"), [(2, 1, 0), (10, 9, 0), (129, 128, 0), (180, 89, 1), (46_501, 125, 0)])
def test_a_sequence_of_validation_leaves_out_few_characters(characters: int, length: int, left: int) -> None:
    assert validation_length(characters) == length
    assert characters - 1 - sequences(characters, length) * length == left

"""Running text: its characters, the split for validation, and the number of sequences."""

from collections.abc import Iterator
from pathlib import Path
from typing import ClassVar, Literal

from cloud_train.data.base import DataSection, SampleKind, check_source
from cloud_train.spec.facts import DataFacts
from cloud_train.spec.paths import LARGEST_TEXT_BYTES, read_plain
from cloud_train.spec.problems import FieldError, Finding
from cloud_train.spec.problems import Path as FieldPath
from cloud_train.spec.types import Count, Fraction, PathText, Sha256, Url


class TextData(DataSection):
    """Your own text, UTF-8."""

    dataset: Literal["text"]
    """Your own text files."""
    path: PathText | None = None
    """A file, or a folder whose ``*.txt`` files are read in the order of their names; relative to the job file, or a store URL."""
    url: Url | None = None
    """A text file to download into a cache, instead of ``path``."""
    sha256: Sha256 | None = None
    """SHA-256 of the file that is downloaded."""
    sequence_length: Count = 128
    """Characters in one training sequence."""
    validation: Fraction = 0.1
    """Fraction of the text, from its end, that is held out for validation."""

    sample_kind: ClassVar[SampleKind] = "text"
    most_download_bytes: ClassVar[int | None] = LARGEST_TEXT_BYTES
    loader: ClassVar[str] = "cloud_train.training.data.text:load_text"

    def read(self, place: Path) -> str:
        """The whole text of the file or folder ``place``. Raises FieldError, which names the file and what is wrong with it."""
        text = _content(place, ("data", "path" if self.path is not None else "url"))
        return check_length(text, self.sequence_length, self.validation)

    def facts_at(self, place: Path) -> DataFacts:
        """The characters of the text and its sequences."""
        return text_facts(
            self.dataset,
            self.read(place),
            sequence_length=self.sequence_length,
            validation=self.validation,
            source=self.source,
            place=place,
        )

    def check(self) -> Iterator[Finding]:
        """Mistakes in the source."""
        yield from super().check()
        yield from check_source(self, self.sha256)

    def sample_rows(self, facts: DataFacts) -> list[tuple[str, str]]:
        """The length of a sequence and the size of the vocabulary."""
        return text_rows(facts)


def _content(path: Path, field: FieldPath) -> str:
    try:
        files = sorted(path.glob("*.txt")) if path.is_dir() else [path]
    except OSError as error:
        raise _unreadable(path, field, error) from error
    if not files:
        raise FieldError(field, f"{path} contains no *.txt files", hint="set path to a file, or to a folder of *.txt files")
    return "\n\n".join(_read(file, field) for file in files)


def _read(path: Path, field: FieldPath) -> str:
    try:
        content = read_plain(path, LARGEST_TEXT_BYTES)
        if content is None:
            raise FieldError(field, f"{path} is not a regular file of at most 1 GiB")
        return content.decode("utf-8-sig").replace("\r\n", "\n")
    except UnicodeDecodeError as error:
        raise FieldError(
            field,
            f"{path} is not UTF-8: byte {error.start:,} is 0x{error.object[error.start]:02x}",
            hint=f"convert it with: iconv -f ENCODING -t UTF-8 {path.name}",
        ) from error
    except OSError as error:
        raise _unreadable(path, field, error) from error


def _unreadable(path: Path, field: FieldPath, error: OSError) -> FieldError:
    reason = (error.strerror or "cannot be read").lower()
    return FieldError(field, f"{path}: {reason}", hint="set path to a text file, or to a folder of *.txt files, relative to the job file")


def vocabulary(text: str) -> str:
    """The distinct characters of ``text`` in the order of their code points; a character's index is its class."""
    return "".join(sorted(set(text)))


def split(text: str, validation: float) -> tuple[str, str]:
    """The text for training and, from its end, the fraction ``validation`` for validation."""
    place = len(text) - round(len(text) * validation)
    return text[:place], text[place:]


def sequences(characters: int, sequence_length: int) -> int:
    """How many sequences a text is split into: each predicts ``sequence_length`` characters, and the next begins where it ends."""
    return (characters - 1) // sequence_length


def check_length(text: str, sequence_length: int, validation: float) -> str:
    """``text``, if it has at least one sequence for training and one for validation. Raises FieldError otherwise."""
    training, held_back = split(text, validation)
    shortest = sequence_length + 1
    if len(training) < shortest or len(held_back) < shortest:
        raise FieldError(
            ("data", "sequence_length"),
            f"the text is too short: of its {len(text):,} characters, {len(training):,} are for training and {len(held_back):,} for"
            f" validation, but one sequence takes {shortest:,}",
            hint="use more text, or a smaller data.sequence_length",
        )
    return text


def text_facts(dataset: str, text: str, *, sequence_length: int, validation: float, source: str, place: Path) -> DataFacts:
    """The facts about ``text``, which was read from ``place``. Raises FieldError if it has only one distinct character."""
    characters = vocabulary(text)
    if len(characters) < 2:
        raise FieldError(("data", "path"), f"{place} contains only the character {characters!r}, which leaves nothing to learn")
    training, held_back = split(text, validation)
    return DataFacts(
        dataset=dataset,
        sample_shape=(sequence_length,),
        classes=len(characters),
        train_samples=sequences(len(training), sequence_length),
        validation_samples=sequences(len(held_back), sequence_length),
        source=f"{source}, {len(text):,} characters",
    )


def text_rows(facts: DataFacts) -> list[tuple[str, str]]:
    """The length of a sequence and the size of the vocabulary, as rows of the plan."""
    return [("sample", f"{facts.sample_shape[0]:,} characters"), ("vocabulary", f"{facts.classes:,} characters")]

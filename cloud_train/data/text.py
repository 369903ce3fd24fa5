"""Running text: its characters, the split for validation, and the number of sequences."""

from collections.abc import Iterator
from dataclasses import replace
from math import ceil
from pathlib import Path
from typing import ClassVar, Literal

from cloud_train.data.base import DataSection, SampleKind, check_source
from cloud_train.data.listing import LeftOut, walk
from cloud_train.data.reading import read_text
from cloud_train.spec.facts import DataFacts
from cloud_train.spec.paths import LARGEST_TEXT_BYTES
from cloud_train.spec.problems import FieldError, Finding
from cloud_train.spec.problems import Path as FieldPath
from cloud_train.spec.types import Count, Fraction, PathText, Sha256, Url

ENDINGS = (".txt",)
_MOST_IN_A_SEQUENCE = 128
_HINT = "set path to a text file, or to a folder of *.txt files, relative to the job file"


class TextData(DataSection):
    """Your own text, UTF-8."""

    dataset: Literal["text"]
    """Your own text files."""
    path: PathText | None = None
    """A file, or a folder whose ``*.txt`` files are read in the order of their names, then those of its sub folders; relative to the job
    file, or a store URL.
    """
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
        return check_length(whole_text(place, self._field), self.sequence_length, self.validation)

    def remarks(self, place: Path) -> tuple[str, ...]:
        """A note on the files in the folder ``place`` that are not read. Raises FieldError."""
        left_out = _files(place, self._field)[1]
        return (left_out.sentence("text", ENDINGS),) if left_out else ()

    @property
    def _field(self) -> FieldPath:
        return ("data", "path" if self.path is not None else "url")

    def facts_at(self, place: Path) -> DataFacts:
        """The characters of the text and its sequences."""
        facts = text_facts(
            self.dataset,
            self.read(place),
            sequence_length=self.sequence_length,
            validation=self.validation,
            source=self.source,
            place=place,
        )
        return replace(facts, remarks=self.remarks(place))

    def check(self) -> Iterator[Finding]:
        """Mistakes in the source."""
        yield from super().check()
        yield from check_source(self, self.sha256)

    def sample_rows(self, facts: DataFacts) -> list[tuple[str, str]]:
        """The length of a sequence and the size of the vocabulary."""
        return text_rows(facts)


def _files(path: Path, field: FieldPath) -> tuple[list[Path], LeftOut]:
    """The text files of a file or folder, in the order in which they are read, and the files that are left out. Raises FieldError."""
    left_out = LeftOut()
    if not path.is_dir():
        return [path], left_out
    try:
        files = [path / name for name in walk(path, ENDINGS, left_out)]
    except OSError as error:
        raise FieldError(field, f"{error.filename or path}: {(error.strerror or 'cannot be read').lower()}", _HINT) from error
    if not files:
        others = f"; {left_out.sentence('text', ENDINGS)}" if left_out else ""
        raise FieldError(field, f"{path} contains no *.txt files{others}", _HINT)
    return files, left_out


def whole_text(path: Path, field: FieldPath) -> str:
    """The text of the file or folder ``path``, with line feeds at the ends of lines, whether the files have those of Unix, Windows or old
    Macs. Raises FieldError, which names ``field``.
    """
    texts = (read_text(file, field, _HINT) for file in _files(path, field)[0])
    return "\n\n".join(text.replace("\r\n", "\n").replace("\r", "\n") for text in texts)


def vocabulary(text: str) -> str:
    """The distinct characters of ``text`` in the order of their code points; a character's index is its class."""
    return "".join(sorted(set(text)))


def split(text: str, validation: float) -> tuple[str, str]:
    """The text for training and, from its end, the fraction ``validation`` for validation."""
    place = len(text) - round(len(text) * validation)
    return text[:place], text[place:]


def sequences(characters: int, sequence_length: int) -> int:
    """The number of sequences in a text: each predicts ``sequence_length`` characters, and the next begins where it ends."""
    return (characters - 1) // sequence_length


def validation_length(characters: int) -> int:
    """The characters in one sequence of validation, chosen so that few of the text's ``characters`` remain at its end.

    It does not depend on ``data.sequence_length``, so results can be compared.
    """
    most = min(_MOST_IN_A_SEQUENCE, characters - 1)
    return max(range(ceil(most / 2), most + 1), key=lambda length: (sequences(characters, length) * length, length))


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
        validation_samples=sequences(len(held_back), validation_length(len(held_back))),
        source=f"{source}, {len(text):,} characters",
    )


def text_rows(facts: DataFacts) -> list[tuple[str, str]]:
    """The length of a sequence and the size of the vocabulary, as rows of the plan."""
    return [("sample", f"{facts.sample_shape[0]:,} characters"), ("vocabulary", f"{facts.classes:,} characters")]

"""Labelled lines of text."""

from collections.abc import Iterator
from pathlib import Path
from typing import Annotated, ClassVar, Literal

from pydantic import Field

from cloud_train.data.base import DataSection, SampleKind, check_source, held_back
from cloud_train.data.lines import Line, read_lines
from cloud_train.data.lines import vocabulary as vocabulary_of
from cloud_train.spec.facts import UNKNOWN, DataFacts
from cloud_train.spec.problems import Finding
from cloud_train.spec.section import Count, Fraction, PathText, Sha256, Url


class SequencesData(DataSection):
    """Labelled lines to classify, such as reviews: ``label<TAB>text``, UTF-8, of any lengths."""

    dataset: Literal["sequences"]
    """Lines of text, each with a label."""
    path: PathText | None = None
    """A file of lines ``label<TAB>text``, or a folder with ``train.tsv`` and, if there is one, ``validation.tsv``; relative to the job
    file, or a URL in a store.
    """
    url: Url | None = None
    """Such a file to download into a cache, instead of ``path``."""
    sha256: Sha256 | None = None
    """SHA-256 of the file that is downloaded."""
    tokens: Literal["characters", "words"] = "words"
    """What the network reads one after another. Words are runs of letters and digits, with apostrophes inside, in lower case, and
    single other marks.
    """
    vocabulary: Annotated[int, Field(ge=2, le=10**6)] = 20_000
    """How many of the most frequent tokens of the training lines are kept apart; all others are one token, "unknown"."""
    max_length: Count = 256
    """Tokens of a line that are read; what is longer is cut off."""
    bucketing: bool = True
    """Put lines of similar lengths into one batch, so that little of it is padding."""
    validation: Fraction = 0.1
    """Fraction of the lines that is kept for validation, where there is no ``validation.tsv``."""

    sample_kind: ClassVar[SampleKind] = "lines"
    loader: ClassVar[str] = "cloud_train.training.data.sequences:load_sequences"

    def read(self, place: Path) -> tuple[list[Line], list[Line] | None]:
        """The lines to train on, and those of ``validation.tsv``, or None if there is no such file. Raises FieldError."""
        return read_lines(place, ("data", "path" if self.path is not None else "url"))

    def facts_at(self, place: Path) -> DataFacts:
        """The labels, lines and tokens."""
        training, validation = self.read(place)
        if validation is not None:
            samples = (len(training), len(validation))
        else:
            count = held_back(len(training), self.validation, "lines")
            samples = (len(training) - count, count)
        return DataFacts(
            dataset=self.dataset,
            sample_shape=(self.max_length,),
            classes=len({line.label for line in training}),
            train_samples=samples[0],
            validation_samples=samples[1],
            source=self.source,
            tokens=len(vocabulary_of(training, self.tokens, self.vocabulary)) + 1,
        )

    def check(self) -> Iterator[Finding]:
        """What is wrong with the source."""
        yield from super().check()
        yield from check_source(self, self.sha256)

    def sample_rows(self, facts: DataFacts) -> list[tuple[str, str]]:
        """The length of a line, the vocabulary and the labels."""
        known = f"at most {facts.tokens:,} {self.tokens}, one of them for all others" if facts.tokens else UNKNOWN
        return [
            ("sample", f"a line of at most {self.max_length:,} {self.tokens}"),
            ("vocabulary", known),
            ("classes", f"{facts.classes:,}"),
        ]

"""Python's documentation as a text data set."""

from pathlib import Path
from typing import ClassVar, Literal

from cloud_train.data.base import DataSection, SampleKind
from cloud_train.data.text import check_length, text_facts, text_rows
from cloud_train.spec.facts import DataFacts
from cloud_train.spec.types import Count, Fraction


class PythonDocsData(DataSection):
    """The Python language documentation inside CPython (``pydoc_data.topics``): about half a megabyte of English."""

    dataset: Literal["python-docs"]
    """CPython's own documentation text; nothing is downloaded."""
    sequence_length: Count = 128
    """Characters in one training sequence."""
    validation: Fraction = 0.1
    """Fraction of the text, from its end, that is held out for validation."""

    sample_kind: ClassVar[SampleKind] = "text"
    loader: ClassVar[str] = "cloud_train.training.data.text:load_text"

    @property
    def source(self) -> str:
        """The module that contains the text."""
        return "pydoc_data.topics of CPython"

    def read(self, place: Path | None = None) -> str:
        """The whole text, which comes with CPython; ``place`` is ignored. Raises FieldError if the sequences are too long for it."""
        from pydoc_data.topics import topics  # half a megabyte

        return check_length("\n\n".join(topics[name] for name in sorted(topics)), self.sequence_length, self.validation)

    def expected_facts(self) -> DataFacts:
        """All facts: every CPython contains the text."""
        return text_facts(
            self.dataset,
            self.read(),
            sequence_length=self.sequence_length,
            validation=self.validation,
            source=self.source,
            place=Path(),
        )

    def sample_rows(self, facts: DataFacts) -> list[tuple[str, str]]:
        """The length of a sequence and the size of the vocabulary."""
        return text_rows(facts)

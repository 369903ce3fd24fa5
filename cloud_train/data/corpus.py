"""Running text as samples: its characters, the split, and how many sequences it is cut into."""

from pathlib import Path

from cloud_train.spec.facts import DataFacts
from cloud_train.spec.problems import FieldError


def vocabulary(text: str) -> str:
    """The distinct characters of ``text`` in the order of their code points; a character's place is its class."""
    return "".join(sorted(set(text)))


def split(text: str, validation: float) -> tuple[str, str]:
    """The text to train on and, from its end, the fraction ``validation`` to validate on."""
    place = len(text) - round(len(text) * validation)
    return text[:place], text[place:]


def sequences(characters: int, sequence_length: int) -> int:
    """How many sequences a text is cut into: each predicts ``sequence_length`` characters, and the next begins where it ends."""
    return (characters - 1) // sequence_length


def check_length(text: str, sequence_length: int, validation: float) -> str:
    """``text``, if there is a sequence in it to train on and one to validate on. Raises FieldError otherwise."""
    training, held_back = split(text, validation)
    shortest = sequence_length + 1
    if len(training) < shortest or len(held_back) < shortest:
        raise FieldError(
            ("data", "sequence_length"),
            f"the text has {len(text):,} characters, {len(training):,} of them to train and {len(held_back):,} to validate,"
            f" and one sequence takes {shortest:,}",
            hint="give more text, or a smaller data.sequence_length",
        )
    return text


def text_facts(dataset: str, text: str, *, sequence_length: int, validation: float, source: str, place: Path) -> DataFacts:
    """What ``text``, which was read from ``place``, amounts to. Raises FieldError for a text of one character only."""
    characters = vocabulary(text)
    if len(characters) < 2:
        raise FieldError(("data", "path"), f"{place} contains only the character {characters!r}; there is nothing to learn from it")
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

"""The data sets as facts: size, shape, classes, split. Imports no torch, and of the images reads nothing."""

from pathlib import Path

from cloud_train.job.corpus import read_text, split, vocabulary
from cloud_train.job.facts import DataFacts
from cloud_train.job.models import DigitsData, PythonDocsData, TextData
from cloud_train.job.problems import FieldError

DIGITS_SAMPLES = 1797
DIGITS_CLASSES = 10


def describe(data: DigitsData | PythonDocsData | TextData, directory: Path) -> DataFacts:
    """What the job's data amounts to; ``directory`` is where a relative path starts. Raises FieldError for text that cannot be used."""
    if isinstance(data, DigitsData):
        return _digits(data)
    text = read_text(data, directory)
    training, validation = split(text, data.validation)
    source = "pydoc_data.topics of CPython" if isinstance(data, PythonDocsData) else data.path
    return DataFacts(
        dataset=data.dataset,
        sample_shape=(data.sequence_length,),
        classes=len(vocabulary(text)),
        train_samples=sequences(len(training), data.sequence_length),
        validation_samples=sequences(len(validation), data.sequence_length),
        source=f"{source}, {len(text):,} characters",
    )


def sequences(characters: int, sequence_length: int) -> int:
    """How many sequences a text is cut into: each predicts ``sequence_length`` characters, and the next begins where it ends."""
    return (characters - 1) // sequence_length


def _digits(data: DigitsData) -> DataFacts:
    validation = round(DIGITS_SAMPLES * data.validation)
    if not 0 < validation < DIGITS_SAMPLES:
        raise FieldError(
            ("data", "validation"), f"{data.validation} of {DIGITS_SAMPLES:,} digits leaves nothing to train or to validate on"
        )
    return DataFacts(
        dataset=data.dataset,
        sample_shape=(data.size, data.size, 1),
        classes=DIGITS_CLASSES,
        train_samples=DIGITS_SAMPLES - validation,
        validation_samples=validation,
        source="scikit-learn's handwritten digits",
    )

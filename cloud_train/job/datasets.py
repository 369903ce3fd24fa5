"""The data sets as facts: size, shape, classes, split. Imports no torch, and of images reads nothing but their names."""

from pathlib import Path

from cloud_train.job.addresses import data_in_store
from cloud_train.job.corpus import read_text, split, vocabulary
from cloud_train.job.imagefolder import list_images
from cloud_train.job.lines import read_lines
from cloud_train.job.lines import vocabulary as vocabulary_of_lines
from cloud_train.job.models import (
    Cifar10Data,
    DigitsData,
    FilesData,
    ImagesData,
    MnistData,
    OwnData,
    PythonDocsData,
    SequencesData,
    TextData,
)
from cloud_train.job.shardfolder import find_shards
from cloud_train.spec.facts import DataFacts
from cloud_train.spec.problems import AbsentDataError, FieldError

DIGITS_SAMPLES = 1797
DIGITS_CLASSES = 10
DownloadableData = MnistData | Cifar10Data | ImagesData | TextData | SequencesData
"""Data that comes from a path or from an address."""


def describe(data: OwnData | FilesData, directory: Path) -> DataFacts | None:
    """What the job's data amounts to, as far as it is known before a run; ``directory`` is where a relative path starts.

    None where nothing is known: of the files of a script, and of data that is still to be downloaded. Raises FieldError for data that
    cannot be used, and AbsentDataError, with what is known all the same, where ``data.path`` names nothing.
    """
    known = _known(data)
    place = data_place(data, directory)
    if place is None:
        return known
    if not is_there(place):
        raise AbsentDataError(("data", "path"), f"there is nothing at {place}", "a file or a folder, relative to the job file", known)
    return _found(data, place) or known


def data_place(data: OwnData | FilesData | None, directory: Path) -> Path | None:
    """The file or folder of this machine that ``data.path`` names.

    None for data without a path, which is downloaded or comes with a package, and for data in a store.
    """
    path: str | None = getattr(data, "path", None)
    return None if path is None or data_in_store(data) else directory / Path(path).expanduser()


def is_there(path: Path) -> bool:
    """Whether there is anything at ``path``."""
    try:
        return path.exists()
    except OSError:  # a name that is too long, or a folder that may not be entered
        return False


def sequences(characters: int, sequence_length: int) -> int:
    """How many sequences a text is cut into: each predicts ``sequence_length`` characters, and the next begins where it ends."""
    return (characters - 1) // sequence_length


def held_back(samples: int, validation: float, what: str) -> int:
    """How many of the ``samples`` are for validation. Raises FieldError where none is, or none is left to train on."""
    count = round(samples * validation)
    if not 0 < count < samples:
        raise FieldError(("data", "validation"), f"{validation} of {samples:,} {what} leaves nothing to train or to validate on")
    return count


def _known(data: OwnData | FilesData) -> DataFacts | None:
    """What is known without the data."""
    match data:
        case DigitsData():
            validation = held_back(DIGITS_SAMPLES, data.validation, "digits")
            source = "scikit-learn's handwritten digits"
            return _images(data, (data.size, data.size, 1), DIGITS_CLASSES, (DIGITS_SAMPLES - validation, validation), source)
        case MnistData():
            return _images(data, (28, 28, 1), 10, _benchmark_split(60_000, data.validation), data.path or f"four files from {data.url}")
        case Cifar10Data():
            return _images(data, (32, 32, 3), 10, _benchmark_split(50_000, data.validation), data.path or data.url)
        case ImagesData(classes=int(classes)):
            return _images(data, (data.size, data.size, data.channels), classes, (None, None), data.path or data.url or "")
        case PythonDocsData():
            return _text(data, Path(), "pydoc_data.topics of CPython")
    return None


def _found(data: OwnData | FilesData, place: Path) -> DataFacts | None:
    """What is known once one has looked at the data."""
    match data:
        case ImagesData():
            return _folder(data, place)
        case TextData():
            return _text(data, place, data.path or "")
        case SequencesData():
            return _lines(data, place)
    return None


def _images(
    data: DigitsData | MnistData | Cifar10Data | ImagesData,
    shape: tuple[int, int, int],
    classes: int,
    samples: tuple[int, int] | tuple[None, None],
    source: str,
) -> DataFacts:
    train, validation = samples
    return DataFacts(data.dataset, shape, classes, train, validation, source)


def _benchmark_split(train: int, validation: float | None) -> tuple[int, int]:
    """MNIST and CIFAR-10 come with 10,000 test images, which validate unless a part of the training images is held back for that."""
    if validation is None:
        return train, 10_000
    count = held_back(train, validation, "training images")
    return train - count, count


def _folder(data: ImagesData, place: Path) -> DataFacts:
    if (shards := find_shards(data, place)) is not None:
        classes, train, validation = len(shards.classes), shards.count("train"), shards.count("val")
    else:
        found = list_images(data, place)
        classes, train, validation = len(found.classes), found.count, found.validation_count
    if not validation:
        validation = held_back(train, data.validation, "images")
        train -= validation
    return _images(data, (data.size, data.size, data.channels), classes, (train, validation), data.path or "")


def _text(data: PythonDocsData | TextData, place: Path, source: str) -> DataFacts:
    text = read_text(data, place)
    characters = vocabulary(text)
    if len(characters) < 2:
        raise FieldError(("data", "path"), f"{place} has one character only, {characters!r}; there is nothing to learn from it")
    training, validation = split(text, data.validation)
    return DataFacts(
        dataset=data.dataset,
        sample_shape=(data.sequence_length,),
        classes=len(characters),
        train_samples=sequences(len(training), data.sequence_length),
        validation_samples=sequences(len(validation), data.sequence_length),
        source=f"{source}, {len(text):,} characters",
    )


def _lines(data: SequencesData, place: Path) -> DataFacts:
    training, validation = read_lines(data, place)
    if validation is not None:
        samples = (len(training), len(validation))
    else:
        count = held_back(len(training), data.validation, "lines")
        samples = (len(training) - count, count)
    return DataFacts(
        dataset=data.dataset,
        sample_shape=(data.max_length,),
        classes=len({line.label for line in training}),
        train_samples=samples[0],
        validation_samples=samples[1],
        source=data.path or "",
        tokens=len(vocabulary_of_lines(training, data.tokens, data.vocabulary)) + 1,
    )

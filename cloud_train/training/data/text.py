"""Text as sequences of character numbers of equal length; each target is the character after its input."""

from pathlib import Path

import numpy as np
import torch

from cloud_train.data.python_docs import PythonDocsData
from cloud_train.data.text import TextData, sequences, split, validation_length
from cloud_train.data.text import vocabulary as vocabulary_of
from cloud_train.training.data.dataset import DataSet
from cloud_train.training.data.memory import TensorSamples


def load_text(data: PythonDocsData | TextData, place: Path, _seed: int) -> DataSet:
    """The job's text; its end is for validation.

    ``place`` is the file or folder of ``data.path``, or without it the cache with the downloaded file. Raises FieldError for text that
    cannot be used.
    """
    source = data.source_at(place) if isinstance(data, TextData) else place
    text = data.read(source)
    vocabulary = vocabulary_of(text)
    train, validation = split(text, data.validation)
    return DataSet(
        train=_samples(encode(train, vocabulary), data.sequence_length),
        validation=validation_samples(validation, vocabulary),
        classes=tuple(vocabulary),
        remarks=data.remarks(source) if isinstance(data, TextData) else (),
    )


def validation_samples(text: str, vocabulary: str) -> TensorSamples:
    """``text``, which has at least two characters, as sequences of the length that validation uses."""
    return _samples(encode(text, vocabulary), validation_length(len(text)))


def encode(text: str, vocabulary: str) -> torch.Tensor:
    """The number of each character, int64 of shape (len(text),); ``vocabulary`` is sorted and contains every character of ``text``."""
    code_points = np.frombuffer(text.encode("utf-32-le", "surrogatepass"), dtype=np.uint32)
    known = np.frombuffer(vocabulary.encode("utf-32-le", "surrogatepass"), dtype=np.uint32)
    return torch.from_numpy(np.searchsorted(known, code_points).astype(np.int64, copy=False))


def _samples(characters: torch.Tensor, sequence_length: int) -> TensorSamples:
    count = sequences(len(characters), sequence_length)
    end = count * sequence_length
    return TensorSamples(characters[:end].view(count, sequence_length), characters[1 : end + 1].view(count, sequence_length))

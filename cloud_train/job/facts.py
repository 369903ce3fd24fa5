"""What a job amounts to, by arithmetic alone: layers with shapes and parameters, the data set's size, steps per epoch. Imports no torch."""

from dataclasses import dataclass


@dataclass(frozen=True)
class LayerFacts:
    """One layer of a model: its name, what it is, its output shape without the batch axis, its trainable parameters."""

    name: str
    kind: str
    output_shape: tuple[int | str, ...]
    parameters: int


@dataclass(frozen=True)
class DataFacts:
    """A data set as the job asks for it. For text, a sample is one sequence and the classes are its characters."""

    dataset: str
    sample_shape: tuple[int, ...]
    """(height, width, channels) of an image, (sequence_length,) of text."""
    classes: int
    """Classes of an image data set, size of the vocabulary of a text."""
    train_samples: int
    validation_samples: int
    source: str
    """Where it comes from, for a person."""

"""What a job amounts to, by arithmetic alone: layers with shapes and parameters, the data set's size, steps per epoch. Imports no torch."""

from dataclasses import dataclass

UNKNOWN = "unknown until the data exists"
"""What the plan says of a number that only the data tells."""


@dataclass(frozen=True)
class LayerFacts:
    """One layer of a model: its name, its kind, its output shape without the batch axis, its trainable parameters."""

    name: str
    kind: str
    output_shape: tuple[int | str, ...]
    parameters: int


@dataclass(frozen=True)
class DataFacts:
    """A data set as the job asks for it. For a text, a sample is one sequence and the classes are its characters."""

    dataset: str
    sample_shape: tuple[int, ...]
    """(height, width, channels) of an image, (sequence_length,) of a text, (max_length,) of labelled lines."""
    classes: int
    """Classes of images and labelled lines, different characters of a text."""
    train_samples: int | None
    """None where it is not known before the data is there."""
    validation_samples: int | None
    source: str
    """Where it comes from, for a person."""
    tokens: int | None = None
    """Different tokens that a classifier of lines reads, "unknown" included; None for images and texts."""

"""The facts about a job, by arithmetic alone: layers with shapes and parameters, the size of the data set. Imports no torch."""

from dataclasses import dataclass
from typing import NamedTuple

UNKNOWN = "unknown until the data is available"
"""What the plan shows instead of a number that depends on the data."""


@dataclass(frozen=True)
class LayerFacts:
    """One layer of a model: its name, its kind, its output shape without the batch axis, its trainable parameters."""

    name: str
    kind: str
    output_shape: tuple[int | str, ...]
    parameters: int


class ForecastFacts(NamedTuple):
    """What is forecast from a window of a time series."""

    horizon: int
    """Rows to forecast."""
    targets: int
    """Columns to forecast."""
    known: int
    """Columns that are known ahead."""


@dataclass(frozen=True)
class DataFacts:
    """A data set as the job uses it. For text, a sample is one sequence and the classes are its characters; for series, a window and its
    targets.
    """

    dataset: str
    sample_shape: tuple[int, ...]
    """(height, width, channels) of an image, (sequence_length,) of a text, (max_length,) of labelled lines, (history, columns) of a
    series.
    """
    classes: int
    """Classes of images and labelled lines, distinct characters of a text, targets of series."""
    train_samples: int | None
    """None if it is unknown until the data is available."""
    validation_samples: int | None
    source: str
    """Where it comes from, for display."""
    tokens: int | None = None
    """Distinct tokens that a classifier of lines reads, including "unknown"; None for images and text."""
    test_samples: int | None = None
    """Samples that the finished model is tested on; None if there are none, or it is unknown."""
    remarks: tuple[str, ...] = ()
    """What of the data is not read, and what looks like a mistake, each a sentence without a full stop."""
    forecast: ForecastFacts | None = None
    """Set for time series."""

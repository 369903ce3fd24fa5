"""The description of a model besides its weights: the job's ``model`` section and the meaning of inputs and outputs. Builds the network."""

from dataclasses import dataclass, replace
from typing import Literal, Self

import torch
from torch import nn

from cloud_train.data.base import SampleKind
from cloud_train.data.pixels import Normalize
from cloud_train.data.series import Forecasting
from cloud_train.errors import JobError
from cloud_train.job.models import JobSpec
from cloud_train.networks.base import ModelSection, ScriptModel
from cloud_train.spec.facts import DataFacts, ForecastFacts, LayerFacts
from cloud_train.spec.registry import implementation, plugin_code
from cloud_train.training.data.dataset import DataSet


@dataclass(frozen=True)
class ModelDescription:
    """The contents of ``model.json``. Image classifiers have an ``image_shape``, line classifiers ``tokens``, forecasts ``series``,
    language models none of these.
    """

    model: ModelSection
    classes: tuple[str, ...]
    """Names of the classes, characters of a language model, or targets of a forecast, in the order of their numbers."""
    image_shape: tuple[int, int, int] | None = None
    """(channels, height, width)."""
    normalize: Normalize | None = None
    """How the network's first layer scales the pixels."""
    tokens: tuple[str, ...] | None = None
    """Vocabulary of a line classifier: token number n is ``tokens[n - 1]``, and 0 is any other token."""
    unit: Literal["characters", "words"] = "characters"
    """What a token is (``data.sequences.tokenize``)."""
    preparation: Literal["drawing", "photograph"] = "drawing"
    """How an image gets its ``image_shape``: a drawing is scaled as a whole, a photograph is cropped to its centre, as in validation."""
    max_length: int | None = None
    """Most tokens read from a line, as in training; longer lines are truncated."""
    series: Forecasting | None = None
    """What a forecast reads and how it is scaled."""

    @classmethod
    def of(cls, job: JobSpec, data: DataSet) -> Self:
        """The description of the job's model on this data."""
        if isinstance(job.model, ScriptModel):
            raise JobError("model.kind: a script is not a built-in model")
        return cls(
            job.model,
            data.classes,
            data.image_shape,
            data.normalize,
            data.tokens,
            data.unit,
            preparation=data.preparation,
            max_length=data.max_length,
            series=data.series,
        )

    @property
    def sample_kind(self) -> SampleKind:
        """What the network reads."""
        if self.image_shape is not None:
            return "images"
        if self.series is not None:
            return "series"
        return "text" if self.tokens is None else "lines"

    @property
    def inputs(self) -> int:
        """Number of distinct tokens that a recurrent network reads."""
        return len(self.classes) if self.tokens is None else len(self.tokens) + 1

    @property
    def layers(self) -> tuple[LayerFacts, ...]:
        """The layers of the network, by arithmetic; raises FieldError if it cannot be built."""
        with plugin_code(self.model, "fails in layer_facts"):
            return self.model.layer_facts(self._facts())

    def _facts(self) -> DataFacts:
        """What the layers depend on."""
        channels, height, width = self.image_shape or (0, 0, 0)
        tokens = None if self.tokens is None else self.inputs
        facts = DataFacts("", (height, width, channels), len(self.classes), None, None, "", tokens)
        if (series := self.series) is None:
            return facts
        columns = len(series.columns(self.classes).features)
        forecast = ForecastFacts(series.horizon, len(self.classes), len(series.known))
        return replace(facts, sample_shape=(series.history, columns), forecast=forecast)

    @property
    def parameters(self) -> int:
        """Trainable parameters of the network, by arithmetic; raises FieldError if it cannot be built."""
        return sum(layer.parameters for layer in self.layers)


def build(description: ModelDescription, seed: int) -> nn.Module:
    """The described network, with weights drawn from ``seed``, in training mode and torch's default memory format.

    An image classifier maps images (B, channels, height, width), float32 in [0, 1], to scores (B, classes). A language model maps
    characters (B, T) and a state to scores (B, T, classes) and the state after them. A classifier of lines maps tokens (B, T) and lengths
    (B,) to scores (B, classes). A softmax turns scores into probabilities. A forecast maps windows (B, history + horizon, columns) to
    (B, horizon, targets, quantiles).

    Raises JobError if a plugin's ``layer_facts`` do not fit its network, BrokenComponentError if its builder fails.
    """
    model = description.model
    builder = implementation(model, "builder")
    with torch.random.fork_rng(devices=[]), plugin_code(model, f"fails in {model.builder}"):
        torch.manual_seed(seed)
        network: nn.Module = builder(model, description)
    built = sum(parameter.numel() for parameter in network.parameters())
    told = sum(layer.parameters for layer in description.layers)
    if built != told:  # a model that was saved like this could never be loaded
        raise JobError(f"the network of kind {model.kind!r} has {built:,} parameters, but its layer_facts add up to {told:,}")
    return network

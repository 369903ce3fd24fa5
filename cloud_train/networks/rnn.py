"""Recurrent networks: language models over characters, classifiers of labelled lines, and forecasts of time series."""

from collections.abc import Iterator
from math import prod
from typing import Annotated, ClassVar, Literal, Self

from pydantic import Field

from cloud_train.data.base import DataSection, SampleKind
from cloud_train.networks.base import ModelSection
from cloud_train.spec.facts import DataFacts, ForecastFacts, LayerFacts
from cloud_train.spec.problems import FieldError, Finding
from cloud_train.spec.types import Count, Fraction, Share

_GATES = {"elman": 1, "gru": 3, "lstm": 4}
_MOST_ONE_HOT = 32
_USUAL_EMBEDDING = 64
_LARGE_BATCH_BYTES = 256 << 20
"""A larger batch gets a note in the plan."""


class RnnModel(ModelSection):
    """A recurrent network: a language model over characters (``text``), a classifier of labelled lines (``sequences``), or a forecast of
    time series (``series``).
    """

    kind: Literal["rnn"]
    """A recurrent network."""
    cell: Literal["linear", "elman", "gru", "lstm"] = "gru"
    """``linear`` is the classic pair of Linear layers, h' = i2h([x, h]), y = log_softmax(i2o([x, h])), without a tanh."""
    hidden_size: Count = 128
    """Width of the hidden state."""
    layers: Annotated[int, Field(ge=1, le=64)] = 1
    """Recurrent layers on top of each other."""
    embedding_size: Annotated[int, Field(ge=0, le=10**9)] | None = None
    """Width of a learned embedding of characters or words; with 0 they are one-hot encoded. If left out, 64 where there are more than 32
    of them, otherwise 0; for the ``linear`` cell always 0.
    """
    dropout: Share = 0.0
    """Fraction of each layer's outputs that is dropped, in training."""
    bidirectional: bool = False
    """Read each line, or the history of a series, from both ends. Not for a language model, which must not see what comes next."""
    quantiles: tuple[Fraction, ...] = ()
    """Series: forecast these quantiles, such as ``[0.1, 0.5, 0.9]``, instead of the mean."""

    reads: ClassVar[tuple[SampleKind, ...]] = ("text", "lines", "series")
    builder: ClassVar[str] = "cloud_train.training.models.rnn:build_rnn"
    default_clip_norm: ClassVar[float] = 1.0

    def width_of_embedding(self, inputs: int) -> int:
        """The width of the embedding of ``inputs`` distinct tokens; 0 if they are one-hot encoded."""
        if self.embedding_size is not None:
            return self.embedding_size
        return _USUAL_EMBEDDING if inputs > _MOST_ONE_HOT and self.cell != "linear" else 0

    def reading_numbers(self) -> Self:
        """The same network for rows of numbers, which have no embedding however many they are."""
        return self.model_copy(update={"embedding_size": 0})

    def layer_facts(self, data: DataFacts) -> tuple[LayerFacts, ...]:
        """The layers of a line classifier if the data has ``tokens``, of a forecast if it has one, otherwise of a language model. Raises
        FieldError as ``check`` does.
        """
        for path, reason, hint in self._check_direction(is_language_model=data.tokens is None and data.forecast is None):
            raise FieldError(path, reason, hint)
        if data.forecast is not None:
            history, columns = data.sample_shape
            return tuple(_forecaster(self, history, columns, data.forecast))
        return tuple(_language_model(self, data.classes) if data.tokens is None else _line_classifier(self, data.tokens, data.classes))

    def check(self, data: DataSection | None) -> Iterator[Finding]:
        """Mistakes in the reading direction, the quantiles, and the embedding of numbers."""
        yield from self._check_direction(is_language_model=data is not None and data.sample_kind == "text")
        is_series = data is not None and data.sample_kind == "series"
        if list(self.quantiles) != sorted(set(self.quantiles)):
            yield ("model", "quantiles"), "quantiles must ascend, each once", "such as [0.1, 0.5, 0.9]"
        if self.quantiles and data is not None and not is_series:
            yield ("model", "quantiles"), f"the data set {data.dataset!r} has no quantiles to forecast", "dataset: series, or no quantiles"
        if self.embedding_size and is_series:
            yield ("model", "embedding_size"), "the numbers of a series have no embedding", "no embedding_size"

    def notes(self, data: DataFacts, batch_size: int) -> Iterator[str]:
        """A note on one-hot encoding of many distinct tokens, which takes a surprising amount of memory."""
        if not data.tokens or self.width_of_embedding(data.tokens) or self.cell == "linear":
            return
        batch_bytes = batch_size * data.sample_shape[0] * data.tokens * 4
        if batch_bytes > _LARGE_BATCH_BYTES:
            yield (
                f"model.embedding_size is 0: each of the {data.tokens:,} tokens is a one-hot vector, and a batch of the longest"
                f" lines takes {batch_bytes / 1e9:,.1f} GB; without embedding_size it needs far less"
            )

    def _check_direction(self, *, is_language_model: bool) -> Iterator[Finding]:
        field = ("model", "bidirectional")
        if self.bidirectional and self.cell == "linear":
            yield field, "the linear cell reads in only one direction", "cell: elman, gru or lstm, or no bidirectional"
        elif self.bidirectional and is_language_model:
            yield field, "a language model must not see what comes next", "data: {dataset: sequences}, or no bidirectional"


def _language_model(model: RnnModel, vocabulary: int) -> Iterator[LayerFacts]:
    yield from _recurrent(model, vocabulary)
    if model.dropout:
        yield _last_dropout(model, ("T", model.hidden_size))
    features = model.hidden_size
    if model.cell == "linear":  # i2o reads what the last layer reads: its input, and the state before it
        features += _input_widths(model, vocabulary)[-1]
    yield LayerFacts("i2o" if model.cell == "linear" else "decoder", "Linear", ("T", vocabulary), (features + 1) * vocabulary)


def _line_classifier(model: RnnModel, tokens: int, classes: int) -> Iterator[LayerFacts]:
    yield from _recurrent(model, tokens)
    features = model.hidden_size * _directions(model)
    if model.dropout:
        yield _last_dropout(model, (features,))
    yield LayerFacts("decoder", "Linear", (classes,), (features + 1) * classes)


def _forecaster(model: RnnModel, history: int, columns: int, forecast: ForecastFacts) -> Iterator[LayerFacts]:
    """The recurrent layers, which read ``columns`` numbers a row, a linear function of the ``history``, and the dense layer of the
    forecast, which also reads the targets' levels and what is known ahead.
    """
    yield from _recurrent(model.reading_numbers(), columns)
    features = model.hidden_size * _directions(model)
    if model.dropout:
        yield _last_dropout(model, (features,))
    yield LayerFacts("linear", "Linear", (forecast.horizon, forecast.targets), history * forecast.horizon)
    features += forecast.targets + forecast.horizon * forecast.known
    shape = (forecast.horizon, forecast.targets, *([len(model.quantiles)] if model.quantiles else []))
    yield LayerFacts("decoder", "Linear", shape, (features + 1) * prod(shape))


def _recurrent(model: RnnModel, inputs: int) -> Iterator[LayerFacts]:
    """Embedding and recurrent layers, with the dropout between them."""
    if embedding := model.width_of_embedding(inputs):
        yield LayerFacts("embedding", "Embedding", ("T", embedding), inputs * embedding)
    hidden, directions = model.hidden_size, _directions(model)
    for number, width in enumerate(_input_widths(model, inputs)):
        if number and model.dropout:
            yield LayerFacts(f"dropout.{number - 1}", f"Dropout {model.dropout:g}", ("T", hidden * directions), 0)
        if model.cell == "linear":
            yield LayerFacts(f"rnn.{number}.i2h", "Linear", ("T", hidden), (width + hidden + 1) * hidden)
            continue
        # Each gate has a matrix for the input and one for the hidden state, and, as in torch, a bias for each of them.
        parameters = directions * _GATES[model.cell] * hidden * (width + hidden + 2)
        kind = model.cell + (", both ways" if model.bidirectional else "")
        yield LayerFacts(f"rnn.{number}", kind, ("T", hidden * directions), parameters)


def _last_dropout(model: RnnModel, shape: tuple[int | str, ...]) -> LayerFacts:
    return LayerFacts(f"dropout.{model.layers - 1}", f"Dropout {model.dropout:g}", shape, 0)


def _input_widths(model: RnnModel, inputs: int) -> list[int]:
    """Input width of each layer, per step."""
    return [model.width_of_embedding(inputs) or inputs] + [model.hidden_size * _directions(model)] * (model.layers - 1)


def _directions(model: RnnModel) -> int:
    return 2 if model.bidirectional else 1

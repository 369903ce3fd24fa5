"""Recurrent networks: language models, which score the next character at each position of a text, and classifiers of labelled lines.

Sizes in names: B batch, T time or tokens of the longest line, V vocabulary, D directions, H hidden, N steps of all sequences together, X
width of a layer's input.
"""

import torch
from torch import Tensor, nn
from torch.nn.utils.rnn import PackedSequence, pack_padded_sequence

from cloud_train.networks.rnn import RnnModel
from cloud_train.training.description import ModelDescription
from cloud_train.training.models.forecaster import Forecaster
from cloud_train.training.models.linear import LinearLayer, input_part
from cloud_train.training.models.recurrent import Recurrent, recurrence_precision

State = tuple[Tensor, ...]
"""A language model's state between characters: (B, H) for each layer, and a second one for each LSTM layer."""


def build_rnn(model: RnnModel, description: ModelDescription) -> nn.Module:
    """A forecast if the description is one of ``series``, a classifier of lines if it has ``tokens``, otherwise a language model."""
    classes = len(description.classes)
    if description.series is not None:
        return Forecaster(model, description.series, classes)
    if description.tokens is not None:
        return LineClassifier(model, description.inputs, classes)
    return LinearLanguageModel(model, classes) if model.cell == "linear" else StackedLanguageModel(model, classes)


class LanguageModel(Recurrent):
    """Maps characters (B, T) and a state to scores (B, T, V) and the state after them."""

    def forward(self, tokens_BT: Tensor, state: State | None = None) -> tuple[Tensor, State]:
        """Scores of the next character at each position, and the state after the last one; no state means zeros."""
        raise NotImplementedError


class StackedLanguageModel(LanguageModel):
    """Layers of Elman, GRU or LSTM cells, then one dense layer of scores."""

    def __init__(self, model: RnnModel, vocabulary: int) -> None:
        super().__init__(model, vocabulary)
        self.decoder = nn.Linear(self.features, vocabulary)
        self._is_lstm = model.cell == "lstm"

    def forward(self, tokens_BT: Tensor, state: State | None = None) -> tuple[Tensor, State]:
        """Scores (B, T, V) and the state."""
        x_BTX = self.vectors(tokens_BT)
        after: list[Tensor] = []
        for number, (layer, dropout) in enumerate(zip(self.rnn, self.dropout, strict=True)):
            with recurrence_precision():
                x_BTX, last = layer(x_BTX, None if state is None else self._of_layer(state, number))
            x_BTX = dropout(x_BTX)
            after += [tensor.squeeze(0) for tensor in (last if self._is_lstm else [last])]
        return self.decoder(x_BTX), tuple(after)

    def _of_layer(self, state: State, number: int) -> Tensor | tuple[Tensor, Tensor]:
        """A layer's part of the state in the form of torch's layers, with an axis for directions."""
        if self._is_lstm:
            return state[2 * number].unsqueeze(0), state[2 * number + 1].unsqueeze(0)
        return state[number].unsqueeze(0)


class LinearLanguageModel(LanguageModel):
    """The classic two-Linear character RNN: h' = i2h([x, h]), y = log_softmax(i2o([x, h])), with x one-hot and no tanh.

    (S. Robertson, "NLP from scratch", the PyTorch tutorials.) The loss applies the log_softmax, as it does
    for all scores. With several layers, each reads the states of the one below as its x, and y is computed from the last one's inputs.
    """

    def __init__(self, model: RnnModel, vocabulary: int) -> None:
        super().__init__(model, vocabulary)
        self.i2o = nn.Linear(self.widths[-1] + model.hidden_size, vocabulary)

    def forward(self, tokens_BT: Tensor, state: State | None = None) -> tuple[Tensor, State]:
        """Scores (B, T, V) and the state."""
        batch, time = tokens_BT.shape
        steps = tokens_BT.t().flatten()  # time before batch, the order in which the layers work
        x = steps if self.embedding is None else self.embedding(steps)
        zeros_BH = self.i2o.weight.new_zeros(batch, self.features)
        after: list[Tensor] = []
        for number, layer in enumerate(self.rnn):
            assert isinstance(layer, LinearLayer)  # the cell is linear
            before_NH, after_NH = layer.states(x, zeros_BH if state is None else state[number], [batch] * time)
            after.append(after_NH[-batch:].clone())  # a view would keep all states in memory
            if number < len(self.rnn) - 1:
                x = self.dropout[number](after_NH)
        assert before_NH is not None  # all sequences have the same length
        width = self.widths[-1]
        scores_NV = torch.addmm(input_part(self.i2o, x, width), self.dropout[-1](before_NH), self.i2o.weight[:, width:].t())
        return scores_NV.view(time, batch, -1).transpose(0, 1), tuple(after)


class LineClassifier(Recurrent):
    """Maps tokens (B, T) of lines that are padded to the same length, and their lengths (B,), to class scores (B, classes).

    The layers read packed sequences without padding: a line's scores do not depend on the rest of the batch, and padding neither costs time
    nor has a gradient. The scores are computed from the state after a line's last token; if bidirectional, also from the state with which
    the backward direction ends, after the first token.
    """

    def __init__(self, model: RnnModel, tokens: int, classes: int) -> None:
        super().__init__(model, tokens)
        self.decoder = nn.Linear(self.features, classes)
        self._is_lstm = model.cell == "lstm"

    def forward(self, tokens_BT: Tensor, lengths_B: Tensor) -> Tensor:
        """Class scores (B, classes); a line has at least one token."""
        packed = pack_padded_sequence(tokens_BT, lengths_B.cpu(), batch_first=True, enforce_sorted=False)
        if not (self.embedding is None and isinstance(self.rnn[0], LinearLayer)):  # which looks up its tokens
            packed = _with_data(packed, self.vectors(packed.data))
        for number, (layer, dropout) in enumerate(zip(self.rnn, self.dropout, strict=True)):
            with recurrence_precision():
                packed, last = layer(packed)
            if number < len(self.rnn) - 1:
                packed = _with_data(packed, dropout(packed.data))
        last_DBH = last[0] if self._is_lstm else last
        scores: Tensor = self.decoder(dropout(last_DBH.transpose(0, 1).flatten(1)))
        return scores


def _with_data(packed: PackedSequence, data: Tensor) -> PackedSequence:
    return PackedSequence(data, packed.batch_sizes, packed.sorted_indices, packed.unsorted_indices)

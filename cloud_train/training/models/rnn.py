"""Recurrent networks: language models, which score what comes next at each place of a text, and classifiers of labelled lines.

Sizes in names: B batch, T time or tokens of the longest line, V vocabulary, D directions, H hidden, N steps of all sequences together, X
width of a layer's input.
"""

import torch
from torch import Tensor, nn
from torch.nn.utils.rnn import PackedSequence, pack_padded_sequence

from cloud_train.networks.rnn import RnnModel
from cloud_train.training.description import ModelDescription
from cloud_train.training.models.linear import LinearLayer, input_part

_LAYERS = {"elman": nn.RNN, "gru": nn.GRU, "lstm": nn.LSTM}

State = tuple[Tensor, ...]
"""What a language model carries from one character to the next: (B, H) for each layer, and a second one for each of an LSTM's."""


def build_rnn(model: RnnModel, description: ModelDescription) -> nn.Module:
    """A classifier of lines where the description has ``tokens``, otherwise a language model."""
    classes = len(description.classes)
    if description.tokens is not None:
        return LineClassifier(model, description.inputs, classes)
    return LinearLanguageModel(model, classes) if model.cell == "linear" else StackedLanguageModel(model, classes)


class Recurrent(nn.Module):
    """The modules of a recurrent network without what makes scores, for ``inputs`` different tokens.

    Each layer is a module, with a dropout of its own: torch's modules of several layers keep their dropout's state inside cuDNN, where it
    cannot be saved.
    """

    def __init__(self, model: RnnModel, inputs: int) -> None:
        super().__init__()
        self.inputs = inputs
        self.features = model.hidden_size * (2 if model.bidirectional else 1)
        """Numbers that a layer makes of each token."""
        self.widths = [model.embedding_size or inputs] + [self.features] * (model.layers - 1)
        """Numbers that each layer reads of each token."""
        self.embedding = nn.Embedding(inputs, model.embedding_size) if model.embedding_size else None
        self.rnn = nn.ModuleList(_layer(model, width) for width in self.widths)
        self.dropout = nn.ModuleList(nn.Dropout(model.dropout) if model.dropout else nn.Identity() for _ in self.widths)

    def vectors(self, tokens: Tensor) -> Tensor:
        """What the first layer reads of the tokens, of any shape: their embeddings, or one-hot vectors, as the last axis."""
        if self.embedding is not None:
            embedded: Tensor = self.embedding(tokens)
            return embedded
        zeros = torch.zeros(*tokens.shape, self.inputs, device=tokens.device)
        return zeros.scatter_(-1, tokens.unsqueeze(-1), 1)


class LanguageModel(Recurrent):
    """Characters (B, T) and a state to scores (B, T, V) and the state after them."""

    def forward(self, tokens_BT: Tensor, state: State | None = None) -> tuple[Tensor, State]:
        """Scores of the next character at each place, and the state after the last one; no state means zeros."""
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
        """A layer's part of the state as torch's layers take it, with an axis for their directions."""
        if self._is_lstm:
            return state[2 * number].unsqueeze(0), state[2 * number + 1].unsqueeze(0)
        return state[number].unsqueeze(0)


class LinearLanguageModel(LanguageModel):
    """The classic two-Linear character RNN: h' = i2h([x, h]), y = log_softmax(i2o([x, h])), x one-hot, and no tanh anywhere.

    (S. Robertson, "NLP from scratch", the PyTorch tutorials.) The log_softmax is left to the loss, which takes one of any scores. Of
    several layers each reads the states of the one below as its x, and y is made of what the last one reads.
    """

    def __init__(self, model: RnnModel, vocabulary: int) -> None:
        super().__init__(model, vocabulary)
        self.i2o = nn.Linear(self.widths[-1] + model.hidden_size, vocabulary)

    def forward(self, tokens_BT: Tensor, state: State | None = None) -> tuple[Tensor, State]:
        """Scores (B, T, V) and the state."""
        batch, time = tokens_BT.shape
        steps = tokens_BT.t().flatten()  # time before batch: the order in which the layers work
        x = steps if self.embedding is None else self.embedding(steps)
        zeros_BH = self.i2o.weight.new_zeros(batch, self.features)
        after: list[Tensor] = []
        for number, layer in enumerate(self.rnn):
            assert isinstance(layer, LinearLayer)  # of a linear cell
            before_NH, after_NH = layer.states(x, zeros_BH if state is None else state[number], [batch] * time)
            after.append(after_NH[-batch:].clone())  # as a part of the others it would keep all of them in memory
            if number < len(self.rnn) - 1:
                x = self.dropout[number](after_NH)
        assert before_NH is not None  # all sequences are of one length
        width = self.widths[-1]
        scores_NV = torch.addmm(input_part(self.i2o, x, width), self.dropout[-1](before_NH), self.i2o.weight[:, width:].t())
        return scores_NV.view(time, batch, -1).transpose(0, 1), tuple(after)


class LineClassifier(Recurrent):
    """Tokens (B, T) of lines that are padded to one length, and their lengths (B,), to class scores (B, classes).

    The layers read packed sequences, in which there is no padding: a line has the scores that it has alone, and the padding neither costs
    time nor has a gradient. The scores are made of the state after a line's last token; reading both ways, also of the state that the
    backward direction ends with, after the first token.
    """

    def __init__(self, model: RnnModel, tokens: int, classes: int) -> None:
        super().__init__(model, tokens)
        self.decoder = nn.Linear(self.features, classes)
        self._is_lstm = model.cell == "lstm"

    def forward(self, tokens_BT: Tensor, lengths_B: Tensor) -> Tensor:
        """Class scores (B, classes); a line has at least one token."""
        packed = pack_padded_sequence(tokens_BT, lengths_B.cpu(), batch_first=True, enforce_sorted=False)
        if not (self.embedding is None and isinstance(self.rnn[0], LinearLayer)):  # which looks its tokens up
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


def recurrence_precision() -> torch.autocast:
    """Around recurrent layers: on a CPU they work in fp32 also where autocast is on. Many CPUs have no LSTM of bf16: torch fails there."""
    return torch.autocast("cpu", enabled=False)


def _layer(model: RnnModel, width: int) -> nn.Module:
    if model.cell == "linear":
        return LinearLayer(width, model.hidden_size)
    layer: nn.Module = _LAYERS[model.cell](width, model.hidden_size, batch_first=True, bidirectional=model.bidirectional)
    return layer

"""Recurrent language models over characters: the classic pair of Linear layers, and stacks of Elman, GRU or LSTM layers.

Sizes in names: B batch, T time, V vocabulary, H hidden, X width of a layer's input.
"""

from typing import Any

import torch
from torch import nn
from torch.nn import functional

from cloud_train.job.models import RnnModel

State = Any
"""What a model carries from one character to the next: a tensor, or one entry a layer."""


class Rnn(nn.Module):
    """A recurrent language model: characters (B, T) and a state to scores (B, T, V) and the state after them."""

    def forward(self, characters_BT: torch.Tensor, state: State = None) -> tuple[torch.Tensor, State]:
        """Scores of the next character at each place, and the state after the last one; no state means zeros."""
        raise NotImplementedError


def build_rnn(model: RnnModel, vocabulary: int) -> Rnn:
    """The network of ``model.cell``."""
    return LinearRnn(model.hidden_size, vocabulary) if model.cell == "linear" else StackedRnn(model, vocabulary)


class LinearRnn(Rnn):
    """The classic two-Linear character RNN: h' = i2h([x, h]), y = log_softmax(i2o([x, h])), x one-hot, and no tanh anywhere.

    (S. Robertson, "NLP from scratch", the PyTorch tutorials.) The weights are those of two Linear layers on [x, h]. A one-hot x picks one
    column of a weight matrix, so its part of both products is a look-up; only h @ W_hh is left in the loop over time, and the output's
    product with all the hidden states is one matrix product after it.
    """

    def __init__(self, hidden_size: int, vocabulary: int) -> None:
        super().__init__()
        self.vocabulary = vocabulary
        self.i2h = nn.Linear(vocabulary + hidden_size, hidden_size)
        self.i2o = nn.Linear(vocabulary + hidden_size, vocabulary)

    def forward(self, characters_BT: torch.Tensor, state: State = None) -> tuple[torch.Tensor, State]:
        """Log-probabilities (B, T, V) and the hidden state (B, H)."""
        h_of_x_VH, h_of_h_HH = self.i2h.weight.t()[: self.vocabulary], self.i2h.weight.t()[self.vocabulary :]
        y_of_x_VV, y_of_h_HV = self.i2o.weight.t()[: self.vocabulary], self.i2o.weight.t()[self.vocabulary :]
        from_x_BTH = functional.embedding(characters_BT, h_of_x_VH) + self.i2h.bias
        h_BH = from_x_BTH.new_zeros(from_x_BTH.shape[0], from_x_BTH.shape[2]) if state is None else state
        before = []
        for from_x_BH in from_x_BTH.unbind(1):
            before.append(h_BH)
            h_BH = torch.addmm(from_x_BH, h_BH, h_of_h_HH)
        h_BTH = torch.stack(before, 1)
        scores_BTV = functional.embedding(characters_BT, y_of_x_VV) + self.i2o.bias + h_BTH @ y_of_h_HV
        return functional.log_softmax(scores_BTV, dim=-1), h_BH


class StackedRnn(Rnn):
    """Layers of Elman, GRU or LSTM cells, then one dense layer of scores.

    The layers are separate modules: one module of several layers keeps its dropout's state inside cuDNN, where it cannot be saved.
    """

    def __init__(self, model: RnnModel, vocabulary: int) -> None:
        super().__init__()
        self.vocabulary = vocabulary
        self.embedding = nn.Embedding(vocabulary, model.embedding_size) if model.embedding_size else None
        layer = {"elman": nn.RNN, "gru": nn.GRU, "lstm": nn.LSTM}[model.cell]
        widths = [model.embedding_size or vocabulary] + [model.hidden_size] * (model.layers - 1)
        self.rnn = nn.ModuleList(layer(width, model.hidden_size, batch_first=True) for width in widths)
        self.decoder = nn.Linear(model.hidden_size, vocabulary)

    def forward(self, characters_BT: torch.Tensor, state: State = None) -> tuple[torch.Tensor, State]:
        """Scores (B, T, V) and the state of each layer."""
        if self.embedding is not None:
            x_BTX = self.embedding(characters_BT)
        else:
            x_BTX = functional.one_hot(characters_BT, self.vocabulary).to(self.decoder.weight.dtype)
        states = []
        for layer, before in zip(self.rnn, state or [None] * len(self.rnn), strict=True):
            x_BTX, after = layer(x_BTX, before)
            states.append(after)
        return self.decoder(x_BTX), states

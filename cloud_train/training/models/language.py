"""Language models: what comes next in a text, at each place of it.

Sizes in names: B batch, T time, V vocabulary, H hidden, N = T·B, X width of a layer's input.
"""

import torch
from torch import Tensor, nn

from cloud_train.job.models import RnnModel
from cloud_train.training.models.linear import LinearLayer, input_part
from cloud_train.training.models.recurrent import Recurrent, recurrence_precision

State = tuple[Tensor, ...]
"""What a language model carries from one character to the next: (B, H) for each layer, and a second one for each of an LSTM's."""


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

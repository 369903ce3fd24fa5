"""The recurrent layers that language models, classifiers of lines and forecasts share.

Sizes in names: D directions, H hidden, X width of a layer's input.
"""

import torch
from torch import Tensor, nn

from cloud_train.networks.rnn import RnnModel
from cloud_train.training.models.linear import LinearLayer

_LAYERS = {"elman": nn.RNN, "gru": nn.GRU, "lstm": nn.LSTM}


class Recurrent(nn.Module):
    """The modules of a recurrent network without its output layer, for ``inputs`` distinct tokens.

    Each layer is a separate module with its own dropout: torch's multi-layer modules keep the dropout's state inside cuDNN, where it cannot
    be saved.
    """

    def __init__(self, model: RnnModel, inputs: int) -> None:
        super().__init__()
        self.inputs = inputs
        self.features = model.hidden_size * (2 if model.bidirectional else 1)
        """Output width of a layer, per token."""
        embedding = model.width_of_embedding(inputs)
        self.widths = [embedding or inputs] + [self.features] * (model.layers - 1)
        """Input width of each layer, per token."""
        self.embedding = nn.Embedding(inputs, embedding) if embedding else None
        self.rnn = nn.ModuleList(_layer(model, width) for width in self.widths)
        self.dropout = nn.ModuleList(nn.Dropout(model.dropout) if model.dropout else nn.Identity() for _ in self.widths)

    def vectors(self, tokens: Tensor) -> Tensor:
        """The first layer's input for tokens of any shape: their embeddings or one-hot vectors, as the last axis."""
        if self.embedding is not None:
            embedded: Tensor = self.embedding(tokens)
            return embedded
        zeros = torch.zeros(*tokens.shape, self.inputs, device=tokens.device)
        return zeros.scatter_(-1, tokens.unsqueeze(-1), 1)


def recurrence_precision() -> torch.autocast:
    """The context for recurrent layers: on a CPU they compute in fp32 even under autocast, because torch has no bf16 LSTM for many CPUs."""
    return torch.autocast("cpu", enabled=False)


def _layer(model: RnnModel, width: int) -> nn.Module:
    if model.cell == "linear":
        return LinearLayer(width, model.hidden_size)
    layer: nn.Module = _LAYERS[model.cell](width, model.hidden_size, batch_first=True, bidirectional=model.bidirectional)
    if isinstance(layer, nn.LSTM):
        _remember_at_first(layer)
    return layer


def _remember_at_first(layer: nn.LSTM) -> None:
    """Let the cells keep what they have until they have learned what to forget (docs/benchmarks.md has the difference).

    The forget gates' bias begins at 1 (Jozefowicz et al., 2015), and each gate's recurrent weights are orthogonal (Saxe et al., 2014). The
    other weights keep torch's initial values. torch adds two biases per gate, in the order input, forget, cell, output.
    """
    forget = slice(layer.hidden_size, 2 * layer.hidden_size)
    with torch.no_grad():
        for name, weight in layer.named_parameters():
            if name.startswith("weight_hh"):
                for gate in weight.chunk(4):
                    nn.init.orthogonal_(gate)
            elif name.startswith("bias"):
                weight[forget] = 1.0 if name.startswith("bias_ih") else 0.0

"""What the recurrent networks share: an embedding, layers on top of each other, a dropout after each.

Sizes in names: V different tokens, H hidden, X width of a layer's input.
"""

import torch
from torch import Tensor, nn

from cloud_train.job.models import RnnModel
from cloud_train.training.models.linear import LinearLayer

_LAYERS = {"elman": nn.RNN, "gru": nn.GRU, "lstm": nn.LSTM}


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


def recurrence_precision() -> torch.autocast:
    """Around recurrent layers: on a CPU they work in fp32 also where autocast is on. Many CPUs have no LSTM of bf16: torch fails there."""
    return torch.autocast("cpu", enabled=False)


def _layer(model: RnnModel, width: int) -> nn.Module:
    if model.cell == "linear":
        return LinearLayer(width, model.hidden_size)
    layer: nn.Module = _LAYERS[model.cell](width, model.hidden_size, batch_first=True, bidirectional=model.bidirectional)
    return layer

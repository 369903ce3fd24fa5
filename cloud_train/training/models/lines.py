"""Classifiers of labelled lines of different lengths.

Sizes in names: B batch, T tokens of the longest line, N tokens of all lines together, H hidden.
"""

from torch import Tensor, nn
from torch.nn.utils.rnn import PackedSequence, pack_padded_sequence

from cloud_train.job.models import RnnModel
from cloud_train.training.models.linear import LinearLayer
from cloud_train.training.models.recurrent import Recurrent, recurrence_precision


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

"""Forecasts of time series: recurrent layers read a window, and one dense layer computes all rows of the forecast at once.

Sizes in names: B batch, T rows of history, P rows of the forecast, F columns, K targets, A columns known ahead, Q quantiles, D directions,
H hidden.
"""

import torch
from torch import Tensor, nn
from torch.nn.utils.rnn import pack_padded_sequence

from cloud_train.data.series import Forecasting
from cloud_train.networks.rnn import RnnModel
from cloud_train.training.models.linear import LinearLayer
from cloud_train.training.models.recurrent import Recurrent, recurrence_precision


class Forecaster(Recurrent):
    """Maps windows (B, T + P, F) to forecasts (B, P, K, Q), all in scaled units; Q is 1 for the mean.

    The first columns are the targets, the last ones those known ahead. Of the last P rows only the latter are read. The recurrent layers
    read the targets relative to their level, the mean of the last season, so that a trend leads to nothing that they have not seen.

    The forecast is the sum of the seasonal naive one (``naive``), of a linear function of the relative history, the same for each target
    (as in LSTNet: Lai et al., 2018), and of the dense layer ``decoder``, which reads the last recurrent state, the level and what is known
    ahead. Both begin with zeros: an untrained network repeats the last season.
    """

    def __init__(self, model: RnnModel, meaning: Forecasting, targets: int) -> None:
        columns = targets + len(meaning.past) + len(meaning.known)
        super().__init__(model.reading_numbers(), columns)
        self.history, self.horizon, self.season = meaning.history, meaning.horizon, meaning.season
        self.targets, self.known, self.quantiles = targets, len(meaning.known), max(1, len(model.quantiles))
        self.linear = nn.Linear(self.history, self.horizon, bias=False)
        self.decoder = nn.Linear(self.features + targets + self.horizon * self.known, self.horizon * targets * self.quantiles)
        for weight in (self.linear.weight, self.decoder.weight, self.decoder.bias):
            nn.init.zeros_(weight)
        self._is_lstm = model.cell == "lstm"

    def forward(self, windows_BTF: Tensor) -> Tensor:
        """The forecasts (B, P, K, Q)."""
        history_BTF = windows_BTF[:, : self.history]
        level_B1K = history_BTF[:, -self.season :, : self.targets].mean(1, keepdim=True)
        relative_BTK = history_BTF[..., : self.targets] - level_B1K
        x_BTX = torch.cat([relative_BTK, history_BTF[..., self.targets :]], 2)
        for number, (layer, dropout) in enumerate(zip(self.rnn, self.dropout, strict=True)):
            with recurrence_precision():
                x_BTX, last = layer(x_BTX) if not isinstance(layer, LinearLayer) else _linear(layer, x_BTX)
            if number < len(self.rnn) - 1:
                x_BTX = dropout(x_BTX)
        last_DBH = last[0] if self._is_lstm else last
        ahead_BPA = windows_BTF[:, self.history :, windows_BTF.shape[2] - self.known :]
        read_B = torch.cat([dropout(last_DBH.transpose(0, 1).flatten(1)), level_B1K.flatten(1), ahead_BPA.flatten(1)], 1)
        changes_BPKQ = self.decoder(read_B).view(-1, self.horizon, self.targets, self.quantiles)
        linear_BPK = self.linear(relative_BTK.transpose(1, 2)).transpose(1, 2)
        forecasts_BPKQ: Tensor = (self.naive(windows_BTF) + linear_BPK).unsqueeze(-1) + changes_BPKQ
        return forecasts_BPKQ

    def naive(self, windows_BTF: Tensor) -> Tensor:
        """The seasonal naive forecast (B, P, K): the last season of the history, repeated; with a season of 1 the last value."""
        rows_P = self.history - self.season + torch.arange(self.horizon, device=windows_BTF.device) % self.season
        return windows_BTF[:, :, : self.targets].index_select(1, rows_P)


def _linear(layer: LinearLayer, x_BTX: Tensor) -> tuple[Tensor, Tensor]:
    """The outputs (B, T, H) and the last state (1, B, H) of the linear cell, which reads packed sequences."""
    batch, time, _ = x_BTX.shape
    steps, last = layer(pack_padded_sequence(x_BTX, torch.full((batch,), time), batch_first=True))
    return steps.data.view(time, batch, -1).transpose(0, 1), last

"""Windows of time series as tensors: the scaled rows of all series in memory, of which a batch gathers those of its windows."""

from collections.abc import Generator, Iterable, Mapping
from pathlib import Path
from typing import Self

import numpy as np
import torch
from torch import Tensor

from cloud_train.data.series import Forecasting, SeriesData, SeriesScale
from cloud_train.data.series_file import Columns, Series
from cloud_train.training.data.dataset import Batch, DataSet, Pick, Samples, digest_of


class SeriesSamples(Samples):
    """Samples that are windows of the same rows.

    Sizes in names: N windows, R rows of all series, F columns, K targets, B batch, T rows of history, P rows to forecast.
    """

    def __init__(self, values_RF: Tensor, firsts_N: Tensor, units_N2K: Tensor, meaning: Forecasting, columns: Columns) -> None:
        """``values_RF`` are the scaled rows of all series, ``firsts_N`` the first row to forecast of each window, ``units_N2K`` its units
        (``Batch.units``).
        """
        self._values, self._firsts, self._units = values_RF, firsts_N, units_N2K
        self._meaning, self._columns = meaning, columns
        self.targets = values_RF[:, : len(columns.targets)]

    def __len__(self) -> int:
        return len(self._firsts)

    def fingerprint(self) -> str:
        """A digest of all rows, and of the places of the windows."""
        return digest_of(self._values, self._firsts)

    def batches(self, picks: Iterable[Pick]) -> Generator[Batch]:
        """A batch for each pick. What is not known ahead of the rows to forecast is 0 in its inputs."""
        history, hidden = self._meaning.history, len(self._columns.features) - len(self._columns.known)
        window = torch.arange(-history, self._meaning.horizon)
        device = self._values.device
        for rows, _ in picks:
            places_BT = (self._firsts.index_select(0, rows).unsqueeze(1) + window).to(device)
            inputs_BTF = self._values.index_select(0, places_BT.flatten()).view(*places_BT.shape, -1)
            targets_BPK = inputs_BTF[:, history:, : self.targets.shape[1]].clone()
            inputs_BTF[:, history:, :hidden] = 0
            yield Batch(inputs_BTF, targets_BPK, units=self._units.index_select(0, rows).to(device))

    def to(self, device: torch.device) -> Self:
        """The same samples with their rows on ``device``."""
        return type(self)(self._values.to(device), self._firsts, self._units, self._meaning, self._columns)


def load_series(data: SeriesData, place: Path, _seed: int) -> DataSet:
    """The job's series, divided by time and scaled by their training rows. Raises FieldError for series that cannot be used.

    ``place`` is the file of ``data.path``, or without it the cache with the downloaded file.
    """
    series = data.read(data.source_at(place)).series
    remarks, columns = data.remarks(series), data.columns
    scales = {one.id: scale_of(matrix(one, columns)[: data.divide(one.rows).training], data.season, len(columns.targets)) for one in series}
    meaning = Forecasting(
        time=columns.time,
        id=columns.id,
        past=columns.past,
        known=columns.known,
        history=data.window,
        horizon=data.horizon,
        season=data.season,
        scales=scales,
    )
    places = {part: {one.id: data.windows(one, part) for one in series} for part in ("training", "validation", "test")}
    train, validation, test = (samples_of(series, scales, windows, meaning, columns) for windows in places.values())
    return DataSet(
        train=train,
        validation=validation,
        test=test if len(test) else None,
        classes=columns.targets,
        remarks=remarks,
        series=meaning,
    )


def samples_of(
    series: Iterable[Series], scales: Mapping[str, SeriesScale], windows: Mapping[str, range], meaning: Forecasting, columns: Columns
) -> SeriesSamples:
    """The ``windows`` of each series, by their first row to forecast, scaled by its scale; both by the series' id."""
    rows, firsts, units, before = [], [], [], 0
    for one in series:
        scale, values = scales[one.id], matrix(one, columns)
        rows.append(torch.from_numpy(scaled(values, scale)))
        firsts.append(torch.arange(windows[one.id].start, windows[one.id].stop) + before)
        units.append(_units(scale).expand(len(windows[one.id]), -1, -1))
        before += len(values)
    return SeriesSamples(torch.cat(rows), torch.cat(firsts), torch.cat(units), meaning, columns)


def matrix(series: Series, columns: Columns) -> np.ndarray:
    """The numbers of a series, float64 (rows, features); those that are not known of future rows are NaN."""
    found: np.ndarray = np.frombuffer(series.values, dtype=np.float64).reshape(-1, len(columns.features))
    return found


def scaled(values_RF: np.ndarray, scale: SeriesScale) -> np.ndarray:
    """The rows with mean 0 and standard deviation 1, float32; what is not known is 0."""
    found: np.ndarray = np.nan_to_num((values_RF - np.array(scale.mean)) / np.array(scale.std)).astype(np.float32)
    return found


def scale_of(training_RF: np.ndarray, season: int, targets: int) -> SeriesScale:
    """The scale of a series by its training rows, float64 (rows, features); without any row it is that of zeros."""
    if not len(training_RF):
        training_RF = np.zeros((1, training_RF.shape[1]))
    mean, std = training_RF.mean(0), training_RF.std(0)
    std[std <= 1e-12 * np.maximum(np.abs(mean), 1e-300)] = 1  # a constant
    changes = np.abs(training_RF[season:, :targets] - training_RF[:-season, :targets])
    naive = changes.mean(0) if len(changes) else np.zeros(targets)
    return SeriesScale(mean=tuple(mean.tolist()), std=tuple(std.tolist()), naive_error=tuple(naive.tolist()))


def _units(scale: SeriesScale) -> Tensor:
    """``Batch.units`` of a series, float32 (2, targets); the second is NaN where the naive error is 0."""
    std = torch.tensor(scale.std[: len(scale.naive_error)], dtype=torch.float64)
    naive = torch.tensor(scale.naive_error, dtype=torch.float64)
    return torch.stack([std, torch.where(naive > 0, std / naive, torch.nan)]).float()

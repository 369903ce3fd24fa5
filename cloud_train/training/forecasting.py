"""Using a trained forecast: what follows the series of a file, and how good its forecasts of a file are."""

from pathlib import Path
from typing import Any

import torch
from torch import nn

from cloud_train.data.series import Forecasting
from cloud_train.data.series_file import Columns, Series, Step, read_series
from cloud_train.errors import UsageError
from cloud_train.networks.rnn import RnnModel
from cloud_train.spec.problems import FieldError, shortened
from cloud_train.training.data.series import SeriesSamples, matrix, samples_of, scale_of
from cloud_train.training.description import ModelDescription
from cloud_train.training.distributed import World
from cloud_train.training.evaluation import evaluate
from cloud_train.training.measures import measure_of, nearest_to_median
from cloud_train.training.ordering import validation_picks

_BATCH = 256


@torch.no_grad()
def forecast(network: nn.Module, description: ModelDescription, place: Path) -> list[dict[str, Any]]:
    """The rows that follow each series of the CSV file ``place``, which has the columns of the training data.

    Each row has ``series`` (its id), ``time`` and ``values`` (target → number in its own unit); with quantiles also ``quantiles`` (target →
    quantile → number), of which ``values`` is the one nearest to the median. A series that the model does not know is scaled by its own
    rows. Raises UsageError for a series with fewer rows than the model reads, or without the rows that say what is known ahead.
    """
    meaning, columns = _meaning(description)
    found, step = _read(place, columns)
    for one in found:
        _check(one, meaning, place)
    assert step is not None  # a series has at least two rows: a history and a season
    windows = {one.id: range(one.rows, one.rows + 1) for one in found}
    scales = {one.id: meaning.scales.get(one.id) or scale_of(matrix(one, columns)[: one.rows], 1, len(columns.targets)) for one in found}
    padded = [_with_future(one, meaning, columns) for one in found]
    samples = samples_of(padded, scales, windows, meaning, columns)
    picks = validation_picks(samples, _BATCH, World())
    outputs = torch.cat([network(batch.inputs.to(next(network.parameters()).device)).cpu() for batch in samples.batches(picks)])
    quantiles = description.model.quantiles if isinstance(description.model, RnnModel) else ()
    rows = []
    for one, scaled_PKQ in zip(found, outputs.double(), strict=True):
        scale, targets = scales[one.id], len(columns.targets)
        mean_K1, std_K1 = (torch.tensor(values[:targets], dtype=torch.float64).unsqueeze(1) for values in (scale.mean, scale.std))
        values_PKQ = (scaled_PKQ * std_K1 + mean_K1).sort(-1).values  # quantiles that cross are in order again
        for ahead, values_KQ in enumerate(values_PKQ.tolist(), start=1):
            time = step.after(one.times[one.rows - 1], ahead)
            shown = time if isinstance(time, int | float) else step.written(time)
            rows.append({"series": one.id, "time": shown, **_named(values_KQ, columns.targets, quantiles)})
    return rows


def assess_forecasts(network: nn.Module, description: ModelDescription, place: Path) -> dict[str, Any]:
    """The metrics of the forecasts from each place in the series of the CSV file ``place`` (``measures.ForecastMeasure``), ``source`` and
    ``windows``, their number. Series that are too short for one are left out. Raises UsageError if all are.
    """
    meaning, columns = _meaning(description)
    found, _ = _read(place, columns)
    windows = {one.id: range(meaning.history, max(meaning.history, one.rows - meaning.horizon + 1)) for one in found}
    scales = {
        one.id: meaning.scales.get(one.id) or scale_of(matrix(one, columns)[: one.rows], meaning.season, len(columns.targets))
        for one in found
    }
    samples: SeriesSamples = samples_of(found, scales, windows, meaning, columns)
    if not len(samples):
        needed = f"{meaning.history:,} rows of history and {meaning.horizon:,} to forecast"
        raise UsageError(f"{place}: every series is too short: the model needs {needed}")
    metrics = evaluate(network, samples, validation_picks(samples, _BATCH, World()), measure_of(description))
    return {"source": f"{place}, {len(samples):,} forecasts", "windows": len(samples), **metrics}


def _meaning(description: ModelDescription) -> tuple[Forecasting, Columns]:
    assert description.series is not None  # it is a forecast
    return description.series, description.series.columns(description.classes)


def _read(place: Path, columns: Columns) -> tuple[list[Series], Step | None]:
    try:
        found, step = read_series(place, columns, ())
    except FieldError as error:
        raise UsageError(error.message, hint=error.hint) from error
    return found, step


def _check(series: Series, meaning: Forecasting, place: Path) -> None:
    name = f"{place}: the series {shortened(series.id)!r}" if series.id else str(place)
    if series.rows < max(meaning.history, 2):
        raise UsageError(f"{name} has {series.rows:,} rows, but the model reads {meaning.history:,}", hint="add earlier rows")
    if meaning.known and series.future < meaning.horizon:
        raise UsageError(
            f"{name} has {series.future:,} rows after the last target, but the forecast has {meaning.horizon:,}",
            hint=f"add rows with the time and what is known ahead ({', '.join(meaning.known)}), and leave their targets empty",
        )


def _with_future(series: Series, meaning: Forecasting, columns: Columns) -> Series:
    """The series with at least as many rows after the last target as the forecast has; those that are added are unknown."""
    missing = max(0, meaning.horizon - series.future)
    values = series.values + type(series.values)("d", [float("nan")] * (missing * len(columns.features)))
    return Series(series.id, series.times, values, series.lines, series.future)


def _named(values_KQ: list[list[float]], targets: tuple[str, ...], quantiles: tuple[float, ...]) -> dict[str, Any]:
    """The forecast of one row by the names of its ``targets``, and with ``quantiles`` by those too."""
    point = nearest_to_median(quantiles)
    named: dict[str, Any] = {"values": {name: values[point] for name, values in zip(targets, values_KQ, strict=True)}}
    if quantiles:
        levels = [f"{quantile:g}" for quantile in quantiles]
        named["quantiles"] = {name: dict(zip(levels, values, strict=True)) for name, values in zip(targets, values_KQ, strict=True)}
    return named

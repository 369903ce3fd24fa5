"""Forecasts beside a repetition of the last season, statsmodels' best model of the kind, and the best that is possible, with five seeds.

Each seed draws the series and the weights. Two kinds: months with a season and a trend, forecast 12 ahead, and an autoregression of
which the best forecast is known, 6 ahead. Every method sees the same windows of the last tenth; statsmodels' parameters are estimated
once, on the rows before it. It is needed here only: ``pip install statsmodels``.
"""

import json
import statistics
import sys
import tempfile
import time
import warnings
from collections.abc import Callable, Iterator
from contextlib import redirect_stdout
from functools import partial
from io import StringIO
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from benchmarks._measure import report
from cloud_train.data.series import SeriesData
from cloud_train.job.models import JobSpec
from cloud_train.networks.rnn import RnnModel
from cloud_train.run.ranking import Ranking
from cloud_train.training.data.dataset import Pick, load
from cloud_train.training.data.series import load_series
from cloud_train.training.description import ModelDescription, build
from cloud_train.training.distributed import ALONE
from cloud_train.training.loop import train
from cloud_train.training.losses import forecast_loss
from cloud_train.worker.api import Run

SEEDS = range(5)
PHI = (1.3, -0.6)
"""The coefficients of the autoregression."""

Forecast = Callable[[np.ndarray, int], np.ndarray]
"""Of the first so many rows of a series: what follows, (horizon,)."""

SECTION = {"dataset": "series", "path": "series.csv", "targets": "value"}
SEASONAL = {"season": 12, "horizon": 12, "history": 60}
REGRESSIVE = {"season": 1, "horizon": 6, "history": 24}
JOB: dict[str, Any] = {
    "name": "forecasting",
    "model": {"kind": "rnn", "cell": "gru", "hidden_size": 16},
    "train": {
        "epochs": 80,
        "batch_size": 32,
        "optimizer": {"name": "adam", "lr": 3e-3},
        "schedule": "cosine",
        "early_stopping": {"patience": 20},
        "tensorboard": False,
    },
    "checkpoint": {"every": "1000 epochs"},
}


def main() -> None:
    """Train, forecast and print."""
    warnings.simplefilter("ignore")  # statsmodels' about starting values
    rows = []
    for title, draw, fields in (
        ("season and trend, 480 months", _seasonal, SEASONAL),
        ("autoregression of order 2, 2,000 rows", _regressive, REGRESSIVE),
    ):
        found: dict[str, list[float]] = {}
        for seed in SEEDS:
            for name, error in _errors(draw(seed), fields, seed).items():
                found.setdefault(name, []).append(error)
            print(title, seed, {name: round(errors[-1], 4) for name, errors in found.items()}, file=sys.stderr, flush=True)
        means = {name: statistics.mean(errors) for name, errors in found.items()}
        best = min((name for name in means if name.startswith("statsmodels")), key=lambda name: means[name])
        optimum = f"{means['optimum']:.4f}" if "optimum" in means else "unknown"
        ours, naive = means["ours"], means["naive"]
        ratios = f"{ours / naive:.2f} | {ours / means[best]:.3f}"
        rows.append(f"| {title} | {ours:.4f} | {naive:.4f} | {means[best]:.4f} ({best.partition(' ')[2]}) | {optimum} | {ratios} |")
    names = ("series", "ours", "last season", "statsmodels", "optimum", "ours / last season", "ours / statsmodels")
    head = f"| {' | '.join(names)} |\n|---|{'---:|' * (len(names) - 1)}\n"
    report("MASE of forecasts, mean of five seeds", head + "\n".join(rows))
    ours, tensors = _windows_per_second()
    head = "| windows gathered from the rows | tensors in memory | ratio |\n|---:|---:|---:|\n"
    table = f"{head}| {ours:,.0f} | {tensors:,.0f} | {ours / tensors:.3f} |"
    report("Windows a second in training, median of seven interleaved passes", table)


def _windows_per_second() -> tuple[float, float]:
    """Of our samples, and of windows that are all in memory as tensors, each through the same network and optimizer."""
    with tempfile.TemporaryDirectory() as folder:
        _write(np.sin(np.arange(8000.0)), file := Path(folder, "series.csv"))
        data = load_series(SeriesData.model_validate({**SECTION, **SEASONAL}), file, 0)
    model = ModelDescription(RnnModel(kind="rnn", cell="gru", hidden_size=16), data.classes, series=data.series)
    picks = [Pick(rows, 0) for rows in torch.split(torch.randperm(len(data.train))[:4096], 64)]
    (whole,) = data.train.batches([Pick(torch.arange(len(data.train)), 0)])
    network = build(model, 0)
    optimizer = torch.optim.Adam(network.parameters())

    def gathered() -> Iterator[tuple[Tensor, Tensor]]:
        for batch in data.train.batches(picks):
            yield batch.inputs, batch.targets

    def indexed() -> Iterator[tuple[Tensor, Tensor]]:
        for rows, _ in picks:
            yield whole.inputs.index_select(0, rows), whole.targets.index_select(0, rows)

    seconds: dict[str, list[float]] = {"gathered": [], "indexed": []}
    for turn in range(8):
        for name, batches in (("gathered", gathered), ("indexed", indexed)):
            began = time.perf_counter()
            for inputs, targets in batches():
                optimizer.zero_grad()
                forecast_loss(network(inputs), targets, ()).backward()  # type: ignore[no-untyped-call]  # torch does not declare it
                optimizer.step()
            if turn:  # the first is for warming up
                seconds[name].append(time.perf_counter() - began)
    return 4096 / statistics.median(seconds["gathered"]), 4096 / statistics.median(seconds["indexed"])


def _seasonal(seed: int) -> np.ndarray:
    random, months = np.random.default_rng(seed), np.arange(480)
    season = 25 * np.sin(2 * np.pi * months / 12) + 10 * np.cos(4 * np.pi * months / 12)
    found: np.ndarray = 100 + 0.3 * months + season + random.normal(0, 4, len(months))
    return found


def _regressive(seed: int) -> np.ndarray:
    random, values = np.random.default_rng(seed), np.zeros(2200)
    for row in range(2, len(values)):
        values[row] = PHI[0] * values[row - 1] + PHI[1] * values[row - 2] + random.normal()
    return 50 + values[200:]


def _errors(values: np.ndarray, fields: dict[str, int], seed: int) -> dict[str, float]:
    """The MASE of each method on the windows of the test."""
    data = SeriesData.model_validate({**SECTION, **fields})
    division, season, horizon = data.divide(len(values)), fields["season"], fields["horizon"]
    firsts = division.windows("test", data.window, horizon)
    unit = np.abs(values[season : division.training] - values[: division.training - season]).mean()
    methods: dict[str, Forecast] = {"naive": lambda known, ahead: np.resize(known[-season:], ahead)}
    methods |= _statsmodels(values[: division.validation], is_seasonal=season > 1)
    if season == 1:
        methods["optimum"] = _optimum
    found = {
        name: float(np.mean([np.abs(method(values[:first], horizon) - values[first : first + horizon]).mean() for first in firsts]) / unit)
        for name, method in methods.items()
    }
    return {**found, "ours": _ours(values, fields, seed)}


def _optimum(known: np.ndarray, ahead: int) -> np.ndarray:
    """The expected values, given the rows and the coefficients."""
    rows = [*(known[-2:] - 50)]
    for _ in range(ahead):
        rows.append(PHI[0] * rows[-1] + PHI[1] * rows[-2])
    return 50 + np.array(rows[2:])


def _statsmodels(known: np.ndarray, *, is_seasonal: bool) -> dict[str, Forecast]:
    from statsmodels.tsa.statespace.exponential_smoothing import ExponentialSmoothing
    from statsmodels.tsa.statespace.sarimax import SARIMAX

    if is_seasonal:
        fitted = {
            "ARIMA(0,1,1)(0,1,1)": SARIMAX(known, order=(0, 1, 1), seasonal_order=(0, 1, 1, 12)).fit(disp=0),
            "exponential smoothing": ExponentialSmoothing(known, trend=True, seasonal=12).fit(disp=0),
        }
    else:
        fitted = {f"AR({order})": SARIMAX(known, order=(order, 0, 0), trend="c").fit(disp=0) for order in (2, 4)}
    return {f"statsmodels {name}": partial(_continued, model) for name, model in fitted.items()}


def _continued(model: Any, known: np.ndarray, ahead: int) -> np.ndarray:
    """The forecast of a fitted model of statsmodels, with its parameters as they are."""
    found: np.ndarray = model.apply(known).forecast(ahead)
    return found


def _write(values: np.ndarray, file: Path) -> None:
    file.write_text("\n".join(["time,value", *(f"{row},{value!r}" for row, value in enumerate(values.tolist()))]))


def _ours(values: np.ndarray, fields: dict[str, int], seed: int) -> float:
    job = JobSpec.model_validate({**JOB, "data": {**SECTION, **fields}, "train": {**JOB["train"], "seed": seed}})
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        _write(values, folder / "series.csv")
        for place in ("checkpoints", "model"):
            (folder / place).mkdir()
        ranking = Ranking("validation/loss")
        run = Run("forecasting", 1, folder / "checkpoints", folder / "model", folder / "metrics.jsonl", None, None, ranking=ranking)
        data = load(job, folder / "series.csv")
        began = time.monotonic()
        with redirect_stdout(StringIO()):
            train(job, data, ModelDescription.of(job, data), run, ALONE)
        print(f"trained in {time.monotonic() - began:.1f} s", file=sys.stderr)
        logged = [json.loads(line) for line in (folder / "metrics.jsonl").read_text().splitlines()]
    return next(float(line["value"]) for line in logged if (line["split"], line["name"]) == ("test", "mase"))


if __name__ == "__main__":
    main()

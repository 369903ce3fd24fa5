"""Forecasts of time series: the network, its loss and its metrics by hand, exact resume, and what a trained model says."""

import json
import math
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from cloud_train.data.series import SeriesData
from cloud_train.errors import CorruptError, JobError, UsageError
from cloud_train.networks.rnn import RnnModel
from cloud_train.training.assessment import assess
from cloud_train.training.data.dataset import DataSet, Pick, load
from cloud_train.training.data.series import load_series
from cloud_train.training.description import ModelDescription, build
from cloud_train.training.distributed import ALONE
from cloud_train.training.evaluation import evaluate
from cloud_train.training.loading import LoadedModel
from cloud_train.training.losses import forecast_loss
from cloud_train.training.measures import measure_of
from cloud_train.training.modelfile import load_network, save_model
from cloud_train.training.models.forecaster import Forecaster
from cloud_train.training.ordering import validation_picks
from tests.training.trainer import make_job, make_run, train_here

SEASON = 4
FIELDS: dict[str, Any] = {
    "dataset": "series",
    "path": "shops.csv",
    "time": "day",
    "id": "shop",
    "targets": ["sales", "returns"],
    "past": ["rain"],
    "known": ["holiday"],
    "history": 8,
    "horizon": 5,
    "season": SEASON,
    "validation": 0.2,
    "test": 0.2,
}
MODEL: dict[str, Any] = {"kind": "rnn", "cell": "gru", "hidden_size": 6}


def shops(rows: int = 60, ahead: int = 0) -> str:
    """Two shops with a season of four days; the second sells a hundred times as much."""
    lines = ["shop,day,sales,returns,rain,holiday"]
    for shop, scale in (("a", 1), ("b", 100)):
        for day in range(rows + ahead):
            noise = math.sin(day * day)
            known = f"{shop},{day},{scale * (20 + 5 * (day % SEASON) + noise)},{scale * (3 + noise)},{day % 3},{int(day % 7 == 0)}"
            lines.append(known if day < rows else f"{shop},{day},,,,{int(day % 7 == 0)}")
    return "\n".join(lines) + "\n"


@pytest.fixture
def file(tmp_path: Path) -> Path:
    path = tmp_path / "shops.csv"
    path.write_text(shops())
    return path


def loaded(file: Path, **fields: Any) -> DataSet:
    return load_series(SeriesData.model_validate_json(json.dumps({**FIELDS, **fields})), file, 0)


def described(data: DataSet, **model: Any) -> ModelDescription:
    section = RnnModel.model_validate_json(json.dumps({**MODEL, **model}))
    return ModelDescription(section, data.classes, series=data.series)


def forecaster(description: ModelDescription) -> Forecaster:
    network = build(description, 0)
    assert isinstance(network, Forecaster)
    return network


def test_a_batch_has_the_scaled_rows_of_its_windows_and_hides_what_is_not_known_ahead(file: Path) -> None:
    data = loaded(file)
    (batch,) = data.train.batches([Pick(torch.tensor([0, 30]), 0)])
    rows = np.genfromtxt(file, delimiter=",", skip_header=1, usecols=(2, 3, 4, 5))
    for number, (shop, first) in enumerate([(0, 8), (60, 14)]):  # the first shop has 24 windows, of days 8 to 31
        own = rows[shop : shop + 60]
        mean, std = own[:36].mean(0), own[:36].std(0)
        scaled = (own - mean) / std
        assert batch.inputs[number, :8].numpy() == pytest.approx(scaled[first - 8 : first], abs=1e-5)
        assert batch.inputs[number, 8:, 3].numpy() == pytest.approx(scaled[first : first + 5, 3], abs=1e-5)
        assert not batch.inputs[number, 8:, :3].any()
        assert batch.targets[number].numpy() == pytest.approx(scaled[first : first + 5, :2], abs=1e-5)
        assert batch.units is not None
        naive = np.abs(own[SEASON:36, :2] - own[: 36 - SEASON, :2]).mean(0)
        assert batch.units[number].numpy() == pytest.approx(np.stack([std[:2], std[:2] / naive]), rel=1e-5)


def test_nothing_after_the_present_but_what_is_known_ahead_changes_a_forecast(tmp_path: Path) -> None:
    before, after = tmp_path / "before.csv", tmp_path / "after.csv"
    before.write_text(shops())
    changed = [line.split(",") for line in shops().splitlines()]
    for cells in changed[1:]:
        if int(cells[1]) >= 36:  # where the training rows end
            cells[2:5] = ["7", "7", "7"]
    after.write_text("\n".join(map(",".join, changed)))
    one, other = loaded(before), loaded(after)
    network = forecaster(described(one)).eval()
    torch.nn.init.normal_(network.decoder.weight)
    first = Pick(torch.tensor([0]), None)  # the first window of validation: its history is the end of the training rows
    (a,), (b,) = one.validation.batches([first]), other.validation.batches([first])
    assert torch.equal(network(a.inputs), network(b.inputs))
    assert not torch.equal(a.targets, b.targets)
    holiday = a.inputs.clone()
    holiday[:, 8:, 3] += 1
    assert not torch.equal(network(a.inputs), network(holiday))


@pytest.mark.parametrize("cell", ["linear", "elman", "gru", "lstm"])
@pytest.mark.parametrize("quantiles", [[], [0.1, 0.5, 0.9]])
@pytest.mark.parametrize("extra", [{}, {"layers": 2, "dropout": 0.2}])
def test_an_untrained_network_repeats_the_last_season(file: Path, cell: str, quantiles: list[float], extra: dict[str, Any]) -> None:
    data = loaded(file)
    network = build(described(data, cell=cell, quantiles=quantiles, **extra), 0)  # compares the parameters with those of the plan
    (batch,) = data.train.batches([Pick(torch.arange(3), 0)])
    forecasts = network(batch.inputs)
    assert forecasts.shape == (3, 5, 2, len(quantiles) or 1)
    season = batch.inputs[:, 4:8, :2]
    assert torch.equal(forecasts[..., 0], torch.cat([season, season[:, :1]], 1))


def test_a_history_is_read_from_both_ends(file: Path) -> None:
    data = loaded(file, known=[])
    assert (
        forecaster(described(data, bidirectional=True, cell="lstm")).decoder.in_features == 12 + 2
    )  # both directions, and the levels of two targets


@pytest.mark.parametrize("quantiles", [(), (0.5,), (0.1, 0.9)])
def test_the_loss_is_that_of_the_formula(quantiles: tuple[float, ...]) -> None:
    generator = torch.Generator().manual_seed(0)
    forecasts, targets = torch.randn(3, 2, 2, len(quantiles) or 1, generator=generator), torch.randn(3, 2, 2, generator=generator)
    losses = []
    for place in np.ndindex(3, 2, 2):
        for number, level in enumerate(quantiles or [None]):
            error = float(targets[place]) - float(forecasts[(*place, number)])
            losses.append(error**2 if level is None else max(level * error, (level - 1) * error))
    assert forecast_loss(forecasts, targets, quantiles).item() == pytest.approx(sum(losses) / len(losses), rel=1e-6)


@pytest.mark.parametrize("quantiles", [[], [0.2, 0.6, 0.9]])
def test_the_metrics_are_those_of_the_definitions(file: Path, quantiles: list[float]) -> None:
    data = loaded(file)
    description = described(data, quantiles=quantiles)
    network = forecaster(description)
    width, point = len(quantiles) or 1, 1 if quantiles else 0
    added = np.linspace(-0.5, 0.5, 5 * 2).reshape(5, 2, 1) + np.linspace(-0.6, 0.8, width)
    with torch.no_grad():
        network.decoder.bias.copy_(torch.from_numpy(added).flatten())
    found = evaluate(network, data.validation, validation_picks(data.validation, 5, ALONE), measure_of(description))
    rows = np.genfromtxt(file, delimiter=",", skip_header=1, usecols=(2, 3))
    errors, repeated, inside, units = [], [], [], []
    for shop in (0, 60):
        own = rows[shop : shop + 60]
        std, naive = own[:36].std(0), np.abs(own[SEASON:36] - own[: 36 - SEASON]).mean(0)
        for first in range(36, 48 - 5 + 1):
            base = own[[first - 4, first - 3, first - 2, first - 1, first - 4]]
            truth = own[first : first + 5]
            errors.append(base + added[..., point] * std - truth)
            repeated.append(base - truth)
            inside.append((truth >= base + added[..., 0] * std) & (truth <= base + added[..., -1] * std))
            units.append(np.broadcast_to(naive, truth.shape))
    wanted = {
        "mae": np.abs(errors).mean(),
        "rmse": np.sqrt(np.square(errors).mean()),
        "mase": (np.abs(errors) / units).mean(),
        "naive_mae": np.abs(repeated).mean(),
        "naive_rmse": np.sqrt(np.square(repeated).mean()),
        "naive_mase": (np.abs(repeated) / units).mean(),
    }
    if quantiles:
        wanted["coverage"] = np.mean(inside)
        assert 0.05 < wanted["coverage"] < 0.95
    assert {name: value for name, value in found.items() if name != "loss"} == pytest.approx(wanted, rel=1e-4)


def test_a_series_without_any_change_has_no_scaled_error(tmp_path: Path) -> None:
    file = tmp_path / "flat.csv"
    file.write_text("day,sales\n" + "".join(f"{day},{5 + (day == 55)}\n" for day in range(60)))
    data = loaded(file, id=None, targets="sales", past=[], known=[])
    description = described(data)
    found = evaluate(build(description, 0), data.validation, validation_picks(data.validation, 8, ALONE), measure_of(description))
    assert found.keys() == {"loss", "mae", "rmse", "naive_mae", "naive_rmse"}
    assert found["mae"] == 0


@pytest.mark.slow
@pytest.mark.parametrize("model", [{"cell": "lstm", "layers": 2, "dropout": 0.3}, {"cell": "gru", "quantiles": [0.1, 0.5, 0.9]}])
def test_a_training_that_is_stopped_and_resumed_ends_with_the_same_bytes(tmp_path: Path, model: dict[str, Any]) -> None:
    train = {"epochs": 3, "batch_size": 8, "early_stopping": {"patience": 9}, "optimizer": {"name": "adamw"}}
    job = make_job({**MODEL, **model}, data={**FIELDS, "path": "../shops.csv"}, train=train)
    (tmp_path / "shops.csv").write_text(shops())
    through = make_run(tmp_path / "through")
    metrics = train_here(job, through)
    for stop_after in (2, 7):
        with pytest.raises(SystemExit):
            train_here(job, make_run(tmp_path / "stopped", resume=True, stop_after=stop_after))
    resumed = make_run(tmp_path / "stopped", resume=True)
    assert train_here(job, resumed) == metrics
    assert (resumed.model / "model.safetensors").read_bytes() == (through.model / "model.safetensors").read_bytes()
    tested = [line for line in resumed.logged if line["split"] == "test"]
    assert len(tested) == 1
    assert tested[0]["mase"] > 0


def test_a_checkpoint_of_other_columns_is_refused(tmp_path: Path) -> None:
    (tmp_path / "shops.csv").write_text(shops())
    data = {**FIELDS, "path": "../shops.csv"}
    with pytest.raises(SystemExit):
        train_here(make_job(MODEL, data=data, train={"epochs": 1}), make_run(tmp_path / "run", stop_after=1))
    other = make_job(MODEL, data={**data, "past": ["holiday"], "known": ["rain"]}, train={"epochs": 1})
    with pytest.raises(JobError, match=r"data.past is \('holiday',\), but was \('rain',\) when the checkpoint was trained"):
        train_here(other, make_run(tmp_path / "run", resume=True))


@pytest.fixture
def model(file: Path, tmp_path: Path) -> LoadedModel:
    """A model with quantiles, in a folder, and loaded from there. Its quantiles cross."""
    data = loaded(file)
    description = described(data, quantiles=[0.1, 0.5, 0.9])
    network = forecaster(description)
    with torch.no_grad():
        network.decoder.bias.copy_(torch.tensor([0.5, 0.25, -0.5]).repeat(10))
    (tmp_path / "model").mkdir()
    save_model(tmp_path / "model", network, description)
    return LoadedModel(*load_network(tmp_path / "model"))


def test_a_forecast_follows_the_end_of_each_series_in_its_own_unit(model: LoadedModel, file: Path) -> None:
    file.write_text(shops(ahead=5))
    found = model.forecast(file)
    assert [(row["series"], row["time"]) for row in found] == [(shop, day) for shop in "ab" for day in range(60, 65)]
    rows = np.genfromtxt(file, delimiter=",", skip_header=1, usecols=(2, 3))
    for shop, begin in (("a", 0), ("b", 65)):
        own = rows[begin : begin + 60]
        std = own[:36].std(0)
        first = next(row for row in found if row["series"] == shop)
        assert first["values"] == pytest.approx({"sales": own[56, 0] + 0.25 * std[0], "returns": own[56, 1] + 0.25 * std[1]}, rel=1e-4)
        assert [*first["quantiles"]["sales"]] == ["0.1", "0.5", "0.9"]
        assert [*first["quantiles"]["sales"].values()] == pytest.approx([own[56, 0] + n * std[0] for n in (-0.5, 0.25, 0.5)], rel=1e-4)


def test_a_series_that_the_model_does_not_know_is_scaled_by_its_own_rows(model: LoadedModel, file: Path) -> None:
    file.write_text(shops(ahead=5).replace("\na,", "\nnew,"))
    rows = np.genfromtxt(file, delimiter=",", skip_header=1, usecols=(2,))
    found = model.forecast(file)[0]
    assert found["series"] == "new"
    assert found["values"]["sales"] == pytest.approx(rows[56] + 0.25 * rows[:60].std(), rel=1e-4)


def test_a_forecast_needs_what_is_known_ahead_and_enough_rows(model: LoadedModel, file: Path) -> None:
    file.write_text(shops(ahead=4))
    with pytest.raises(UsageError, match="the series 'a' has 4 rows after the last target, but the forecast has 5"):
        model.forecast(file)
    file.write_text(shops(rows=7, ahead=5))
    with pytest.raises(UsageError, match="the series 'a' has 7 rows, but the model reads 8"):
        model.forecast(file)
    file.write_text("shop,day,sales\n")
    with pytest.raises(UsageError, match="has no column 'returns'"):
        model.forecast(file)


def test_a_forecast_is_evaluated_on_a_file(model: LoadedModel, file: Path) -> None:
    found = assess(model, file)
    assert found["windows"] == 2 * (60 - 8 - 5 + 1)
    assert found["source"] == f"{file}, 96 forecasts"
    assert found["mae"] > 0
    assert 0 < found["coverage"] < 1
    file.write_text(shops(rows=12))
    with pytest.raises(UsageError, match="every series is too short: the model needs 8 rows of history and 5 to forecast"):
        assess(model, file)


def test_other_questions_are_refused(model: LoadedModel) -> None:
    with pytest.raises(UsageError, match="has no classes"):
        model.predict(["text"])
    with pytest.raises(UsageError, match="only a language model"):
        model.generate("text")
    with pytest.raises(UsageError, match="made from a file of series"):
        model.preprocess("text")
    assert model.vocabulary is None
    assert model.classes == ("sales", "returns")


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"history": 3}, "the history of series is shorter than its season"),
        ({"past": ["sales"]}, "a column occurs twice"),
        ({"scales": {"a": {"mean": [0.0], "std": [1.0], "naive_error": [1.0]}}}, "a scale of series has 1 values for mean, but needs 4"),
        ({"scales": {"a": {"mean": [0.0], "std": [0.0], "naive_error": [1.0]}}}, "series.scales.a.std"),
        ({"horizon": 100_001}, "series.horizon"),
        ({"horizon": 6}, "parameters"),
    ],
)
def test_a_damaged_description_is_refused(model: LoadedModel, tmp_path: Path, change: dict[str, Any], message: str) -> None:
    path = tmp_path / "model" / "model.json"
    fields = json.loads(path.read_text())
    fields["series"] |= change
    path.write_text(json.dumps(fields))
    with pytest.raises(CorruptError) as caught:
        load_network(tmp_path / "model")
    assert message in caught.value.message


def test_the_data_of_a_job_is_loaded_by_its_name(file: Path) -> None:
    job = make_job(MODEL, data=FIELDS)
    data = load(job, file)
    assert data.classes == ("sales", "returns")
    assert (len(data.train), len(data.validation), len(data.test or [])) == (48, 16, 16)

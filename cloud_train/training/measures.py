"""What a validation measures: sums over batches, which the processes add up, and the metrics that follow from them."""

import math
from abc import ABC, abstractmethod
from collections.abc import Mapping

from torch import Tensor, nn

from cloud_train.networks.rnn import RnnModel
from cloud_train.training.data.dataset import Batch
from cloud_train.training.description import ModelDescription
from cloud_train.training.losses import cross_entropy, forecast_loss
from cloud_train.training.models.forecaster import Forecaster


class Measure(ABC):
    """The metrics of a kind of model."""

    names: tuple[str, ...]
    """The names of the sums; ``count`` is one of them."""

    @abstractmethod
    def sums(self, network: nn.Module, outputs: Tensor, batch: Batch) -> list[float]:
        """The sums over a batch, in the order of ``names``. ``network`` is the one that computed the ``outputs``."""

    @abstractmethod
    def metrics(self, sums: Mapping[str, float]) -> dict[str, float]:
        """The metrics, given the sums over all samples, of which there is at least one."""


class ClassMeasure(Measure):
    """Loss in nats and accuracy, of classes or of a language model's characters (then bits per character too)."""

    names = ("loss", "correct", "count")

    def __init__(self, *, of_characters: bool) -> None:
        self._of_characters = of_characters

    def sums(self, network: nn.Module, outputs: Tensor, batch: Batch) -> list[float]:
        """The sums over a batch; ``outputs`` are scores (…, classes)."""
        count = batch.targets.numel()
        correct = (outputs.argmax(-1) == batch.targets).sum().item()
        return [cross_entropy(outputs, batch.targets).item() * count, correct, count]

    def metrics(self, sums: Mapping[str, float]) -> dict[str, float]:
        """Means over the samples or characters."""
        metrics = {"loss": sums["loss"] / sums["count"], "accuracy": sums["correct"] / sums["count"]}
        return {**metrics, "bits_per_character": metrics["loss"] / math.log(2)} if self._of_characters else metrics


class ForecastMeasure(Measure):
    """Errors of forecasts, beside those of a repetition of the last season.

    ``loss`` is that of training. ``mae`` and ``rmse`` are in the targets' own unit, and ``mase`` is in units of the error that the
    repetition has in the series' training rows (Hyndman and Koehler, 2006). With quantiles, the errors are those of the one
    nearest to the median, and ``coverage`` is the fraction of values from the lowest to the highest quantile.
    """

    names = (
        "loss",
        "absolute",
        "squared",
        "relative",
        "naive_absolute",
        "naive_squared",
        "naive_relative",
        "covered",
        "comparable",
        "count",
    )

    def __init__(self, quantiles: tuple[float, ...]) -> None:
        self._quantiles = quantiles
        self._point = nearest_to_median(quantiles)

    def sums(self, network: nn.Module, outputs: Tensor, batch: Batch) -> list[float]:
        """The sums over all values to forecast of a batch."""
        assert isinstance(network, Forecaster)  # which reads series
        assert batch.units is not None  # it is a batch of them
        forecasts_BPKQ, truth_BPK = outputs.double().sort(-1).values, batch.targets.double()  # quantiles that cross are in order again
        own_B1K, naive_B1K = (units.unsqueeze(1).double() for units in batch.units.unbind(1))
        error_BPK = (forecasts_BPKQ[..., self._point] - truth_BPK).abs()
        repeated_BPK = (network.naive(batch.inputs).double() - truth_BPK).abs()
        inside_BPK = (truth_BPK >= forecasts_BPKQ[..., 0]) & (truth_BPK <= forecasts_BPKQ[..., -1])
        return [
            forecast_loss(outputs, batch.targets, self._quantiles).item() * truth_BPK.numel(),
            (error_BPK * own_B1K).sum().item(),
            (error_BPK * own_B1K).square().sum().item(),
            (error_BPK * naive_B1K).nansum().item(),
            (repeated_BPK * own_B1K).sum().item(),
            (repeated_BPK * own_B1K).square().sum().item(),
            (repeated_BPK * naive_B1K).nansum().item(),
            inside_BPK.sum().item(),
            naive_B1K.expand_as(error_BPK).isfinite().sum().item(),
            truth_BPK.numel(),
        ]

    def metrics(self, sums: Mapping[str, float]) -> dict[str, float]:
        """Means over all values; without those in units of the naive error if that is 0 in all series."""
        count, comparable = sums["count"], sums["comparable"]
        metrics = {"loss": sums["loss"] / count, "mae": sums["absolute"] / count, "rmse": math.sqrt(sums["squared"] / count)}
        if comparable:
            metrics["mase"] = sums["relative"] / comparable
        if len(self._quantiles) > 1:
            metrics["coverage"] = sums["covered"] / count
        metrics |= {"naive_mae": sums["naive_absolute"] / count, "naive_rmse": math.sqrt(sums["naive_squared"] / count)}
        return {**metrics, "naive_mase": sums["naive_relative"] / comparable} if comparable else metrics


def nearest_to_median(quantiles: tuple[float, ...]) -> int:
    """Which of the ``quantiles`` stands for the forecast; 0 for the mean, if there are none."""
    return min(range(len(quantiles)), key=lambda at: abs(quantiles[at] - 0.5)) if quantiles else 0


def measure_of(description: ModelDescription) -> Measure:
    """What validations of the described model measure."""
    if description.series is not None:
        return ForecastMeasure(description.model.quantiles if isinstance(description.model, RnnModel) else ())
    return ClassMeasure(of_characters=description.sample_kind == "text")

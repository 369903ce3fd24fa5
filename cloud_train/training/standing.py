"""How the validations so far stand: which was the best, and whether training should stop early."""

import math
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Self

from torch import Tensor, nn

from cloud_train.job.training import EarlyStopping, TrainSpec
from cloud_train.run.ranking import Ranking


@dataclass
class Best:
    """The best validation so far. It travels in checkpoints, so a resumed training delivers what an uninterrupted one does."""

    ranking: Ranking
    keeps_weights: bool
    """Whether a copy of the best network's weights is kept in memory, to be delivered at the end."""
    step: int | None = None
    """The step of the best validation; None before the first."""
    metrics: dict[str, float] = field(default_factory=dict)
    """Its metrics by their full names, such as ``validation/loss``."""
    weights: Mapping[str, Tensor] | None = None
    """The network's ``state_dict`` at that step, on the CPU."""

    def validated(self, step: int, metrics: Mapping[str, float], network: nn.Module) -> bool:
        """Whether the validation at ``step`` is the best so far, which is recorded. Without a finite value of the metric, it is not."""
        if self.ranking.value(metrics) is None:
            return False
        if self.step is not None and self.ranking.quality(metrics, step) <= self.ranking.quality(self.metrics, self.step):
            return False
        self.step, self.metrics = step, dict(metrics)
        if self.keeps_weights:
            self.weights = {name: tensor.detach().to("cpu", copy=True) for name, tensor in network.state_dict().items()}
        return True

    def state(self, step: int) -> dict[str, Any]:
        """What a checkpoint of ``step`` records. It contains the weights only if they are not those of the checkpoint's own model."""
        return {"step": self.step, "metrics": self.metrics, "weights": None if self.step == step else self.weights}

    def load_state(self, state: Mapping[str, Any], step: int, delivered: Mapping[str, Tensor]) -> None:
        """Restore what ``state`` returned. ``delivered`` is the model of the checkpoint, which is from ``step``."""
        if state["step"] is None:
            return
        best = int(state["step"])
        weights = delivered if best == step else state["weights"]
        if self.keeps_weights and weights is None:  # the training that wrote the checkpoint did not keep them
            return
        self.step, self.metrics = best, {str(name): float(value) for name, value in state["metrics"].items()}
        self.weights = weights if self.keeps_weights else None


@dataclass
class Patience:
    """Counts consecutive validations without improvement. Without settings, training never stops early."""

    settings: EarlyStopping | None
    ranking: Ranking
    """The metric that decides (``JobSpec.best``)."""
    best: float = -math.inf
    since: int = 0
    """Validations since the best one."""

    @property
    def is_over(self) -> bool:
        """Whether training should stop."""
        return self.settings is not None and self.since >= self.settings.patience

    def validated(self, metrics: Mapping[str, float]) -> None:
        """Record a validation's metrics, such as ``{"validation/loss": 0.3}``; a missing metric or NaN is no improvement."""
        value = self.ranking.value(metrics)
        least = self.settings.min_delta if self.settings else 0.0
        if value is not None and value > self.best + least:
            self.best, self.since = value, 0
        else:
            self.since += 1


@dataclass
class Standing:
    """The best validation and the patience of one training. It travels in checkpoints."""

    patience: Patience
    best: Best

    @classmethod
    def of(cls, settings: TrainSpec, ranking: Ranking) -> Self:
        """The standing before the first validation."""
        return cls(Patience(settings.early_stopping, ranking), Best(ranking, keeps_weights=settings.delivers_best))

    @property
    def is_over(self) -> bool:
        """Whether training should stop early."""
        return self.patience.is_over

    def is_best_at(self, step: int) -> bool:
        """Whether the best validation so far is that of ``step``."""
        return self.best.step == step

    def validated(self, step: int, metrics: Mapping[str, float], network: nn.Module) -> None:
        """Record the validation of ``network`` at ``step``; its metrics have their full names, such as ``validation/loss``."""
        self.patience.validated(metrics)
        self.best.validated(step, metrics, network)

    def state(self, step: int) -> dict[str, Any]:
        """What a checkpoint of ``step`` records."""
        return {"patience": {"best": self.patience.best, "since": self.patience.since}, "best": self.best.state(step)}

    def load_state(self, state: Mapping[str, Any], step: int, delivered: Mapping[str, Tensor]) -> None:
        """Restore what ``state`` returned, from a checkpoint of ``step`` whose model has the weights ``delivered``."""
        self.patience.best, self.patience.since = float(state["patience"]["best"]), int(state["patience"]["since"])
        if "best" in state:  # earlier versions recorded none
            self.best.load_state(state["best"], step, delivered)

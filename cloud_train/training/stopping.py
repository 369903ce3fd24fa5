"""Early stopping: has a metric stopped getting better?"""

import math
from collections.abc import Mapping
from dataclasses import dataclass

from cloud_train.job.training import EarlyStopping
from cloud_train.run.ranking import Ranking


@dataclass
class Patience:
    """Counts validations that did not get better. Without settings it never ends."""

    settings: EarlyStopping | None
    ranking: Ranking
    """What decides where the settings name no metric."""
    best: float = -math.inf
    since: int = 0
    """Validations since the best one."""

    def __post_init__(self) -> None:
        if self.settings is not None and self.settings.metric is not None:
            self.ranking = Ranking(self.settings.metric, self.settings.goal)

    @property
    def is_over(self) -> bool:
        """Whether the training should end."""
        return self.settings is not None and self.since >= self.settings.patience

    def validated(self, metrics: Mapping[str, float]) -> None:
        """Take the metrics of a validation, such as ``{"validation/loss": 0.3}``; without the metric, or with nan, it is not better."""
        value = self.ranking.value(metrics)
        least = self.settings.min_delta if self.settings else 0.0
        if value is not None and value > self.best + least:
            self.best, self.since = value, 0
        else:
            self.since += 1

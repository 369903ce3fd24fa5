"""What a list shows of each run beside its state: how far the training is, and the metric that decides which checkpoint is the best."""

from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any

from cloud_train.errors import CorruptError, NotFoundError
from cloud_train.orchestrator.run_directory import is_there, read_record
from cloud_train.orchestrator.side_by_side import Directories
from cloud_train.run.metrics import MOST_NAMES, MetricsReader, tells_pace
from cloud_train.run.ranking import USUAL, Ranking
from cloud_train.run.record import RunRecord
from cloud_train.run.states import State
from cloud_train.run.view import RunView
from cloud_train.storage.base import Store

_MOST_READ = 200
"""Run directories that are read for one list: those of its newest runs."""
_TAIL_BYTES = 64 << 10
"""The end of the metrics that is read: about 500 values."""
_FURTHER_BYTES = 2 << 20
"""How far back to look for a metric that is measured rarely, such as those of validation."""
_UNSTARTED = (State.SUBMITTING, State.QUEUED)


@dataclass(frozen=True)
class Summary:
    """A run with the newest values of its newest attempt, as ``list`` shows it. What is unknown is None."""

    view: RunView
    step: int | None = None
    """The newest step with metrics, or the one that the attempt was resumed from."""
    total_steps: int | None = None
    epoch: float | None = None
    """Epochs done, with a fraction."""
    epochs: int | None = None
    metric: str | None = None
    """The metric that decides which checkpoint is the best, such as ``validation/accuracy``; failing that, a loss, or any other metric."""
    value: float | None = None
    """The newest value of ``metric``; None where it is not finite."""
    is_deleted: bool = False
    """Whether the run directory was deleted."""

    @property
    def progress(self) -> float | None:
        """The share of the steps that is done, or of the epochs, from 0 to 1."""
        done, of_all = (self.step, self.total_steps) if self.step is not None and self.total_steps else (self.epoch, self.epochs)
        return min(1.0, done / of_all) if done is not None and of_all else None

    def to_json(self) -> dict[str, Any]:
        """The run as ``list --json`` prints it."""
        metric = None if self.metric is None else {"name": self.metric, "value": self.value}
        return {
            **self.view.to_json(),
            **{name: getattr(self, name) for name in ("step", "total_steps", "epoch", "epochs", "progress", "is_deleted")},
            "metric": metric,
        }


def summaries(runs: Iterable[RunView], note: Callable[[str], None] = lambda _: None) -> Iterator[Summary]:
    """A summary of each run, in order. Of the first 200 runs the run directory is read: ``run.json`` and the end of the metrics.

    The others, and those that cannot be read, have only their view; ``note`` is told about a store that cannot be reached.
    """
    left = _MOST_READ

    def is_wanted(run: RunView) -> bool:
        nonlocal left
        if run.state in _UNSTARTED or run.moved_to is not None or left == 0:
            return False
        left -= 1
        return True

    for run, summary in Directories(note).each(runs, _summary, is_wanted):
        yield summary or Summary(run)


def _summary(store: Store, run: RunView) -> Summary:
    try:
        record = read_record(store, run.run_id)
    except (NotFoundError, CorruptError):
        return Summary(run, is_deleted=not is_there(store, run.run_id))
    reader = MetricsReader(store, run.run_id, run.attempt, most_bytes=_TAIL_BYTES)
    latest: dict[str, float | None] = {}
    step, epoch = run.resumed_step, None
    for point in reader.read():
        step = point.step if step is None else max(step, point.step)
        epoch = point.epoch if point.epoch is not None else epoch
        if point.key in latest or len(latest) < MOST_NAMES:
            latest[point.key] = point.value
    ranking = record.program.ranking
    if not any(name in latest for name in deciding(ranking)):
        for point in reader.read_skipped(_FURTHER_BYTES):
            if len(latest) < MOST_NAMES:
                latest.setdefault(point.key, point.value)
    metric = chosen(latest, ranking)
    total, epochs = goal_of(record)
    return Summary(run, step, total, epoch, epochs, metric, None if metric is None else latest[metric])


def goal_of(record: RunRecord) -> tuple[int | None, int | None]:
    """The steps and the epochs of the whole training, each None if it is not known."""
    return record.plan.get("total_steps"), record.job.get("train", {}).get("epochs")


def deciding(ranking: Ranking) -> tuple[str, ...]:
    """The metrics that decide which checkpoint is the best, the first of them that a run has."""
    return (ranking.metric,) if ranking.metric else ("validation/accuracy", "validation/loss")


def chosen(latest: Mapping[str, float | None], ranking: Ranking = USUAL) -> str | None:
    """The metric to show if only one is shown: the one that decides, otherwise a loss, otherwise the first by name that is not a rate."""
    usual = [name for name in (*deciding(ranking), "validation/loss", "train/loss") if name in latest]
    rest = sorted(name for name in latest if not tells_pace(name))
    return next(iter([*usual, *(name for name in rest if "loss" in name), *rest]), None)

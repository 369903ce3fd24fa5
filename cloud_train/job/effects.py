"""Settings that have less effect in a run than they seem to, in words. They are no mistakes: the same job may be run for longer."""

from collections.abc import Iterable, Iterator

from cloud_train.job.models import JobSpec
from cloud_train.job.schedules import Schedule
from cloud_train.job.training import TrainSpec
from cloud_train.spec.facts import LayerFacts
from cloud_train.spec.types import Cadence

_NORMALIZED = ("BatchNorm", "BasicBlock", "Bottleneck")
"""Kinds of layers that have a batch normalization."""


def remarks_on_effects(spec: JobSpec, layers: Iterable[LayerFacts], steps_per_epoch: int, total_steps: int) -> Iterator[str]:
    """A sentence for each setting of a built-in training that comes too late in its ``total_steps``, or does not do what it seems to."""
    train = spec.train
    if train.fast_dev_run:
        return
    yield from _schedule(train, steps_per_epoch, total_steps)
    validations = total_steps // train.evaluate.in_steps(steps_per_epoch)
    if not validations:
        yield f"train.evaluate: the run has {total_steps:,} steps, so it is validated at its end and not {_every(train.evaluate)}"
    elif train.early_stopping is not None and train.early_stopping.patience >= validations:
        number = "1 validation" if validations == 1 else f"{validations:,} validations"
        yield f"train.early_stopping: the run has {number}, too few to be stopped by a patience of {train.early_stopping.patience:,}"
    if train.accumulate > 1 and any(layer.kind.startswith(_NORMALIZED) for layer in layers):
        size = train.batch_size // train.accumulate
        yield f"train.accumulate: batch normalization sees each part of a batch by itself, {size:,} samples at a time"


def _schedule(train: TrainSpec, steps_per_epoch: int, total_steps: int) -> Iterator[str]:
    schedule = train.schedule_section
    if not isinstance(schedule, Schedule):
        return
    if schedule.warmup and schedule.name != "one-cycle" and (warmup := schedule.warmup.in_steps(steps_per_epoch)) >= total_steps:
        yield f"train.schedule.warmup: {warmup:,} steps are not over when the run ends, after {total_steps:,}: it only warms up"
    if schedule.name == "cosine" and schedule.restart:
        first = (schedule.warmup.in_steps(steps_per_epoch) if schedule.warmup else 0) + schedule.restart.in_steps(steps_per_epoch)
        if first >= total_steps:
            yield f"train.schedule.restart: the run has {total_steps:,} steps, so the rate never begins again; it would after {first:,}"
    if schedule.name == "step" and (every := schedule.every.in_steps(steps_per_epoch)) >= total_steps:
        yield f"train.schedule.every: the run has {total_steps:,} steps, so the learning rate never falls; it would after {every:,}"


def _every(cadence: Cadence) -> str:
    return f"every {cadence}" if cadence.count != 1 else f"every {cadence.unit}"

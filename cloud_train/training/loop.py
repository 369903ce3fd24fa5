"""The training loop: read it from top to bottom.

A step depends only on the job, the weights and the position, so a resumed run repeats what an uninterrupted one does.
"""

import time
from collections.abc import Iterator, Mapping
from contextlib import ExitStack, closing, suppress
from itertools import islice
from typing import NoReturn

from cloud_train.job.models import JobSpec
from cloud_train.job.training import TrainSpec
from cloud_train.run.manifest import read_manifest
from cloud_train.spec.types import Cadence
from cloud_train.training.checkpointing import CheckpointWriter, Snapshot, fingerprint, fingerprint_differences, restore_checkpoint
from cloud_train.training.data.dataset import Batch, DataSet, Samples, ToldToStopError
from cloud_train.training.description import ModelDescription
from cloud_train.training.distributed import World
from cloud_train.training.evaluation import Patience, evaluate
from cloud_train.training.events import EventFile
from cloud_train.training.learner import Learner
from cloud_train.training.modelfile import save_model
from cloud_train.training.ordering import Position, TrainingOrder, validation_picks
from cloud_train.training.reporting import Reporter
from cloud_train.worker.api import Run

FAST_DEV_BATCHES = 2
"""Batches of validation in a ``fast_dev_run``."""


def train(job: JobSpec, data: DataSet, description: ModelDescription, run: Run, world: World) -> dict[str, float]:
    """Train to the end, and return the last validation metrics. If the run is asked to stop before, save and end the process."""
    settings, schedule = job.train, job.train.schedule_section
    order = TrainingOrder(data.train, settings, bucketing=data.bucketing)
    last_step = settings.total_steps(order.steps_per_epoch)
    learner = Learner(job, data, description, world)
    patience = Patience(settings.early_stopping, run.ranking)
    position = _resume(run, learner, patience, world, is_compiled=settings.compile)
    validate = _Validation(settings, data.validation, learner, run, world)
    metrics: dict[str, float] = {}

    with ExitStack() as opened:
        reporter = opened.enter_context(closing(_reporter(job, data, order, last_step, run if world.is_main else None)))
        writer = opened.enter_context(CheckpointWriter(run, description, fingerprint(world), saves=world.is_main))
        checkpoints = _Checkpoints(job.checkpoint.every, position, writer, learner, patience)
        if position.step and validate.is_due(position, last_step) and not _was_validated(run):
            metrics = _validated(validate(), position, reporter, patience)
        batches = opened.enter_context(closing(data.train.batches(order.picks(position, last_step, world))))
        for batch, waited in _timed(batches):
            if patience.is_over:
                break
            size = order.batch_size_at(position)
            rate = settings.optimizer.lr * schedule.multiplier(position.step, last_step, order.steps_per_epoch)
            result = learner.step(batch, position, of=size, learning_rate=rate)
            position = position.after(size, order.samples)
            reporter.stepped(position, result, size, waited)

            metrics = _validated(validate(), position, reporter, patience) if validate.is_due(position, last_step) else {}
            is_over = position.step == last_step or patience.is_over
            stops, saves = world.any(run.stop_requested, checkpoints.are_due(position) or is_over)
            if stops or saves:
                checkpoints.save(position, metrics)
            if stops and (not is_over or not metrics):
                _stop(run, world, checkpoints, f"stop requested: saved at step {position.step:,} of {last_step:,}")
        if position.step < last_step and not patience.is_over:  # asked to stop before the next batch had arrived
            checkpoints.save(position, {}, unless_saved=True)
            _stop(
                run, world, checkpoints, f"stop requested while data was still arriving: saved at step {position.step:,} of {last_step:,}"
            )
    return _finish(run, world, learner, description=description, patience=patience, metrics=metrics, validate=validate)


def _finish(
    run: Run,
    world: World,
    learner: Learner,
    *,
    description: ModelDescription,
    patience: Patience,
    metrics: dict[str, float],
    validate: "_Validation",
) -> dict[str, float]:
    """Publish the model; returns the metrics of the last validation, which is repeated if it was incomplete."""
    if patience.is_over and world.is_main:
        print(f"stopped early: no improvement in {patience.since} consecutive validations", flush=True)
    metrics = metrics or validate(to_the_end=True)
    if world.is_main:
        save_model(run.model, learner.delivered, description, run.root_of(run.model))
        run.publish_model()
    return metrics


def _resume(run: Run, learner: Learner, patience: Patience, world: World, *, is_compiled: bool) -> Position:
    """The position to start from, with everything restored; prints whether the results will be bit-identical."""
    if run.resume_from is None:
        return Position()
    position = restore_checkpoint(run.resume_from, learner, patience)
    differences = fingerprint_differences(run.resume_from, fingerprint(world)) + ["the network is compiled"] * is_compiled
    promise = (
        f"same data order, but not bit-identical ({'; '.join(differences)})" if differences else "bit-identical to a run that never stopped"
    )
    if world.is_main:
        print(f"resumed at step {position.step:,}: {promise}", flush=True)
    return position


def _validated(metrics: dict[str, float], position: Position, reporter: Reporter, patience: Patience) -> dict[str, float]:
    """Pass a validation's metrics on, unless it was interrupted."""
    if metrics:
        reporter.validated(position, metrics)
        patience.validated(_named(metrics))
    return metrics


def _timed(batches: Iterator[Batch]) -> Iterator[tuple[Batch, float]]:
    """Each batch, and the seconds spent waiting for it; they end if the run is asked to stop before the next one has arrived."""
    since = time.monotonic()
    with suppress(ToldToStopError):
        for batch in batches:
            yield batch, time.monotonic() - since
            since = time.monotonic()


def _stop(run: Run, world: World, checkpoints: "_Checkpoints", message: str) -> NoReturn:
    checkpoints.finish()
    if world.is_main:
        print(message, flush=True)
    run.exit_stopped()


def _reporter(job: JobSpec, data: DataSet, order: TrainingOrder, last_step: int, run: Run | None) -> Reporter:
    targets = data.train.targets
    characters = targets.shape[1] if targets.dim() > 1 else 0
    events = EventFile(run.metrics.parent, run.root_of(run.metrics)) if run is not None and job.train.tensorboard else None
    return Reporter(run, order.samples, last_step, characters, events)


class _Validation:
    """Validates the network that would be saved as the model, on all validation data."""

    def __init__(self, settings: TrainSpec, samples: Samples, learner: Learner, run: Run, world: World) -> None:
        self._settings, self._samples, self._learner, self._run, self._world = settings, samples, learner, run, world

    def is_due(self, position: Position, last_step: int) -> bool:
        """Whether to validate here; the end of the run is always validated."""
        return position.meets(self._settings.evaluate) or position.step == last_step

    def __call__(self, to_the_end: bool = False) -> dict[str, float]:
        """Loss, accuracy and similar metrics; empty if the run is asked to stop meanwhile, unless ``to_the_end``."""
        picks = validation_picks(self._samples, self._settings.batch_size, self._world, streams=self._settings.carry_state)
        self._world.share_buffers(self._learner.delivered)
        return evaluate(
            self._learner.delivered,
            self._samples,
            islice(picks, FAST_DEV_BATCHES) if self._settings.fast_dev_run else picks,
            world=self._world,
            precision=self._learner.precision,
            carry_state=self._settings.carry_state,
            told_to_stop=lambda: self._run.stop_requested and not to_the_end,
        )


def _was_validated(run: Run) -> bool:
    """Whether the checkpoint has the metrics of its step; it does not if the run was asked to stop during validation."""
    return run.resume_from is not None and bool(read_manifest(run.resume_from).metrics)


def _named(metrics: Mapping[str, float]) -> dict[str, float]:
    return {f"validation/{name}": value for name, value in metrics.items()}


class _Checkpoints:
    """Saves checkpoints at the job's cadence."""

    def __init__(self, every: Cadence, position: Position, writer: CheckpointWriter, learner: Learner, patience: Patience) -> None:
        self._every, self._writer, self._learner, self._patience = every, writer, learner, patience
        self._step, self._saved = position.step, time.monotonic()  # of the newest checkpoint

    def are_due(self, position: Position) -> bool:
        if self._every.unit == "second":
            return time.monotonic() - self._saved >= self._every.count
        return position.meets(self._every)

    def save(self, position: Position, metrics: Mapping[str, float], *, unless_saved: bool = False) -> None:
        """Save a checkpoint in every process together; not again at the same step with ``unless_saved``."""
        if unless_saved and self._step == position.step:
            return
        self._writer.save(Snapshot(position, self._learner.state(), self._learner.delivered, self._patience), _named(metrics))
        self._step, self._saved = position.step, time.monotonic()

    def finish(self) -> None:
        """Wait until the newest checkpoint is published."""
        self._writer.finish()

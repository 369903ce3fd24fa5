"""The training loop: read it from top to bottom.

A step depends only on the job, the weights and the position, so a resumed run repeats what an uninterrupted one does.
"""

import time
from collections.abc import Iterator, Mapping
from contextlib import ExitStack, closing, suppress
from dataclasses import dataclass, replace
from itertools import islice
from typing import Any, NoReturn

from cloud_train.errors import JobError
from cloud_train.job.models import JobSpec
from cloud_train.job.training import TrainSpec
from cloud_train.run.manifest import read_manifest
from cloud_train.spec.types import Cadence
from cloud_train.training.checkpointing import CheckpointWriter, Snapshot, fingerprint, fingerprint_differences, restore_checkpoint
from cloud_train.training.data.dataset import Batch, DataSet, Samples, ToldToStopError
from cloud_train.training.data.identity import check_meaning, differences, identity
from cloud_train.training.description import ModelDescription
from cloud_train.training.distributed import World
from cloud_train.training.evaluation import evaluate
from cloud_train.training.events import EventFile
from cloud_train.training.learner import Learner
from cloud_train.training.modelfile import DESCRIPTION, read_description, save_model
from cloud_train.training.ordering import Position, TrainingOrder, validation_picks
from cloud_train.training.reporting import Reporter
from cloud_train.training.standing import Standing
from cloud_train.training.starting import Start
from cloud_train.worker.api import Run

FAST_DEV_BATCHES = 2
"""Batches of validation in a ``fast_dev_run``."""


def train(
    job: JobSpec, data: DataSet, description: ModelDescription, run: Run, world: World, *, start: Start | None = None
) -> dict[str, float]:
    """Train to the end, and return the last validation metrics. If the run is asked to stop before, save and end the process.

    ``start`` has the weights that the run begins with.
    """
    settings, schedule = job.train, job.train.schedule_section
    order = TrainingOrder(data.train, settings, bucketing=data.bucketing)
    last_step = settings.total_steps(order.steps_per_epoch)
    learner = Learner(job, data, description, world, start=start)
    _tell_fit(learner, world)
    standing = Standing.of(settings, run.ranking)
    record = {**fingerprint(world), "data": identity(data)} if world.is_main else {}
    position = _restored(run, learner, standing, description).within(order.samples)
    if position.step > last_step:
        raise JobError(f"the checkpoint is from step {position.step:,}, but the job ends after {last_step:,} steps")
    _say_promise(run, position, record, is_compiled=settings.compile)
    validate = _Evaluation(settings, data.validation, learner, run, world)
    metrics: dict[str, float] = {}

    with ExitStack() as opened:
        reporter = opened.enter_context(closing(_reporter(job, data, order, last_step, run if world.is_main else None)))
        writer = opened.enter_context(CheckpointWriter(run, description, record, saves=world.is_main))
        checkpoints = _Checkpoints(job.checkpoint.every, position, writer, learner, standing)
        if position.step and validate.is_due(position, last_step) and not _was_validated(run):
            metrics = _validated(validate(), position, reporter, standing, learner)
        batches = opened.enter_context(closing(data.train.batches(order.picks(position, last_step, world))))
        for batch, waited in _timed(batches):
            if standing.is_over:
                break
            size = order.batch_size_at(position)
            rate = settings.optimizer.lr * schedule.multiplier(position.step, last_step, order.steps_per_epoch)
            result = learner.step(batch, position, of=size, learning_rate=rate)
            position = position.after(size, order.samples)
            reporter.stepped(position, result, size, waited)

            metrics = _validated(validate(), position, reporter, standing, learner) if validate.is_due(position, last_step) else {}
            is_over = position.step == last_step or standing.is_over
            saves = checkpoints.are_due(position) or standing.is_best_at(position.step) or is_over
            stops, saves = world.any(run.stop_requested, saves)
            if stops or saves:
                checkpoints.save(position, metrics)
            if stops and (not is_over or not metrics):
                _stop(run, world, checkpoints, f"stop requested: saved at step {position.step:,} of {last_step:,}")
        if position.step < last_step and not standing.is_over:  # asked to stop before the next batch had arrived
            checkpoints.save(position, {}, unless_saved=True)
            _stop(
                run, world, checkpoints, f"stop requested while data was still arriving: saved at step {position.step:,} of {last_step:,}"
            )
        metrics = metrics or validate(to_the_end=True)
        model = _chosen(position, metrics, learner, standing, says=world.is_main)
        if data.test is not None:
            model = model.tested(_Evaluation(settings, data.test, learner, run, world)(to_the_end=True), position, reporter)
        for name, samples in data.parts().items():
            if world.is_main and (skipped := samples.skipped()):
                print(f"{name}: {skipped}", flush=True)
    if world.is_main:
        save_model(run.model, learner.delivered, description, run.root_of(run.model))
        made_from = {"start_from": {"source": start.source, "sha256": start.sha256}} if start else None
        run.publish_model(model.step, model.metrics, made_from)
    return model.validation


def _tell_fit(learner: Learner, world: World) -> None:
    """Print what was loaded of the weights that the run begins with."""
    if learner.fit is not None and world.is_main:
        print("\n".join(learner.fit.lines()), flush=True)


@dataclass(frozen=True)
class _Model:
    """The model of a run: the step that it is from, and how good it is."""

    step: int
    metrics: Mapping[str, float]
    """By their full names, such as ``validation/loss``."""

    @property
    def validation(self) -> dict[str, float]:
        """The metrics of its validation, by their short names."""
        return {name.removeprefix("validation/"): value for name, value in self.metrics.items() if name.startswith("validation/")}

    def tested(self, metrics: Mapping[str, float], position: Position, reporter: Reporter) -> "_Model":
        """With the metrics of its test, which are reported."""
        reporter.tested(position, metrics)
        return replace(self, metrics={**self.metrics, **{f"test/{name}": value for name, value in metrics.items()}})


def _chosen(position: Position, metrics: Mapping[str, float], learner: Learner, standing: Standing, *, says: bool) -> _Model:
    """Choose the weights of the model: the last ones, or the best where the job delivers those. ``says`` it in the log."""
    best = standing.best
    if standing.is_over and says:
        print(f"stopped early: no improvement in {standing.patience.since} consecutive validations", flush=True)
    last = _Model(position.step, _named(metrics))
    if not best.keeps_weights or best.weights is None or best.step is None or best.step == position.step:
        return last
    learner.delivered.load_state_dict(best.weights)
    if says:
        metric = best.ranking.deciding(best.metrics)
        after = f", {last.metrics[metric]:.4f} at the end" if metric in last.metrics else ""
        print(f"the model is that of step {best.step:,}, which was the best: {metric} {best.metrics[metric]:.4f}{after}", flush=True)
    return _Model(best.step, best.metrics)


def _restored(run: Run, learner: Learner, standing: Standing, description: ModelDescription) -> Position:
    """The position to start from, with everything restored. Raises JobError if the checkpoint was trained on data with other classes."""
    if run.resume_from is None:
        return Position()
    check_meaning(read_description(run.resume_from / DESCRIPTION), description)
    return restore_checkpoint(run.resume_from, learner, standing)


def _say_promise(run: Run, position: Position, record: Mapping[str, Any], *, is_compiled: bool) -> None:
    """Say in a resumed run what its result will be. ``record`` is empty in a process that says nothing."""
    if run.resume_from is not None and record:
        promise = _promise(read_manifest(run.resume_from).fingerprint, record, is_compiled=is_compiled)
        print(f"resumed at step {position.step:,}: {promise}", flush=True)


def _promise(before: Mapping[str, Any], record: Mapping[str, Any], *, is_compiled: bool) -> str:
    """What holds for the result of a resumed run, given what its checkpoint and this process record of machine and data."""
    if changes := differences(before.get("data"), record["data"]):
        return f"the data may have changed, so the result is not that of a run that never stopped ({'; '.join(changes)})"
    if others := fingerprint_differences(before, record) + ["the network is compiled"] * is_compiled:
        return f"same data order, but not bit-identical ({'; '.join(others)})"
    return "bit-identical to a run that never stopped"


def _validated(metrics: dict[str, float], position: Position, reporter: Reporter, standing: Standing, learner: Learner) -> dict[str, float]:
    """Pass a validation's metrics on, unless it was interrupted."""
    if metrics:
        reporter.validated(position, metrics)
        standing.validated(position.step, _named(metrics), learner.delivered)
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
    characters = data.train.targets.shape[1] if data.train.is_text else 0
    events = EventFile(run.metrics.parent, run.root_of(run.metrics)) if run is not None and job.train.tensorboard else None
    return Reporter(run, order.samples, last_step, characters, events)


class _Evaluation:
    """Evaluates the network that would be saved as the model, on all validation data, or on all test data."""

    def __init__(self, settings: TrainSpec, samples: Samples, learner: Learner, run: Run, world: World) -> None:
        self._settings, self._samples, self._learner, self._run, self._world = settings, samples, learner, run, world

    def is_due(self, position: Position, last_step: int) -> bool:
        """Whether to evaluate here; the end of the run always is."""
        return position.meets(self._settings.evaluate) or position.step == last_step

    def __call__(self, to_the_end: bool = False) -> dict[str, float]:
        """Loss, accuracy and similar metrics; empty if the run is asked to stop meanwhile, unless ``to_the_end``."""
        picks = validation_picks(self._samples, self._settings.batch_size, self._world)
        self._world.share_buffers(self._learner.delivered)
        return evaluate(
            self._learner.delivered,
            self._samples,
            islice(picks, FAST_DEV_BATCHES) if self._settings.fast_dev_run else picks,
            self._learner.measure,
            world=self._world,
            precision=self._learner.precision,
            told_to_stop=lambda: self._run.stop_requested and not to_the_end,
        )


def _was_validated(run: Run) -> bool:
    """Whether the checkpoint has the metrics of its step; it does not if the run was asked to stop during validation."""
    return run.resume_from is not None and bool(read_manifest(run.resume_from).metrics)


def _named(metrics: Mapping[str, float]) -> dict[str, float]:
    return {f"validation/{name}": value for name, value in metrics.items()}


class _Checkpoints:
    """Saves checkpoints at the job's cadence, and wherever a validation is the best so far."""

    def __init__(self, every: Cadence, position: Position, writer: CheckpointWriter, learner: Learner, standing: Standing) -> None:
        self._every, self._writer, self._learner, self._standing = every, writer, learner, standing
        self._step, self._saved = position.step, time.monotonic()  # of the newest checkpoint

    def are_due(self, position: Position) -> bool:
        if self._every.unit == "second":
            return time.monotonic() - self._saved >= self._every.count
        return position.meets(self._every)

    def save(self, position: Position, metrics: Mapping[str, float], *, unless_saved: bool = False) -> None:
        """Save a checkpoint in every process together; not again at the same step with ``unless_saved``."""
        if unless_saved and self._step == position.step:
            return
        self._writer.save(Snapshot(position, self._learner.state(), self._learner.delivered, self._standing), _named(metrics))
        self._step, self._saved = position.step, time.monotonic()

    def finish(self) -> None:
        """Wait until the newest checkpoint is published."""
        self._writer.finish()

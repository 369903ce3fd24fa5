"""The training loop: read it from top to bottom.

What a step does follows from the job, the weights and the position alone, so a resumed run repeats what an uninterrupted one does.
"""

import math
import time
from collections.abc import Callable
from dataclasses import dataclass, field

import torch
from torch import nn
from torch.nn import functional

from cloud_train.errors import CloudTrainError
from cloud_train.job.architecture import total_steps
from cloud_train.job.models import JobSpec
from cloud_train.job.types import Cadence
from cloud_train.run.manifest import read_manifest
from cloud_train.training.checkpointing import CheckpointWriter, Position, fingerprint_differences, restore_checkpoint
from cloud_train.training.data import DataSet, Samples
from cloud_train.training.modelfile import ModelDescription, save_model
from cloud_train.training.optimizers import Optimizer, make_optimizer
from cloud_train.training.randomness import derived_seed, permutation
from cloud_train.training.schedules import learning_rate
from cloud_train.worker.api import Run


class DivergedError(CloudTrainError):
    """The loss or a gradient is not finite; the weights are still those from before."""

    code = "diverged"


def train(job: JobSpec, data: DataSet, description: ModelDescription, run: Run, device: torch.device) -> dict[str, float]:
    """Train to the end, or until the run is told to stop; returns the last validation metrics. Ends the process in the second case."""
    samples, batch_size, seed = len(data.train), job.train.batch_size, job.train.seed
    last_step = total_steps(job.train, math.ceil(samples / batch_size))
    network = description.build(derived_seed(seed, "weights")).to(device)
    optimizer = make_optimizer(job.train.optimizer, network.parameters())
    position = Position() if run.resume_from is None else _resume(run, network, optimizer, device)
    reporter = _Reporter(run, samples, last_step)
    saving = _SaveCadence(job.checkpoint.every)
    order = permutation(samples, seed, "order", position.epoch).to(device)
    metrics: dict[str, float] = {}
    if position.step and position.consumed == 0 and not _was_validated(run):
        metrics = evaluate(network, data.validation, batch_size, lambda: run.stop_requested)
        reporter.validated(position, metrics)

    with CheckpointWriter(run, description) as checkpoints:
        while position.step < last_step:
            inputs, targets = data.train.batch(order[position.consumed : position.consumed + batch_size])
            scores = forward(network, inputs)
            loss = cross_entropy(scores, targets)
            optimizer.clear_gradients()
            loss.backward()  # type: ignore[no-untyped-call]  # torch declares no types for it
            clip_or_check(optimizer.weights, loss.item(), job.train.clip_norm, position.step + 1)
            optimizer.learning_rate = learning_rate(job.train, position.step, last_step)
            optimizer.step()
            position = position.after(len(targets), samples)

            reporter.stepped(position, scores, targets, loss.item(), optimizer.learning_rate)
            metrics = {}
            if position.consumed == 0:
                order = permutation(samples, seed, "order", position.epoch).to(device)
            if position.consumed == 0 or position.step == last_step:
                metrics = evaluate(network, data.validation, batch_size, lambda: run.stop_requested)
                reporter.validated(position, metrics)
            if saving.is_due(position) or position.step == last_step or run.stop_requested:
                named = {f"validation/{name}": value for name, value in metrics.items()}
                checkpoints.save(position, network, optimizer, named)
                saving.saved()
            if run.stop_requested and (position.step < last_step or not metrics):
                checkpoints.finish()
                print(f"told to stop: saved at step {position.step:,} of {last_step:,}", flush=True)
                run.exit_stopped()

    metrics = metrics or evaluate(network, data.validation, batch_size)
    save_model(run.model, network, description)
    run.publish_model()
    return metrics


def forward(network: nn.Module, inputs: torch.Tensor) -> torch.Tensor:
    """Scores with the classes as the last axis; a recurrent network begins with a state of zeros."""
    answer = network(inputs)
    scores: torch.Tensor = answer[0] if isinstance(answer, tuple) else answer
    return scores


def cross_entropy(scores: torch.Tensor, targets: torch.Tensor) -> torch.Tensor:
    """Mean cross-entropy in nats, over all samples or characters; ``targets`` are class numbers."""
    return functional.cross_entropy(scores.flatten(0, -2), targets.flatten())


def clip_or_check(weights: list[nn.Parameter], loss: float, clip_norm: float | None, step: int) -> None:
    """Scale the gradients down to the global L2 norm ``clip_norm``; raises DivergedError, before the weights change, if anything is not
    finite.
    """
    norm = nn.utils.get_total_norm([weight.grad for weight in weights if weight.grad is not None])
    if not (math.isfinite(loss) and math.isfinite(norm.item())):
        raise DivergedError(
            f"step {step}: the loss is {loss:g} and the gradient's norm {norm.item():g}; the weights were left as they were",
            hint="lower train.optimizer.lr, or set train.clip_norm",
        )
    if clip_norm is not None:
        nn.utils.clip_grads_with_norm_(weights, clip_norm, norm)


@torch.no_grad()
def evaluate(network: nn.Module, samples: Samples, batch_size: int, told_to_stop: Callable[[], bool] = lambda: False) -> dict[str, float]:
    """Loss in nats, accuracy, and for text bits per character, over all of ``samples``; nothing if told to stop before the end."""
    network.eval()
    loss = correct = 0.0
    for start in range(0, len(samples), batch_size):
        if told_to_stop():
            network.train()
            return {}
        inputs, targets = samples.batch(slice(start, start + batch_size))
        scores = forward(network, inputs)
        loss += cross_entropy(scores, targets).item() * targets.numel()
        correct += (scores.argmax(-1) == targets).sum().item()
    network.train()
    count = samples.targets.numel()
    metrics = {"loss": loss / count, "accuracy": correct / count}
    return {**metrics, "bits_per_character": metrics["loss"] / math.log(2)} if samples.targets.dim() > 1 else metrics


def _resume(run: Run, network: nn.Module, optimizer: Optimizer, device: torch.device) -> Position:
    assert run.resume_from is not None
    position = restore_checkpoint(run.resume_from, network, optimizer)
    differences = fingerprint_differences(run.resume_from, device)
    promise = (
        f"the same data order, not the same bits ({'; '.join(differences)})" if differences else "bit-identical to a run that never stopped"
    )
    print(f"resumed at step {position.step:,}: {promise}", flush=True)
    return position


def _was_validated(run: Run) -> bool:
    """Whether the checkpoint has the validation of its epoch; it has not if the run was told to stop meanwhile."""
    return run.resume_from is not None and bool(read_manifest(run.resume_from).metrics)


class _SaveCadence:
    """Says when a checkpoint is due."""

    def __init__(self, every: Cadence) -> None:
        self._every = every
        self._saved = time.monotonic()

    def is_due(self, position: Position) -> bool:
        if self._every.unit == "second":
            return time.monotonic() - self._saved >= self._every.count
        if self._every.unit == "epoch":
            return position.consumed == 0 and position.epoch % self._every.count == 0
        return position.step % self._every.count == 0

    def saved(self) -> None:
        self._saved = time.monotonic()


@dataclass
class _Reporter:
    """Tells how the training goes: metrics of each step and each validation to the run, a line for each validation to the log."""

    run: Run
    samples: int
    """Samples in an epoch."""
    last_step: int
    _loss: float = math.nan
    _counted: int = 0
    _characters: int = 0
    _since: float = field(default_factory=time.monotonic)

    def stepped(self, position: Position, scores: torch.Tensor, targets: torch.Tensor, loss: float, rate: float) -> None:
        """Log the metrics of one step; the rates about once a second."""
        self._loss = loss
        values = {"loss": loss}
        if targets.dim() == 1:
            values["accuracy"] = (scores.argmax(-1) == targets).sum().item() / len(targets)
        self._counted += len(targets)
        self._characters += targets.numel() if targets.dim() > 1 else 0
        elapsed = time.monotonic() - self._since
        if elapsed >= 1:
            values["samples_per_second"] = self._counted / elapsed
            if self._characters:
                values["characters_per_second"] = self._characters / elapsed
            self._counted, self._characters, self._since = 0, 0, time.monotonic()
        if position.step == 1 or elapsed >= 1:
            values["learning_rate"] = rate
        self.run.log(step=position.step, epoch=self._epoch(position), split="train", **values)

    def validated(self, position: Position, metrics: dict[str, float]) -> None:
        """Log a validation and print a line about it."""
        if not metrics:
            return
        self.run.log(step=position.step, epoch=self._epoch(position), split="validation", **metrics)
        shown = ", ".join(f"{name.replace('_', ' ')} {value:.4f}" for name, value in metrics.items())
        trained = "" if math.isnan(self._loss) else f"loss {self._loss:.4f}, "
        print(f"epoch {self._epoch(position):g}, step {position.step:,} of {self.last_step:,}: {trained}validation {shown}", flush=True)
        self._counted, self._characters, self._since = 0, 0, time.monotonic()  # the rate is that of training

    def _epoch(self, position: Position) -> float:
        return position.epoch + position.consumed / self.samples

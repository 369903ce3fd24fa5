"""One step of learning: forward, loss, backward, and the update of the weights, with all state that is kept between steps."""

import math
from collections.abc import Callable, Mapping
from contextlib import nullcontext
from dataclasses import asdict, dataclass
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn

from cloud_train.errors import CloudTrainError, JobError
from cloud_train.job.models import JobSpec
from cloud_train.networks.rnn import RnnModel
from cloud_train.training.data.dataset import Batch, DataSet
from cloud_train.training.description import ModelDescription, build
from cloud_train.training.device import Precision
from cloud_train.training.distributed import World
from cloud_train.training.ema import WeightAverage
from cloud_train.training.evaluation import forward
from cloud_train.training.losses import TrainingLoss, forecast_loss
from cloud_train.training.measures import measure_of
from cloud_train.training.optimizers import make_optimizer
from cloud_train.training.ordering import Position
from cloud_train.training.randomness import derived_seed
from cloud_train.training.starting import Start, load_start


class DivergedError(CloudTrainError):
    """The loss or a gradient is not finite; the weights have not been changed."""

    code = "diverged"


@dataclass(frozen=True)
class StepResult:
    """The result of one step, across all processes."""

    loss: float
    """Mean training loss: in nats, for a forecast in squares of scaled units."""
    gradient_norm: float
    """Global L2 norm of the gradient, before it was clipped."""
    learning_rate: float
    epoch_loss: float
    """Mean training loss of the samples of this epoch so far."""
    epoch_accuracy: float | None
    """Fraction of these samples that were classified correctly, by the weights before their own step; None without classes."""


@dataclass
class EpochMean:
    """Sums over the samples of an epoch so far."""

    samples: int = 0
    loss: float = 0.0
    correct: float = 0.0

    def add(self, samples: int, loss: float, correct: float) -> None:
        """Add a batch of ``samples``, with the sum of their losses and the number of correct ones."""
        self.samples += samples
        self.loss += loss
        self.correct += correct


class Learner:
    """The network and all state that changes in training: weights, optimizer, gradient scaler, weight average, carried state."""

    def __init__(self, job: JobSpec, data: DataSet, description: ModelDescription, world: World, *, start: Start | None = None) -> None:
        """``start`` may have the weights to begin with. Raises JobError and CorruptError if they do not fit."""
        self._settings, self._world, self._device = job.train, world, world.device
        network = build(description, derived_seed(job.train.seed, "weights"))
        self.fit = load_start(network, description, start) if start and start.weights else None
        """What of ``start`` was loaded."""
        self.network = network.to(world.device)
        if description.image_shape is not None and job.train.channels_last:
            self.network.to(memory_format=torch.channels_last)  # type: ignore[call-overload]  # torch's own signature leaves it out
        self.optimizer = make_optimizer(job.train.optimizer, self.network)
        self.precision = Precision(job.train.precision, world.device)
        self.average = WeightAverage(self.network, job.train.ema) if job.train.ema else None
        self.carried: tuple[Tensor, ...] | None = None
        """The state that a language model carries into the next batch, for this process's rows."""
        self._mean = EpochMean()
        self.measure = measure_of(description)
        """What its validations measure."""
        self._loss = _loss(job, data, description)
        self._is_classifier = description.sample_kind in ("images", "lines")
        self._draws = any(isinstance(module, nn.Dropout | nn.Dropout2d) and module.p for module in self.network.modules())
        if job.train.compile:
            self.network.compile()  # in place, so that the weights keep their names
        self._parallel = world.wrap(self.network)
        if job.train.carry_state and job.train.batch_size % world.size:
            raise JobError(
                f"train.carry_state: a batch of {job.train.batch_size} sequences cannot be divided evenly among {world.size} processes",
                hint="make train.batch_size a multiple of resources.processes",
            )

    @property
    def delivered(self) -> nn.Module:
        """The network that is validated and saved as the model: the weights' average, if there is one."""
        return self.average.network if self.average else self.network

    def step(self, batch: Batch, position: Position, *, of: int, learning_rate: float) -> StepResult:
        """Learn from ``batch``, this process's share of a batch of ``of`` samples.

        Images that could not be read are not in ``batch`` and do not count. If none of the whole batch is left, no weight changes.

        Raises DivergedError, before a weight changes, if the loss or the gradient is not finite.
        """
        if self._draws:  # dropout depends on the step and the process, not on earlier draws
            torch.manual_seed(derived_seed(self._settings.seed, "step", position.step, self._world.rank))
        if position.consumed == 0:
            self.carried, self._mean = None, EpochMean()
        picked = range(of)[self._world.share(of)]
        self.optimizer.clear_gradients()
        present = len(batch) if len(picked) else 0
        if len(batch):
            loss, correct = self._add_gradients(batch, weight=len(picked) * self._world.size / of)
        else:
            loss, correct = self._add_no_gradients(batch)
        is_sound = self.precision.unscale(self.optimizer)
        gradients = [weight.grad for weight in self.optimizer.weights if weight.grad is not None]
        norm = nn.utils.get_total_norm(gradients)
        everyone = self._world.gathered(
            [loss.item() * present, correct.item() if present else 0, self._world.own_gradient_was_finite(), norm.item(), present]
        )
        check_finite(position.step + 1, everyone, is_sound)
        losses, hits, *_, counts = map(sum, zip(*everyone, strict=True))
        if is_sound and counts:
            if self._settings.clip_norm:
                nn.utils.clip_grads_with_norm_(self.optimizer.weights, self._settings.clip_norm, norm)
            self.optimizer.learning_rate = learning_rate
            self.optimizer.step()
            if self.average is not None:
                self.average.update(self.network)
        mean = self._mean
        mean.add(int(counts), losses, hits)
        return StepResult(
            loss=losses / counts if counts else math.nan,
            gradient_norm=norm.item(),
            learning_rate=learning_rate,
            epoch_loss=mean.loss / mean.samples if mean.samples else math.nan,
            epoch_accuracy=(mean.correct / mean.samples if mean.samples else math.nan) if self._is_classifier else None,
        )

    def _add_gradients(self, batch: Batch, weight: float) -> tuple[Tensor, Tensor]:
        """Mean loss and number of correct samples of the batch, part by part; averages its gradients, times ``weight``."""
        loss, correct = torch.zeros((), device=self._device), torch.zeros((), device=self._device)
        parts = batch.parts(self._settings.accumulate)
        for number, part in enumerate(parts, start=1):
            is_last = number == len(parts)
            with nullcontext() if is_last else self._world.without_averaging(self._parallel):
                with self.precision.arithmetic():
                    scores, after = forward(self._parallel, part, self.carried)
                    part_loss = self._loss(scores, part.targets)
                share = len(part) / len(batch)
                self.precision.backward(part_loss if share * weight == 1 else part_loss * (share * weight))
            loss += part_loss.detach() * share
            if self._is_classifier:
                correct += (scores.detach().argmax(-1) == part.targets).sum()
            if self._settings.carry_state and after is not None:
                self.carried = tuple(tensor.detach() for tensor in after)
        return loss, correct

    def _add_no_gradients(self, batch: Batch) -> tuple[Tensor, Tensor]:
        """Take part in averaging the gradients, where ``batch`` has no samples: with an empty image that has no weight.

        It does not count in running means.
        """
        stand_in = Batch(batch.inputs.new_zeros(1, *batch.inputs.shape[1:]), batch.targets.new_zeros(1))
        self.network.eval()
        loss, correct = self._add_gradients(stand_in, weight=0)
        self.network.train()
        return loss * 0, correct * 0

    def state(self) -> dict[str, Any]:
        """All state that is kept between steps, by reference; every process has to call this and gets the same."""
        return {
            "weights": dict(self.network.state_dict()),
            "optimizer": self.optimizer.state(),
            "precision": self.precision.state(),
            "average": self.average.state() if self.average else None,
            "carried": None if self.carried is None else self._world.together(self.carried),
            "mean": asdict(self._mean),
        }

    def load_state(self, state: Mapping[str, Any]) -> None:
        """Restore a copy of what ``state`` returned; raises ValueError, RuntimeError or KeyError if it belongs to another training."""
        self.network.load_state_dict(state["weights"])
        self.optimizer.load_state(state["optimizer"])
        self.precision.load_state(state["precision"])
        if (self.average is None) != (state["average"] is None):
            raise ValueError("only one of the two trainings keeps an average of the weights")
        if self.average is not None:
            self.average.load_state(state["average"])
        self._mean = EpochMean(**state.get("mean", {}))  # earlier versions recorded none
        if state["carried"] is not None:
            share = self._world.share(self._settings.batch_size)
            self.carried = tuple(tensor[share].clone().to(self._device) for tensor in state["carried"])


def _loss(job: JobSpec, data: DataSet, description: ModelDescription) -> Callable[[Tensor, Tensor], Tensor]:
    """The training loss, of outputs and targets."""
    model = description.model
    if description.series is not None:
        return partial(forecast_loss, quantiles=model.quantiles if isinstance(model, RnnModel) else ())
    return TrainingLoss(job.train, data.train.targets, len(description.classes))


def check_finite(step: int, everyone: list[list[float]], is_sound: bool = True) -> None:
    """Raise DivergedError, naming step and process, unless each process's loss, gradient and gradient norm are finite.

    ``everyone`` holds for each process the sum of its losses, its correct samples, whether its own gradient was finite, the norm of the
    averaged gradient, and its samples. If the gradients overflowed because of fp16's scale (not ``is_sound``), only the loss is checked.
    """
    for rank, (loss, _, own_gradient_is_finite, norm, *_count) in enumerate(everyone):
        broken = f"the loss is {loss:g}" if not math.isfinite(loss) else ""
        if not broken and is_sound and not own_gradient_is_finite:
            broken = "the gradient is not finite"
        if not broken and is_sound and not math.isfinite(norm) and all(one[2] for one in everyone):
            broken = f"the gradient's norm is {norm:g}"
        if broken:
            raise DivergedError(
                f"step {step}, rank {rank}: {broken}; the weights were not changed",
                hint="lower train.optimizer.lr, or set train.clip_norm",
            )

"""The losses that training minimizes and validation measures."""

from typing import Literal

import torch
from torch import Tensor
from torch.nn import functional

from cloud_train.errors import CorruptError, JobError
from cloud_train.job.training import TrainSpec


def cross_entropy(scores: Tensor, targets: Tensor) -> Tensor:
    """Mean cross-entropy in nats, over all samples or characters.

    ``scores`` (…, classes) in any format, converted to fp32; ``targets`` (…) are class numbers.
    """
    return functional.cross_entropy(_rows(scores), targets.flatten())


def forecast_loss(forecasts: Tensor, targets: Tensor, quantiles: tuple[float, ...]) -> Tensor:
    """Mean squared error of forecasts (B, P, K, 1) for ``targets`` (B, P, K), or with ``quantiles`` q (B, P, K, Q) the mean over them of
    q·e where the error e = target − forecast is positive, and (q − 1)·e where it is not (Koenker and Bassett, 1978). A scalar.
    """
    errors = targets.unsqueeze(-1) - forecasts.float()
    if not quantiles:
        return errors.square().mean()
    levels = errors.new_tensor(quantiles)
    return torch.maximum(levels * errors, (levels - 1) * errors).mean()


class TrainingLoss:
    """Mean cross-entropy in nats with the job's label smoothing and class weights.

    With class weights it is the sum of each target's loss times its class's weight, divided by the *number* of targets (as in Keras) and
    not by the sum of the weights (as in ``torch.nn.CrossEntropyLoss``): so the mean over a batch is the mean over its parts, however it is
    divided among processes.

    ``targets`` are those of all training data. Raises JobError if the number of weights is not that of the classes, and CorruptError if a
    target is not a valid class number, which would end the process on a GPU.
    """

    def __init__(self, train: TrainSpec, targets: Tensor, classes: int) -> None:
        _check(targets, classes)
        self._label_smoothing = train.label_smoothing
        self._class_weights = None if train.class_weights is None else _class_weights(train.class_weights, targets, classes)

    def __call__(self, scores: Tensor, targets: Tensor) -> Tensor:
        """The loss of a batch, a scalar: ``scores`` (…, classes) in any format, converted to fp32; ``targets`` (…)."""
        scores_NC, targets_N = _rows(scores), targets.flatten()
        if self._class_weights is None:
            return functional.cross_entropy(scores_NC, targets_N, label_smoothing=self._label_smoothing)
        losses_N = functional.cross_entropy(scores_NC, targets_N, label_smoothing=self._label_smoothing, reduction="none")
        self._class_weights = self._class_weights.to(scores.device)
        return (losses_N * self._class_weights[targets_N]).mean()


def _rows(scores: Tensor) -> Tensor:
    """One row of scores for each target, in fp32: in 16 bits the logarithm of a sum over classes is too imprecise."""
    return scores.flatten(0, -2).float()


def _class_weights(given: Literal["balanced"] | tuple[float, ...], targets: Tensor, classes: int) -> Tensor:
    """The weight of each class, float32 (classes,).

    ``balanced`` gives n / (k · count) for n targets of k classes that occur, as scikit-learn's ``compute_class_weight`` does: the mean over
    all targets is 1. A class that does not occur gets 0.
    """
    if given != "balanced":
        if len(given) != classes:
            raise JobError(
                f"train.class_weights: {len(given)} weights for {classes} classes",
                hint=f"set it to {classes} numbers, in the order of the classes, or to 'balanced'",
            )
        return torch.tensor(given, dtype=torch.float32)
    counts = torch.bincount(targets.flatten(), minlength=classes).cpu()
    occurs = counts > 0
    weights = counts.sum() / (occurs.sum() * counts.clamp(min=1))
    return torch.where(occurs, weights, 0.0)


def _check(targets: Tensor, classes: int) -> None:
    lowest, highest = (int(number) for number in targets.aminmax())
    if lowest < 0 or highest >= classes:
        wrong = lowest if lowest < 0 else highest
        raise CorruptError(f"data: a training sample has class number {wrong}, but the classes are 0 to {classes - 1}")

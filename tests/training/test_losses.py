"""The losses against torch's and scikit-learn's, and a few by hand."""

from typing import Any

import pytest
import torch
from torch import Tensor
from torch.nn import functional

from cloud_train.errors import CorruptError, JobError
from cloud_train.job.training import TrainSpec
from cloud_train.training.losses import TrainingLoss, cross_entropy

CLASSES = 5
TARGETS = torch.tensor([0, 1, 1, 3, 0, 0, 4, 1, 0, 2, 0, 0])


def scores_of(*shape: int) -> Tensor:
    return torch.randn(*shape, CLASSES, generator=torch.Generator().manual_seed(len(shape)))


def loss_of(scores: Tensor, targets: Tensor = TARGETS, **train: Any) -> Tensor:
    return TrainingLoss(TrainSpec(**train), TARGETS, CLASSES)(scores, targets)


def test_cross_entropy_is_torchs_over_all_leading_axes() -> None:
    scores_BTV, targets_BT = scores_of(3, 4), TARGETS.reshape(3, 4)
    assert torch.equal(cross_entropy(scores_BTV, targets_BT), functional.cross_entropy(scores_BTV.reshape(12, CLASSES), TARGETS))
    assert torch.equal(cross_entropy(scores_of(12), TARGETS), functional.cross_entropy(scores_of(12), TARGETS))


@pytest.mark.parametrize("label_smoothing", [0.0, 0.1])
def test_without_class_weights_the_loss_is_torchs_to_the_last_bit(label_smoothing: float) -> None:
    scores = scores_of(3, 4)
    ours = loss_of(scores, TARGETS.reshape(3, 4), label_smoothing=label_smoothing)
    torchs = functional.cross_entropy(scores.reshape(12, CLASSES), TARGETS, label_smoothing=label_smoothing)
    assert torch.equal(ours, torchs)


def test_label_smoothing_spreads_a_part_of_the_target_over_all_classes() -> None:
    logarithms = scores_of(12).log_softmax(-1)
    expected = -(0.8 * logarithms[torch.arange(12), TARGETS] + 0.2 * logarithms.mean(-1)).mean()
    torch.testing.assert_close(loss_of(scores_of(12), label_smoothing=0.2), expected)


@pytest.mark.parametrize("label_smoothing", [0.0, 0.1])
def test_a_class_weight_multiplies_the_loss_of_its_class_and_not_the_number_of_targets(label_smoothing: float) -> None:
    class_weights = (0.5, 1.0, 2.0, 4.0, 8.0)
    losses = functional.cross_entropy(scores_of(12), TARGETS, reduction="none", label_smoothing=label_smoothing)
    expected = sum(class_weights[target] * loss for target, loss in zip(TARGETS.tolist(), losses, strict=True)) / 12
    torch.testing.assert_close(loss_of(scores_of(12), class_weights=class_weights, label_smoothing=label_smoothing), expected)


@pytest.mark.parametrize("class_weights", [None, "balanced"])
def test_the_mean_over_a_batch_is_the_mean_over_its_parts_however_it_is_divided(class_weights: Any) -> None:
    scores, loss = scores_of(12), TrainingLoss(TrainSpec(class_weights=class_weights), TARGETS, CLASSES)
    parts = [slice(0, 1), slice(1, 5), slice(5, 12)]
    together = sum(loss(scores[part], TARGETS[part]) * len(TARGETS[part]) for part in parts) / 12
    torch.testing.assert_close(together, loss(scores, TARGETS))


def test_balanced_weights_are_scikit_learns() -> None:
    from sklearn.utils.class_weight import compute_class_weight

    expected = compute_class_weight("balanced", classes=torch.arange(CLASSES).numpy(), y=TARGETS.numpy())
    scores = scores_of(12)
    torch.testing.assert_close(loss_of(scores, class_weights="balanced"), loss_of(scores, class_weights=tuple(expected.tolist())))


def test_with_balanced_weights_each_class_that_occurs_counts_alike_and_one_that_does_not_is_no_trouble() -> None:
    targets = torch.tensor([0, 0, 0, 3])
    scores = torch.zeros(4, CLASSES, requires_grad=True)
    loss = TrainingLoss(TrainSpec(class_weights="balanced"), targets, CLASSES)(scores, targets)
    loss.backward()  # type: ignore[no-untyped-call]  # torch declares no types for it
    assert loss.item() == pytest.approx(torch.log(torch.tensor(CLASSES)).item())
    assert scores.grad is not None
    assert scores.grad[:3, 0].sum().item() == pytest.approx(scores.grad[3:, 3].sum().item())


@pytest.mark.parametrize("number_format", [torch.bfloat16, torch.float16])
@pytest.mark.parametrize("class_weights", [None, "balanced"])
def test_scores_of_16_bits_are_computed_with_in_32(number_format: torch.dtype, class_weights: Any) -> None:
    scores = scores_of(12).to(number_format).requires_grad_()
    loss = loss_of(scores, class_weights=class_weights)
    assert loss.dtype == torch.float32
    assert torch.equal(loss, loss_of(scores.float(), class_weights=class_weights))
    assert torch.equal(cross_entropy(scores, TARGETS), cross_entropy(scores.float(), TARGETS))
    with torch.autocast("cpu", torch.bfloat16):
        assert torch.equal(loss, loss_of(scores, class_weights=class_weights))
    loss.backward()  # type: ignore[no-untyped-call]  # torch declares no types for it
    assert scores.grad is not None
    assert scores.grad.dtype == number_format


def test_there_is_one_weight_for_each_class() -> None:
    with pytest.raises(JobError, match=r"train\.class_weights: 2 weights for 5 classes") as raised:
        loss_of(scores_of(12), class_weights=(1.0, 2.0))
    assert raised.value.hint is not None


@pytest.mark.parametrize("wrong", [-1, CLASSES])
def test_a_target_that_is_no_class_is_named_before_the_training_begins(wrong: int) -> None:
    with pytest.raises(CorruptError, match=f"class number {wrong}, but the classes are 0 to 4"):
        TrainingLoss(TrainSpec(), torch.tensor([[0, 1], [wrong, 2]]), CLASSES)

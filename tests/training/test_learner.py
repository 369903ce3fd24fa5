"""One step of learning."""

import math
from dataclasses import replace
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional

from cloud_train.job.models import JobSpec
from cloud_train.training.data.dataset import Batch, DataSet
from cloud_train.training.data.memory import TensorSamples
from cloud_train.training.description import ModelDescription
from cloud_train.training.distributed import ALONE
from cloud_train.training.learner import DivergedError, Learner, StepResult, check_finite
from cloud_train.training.ordering import Position
from tests.training.trainer import make_job

CNN: dict[str, Any] = {"kind": "cnn", "blocks": [{"filters": 4}]}
START = Position()


def images(count: int = 12, seed: int = 0) -> DataSet:
    generator = torch.Generator().manual_seed(seed)
    samples = TensorSamples(torch.rand(count, 1, 8, 8, generator=generator), torch.arange(count) % 3)
    return DataSet(samples, samples, ("a", "b", "c"), (1, 8, 8))


def batch_of(data: DataSet) -> Batch:
    assert isinstance(data.train, TensorSamples)
    return Batch(data.train.inputs, data.train.targets)


def learner_of(data: DataSet, model: dict[str, Any] = CNN, **train: Any) -> Learner:
    job: JobSpec = make_job(model, train={"epochs": 1, "batch_size": 12, **train})
    return Learner(job, data, ModelDescription.of(job, data), ALONE)


def take_step(learner: Learner, data: DataSet, position: Position = START, learning_rate: float = 0.1) -> StepResult:
    return learner.step(batch_of(data), position, of=len(data.train), learning_rate=learning_rate)


def weights_of(learner: Learner) -> dict[str, Tensor]:
    return {name: tensor.clone() for name, tensor in learner.network.state_dict().items()}


def test_a_step_is_what_a_bare_loop_does_to_the_last_bit() -> None:
    data = images()
    learner, bare = learner_of(data, optimizer={"name": "sgd", "momentum": 0}), learner_of(data).network
    learnt = take_step(learner, data)
    scores = bare(batch_of(data).inputs)
    loss = functional.cross_entropy(scores, data.train.targets)
    loss.backward()  # type: ignore[no-untyped-call]  # torch declares no types for it
    norm = torch.cat([weight.grad.flatten() for weight in bare.parameters() if weight.grad is not None]).norm()
    with torch.no_grad():
        for weight in bare.parameters():
            assert weight.grad is not None
            weight.add_(weight.grad, alpha=-0.1)
    assert all(torch.equal(mine, other) for mine, other in zip(learner.network.parameters(), bare.parameters(), strict=True))
    assert learnt.loss == loss.item()
    assert learnt.gradient_norm == pytest.approx(norm.item(), rel=1e-5)
    assert learnt.epoch_accuracy == pytest.approx((scores.argmax(1) == data.train.targets).float().mean().item())
    assert learnt.learning_rate == 0.1


@pytest.mark.parametrize("parts", [2, 5, 12])
def test_a_batch_in_parts_is_the_step_of_the_whole(parts: int) -> None:
    data = images()
    whole, divided = learner_of(data), learner_of(data, accumulate=parts)
    first, second = take_step(whole, data), take_step(divided, data)
    assert second.loss == pytest.approx(first.loss, rel=1e-5)
    assert second.epoch_accuracy == first.epoch_accuracy
    assert second.gradient_norm == pytest.approx(first.gradient_norm, rel=1e-4)
    for mine, other in zip(divided.network.parameters(), whole.network.parameters(), strict=True):
        torch.testing.assert_close(mine, other)


def test_the_gradient_is_scaled_down_to_the_norm_that_the_job_allows_and_the_norm_is_told_as_it_was() -> None:
    data = images()
    free, clipped, spared = (learner_of(data, optimizer={"name": "sgd", "momentum": 0}, clip_norm=norm) for norm in (None, 0.01, 0))
    before = weights_of(free)
    norms = [take_step(learner, data).gradient_norm for learner in (free, clipped, spared)]
    assert norms[0] == norms[1] == norms[2] > 0.01
    assert change(clipped, before) == pytest.approx(0.01 * 0.1, rel=1e-4)
    assert change(free, before) == change(spared, before) == pytest.approx(norms[0] * 0.1, rel=1e-4)


def change(learner: Learner, before: dict[str, Tensor]) -> float:
    changes = [(tensor - before[name]).flatten() for name, tensor in learner.network.state_dict().items()]
    return float(torch.cat(changes).norm())


@pytest.mark.parametrize("value", [math.nan, math.inf])
def test_what_is_not_finite_stops_the_training_before_a_weight_changes(value: float) -> None:
    data = images()
    learner = learner_of(data)
    broken = batch_of(data)
    broken.inputs[3, 0, 0, 0] = value
    before = weights_of(learner)
    with pytest.raises(DivergedError, match=r"step 8, rank 0: the loss is nan; the weights were not changed"):
        learner.step(broken, replace(START, step=7, consumed=1), of=12, learning_rate=0.1)
    assert all(torch.equal(tensor, before[name]) for name, tensor in learner.network.state_dict().items())


@pytest.mark.parametrize(
    ("everyone", "said"),
    [
        ([[1.0, 0, 1, 2.0], [math.nan, 0, 1, 2.0]], "rank 1: the loss is nan"),
        ([[1.0, 0, 1, math.inf], [1.0, 0, 0, math.inf]], "rank 1: the gradient is not finite"),
        ([[1.0, 0, 1, math.inf]], "rank 0: the gradient's norm is inf"),
    ],
)
def test_the_process_that_is_at_fault_is_named(everyone: list[list[float]], said: str) -> None:
    with pytest.raises(DivergedError, match=said):
        check_finite(3, everyone)


def test_gradients_that_overflow_because_of_the_scale_are_no_fault() -> None:
    check_finite(3, [[1.0, 0, 0, math.inf]], is_sound=False)
    with pytest.raises(DivergedError, match="the loss is inf"):
        check_finite(3, [[math.inf, 0, 0, math.inf]], is_sound=False)


def test_fp16_leaves_a_step_out_whose_scaled_gradient_overflows_and_halves_the_scale() -> None:
    data = images()
    learner = learner_of(data, precision="fp16")
    before, scale = weights_of(learner), learner.precision.state()["scale"]
    learner.precision.load_state({**learner.precision.state(), "scale": 2.0**40})
    learnt = take_step(learner, data)
    assert math.isfinite(learnt.loss)
    assert all(torch.equal(tensor, before[name]) for name, tensor in learner.network.state_dict().items())
    assert learner.precision.state()["scale"] == 2.0**39
    learner.precision.load_state({**learner.precision.state(), "scale": scale})
    take_step(learner, data)
    assert any(not torch.equal(tensor, before[name]) for name, tensor in learner.network.state_dict().items())


@pytest.mark.parametrize(("precision", "kind"), [("fp32", torch.float32), ("bf16", torch.bfloat16), ("fp16", torch.float16)])
def test_products_are_computed_in_the_format_of_the_job_and_weights_stay_in_fp32(precision: str, kind: torch.dtype) -> None:
    data = images()
    learner = learner_of(data, precision=precision)
    seen: list[torch.dtype] = []
    (convolution,) = (module for module in learner.network.modules() if isinstance(module, nn.Conv2d))
    convolution.register_forward_hook(lambda _module, _inputs, output: seen.append(output.dtype))
    take_step(learner, data)
    assert seen == [kind]
    assert {weight.dtype for weight in learner.network.parameters()} == {torch.float32}


def test_what_dropout_drops_follows_from_the_step_alone() -> None:
    data = images()
    losses = []
    for seed in (1, 2):
        learner = learner_of(data, {**CNN, "dropout": 0.5})
        torch.manual_seed(seed)
        losses.append([take_step(learner, data, replace(START, step=step, consumed=1)).loss for step in (0, 5)])
    assert losses[0] == losses[1]
    assert losses[0][0] != losses[0][1]


def test_the_average_of_the_weights_is_what_is_delivered() -> None:
    data = images()
    learner, plain = learner_of(data, ema=0.5), learner_of(data)
    assert plain.delivered is plain.network
    for _ in range(3):
        take_step(learner, data)
    assert learner.delivered is not learner.network
    assert not learner.delivered.training
    assert not torch.equal(next(learner.delivered.parameters()), next(learner.network.parameters()))


def test_images_keep_their_channels_innermost_unless_the_job_says_otherwise() -> None:
    data = images()
    model = {"kind": "cnn", "blocks": [{"filters": 4}, {"filters": 4, "padding": 1}]}
    for channels_last in (True, False):
        learner = learner_of(data, model, channels_last=channels_last)
        weight = [module.weight for module in learner.network.modules() if isinstance(module, nn.Conv2d)][1]
        assert weight.is_contiguous(memory_format=torch.channels_last) is channels_last


def text(count: int = 6, length: int = 5) -> DataSet:
    characters = torch.randint(4, (count, length + 1), generator=torch.Generator().manual_seed(0))
    samples = TensorSamples(characters[:, :-1], characters[:, 1:])
    return DataSet(samples, samples, tuple("abcd"))


def test_a_carried_state_goes_into_the_next_batch_and_starts_anew_with_an_epoch() -> None:
    data = text()
    model = {"kind": "rnn", "cell": "gru", "hidden_size": 4}
    carrying, forgetting = (learner_of(data, model, carry_state=carry, batch_size=6) for carry in (True, False))
    places = [START, Position(1, 0, 6), Position(2, 1, 0)]
    fresh, second, fresh_again = (take_step(carrying, data, place, learning_rate=0.0).loss for place in places)
    assert fresh == fresh_again != second
    assert [take_step(forgetting, data, place, learning_rate=0.0).loss for place in places] == [fresh] * 3
    assert forgetting.carried is None
    assert carrying.carried is not None
    assert all(not tensor.requires_grad for tensor in carrying.carried)


def test_images_that_could_not_be_read_are_not_counted_as_wrong() -> None:
    data = images()
    whole = batch_of(data)
    learner, bare = learner_of(data), learner_of(data)
    learnt = learner.step(Batch(whole.inputs[:8], whole.targets[:8]), START, of=12, learning_rate=0.1)
    expected = bare.step(Batch(whole.inputs[:8], whole.targets[:8]), START, of=8, learning_rate=0.1)
    assert (learnt.epoch_accuracy, learnt.loss) == (expected.epoch_accuracy, expected.loss)


@pytest.mark.parametrize("name", ["adamw", "sgd"])
def test_a_batch_of_which_no_image_could_be_read_changes_nothing(name: str) -> None:
    data = images()
    model = {"kind": "cnn", "blocks": [{"filters": 4, "norm": "batch"}]}
    learner = learner_of(data, model, optimizer={"name": name, "weight_decay": 0.1}, ema=0.9)
    take_step(learner, data)
    before = weights_of(learner)
    state = {key: [tensor.clone() for tensor in tensors] for key, tensors in learner.optimizer.state().items()}
    whole = batch_of(data)
    learnt = learner.step(Batch(whole.inputs[:0], whole.targets[:0]), replace(START, step=1, consumed=12), of=12, learning_rate=0.1)
    assert math.isnan(learnt.loss)
    assert learnt.epoch_loss > 0
    assert all(torch.equal(tensor, before[name]) for name, tensor in learner.network.state_dict().items())
    assert all(
        torch.equal(now, one) for key, tensors in state.items() for now, one in zip(learner.optimizer.state()[key], tensors, strict=True)
    )
    assert learner.network.training

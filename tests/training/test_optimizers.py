"""The optimizers against torch's own."""

import subprocess
import sys
from collections.abc import Callable

import pytest
import torch
from torch import nn

from cloud_train.job import models
from cloud_train.training.optimizers import Adam, Optimizer, Sgd, make_optimizer

Make = Callable[[list[nn.Parameter]], Optimizer]

CASES: dict[str, tuple[Make, Callable[[list[nn.Parameter]], torch.optim.Optimizer]]] = {
    "adam": (lambda w: Adam(w, 3e-3), lambda w: torch.optim.Adam(w, 3e-3, fused=True)),
    "adam with decay": (lambda w: Adam(w, 3e-3, 0.01), lambda w: torch.optim.Adam(w, 3e-3, weight_decay=0.01, fused=True)),
    "sgd": (lambda w: Sgd(w, 0.1), lambda w: torch.optim.SGD(w, 0.1, fused=True)),
    "sgd with momentum and decay": (
        lambda w: Sgd(w, 0.1, 0.01, 0.9),
        lambda w: torch.optim.SGD(w, 0.1, momentum=0.9, weight_decay=0.01, fused=True),
    ),
}


@pytest.mark.parametrize("case", CASES)
def test_five_steps_give_the_weights_of_torchs_own_optimizer_to_the_last_bit(case: str) -> None:
    make_ours, make_torchs = CASES[case]
    ours, torchs = weights(), weights()
    take_steps(make_ours(ours), ours, 5)
    reference = make_torchs(torchs)
    for number in range(5):
        set_gradients(torchs, number)
        reference.step()
    assert all(torch.equal(mine, other) for mine, other in zip(ours, torchs, strict=True))


@pytest.mark.parametrize("case", CASES)
def test_going_on_from_a_saved_state_takes_the_same_steps(case: str) -> None:
    make = CASES[case][0]
    through, interrupted = weights(), weights()
    take_steps(make(through), through, 6)
    first = make(interrupted)
    take_steps(first, interrupted, 3)
    resumed = [nn.Parameter(weight.detach().clone()) for weight in interrupted]
    second = make(resumed)
    second.load_state(first.state())
    take_steps(first, interrupted, 1, start=9)  # what the first one does from here on is nothing to the second
    take_steps(second, resumed, 3, start=3)
    assert all(torch.equal(mine, other) for mine, other in zip(resumed, through, strict=True))


def test_a_loaded_state_is_a_copy() -> None:
    first, second = Adam(weights(), 0.1), Adam(weights(), 0.1)
    second.load_state(first.state())
    take_steps(first, first.weights, 1)
    assert all(not tensor.any() for tensor in second.state()["mean"])


def test_the_state_of_other_weights_or_of_another_optimizer_is_refused() -> None:
    optimizer = Adam(weights(), 0.1)
    with pytest.raises(ValueError, match="other weights"):
        optimizer.load_state(Adam([nn.Parameter(torch.zeros(3))], 0.1).state())
    with pytest.raises(ValueError, match="momentum"):
        optimizer.load_state(Sgd(weights(), 0.1, momentum=0.9).state())


def test_a_weight_without_a_gradient_stays_as_it_is() -> None:
    ours = weights()
    before = ours[0].detach().clone()
    ours[1].grad = torch.ones_like(ours[1])
    Adam(ours, 0.1).step()
    assert torch.equal(ours[0], before)
    assert not torch.equal(ours[1], weights()[1])


def test_the_jobs_settings_reach_the_optimizer() -> None:
    sgd = make_optimizer(models.Optimizer(name="sgd", lr=0.5, momentum=0.25, weight_decay=0.125), weights())
    adam = make_optimizer(models.Optimizer(lr=0.25), weights())
    assert isinstance(sgd, Sgd)
    assert (sgd.learning_rate, sgd.weight_decay, list(sgd.state())) == (0.5, 0.125, ["momentum"])
    assert isinstance(adam, Adam)
    assert adam.learning_rate == 0.25


def test_a_step_does_not_import_torchs_compiler() -> None:
    code = (
        "import sys, torch; from torch import nn; from cloud_train.training.optimizers import Adam, Sgd\n"
        "for optimizer in (Adam([nn.Parameter(torch.ones(2))], 0.1), Sgd([nn.Parameter(torch.ones(2))], 0.1)): optimizer.step()\n"
        "assert 'torch._dynamo' not in sys.modules"
    )
    subprocess.run([sys.executable, "-c", code], check=True)


def weights() -> list[nn.Parameter]:
    generator = torch.Generator().manual_seed(0)
    return [nn.Parameter(torch.randn(shape, generator=generator)) for shape in ((5, 7), (7,))]


def set_gradients(targets: list[nn.Parameter], number: int) -> None:
    generator = torch.Generator().manual_seed(1000 + number)
    for weight in targets:
        weight.grad = torch.randn(weight.shape, generator=generator)


def take_steps(optimizer: Optimizer, targets: list[nn.Parameter], count: int, start: int = 0) -> None:
    for number in range(start, start + count):
        optimizer.clear_gradients()
        set_gradients(targets, number)
        optimizer.step()

"""The optimizers against torch's own."""

import subprocess
import sys
from collections.abc import Callable, Iterable, Sequence
from typing import Any, Literal

import pytest
import torch
from torch import nn
from torch.optim.sgd import sgd

from cloud_train.job import optimizers
from cloud_train.training.optimizers import Adagrad, Adam, AdamW, Optimizer, RmsProp, Sgd, make_optimizer

Torchs = Callable[[Iterable[Any]], torch.optim.Optimizer]

CASES: dict[str, tuple[optimizers.Optimizer, Torchs]] = {
    "adam": (optimizers.Optimizer(lr=3e-3), lambda groups: torch.optim.Adam(groups, 3e-3, fused=True)),
    "adam with decay": (
        optimizers.Optimizer(lr=3e-3, weight_decay=0.01),
        lambda groups: torch.optim.Adam(groups, 3e-3, weight_decay=0.01, fused=True),
    ),
    "adamw": (
        optimizers.Optimizer(name="adamw", lr=3e-3, weight_decay=0.1),
        lambda groups: torch.optim.AdamW(groups, 3e-3, weight_decay=0.1, fused=True),
    ),
    "adam with other averages": (
        optimizers.Optimizer(lr=3e-3, betas=(0.8, 0.95), eps=1e-4),
        lambda groups: torch.optim.Adam(groups, 3e-3, betas=(0.8, 0.95), eps=1e-4, fused=True),
    ),
    "rmsprop": (optimizers.Optimizer(name="rmsprop", lr=3e-3), lambda groups: torch.optim.RMSprop(groups, 3e-3)),
    "rmsprop with momentum and decay": (
        optimizers.Optimizer(name="rmsprop", lr=3e-3, momentum=0.9, smoothing=0.8, eps=1e-3, weight_decay=0.01),
        lambda groups: torch.optim.RMSprop(groups, 3e-3, alpha=0.8, eps=1e-3, momentum=0.9, weight_decay=0.01),
    ),
    "adagrad": (optimizers.Optimizer(name="adagrad"), lambda groups: torch.optim.Adagrad(groups, 1e-2)),
    "adagrad with decay": (
        optimizers.Optimizer(name="adagrad", lr=0.1, eps=1e-3, weight_decay=0.01),
        lambda groups: torch.optim.Adagrad(groups, 0.1, eps=1e-3, weight_decay=0.01),
    ),
    "sgd": (optimizers.Optimizer(name="sgd", lr=0.1, momentum=0.0), lambda groups: torch.optim.SGD(groups, 0.1, fused=True)),
    "sgd with momentum and decay": (
        optimizers.Optimizer(name="sgd", lr=0.1, momentum=0.9, nesterov=False, weight_decay=0.01),
        lambda groups: torch.optim.SGD(groups, 0.1, momentum=0.9, weight_decay=0.01, fused=True),
    ),
    "sgd with nesterov's momentum and decay": (
        optimizers.Optimizer(name="sgd", lr=0.1, momentum=0.9, nesterov=True, weight_decay=0.01),
        lambda groups: torch.optim.SGD(groups, 0.1, momentum=0.9, nesterov=True, weight_decay=0.01, fused=True),
    ),
}
BIASES = {"linear.bias", "norm.bias", "recurrent.bias_ih_l0", "recurrent.bias_hh_l0"}
SPARED: list[tuple[tuple[Literal["bias", "norm", "embedding"], ...], set[str]]] = [
    ((), set()),
    (("bias",), BIASES),
    (("norm",), {"norm.weight", "norm.bias"}),
    (("embedding",), {"embedding.weight"}),
    (("bias", "norm", "embedding"), BIASES | {"norm.weight", "embedding.weight"}),
]


@pytest.mark.slow
@pytest.mark.parametrize(("no_decay", "spared"), SPARED)
@pytest.mark.parametrize("case", CASES)
def test_five_steps_give_the_weights_of_torchs_own_optimizer_to_the_last_bit(
    case: str, no_decay: tuple[Literal["bias", "norm", "embedding"], ...], spared: set[str]
) -> None:
    settings, make_torchs = CASES[case]
    ours, torchs = Network(), Network()
    take_steps(make_optimizer(settings.model_copy(update={"no_decay": no_decay}), ours), 5)
    named = dict(torchs.named_parameters())
    groups: list[dict[str, Any]] = [
        {"params": [weight for name, weight in named.items() if name not in spared]},
        {"params": [named[name] for name in spared], "weight_decay": 0.0},
    ]
    reference = make_torchs([group for group in groups if group["params"]])
    for number in range(5):
        set_gradients(torchs.parameters(), number)
        reference.step()
    assert same(ours, torchs)
    assert not same(ours, Network())


@pytest.mark.parametrize("case", CASES)
def test_going_on_from_a_saved_state_takes_the_same_steps(case: str) -> None:
    settings = CASES[case][0].model_copy(update={"no_decay": ("bias", "norm")})
    through, interrupted, resumed = Network(), Network(), Network()
    take_steps(make_optimizer(settings, through), 6)
    first = make_optimizer(settings, interrupted)
    take_steps(first, 3)
    resumed.load_state_dict(interrupted.state_dict())
    second = make_optimizer(settings, resumed)
    second.load_state(first.state())
    take_steps(first, 1, start=9)  # what the first one does from here on is nothing to the second
    take_steps(second, 3, start=3)
    assert same(resumed, through)


def test_the_state_has_the_order_of_the_weights_whatever_is_spared_the_decay() -> None:
    settings = optimizers.Optimizer(name="adamw", weight_decay=0.1)
    whole, parted = (make_optimizer(settings.model_copy(update={"no_decay": kinds}), Network()) for kinds in ((), ("bias", "norm")))
    assert [tuple(tensor.shape) for tensor in parted.state()["mean"]] == [tuple(weight.shape) for weight in Network().parameters()]
    take_steps(whole, 2)
    parted.load_state(whole.state())
    assert all(torch.equal(mine, other) for mine, other in zip(parted.state()["mean"], whole.state()["mean"], strict=True))


@pytest.mark.parametrize(("weight_decay", "no_decay", "calls"), [(0.0, ("bias",), 1), (0.1, (), 1), (0.1, ("bias",), 2)])
def test_the_kernel_is_called_once_unless_some_weights_decay_and_others_do_not(
    weight_decay: float, no_decay: Any, calls: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    called: list[float] = []

    def counted(*tensors: Any, weight_decay: float, **settings: Any) -> None:
        called.append(weight_decay)
        sgd(*tensors, weight_decay=weight_decay, **settings)

    monkeypatch.setattr("cloud_train.training.optimizers.sgd", counted)
    take_steps(make_optimizer(optimizers.Optimizer(name="sgd", weight_decay=weight_decay, no_decay=no_decay), Network()), 1)
    assert len(called) == calls


def test_a_loaded_state_is_a_copy() -> None:
    first, second = Adam(weights(), 0.1), Adam(weights(), 0.1)
    second.load_state(first.state())
    take_steps(first, 1)
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


def test_a_weight_that_does_not_learn_is_left_out() -> None:
    network = Network()
    network.embedding.requires_grad_(False)
    optimizer = make_optimizer(optimizers.Optimizer(), network)
    assert len(optimizer.weights) == len(list(network.parameters())) - 1
    take_steps(optimizer, 1)
    assert torch.equal(network.embedding.weight, Network().embedding.weight)


@pytest.mark.parametrize(("name", "kind"), [("sgd", Sgd), ("adam", Adam), ("adamw", AdamW), ("rmsprop", RmsProp), ("adagrad", Adagrad)])
def test_the_job_names_the_optimizer_and_its_rate(name: optimizers.OptimizerName, kind: type[Optimizer]) -> None:
    optimizer = make_optimizer(optimizers.Optimizer(name=name, lr=0.25), Network())
    assert type(optimizer) is kind
    assert optimizer.learning_rate == 0.25


def test_the_rate_may_change_between_steps() -> None:
    ours, gradient = weights(), torch.ones(7)
    optimizer = Sgd(ours, 123.0)
    before = ours[1].detach().clone()
    for rate in (0.5, 0.25):
        ours[1].grad = gradient
        optimizer.learning_rate = rate
        optimizer.step()
    torch.testing.assert_close(ours[1].detach(), before - 0.75)


def test_a_gradient_scaler_finds_the_gradients() -> None:
    ours = weights()
    optimizer = Adam(ours, 0.1)
    scaler = torch.amp.GradScaler("cpu", init_scale=8.0)
    scaler.scale(sum((weight.sum() for weight in ours), torch.zeros(()))).backward()  # type: ignore[no-untyped-call]  # torch declares none
    scaler.unscale_(optimizer)  # type: ignore[arg-type]  # it is no torch.optim.Optimizer
    assert all(weight.grad is not None and torch.equal(weight.grad, torch.ones_like(weight)) for weight in ours)


@pytest.mark.slow
def test_a_step_does_not_import_torchs_compiler() -> None:
    code = (
        "import sys, torch; from torch import nn; from cloud_train.training.optimizers import Adam, AdamW, Sgd\n"
        "for kind in (Adam, AdamW, Sgd): kind([nn.Parameter(torch.ones(2))], 0.1).step()\n"
        "assert 'torch._dynamo' not in sys.modules and 'sympy' not in sys.modules"
    )
    subprocess.run([sys.executable, "-c", code], check=True)


class Network(nn.Module):
    """One layer of each kind, always with the same weights."""

    def __init__(self) -> None:
        super().__init__()
        self.embedding = nn.Embedding(5, 4)
        self.recurrent = nn.GRU(4, 3)
        self.linear = nn.Linear(3, 2)
        self.norm = nn.BatchNorm1d(2)
        generator = torch.Generator().manual_seed(0)
        with torch.no_grad():
            for weight in self.parameters():
                weight.copy_(torch.randn(weight.shape, generator=generator))


def same(network: nn.Module, other: nn.Module) -> bool:
    return all(torch.equal(mine, its) for mine, its in zip(network.parameters(), other.parameters(), strict=True))


def weights() -> list[nn.Parameter]:
    generator = torch.Generator().manual_seed(0)
    return [nn.Parameter(torch.randn(shape, generator=generator)) for shape in ((5, 7), (7,))]


def set_gradients(targets: Iterable[nn.Parameter], number: int) -> None:
    generator = torch.Generator().manual_seed(1000 + number)
    for weight in targets:
        weight.grad = torch.randn(weight.shape, generator=generator)


def take_steps(optimizer: Optimizer, count: int, start: int = 0) -> None:
    targets: Sequence[nn.Parameter] = optimizer.weights
    for number in range(start, start + count):
        optimizer.clear_gradients()
        set_gradients(targets, number)
        optimizer.step()

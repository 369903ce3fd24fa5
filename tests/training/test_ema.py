"""The average of the weights."""

import subprocess
import sys

import pytest
import torch
from torch import nn
from torch.optim.swa_utils import AveragedModel, get_ema_multi_avg_fn

from cloud_train.training.ema import WeightAverage


def network(seed: int = 0) -> nn.Sequential:
    made = nn.Sequential(nn.Linear(3, 4), nn.BatchNorm1d(4), nn.Linear(4, 2))
    for weight in made.parameters():
        nn.init.zeros_(weight)
    learn(made, seed)
    return made


def learn(made: nn.Module, number: int) -> None:
    """Change weights and buffers as a step does; the same number is the same change."""
    generator = torch.Generator().manual_seed(number)
    with torch.no_grad():
        for weight in made.parameters():
            weight.add_(torch.randn(weight.shape, generator=generator))
    made.train()(torch.randn(8, 3, generator=generator))


def test_the_average_starts_as_the_first_weights_and_is_no_part_of_them() -> None:
    learning = network()
    average = WeightAverage(learning, 0.9)
    first = {name: tensor.clone() for name, tensor in learning.state_dict().items()}
    learn(learning, 1)
    assert all(torch.equal(tensor, first[name]) for name, tensor in average.network.state_dict().items())
    assert not average.network.training
    assert learning.training
    assert not any(weight.requires_grad for weight in average.network.parameters())


def test_an_update_is_that_of_torchs_own_average_to_the_last_bit() -> None:
    learning = network()
    ours = WeightAverage(learning, 0.1)  # so small a decay holds from the first update on
    torchs = AveragedModel(learning, multi_avg_fn=get_ema_multi_avg_fn(0.1))  # type: ignore[no-untyped-call]  # torch declares none
    torchs.n_averaged.fill_(1)  # it starts with the first weights, as ours does
    for number in range(5):
        learn(learning, number)
        ours.update(learning)
        torchs.update_parameters(learning)
    for (name, mine), other in zip(ours.network.state_dict().items(), torchs.module.state_dict().values(), strict=True):
        assert torch.equal(mine, other), name


def test_the_average_moves_faster_at_first() -> None:
    learning = nn.Linear(1, 1, bias=False)
    nn.init.zeros_(learning.weight)
    average = WeightAverage(learning, 0.25)
    expected = 0.0
    for decay in (1 / 10, 2 / 11, 3 / 12, 0.25, 0.25):
        nn.init.constant_(learning.weight, 1 + expected)
        average.update(learning)
        expected += 1 - decay
        (weight,) = average.network.parameters()
        assert weight.item() == pytest.approx(expected)


def test_buffers_are_those_of_the_newest_weights() -> None:
    learning = network()
    average = WeightAverage(learning, 0.99)
    learn(learning, 1)
    average.update(learning)
    for mine, newest in zip(average.network.buffers(), learning.buffers(), strict=True):
        assert torch.equal(mine, newest)
        assert mine is not newest


def test_going_on_from_a_saved_state_gives_the_same_average() -> None:
    learning, again = network(), network()
    through, first, resumed = WeightAverage(learning, 0.9), WeightAverage(again, 0.9), WeightAverage(network(7), 0.9)
    for number in range(6):
        learn(learning, number)
        through.update(learning)
    for number in range(3):
        learn(again, number)
        first.update(again)
    resumed.load_state(first.state())
    first.update(network(9))  # what the first one does from here on is nothing to the second
    for number in range(3, 6):
        learn(again, number)
        resumed.update(again)
    for mine, other in zip(resumed.state().values(), through.state().values(), strict=True):
        assert torch.equal(mine, other)


@pytest.mark.parametrize("other", [nn.Linear(3, 4), nn.Sequential(nn.Linear(3, 4), nn.BatchNorm1d(4), nn.Linear(4, 3))])
def test_the_average_of_another_network_is_refused_and_nothing_changes(other: nn.Module) -> None:
    average = WeightAverage(network(), 0.9)
    with pytest.raises(ValueError, match="another network"):
        average.load_state(WeightAverage(other, 0.9).state())
    assert all(torch.equal(mine, its) for mine, its in zip(average.network.parameters(), network().parameters(), strict=True))


def test_the_average_keeps_the_memory_format_of_the_weights() -> None:
    learning = nn.Conv2d(3, 4, 3).to(memory_format=torch.channels_last)  # type: ignore[call-overload]  # torch's own signature leaves it out
    average = WeightAverage(learning, 0.9)
    average.update(learning)
    (weight, _) = average.network.parameters()
    assert weight.is_contiguous(memory_format=torch.channels_last)


@pytest.mark.slow
def test_an_update_does_not_import_torchs_compiler() -> None:
    code = (
        "import sys; from torch import nn; from cloud_train.training.ema import WeightAverage\n"
        "network = nn.GRU(2, 2); WeightAverage(network, 0.9).update(network)\n"
        "assert 'torch._dynamo' not in sys.modules and 'sympy' not in sys.modules"
    )
    subprocess.run([sys.executable, "-c", code], check=True)

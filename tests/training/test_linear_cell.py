"""The linear cell against its literal definition: two Linear layers, one step after another."""

from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional

from cloud_train.networks.rnn import RnnModel
from cloud_train.training.description import ModelDescription, build
from cloud_train.training.models.linear import LinearLayer, linear_recurrence
from cloud_train.training.models.rnn import LinearLanguageModel

VOCABULARY = 11
EVEN = [3, 3, 3, 3]
"""Three sequences of four steps."""
RAGGED = [4, 3, 3, 1]
"""Four sequences of 4, 3, 3 and 1 steps."""


def test_the_linear_language_model_is_its_literal_definition_in_outputs_and_gradients() -> None:
    network = linear_language_model()
    (layer,) = network.rnn
    assert isinstance(layer, LinearLayer)
    characters_BT = torch.randint(VOCABULARY, (3, 9), generator=torch.Generator().manual_seed(1))
    scores_BTV, (state_BH,) = network(characters_BT)
    got_BTV = functional.log_softmax(scores_BTV, dim=-1)
    got = gradients(network, got_BTV.square().sum())

    h_BH = torch.zeros(3, 5)
    literal = []
    for x_BV in functional.one_hot(characters_BT, VOCABULARY).float().unbind(1):
        both = torch.cat([x_BV, h_BH], dim=1)
        h_BH = layer.i2h(both)
        literal.append(functional.log_softmax(network.i2o(both), dim=1))
    wanted_BTV = torch.stack(literal, 1)
    torch.testing.assert_close(got_BTV, wanted_BTV, atol=1e-5, rtol=1e-5)
    torch.testing.assert_close(state_BH, h_BH, atol=1e-5, rtol=1e-5)
    for mine, theirs in zip(got, gradients(network, wanted_BTV.square().sum()), strict=True):
        torch.testing.assert_close(mine, theirs, atol=1e-3, rtol=1e-5)


def test_the_gradient_of_the_mean_loss_of_a_whole_batch_is_equal_to_1e_5() -> None:
    network = build(ModelDescription(RnnModel(kind="rnn", cell="linear"), tuple(map(chr, range(32, 128)))), seed=0)
    assert isinstance(network, LinearLanguageModel)
    (layer,) = network.rnn
    assert isinstance(layer, LinearLayer)
    inputs_BT, targets_BT = torch.randint(96, (2, 64, 128), generator=torch.Generator().manual_seed(1)).unbind()
    scores_BTV, _ = network(inputs_BT)
    got = gradients(network, functional.cross_entropy(scores_BTV.flatten(0, 1), targets_BT.flatten()))
    h_BH = torch.zeros(64, 128)
    losses = []
    for x_BV, target_B in zip(functional.one_hot(inputs_BT, 96).float().unbind(1), targets_BT.unbind(1), strict=True):
        both = torch.cat([x_BV, h_BH], dim=1)
        h_BH = layer.i2h(both)
        losses.append(functional.nll_loss(functional.log_softmax(network.i2o(both), dim=1), target_B))
    for mine, theirs in zip(got, gradients(network, torch.stack(losses).mean()), strict=True):
        torch.testing.assert_close(mine, theirs, atol=1e-5, rtol=0)


@pytest.mark.parametrize("sizes", [EVEN, RAGGED, [1], [2, 1]])
def test_the_gradients_of_the_recurrence_are_those_of_its_definition(sizes: list[int]) -> None:
    generator = torch.Generator().manual_seed(0)
    shapes = [(sum(sizes), 3), (sizes[0], 3), (3, 3)]
    inputs = [torch.randn(*shape, generator=generator, dtype=torch.float64, requires_grad=True) for shape in shapes]

    def recur(input_NH: Tensor, state_BH: Tensor, weight_HH: Tensor) -> Tensor:
        return linear_recurrence(input_NH, state_BH, weight_HH, sizes)[1]

    assert torch.autograd.gradcheck(recur, inputs)


@pytest.mark.parametrize("used", [(1.0, 0.0), (0.0, 1.0), (2.0, 3.0)])
def test_the_states_before_and_after_the_steps_have_gradients_together_and_each_by_itself(used: tuple[float, float]) -> None:
    generator = torch.Generator().manual_seed(0)
    inputs = [torch.randn(*shape, generator=generator, dtype=torch.float64, requires_grad=True) for shape in ((12, 3), (3, 3), (3, 3))]

    def recur(input_NH: Tensor, state_BH: Tensor, weight_HH: Tensor) -> Tensor:
        both = linear_recurrence(input_NH, state_BH, weight_HH, EVEN)
        return sum((part * factor for part, factor in zip(both, used, strict=True) if factor and part is not None), torch.zeros(12, 3))

    assert torch.autograd.gradcheck(recur, inputs)


@pytest.mark.parametrize("sizes", [EVEN, RAGGED])
def test_the_recurrence_is_its_definition_step_by_step(sizes: list[int]) -> None:
    generator = torch.Generator().manual_seed(0)
    input_NH, state_BH, weight_HH = (torch.randn(rows, 3, generator=generator) for rows in (sum(sizes), sizes[0], 3))
    before_NH, after_NH = linear_recurrence(input_NH, state_BH, weight_HH, sizes)
    states = [state_BH]
    for given in torch.split(input_NH, sizes):
        states.append(given + states[-1][: len(given)] @ weight_HH)
    torch.testing.assert_close(after_NH, torch.cat(states[1:]))
    if sizes == EVEN:
        assert before_NH is not None
        torch.testing.assert_close(before_NH, torch.cat(states[:-1]))
    else:
        assert before_NH is None


def test_a_second_derivative_is_refused_and_not_wrong() -> None:
    weight_HH = torch.ones(3, 3, requires_grad=True)
    _, after_NH = linear_recurrence(torch.ones(12, 3), torch.ones(3, 3), weight_HH, EVEN)
    (first_HH,) = torch.autograd.grad(after_NH.square().sum(), weight_HH, create_graph=True)
    with pytest.raises(RuntimeError, match="once_differentiable"):
        first_HH.sum().backward()  # type: ignore[no-untyped-call]  # torch declares no types for it


def test_the_recurrence_stays_in_fp32_where_autocast_is_on_forward_and_backward() -> None:
    input_NH, state_BH = torch.randn(12, 3), torch.randn(3, 3)
    weight_HH = torch.randn(3, 3, requires_grad=True)
    _, exact = linear_recurrence(input_NH, state_BH, weight_HH, EVEN)
    (wanted,) = torch.autograd.grad(exact.sum(), weight_HH)
    with torch.autocast("cpu", torch.bfloat16):
        _, mixed = linear_recurrence(input_NH, state_BH, weight_HH, EVEN)
        (got,) = torch.autograd.grad(mixed.sum(), weight_HH)
    assert torch.equal(mixed, exact)
    assert torch.equal(got, wanted)


def test_a_state_that_is_kept_does_not_keep_the_states_before_it() -> None:
    _, (state_BH,) = linear_language_model()(torch.zeros(2, 50, dtype=torch.int64))
    assert state_BH.untyped_storage().nbytes() == state_BH.numel() * 4


def linear_language_model(**fields: Any) -> LinearLanguageModel:
    model = RnnModel(kind="rnn", cell="linear", hidden_size=5, **fields)
    network = build(ModelDescription(model, tuple("abcdefghijk")), seed=0)
    assert isinstance(network, LinearLanguageModel)
    return network


def gradients(network: nn.Module, loss: Tensor) -> tuple[Tensor, ...]:
    return torch.autograd.grad(loss, list(network.parameters()))

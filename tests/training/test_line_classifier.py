"""Classifiers of lines: padding is as if it were not there."""

from typing import Any

import pytest
import torch
from torch import nn
from torch.nn import functional

from cloud_train.networks.rnn import RnnModel
from cloud_train.training.description import ModelDescription, build
from cloud_train.training.models.rnn import LineClassifier

TOKENS = tuple("abcdefghij")
CELLS: list[dict[str, Any]] = [
    {"cell": cell, "layers": layers, "bidirectional": both, "embedding_size": embedding}
    for cell, both in [("linear", False), *((cell, both) for cell in ("elman", "gru", "lstm") for both in (False, True))]
    for layers, embedding in [(1, None), (2, 3)]
]
LENGTHS_B = torch.tensor([3, 7, 1, 7, 5])


@pytest.mark.parametrize("fields", CELLS)
def test_a_line_in_a_padded_batch_has_the_scores_and_gradients_that_it_has_alone(fields: dict[str, Any]) -> None:
    network = classifier(**fields)
    lines_BT = lines()
    together_BC = network(lines_BT, LENGTHS_B)
    alone_BC = torch.cat([network(line_T[None, :length], length.view(1)) for line_T, length in zip(lines_BT, LENGTHS_B, strict=True)])
    torch.testing.assert_close(together_BC, alone_BC, atol=1e-6, rtol=1e-5)
    for mine, theirs in zip(gradients(network, together_BC), gradients(network, alone_BC), strict=True):
        torch.testing.assert_close(mine, theirs, atol=1e-5, rtol=1e-5)


@pytest.mark.parametrize("fields", CELLS)
def test_what_the_padding_is_made_of_changes_no_bit_of_scores_and_gradients(fields: dict[str, Any]) -> None:
    network = classifier(**fields)
    first, second = (network(lines(padding), LENGTHS_B) for padding in (0, 9))
    assert torch.equal(first, second)
    assert all(map(torch.equal, gradients(network, first), gradients(network, second)))


@pytest.mark.parametrize("cell", ["linear", "gru"])
def test_the_token_of_the_padding_learns_nothing_from_it(cell: str) -> None:
    network = classifier(cell=cell, embedding_size=3)
    assert network.embedding is not None
    (gradient_VX,) = torch.autograd.grad(network(lines(padding=9), LENGTHS_B).sum(), [network.embedding.weight])
    assert gradient_VX[9].count_nonzero() == 0
    assert gradient_VX[1:9].count_nonzero() > 0


@pytest.mark.parametrize("cell", ["elman", "gru", "lstm"])
def test_the_scores_are_made_of_the_last_state_of_each_direction(cell: str) -> None:
    network = classifier(cell=cell, bidirectional=True, embedding_size=3)
    layer, tokens_BT = network.rnn[0], torch.tensor([[4, 2, 7, 1]])
    assert isinstance(layer, nn.RNNBase)
    states_BTH, _ = layer(network.vectors(tokens_BT))
    forward_BH, backward_BH = states_BTH[:, -1, :6], states_BTH[:, 0, 6:]
    torch.testing.assert_close(network(tokens_BT, torch.tensor([4])), network.decoder(torch.cat([forward_BH, backward_BH], 1)))


def test_the_linear_cell_is_its_literal_definition() -> None:
    network = classifier(cell="linear", layers=2)
    below, above = (layer.i2h for layer in network.rnn)
    assert isinstance(below, nn.Linear)
    assert isinstance(above, nn.Linear)
    first_BH = second_BH = torch.zeros(1, 6)
    for x_BV in functional.one_hot(torch.tensor([[4, 2, 7]]), len(TOKENS) + 1).float().unbind(1):
        first_BH = below(torch.cat([x_BV, first_BH], 1))
        second_BH = above(torch.cat([first_BH, second_BH], 1))
    torch.testing.assert_close(network(torch.tensor([[4, 2, 7, 0]]), torch.tensor([3])), network.decoder(second_BH))


def test_dropout_drops_states_between_the_layers_and_before_the_scores() -> None:
    network = classifier(cell="gru", layers=2, dropout=0.5)
    tokens_BT, lengths_B = torch.tensor([[4, 2, 7, 1]]), torch.tensor([4])
    dropped: list[float] = []
    for dropout in network.dropout:
        dropout.register_forward_hook(lambda _module, _inputs, output: dropped.append((output == 0).float().mean().item()))
    network(tokens_BT.expand(500, 4), lengths_B.expand(500))
    assert dropped == pytest.approx([0.5, 0.5], abs=0.05)
    network.eval()
    assert torch.equal(network(tokens_BT, lengths_B), network(tokens_BT, lengths_B))


def lines(padding: int = 0) -> torch.Tensor:
    lines_BT = torch.randint(1, 9, (5, 7), generator=torch.Generator().manual_seed(1))
    return torch.where(torch.arange(7) < LENGTHS_B.view(-1, 1), lines_BT, padding)


def classifier(**fields: Any) -> LineClassifier:
    model = RnnModel(kind="rnn", hidden_size=6, **fields)
    network = build(ModelDescription(model, ("no", "maybe", "yes"), tokens=TOKENS), seed=0)
    assert isinstance(network, LineClassifier)
    return network


def gradients(network: nn.Module, scores_BC: torch.Tensor) -> tuple[torch.Tensor, ...]:
    return torch.autograd.grad(scores_BC.square().sum(), list(network.parameters()))

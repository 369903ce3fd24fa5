"""The networks against the arithmetic of ``job.architecture`` and against their definitions."""

from typing import Any

import pytest
import torch
from pydantic import TypeAdapter
from torch import nn
from torch.nn import functional

from cloud_train.job.architecture import layers
from cloud_train.job.facts import DataFacts
from cloud_train.job.models import CnnModel, RnnModel
from cloud_train.training.models import build
from cloud_train.training.models.rnn import LinearRnn, Rnn

CNNS: list[dict[str, Any]] = [
    {},
    {"blocks": [{"filters": 4}]},
    {"blocks": [{"filters": 3, "kernel": 5, "pool": 1}, {"filters": 2, "kernel": 1, "pool": 3}, {"filters": 7, "pool": 1}]},
]
RNNS: list[dict[str, Any]] = [
    {"cell": "linear", "hidden_size": 5},
    {"cell": "elman", "hidden_size": 5},
    {"cell": "gru", "hidden_size": 5, "layers": 2},
    {"cell": "lstm", "hidden_size": 5, "layers": 3, "embedding_size": 4},
]
VOCABULARY = 11


@pytest.mark.parametrize("fields", CNNS)
@pytest.mark.parametrize("shape", [(1, 28, 28), (3, 24, 20)])
def test_the_layers_of_a_cnn_are_those_that_a_plan_shows(fields: dict[str, Any], shape: tuple[int, int, int]) -> None:
    model = CnnModel.model_validate_json(TypeAdapter(dict[str, Any]).dump_json({"kind": "cnn", **fields}))
    channels, height, width = shape
    told = layers(model, DataFacts("digits", (height, width, channels), 10, 1, 1, ""))
    network = build(model, 10, shape, seed=0)
    seen = outputs_by_name(network, torch.zeros(2, *shape))
    assert [layer.name for layer in told] == list(seen)
    assert [layer.output_shape for layer in told] == [output[1:] for output in seen.values()]
    assert_parameters_agree(network, {layer.name: layer.parameters for layer in told})


@pytest.mark.parametrize("fields", RNNS)
def test_the_layers_of_an_rnn_are_those_that_a_plan_shows(fields: dict[str, Any]) -> None:
    model = rnn_model(**fields)
    told = layers(model, DataFacts("text", (7,), VOCABULARY, 1, 1, ""))
    network = build(model, VOCABULARY, None, seed=0)
    assert_parameters_agree(network, {layer.name: layer.parameters for layer in told})
    if model.cell == "linear":  # its two layers are used as matrices and never called
        assert [network.get_submodule(layer.name).out_features for layer in told] == [layer.output_shape[-1] for layer in told]
        return
    seen = outputs_by_name(network, torch.zeros(2, 7, dtype=torch.int64))
    assert {layer.name: tuple(7 if side == "T" else side for side in layer.output_shape) for layer in told} == {
        name: shape[1:] for name, shape in seen.items()
    }


def test_the_default_cnn_on_28_pixels_and_10_classes_is_the_classic_net_of_34826_parameters() -> None:
    assert sum(weight.numel() for weight in build(CnnModel(kind="cnn"), 10, (1, 28, 28), seed=0).parameters()) == 34_826


def test_the_linear_cell_is_its_literal_definition_in_outputs_and_gradients() -> None:
    network = linear_rnn()
    characters_BT = torch.randint(VOCABULARY, (3, 9), generator=torch.Generator().manual_seed(1))
    got_BTV, state = network(characters_BT)
    got_BTV.square().sum().backward()
    got = [weight.grad for weight in network.parameters()]
    network.zero_grad()

    h_BH = torch.zeros(3, 5)
    literal = []
    for x_BV in functional.one_hot(characters_BT, VOCABULARY).float().unbind(1):
        both = torch.cat([x_BV, h_BH], dim=1)
        h_BH = network.i2h(both)
        literal.append(functional.log_softmax(network.i2o(both), dim=1))
    wanted_BTV = torch.stack(literal, 1)
    wanted_BTV.square().sum().backward()  # type: ignore[no-untyped-call]  # torch declares no types for it
    torch.testing.assert_close(got_BTV, wanted_BTV, atol=1e-5, rtol=1e-5)
    torch.testing.assert_close(state, h_BH, atol=1e-5, rtol=1e-5)
    for mine, weight in zip(got, network.parameters(), strict=True):
        torch.testing.assert_close(mine, weight.grad, atol=1e-3, rtol=1e-5)


@pytest.mark.parametrize("fields", RNNS)
def test_a_sequence_in_two_parts_gives_the_scores_of_the_whole(fields: dict[str, Any]) -> None:
    network = build(rnn_model(**fields), VOCABULARY, None, seed=0)
    assert isinstance(network, Rnn)
    characters_BT = torch.arange(10).view(2, 5)
    whole_BTV, _ = network(characters_BT)
    first_BTV, state = network(characters_BT[:, :3])
    second_BTV, _ = network(characters_BT[:, 3:], state)
    torch.testing.assert_close(torch.cat([first_BTV, second_BTV], 1), whole_BTV)


def test_the_weights_follow_from_the_seed_and_leave_the_global_generator_alone() -> None:
    torch.manual_seed(5)
    before = torch.get_rng_state()
    first, again, other = (build(CnnModel(kind="cnn"), 10, (1, 28, 28), seed=seed).state_dict() for seed in (1, 1, 2))
    assert torch.equal(torch.get_rng_state(), before)
    assert all(torch.equal(first[name], again[name]) for name in first)
    assert not torch.equal(first["classifier.weight"], other["classifier.weight"])


def rnn_model(**fields: Any) -> RnnModel:
    return RnnModel(kind="rnn", **fields)


def linear_rnn() -> LinearRnn:
    network = build(rnn_model(cell="linear", hidden_size=5), VOCABULARY, None, seed=0)
    assert isinstance(network, LinearRnn)
    return network


def outputs_by_name(network: nn.Module, inputs: torch.Tensor) -> dict[str, tuple[int, ...]]:
    """The output shapes of the layers without layers of their own, in the order in which they are called."""
    seen: dict[str, tuple[int, ...]] = {}

    def remember(name: str) -> Any:
        def hook(_module: nn.Module, _inputs: Any, output: Any) -> None:
            seen[name] = tuple((output[0] if isinstance(output, tuple) else output).shape)

        return hook

    hooks = [
        module.register_forward_hook(remember(name)) for name, module in network.named_modules() if not any(True for _ in module.children())
    ]
    network(inputs)
    for hook in hooks:
        hook.remove()
    return seen


def assert_parameters_agree(network: nn.Module, told: dict[str, int]) -> None:
    counted = {name: sum(weight.numel() for weight in network.get_submodule(name).parameters()) for name in told}
    assert counted == told
    assert sum(told.values()) == sum(weight.numel() for weight in network.parameters())

"""The networks against the arithmetic of ``cloud_train.networks``."""

import itertools
import json
from typing import Any

import pytest
import torch
from pydantic import TypeAdapter
from torch import nn

from cloud_train.data.pixels import Normalize
from cloud_train.networks.registry import Model
from cloud_train.training.description import ModelDescription, build
from cloud_train.training.models.rnn import LanguageModel

CNNS: list[dict[str, Any]] = [
    {},
    {"blocks": [{"filters": 4}]},
    {"blocks": [{"filters": 3, "kernel": 5, "pool": 1}, {"filters": 2, "kernel": 1, "pool": 3}, {"filters": 7, "pool": 1}]},
    {"blocks": [{"filters": 4, "norm": "batch", "padding": 1, "dropout": 0.1}, {"filters": 5, "stride": 2, "padding": 2}], "dropout": 0.5},
    {"blocks": [{"filters": 4, "kernel": 4, "stride": 3, "pool": 1, "norm": "batch"}, {"filters": 6, "pool": 1}], "head": "average"},
    {"network": "resnet18"},
    {"network": "resnet18", "stem": "large", "dropout": 0.2},
    {"network": "resnet50", "stem": "small"},
]
CELLS = ("linear", "elman", "gru", "lstm")
RNNS: list[dict[str, Any]] = [
    {"cell": cell, "hidden_size": 5, "layers": layers, "embedding_size": embedding, "dropout": dropout}
    for cell, (layers, embedding, dropout) in itertools.product(CELLS, [(1, None, 0.0), (1, 4, 0.5), (2, None, 0.1), (3, 4, 0.0)])
]
BOTH_WAYS: list[dict[str, Any]] = [{**fields, "bidirectional": True} for fields in RNNS if fields["cell"] != "linear"]
VOCABULARY = tuple("abcdefghijk")
CHARACTERS_BT = torch.arange(14).view(2, 7) % len(VOCABULARY)


@pytest.mark.parametrize("shape", [(1, 28, 28), (3, 24, 20), (3, 65, 70)])
@pytest.mark.parametrize("fields", CNNS)
def test_the_layers_of_a_cnn_are_those_that_a_plan_shows(fields: dict[str, Any], shape: tuple[int, int, int]) -> None:
    description = ModelDescription(model_of(kind="cnn", **fields), ("no", "maybe", "yes"), shape, Normalize(mean=(0.5,), std=(2.0,)))
    network = build(description, seed=0)
    seen = outputs_by_name(network, [layer.name for layer in description.layers], torch.zeros(2, *shape))
    assert [(layer.name, layer.output_shape) for layer in description.layers] == [(name, shape[1:]) for name, shape in seen.items()]
    assert_parameters_agree(network, description)


@pytest.mark.parametrize("fields", RNNS)
def test_the_layers_of_a_language_model_are_those_that_a_plan_shows(fields: dict[str, Any]) -> None:
    description = ModelDescription(model_of(kind="rnn", **fields), VOCABULARY)
    network = build(description, seed=0)
    assert_parameters_agree(network, description)
    called = [layer for layer in description.layers if layer.kind != "Linear" or layer.name == "decoder"]  # the linear cell's are matrices
    seen = outputs_by_name(network, [layer.name for layer in called], CHARACTERS_BT)
    assert [layer.name for layer in called] == list(seen)
    assert [layer.output_shape[-1] for layer in called] == [shape[-1] for shape in seen.values()]


@pytest.mark.parametrize("fields", [*RNNS, *BOTH_WAYS])
def test_the_layers_of_a_classifier_of_lines_are_those_that_a_plan_shows(fields: dict[str, Any]) -> None:
    description = ModelDescription(model_of(kind="rnn", **fields), ("no", "yes"), tokens=VOCABULARY[1:])
    network = build(description, seed=0)
    assert_parameters_agree(network, description)
    called = [layer for layer in description.layers if not layer.name.endswith("i2h")]
    seen = outputs_by_name(network, [layer.name for layer in called], CHARACTERS_BT, torch.tensor([7, 3]))
    assert [layer.name for layer in called] == list(seen)
    assert [layer.output_shape[-1] for layer in called] == [shape[-1] for shape in seen.values()]


@pytest.mark.parametrize("fields", RNNS)
def test_a_sequence_in_two_parts_gives_the_scores_and_the_state_of_the_whole(fields: dict[str, Any]) -> None:
    network = build(ModelDescription(model_of(kind="rnn", **fields), VOCABULARY), seed=0).eval()
    assert isinstance(network, LanguageModel)
    whole_BTV, last = network(CHARACTERS_BT)
    first_BTV, state = network(CHARACTERS_BT[:, :3])
    second_BTV, after = network(CHARACTERS_BT[:, 3:], state)
    torch.testing.assert_close(torch.cat([first_BTV, second_BTV], 1), whole_BTV)
    torch.testing.assert_close(after, last)
    assert [tensor.shape for tensor in state] == [(2, 5)] * (fields["layers"] * (2 if fields["cell"] == "lstm" else 1))


@pytest.mark.parametrize("cell", CELLS)
@pytest.mark.parametrize("number_format", [torch.bfloat16, torch.float16])
def test_recurrent_networks_work_in_mixed_precision(cell: str, number_format: torch.dtype) -> None:
    model = model_of(kind="rnn", cell=cell, hidden_size=5, layers=2)
    language_model = build(ModelDescription(model, VOCABULARY), seed=0)
    classifier = build(ModelDescription(model, ("no", "yes"), tokens=VOCABULARY[1:]), seed=0)
    lengths_B = torch.tensor([7, 2])
    with torch.autocast("cpu", number_format):
        first_BTV, state = language_model(CHARACTERS_BT)
        second_BTV, _ = language_model(CHARACTERS_BT, state)
        scores_BC = classifier(CHARACTERS_BT, lengths_B)
    (first_BTV.float().sum() + second_BTV.float().sum() + scores_BC.float().sum()).backward()
    for scores, exact in ((first_BTV, language_model(CHARACTERS_BT)[0]), (scores_BC, classifier(CHARACTERS_BT, lengths_B))):
        assert scores.dtype == number_format
        torch.testing.assert_close(scores.float(), exact, atol=0.02, rtol=0.02)
    for network in (language_model, classifier):
        assert all(weight.grad is not None and weight.grad.isfinite().all() for weight in network.parameters())


def test_no_dropout_is_inside_a_module_of_torch_where_its_state_cannot_be_saved() -> None:
    model = model_of(kind="rnn", hidden_size=5, layers=3, dropout=0.5, bidirectional=True)
    network = build(ModelDescription(model, ("no", "yes"), tokens=VOCABULARY), seed=0)
    layers = [module for module in network.modules() if isinstance(module, nn.RNNBase)]
    assert [(layer.num_layers, layer.dropout) for layer in layers] == [(1, 0.0)] * 3
    assert sum(isinstance(module, nn.Dropout) for module in network.modules()) == 3


@pytest.mark.parametrize("cell", CELLS)
def test_dropout_changes_the_scores_in_training_only(cell: str) -> None:
    network = build(ModelDescription(model_of(kind="rnn", cell=cell, hidden_size=8, layers=2, dropout=0.5), VOCABULARY), seed=0)
    assert not torch.equal(network(CHARACTERS_BT)[0], network(CHARACTERS_BT)[0])
    network.eval()
    assert torch.equal(network(CHARACTERS_BT)[0], network(CHARACTERS_BT)[0])


@pytest.mark.parametrize("fields", [{"kind": "cnn"}, {"kind": "cnn", "network": "resnet18"}, {"kind": "rnn", "cell": "linear"}])
def test_the_weights_follow_from_the_seed_and_leave_the_global_generator_alone(fields: dict[str, Any]) -> None:
    description = ModelDescription(model_of(**fields), tuple("0123456789"), (1, 28, 28))
    torch.manual_seed(5)
    before = torch.get_rng_state()
    first, again, other = (build(description, seed).state_dict() for seed in (1, 1, 2))
    assert torch.equal(torch.get_rng_state(), before)
    assert all(torch.equal(first[name], again[name]) for name in first)
    last = [name for name in first if name.endswith("weight")][-1]
    assert not torch.equal(first[last], other[last])


def model_of(**fields: Any) -> Any:
    return TypeAdapter[Any](Model).validate_json(json.dumps(fields))


def outputs_by_name(network: nn.Module, names: list[str], *inputs: torch.Tensor) -> dict[str, tuple[int, ...]]:
    """The output shapes of the layers called ``names``, in the order in which they are called."""
    seen: dict[str, tuple[int, ...]] = {}

    def remember(name: str) -> Any:
        def hook(_module: nn.Module, _inputs: Any, output: Any) -> None:
            first = output[0] if isinstance(output, tuple) else output
            seen[name] = tuple(first.data.shape)  # a packed sequence has data, and so has a tensor

        return hook

    hooks = [network.get_submodule(name).register_forward_hook(remember(name)) for name in names]
    network(*inputs)
    for hook in hooks:
        hook.remove()
    return seen


def assert_parameters_agree(network: nn.Module, description: ModelDescription) -> None:
    """Every parameter of the network is in a layer that is told, and none in two."""
    told = {layer.name: layer.parameters for layer in description.layers}
    assert told == {name: sum(weight.numel() for weight in network.get_submodule(name).parameters()) for name in told}
    assert description.parameters == sum(weight.numel() for weight in network.parameters())

"""Blocks and residual nets: what they compute, how they begin, and what the smallest batches do to them."""

from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional

from cloud_train.data.pixels import Normalize
from cloud_train.networks.cnn import CnnModel, ConvBlock
from cloud_train.training.description import ModelDescription, build
from cloud_train.training.models.cnn import BatchNorm, ResidualBlock

DIGITS = tuple("0123456789")
IMAGES_BCHW = torch.rand(4, 3, 12, 12, generator=torch.Generator().manual_seed(0))


def test_the_default_cnn_on_28_pixels_and_10_classes_is_the_classic_net_of_34826_parameters() -> None:
    network = build(ModelDescription(CnnModel(kind="cnn"), DIGITS, (1, 28, 28)), seed=0)
    assert sum(weight.numel() for weight in network.parameters()) == 34_826


def test_the_classic_net_begins_with_the_weights_of_a_script_that_draws_them_layer_by_layer() -> None:
    weights = build(ModelDescription(CnnModel(kind="cnn"), DIGITS, (1, 28, 28)), seed=7).state_dict()
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(7)
        first, second, last = nn.Conv2d(1, 32, 3), nn.Conv2d(32, 64, 3), nn.Linear(1600, 10)
        nn.init.kaiming_normal_(first.weight, nonlinearity="relu")
        nn.init.kaiming_normal_(second.weight, nonlinearity="relu")
        nn.init.xavier_uniform_(last.weight)
    wanted = {"blocks.0.conv": first, "blocks.1.conv": second, "classifier": last}
    assert list(weights) == [f"{name}.{kind}" for name in wanted for kind in ("weight", "bias")]
    for name, layer in wanted.items():
        assert torch.equal(weights[f"{name}.weight"], layer.get_parameter("weight"))
        assert weights[f"{name}.bias"].count_nonzero() == 0


def test_the_classic_net_with_a_hidden_layer_computes_what_its_layers_compute_one_by_one() -> None:
    network = build(ModelDescription(CnnModel(kind="cnn", dense=(128,), dropout=0.5), DIGITS, (1, 28, 28)), seed=7)
    assert sum(weight.numel() for weight in network.parameters()) == 225_034
    images, weights = torch.rand(3, 1, 28, 28), network.state_dict()
    features = images
    for number in (0, 1):
        convolved = functional.conv2d(features, weights[f"blocks.{number}.conv.weight"], weights[f"blocks.{number}.conv.bias"])
        features = functional.max_pool2d(functional.relu(convolved), 2)
    hidden = functional.relu(features.flatten(1) @ weights["dense.0.linear.weight"].T + weights["dense.0.linear.bias"])
    scores = hidden @ weights["classifier.weight"].T + weights["classifier.bias"]
    torch.testing.assert_close(network.eval()(images), scores)
    network.train()
    assert not torch.allclose(network(images), network(images)), "half of the hidden layer's outputs are dropped"


@pytest.mark.parametrize("network", ["blocks", "resnet18"])
def test_hidden_layers_begin_with_weights_for_a_relu(network: str) -> None:
    model = CnnModel.model_validate({"kind": "cnn", "network": network, "dense": (400,)})
    weights = build(ModelDescription(model, DIGITS, (3, 12, 12)), seed=0).state_dict()
    hidden = weights["dense.0.linear.weight"]
    assert hidden.std().item() == pytest.approx((2 / hidden.shape[1]) ** 0.5, rel=0.02)
    assert not weights["dense.0.linear.bias"].any()


def test_the_pixels_are_scaled_as_the_first_layer_and_the_scale_is_no_weight() -> None:
    model = CnnModel(kind="cnn", blocks=(ConvBlock(filters=4),))
    plain = build(ModelDescription(model, DIGITS, (3, 12, 12)), seed=0)
    numbers = Normalize(mean=(0.1, 0.2, 0.3), std=(0.5, 0.25, 2.0))
    scaled = build(ModelDescription(model, DIGITS, (3, 12, 12), numbers), seed=0)
    mean, std = (torch.tensor(values).view(3, 1, 1) for values in (numbers.mean, numbers.std))
    torch.testing.assert_close(scaled(IMAGES_BCHW), plain((IMAGES_BCHW - mean) / std))
    assert list(scaled.state_dict()) == list(plain.state_dict())


def test_one_mean_and_one_deviation_are_for_all_channels() -> None:
    one, three = (
        build(ModelDescription(CnnModel(kind="cnn", network="resnet18"), DIGITS, (3, 12, 12), Normalize(mean=mean, std=std)), seed=0).eval()
        for mean, std in (((0.4,), (0.2,)), ((0.4,) * 3, (0.2,) * 3))
    )
    assert torch.equal(one(IMAGES_BCHW), three(IMAGES_BCHW))


def test_a_block_is_convolution_normalization_relu_pooling_dropout() -> None:
    block = ConvBlock(filters=5, kernel=4, stride=2, padding=1, norm="batch", pool=3, dropout=0.5)
    network = build(ModelDescription(CnnModel(kind="cnn", blocks=(block,), head="average", dropout=0.25), DIGITS, (3, 12, 12)), seed=0)
    weights = network.state_dict()
    x = functional.conv2d(IMAGES_BCHW, weights["blocks.0.conv.weight"], stride=2, padding=1)
    assert "blocks.0.conv.bias" not in weights
    x = functional.max_pool2d(functional.relu(functional.batch_norm(x, None, None, training=True)), 3)
    blocks = network.get_submodule("blocks.0")
    dropout, network.get_submodule("blocks.0").dropout = blocks.get_submodule("dropout"), nn.Identity()
    network.get_submodule("dropout").eval()
    assert isinstance(dropout, nn.Dropout2d)
    assert dropout.p == 0.5
    torch.testing.assert_close(network(IMAGES_BCHW), functional.linear(x.mean((2, 3)), weights["classifier.weight"]))


def test_the_dropout_of_a_block_drops_whole_channels() -> None:
    block = ConvBlock(filters=50, pool=1, dropout=0.5)
    network = build(ModelDescription(CnnModel(kind="cnn", blocks=(block,)), DIGITS, (3, 12, 12)), seed=0)
    dropped_BCHW = network.get_submodule("blocks.0.dropout")(torch.ones(40, 50, 3, 3))
    assert set(dropped_BCHW.sum((2, 3)).unique().tolist()) == {0.0, 18.0}


@pytest.mark.parametrize(
    ("network", "shape", "classes", "parameters"),
    [
        ("resnet18", (3, 224, 224), 1000, 11_689_512),
        ("resnet50", (3, 224, 224), 1000, 25_557_032),
        ("resnet18", (3, 32, 32), 10, 11_173_962),
    ],
)
def test_residual_nets_have_the_parameters_that_they_are_known_by(
    network: Any, shape: tuple[int, int, int], classes: int, parameters: int
) -> None:
    description = ModelDescription(CnnModel(kind="cnn", network=network), tuple(map(str, range(classes))), shape)
    assert sum(weight.numel() for weight in build(description, seed=0).parameters()) == parameters


@pytest.mark.parametrize("network", ["resnet18", "resnet50"])
def test_each_residual_block_begins_as_its_shortcut(network: Any) -> None:
    net = build(ModelDescription(CnnModel(kind="cnn", network=network), DIGITS, (3, 12, 12)), seed=0)
    blocks = [module for module in net.modules() if isinstance(module, ResidualBlock)]
    assert len(blocks) == {"resnet18": 8, "resnet50": 16}[network]
    for block in blocks:
        channels = next(block.parameters()).shape[1]
        images_BCHW = torch.randn(2, channels, 4, 4, generator=torch.Generator().manual_seed(1))
        torch.testing.assert_close(block(images_BCHW), functional.relu(block.shortcut(images_BCHW)))


def test_a_bottleneck_halves_the_image_in_its_3x3_convolution() -> None:
    block = ResidualBlock(256, 128, expansion=4, stride=2)
    strides = {name: layer.stride[0] for name, layer in block.named_modules() if isinstance(layer, nn.Conv2d)}
    assert strides == {"body.conv1": 1, "body.conv2": 2, "body.conv3": 1, "shortcut.conv": 2}


def test_a_residual_block_is_its_definition() -> None:
    block = ResidualBlock(8, 8, expansion=1, stride=1)
    nn.init.ones_(block.last_scale)
    images_BCHW = torch.randn(2, 8, 5, 5, generator=torch.Generator().manual_seed(1))
    first, second = (block.body.get_submodule(name).weight for name in ("conv1", "conv2"))
    assert isinstance(first, Tensor)
    assert isinstance(second, Tensor)
    x = functional.relu(functional.batch_norm(functional.conv2d(images_BCHW, first, padding=1), None, None, training=True))
    x = functional.batch_norm(functional.conv2d(x, second, padding=1), None, None, training=True)
    torch.testing.assert_close(block(images_BCHW), functional.relu(x + images_BCHW))


def test_a_batch_of_one_image_of_one_pixel_is_normalized_by_the_running_averages_and_leaves_them() -> None:
    norm = BatchNorm(3)
    norm(torch.randn(8, 3, 2, 2, generator=torch.Generator().manual_seed(1)))
    before = {name: value.clone() for name, value in norm.state_dict().items()}
    pixel_BCHW = torch.randn(1, 3, 1, 1, generator=torch.Generator().manual_seed(2))
    trained = norm(pixel_BCHW)
    trained.sum().backward()
    assert norm.weight.grad is not None
    assert all(torch.equal(value, before[name]) for name, value in norm.state_dict().items())
    assert torch.equal(norm.eval()(pixel_BCHW), trained)


def test_batch_normalization_is_torchs_own_for_every_other_batch() -> None:
    mine, torchs = BatchNorm(3), nn.BatchNorm2d(3)
    for shape in ((2, 3, 1, 1), (1, 3, 1, 2), (4, 3, 5, 5)):
        images_BCHW = torch.randn(*shape, generator=torch.Generator().manual_seed(1))
        assert torch.equal(mine(images_BCHW), torchs(images_BCHW))
    assert all(torch.equal(mine.state_dict()[name], value) for name, value in torchs.state_dict().items())


@pytest.mark.parametrize("fields", [{"network": "resnet18"}, {"blocks": (ConvBlock(filters=4, norm="batch", padding=1),)}])
def test_images_with_their_channels_innermost_have_the_same_scores(fields: dict[str, Any]) -> None:
    description = ModelDescription(CnnModel(kind="cnn", **fields), DIGITS, (3, 12, 12), Normalize(mean=(0.4,), std=(0.2,)))
    network = build(description, seed=0).eval()
    assert all(weight.is_contiguous() for weight in network.parameters())
    wanted_BC = network(IMAGES_BCHW)
    network.to(memory_format=torch.channels_last)  # type: ignore[call-overload]  # torch's own signature leaves it out
    torch.testing.assert_close(network(IMAGES_BCHW), wanted_BC)
    torch.testing.assert_close(network(IMAGES_BCHW.to(memory_format=torch.channels_last)), wanted_BC)

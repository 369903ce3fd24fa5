from dataclasses import replace
from typing import Any

import pytest

from cloud_train.networks.cnn import CnnModel, ConvBlock
from cloud_train.networks.rnn import RnnModel
from cloud_train.spec.facts import DataFacts
from cloud_train.spec.problems import FieldError

IMAGES = DataFacts("digits", (28, 28, 1), 10, 1438, 359, "")
TEXT = DataFacts("text", (128,), 103, 3270, 363, "")
LINES = DataFacts("sequences", (256,), 2, 900, 100, "", tokens=500)


def parameters(model: CnnModel | RnnModel, data: DataFacts) -> int:
    return sum(layer.parameters for layer in model.layer_facts(data))


def test_the_default_cnn_is_the_classic_net_of_34826_parameters() -> None:
    found = [(layer.name, layer.output_shape, layer.parameters) for layer in CnnModel(kind="cnn").layer_facts(IMAGES)]
    assert found == [
        ("blocks.0.conv", (32, 26, 26), 320),
        ("blocks.0.relu", (32, 26, 26), 0),
        ("blocks.0.pool", (32, 13, 13), 0),
        ("blocks.1.conv", (64, 11, 11), 18_496),
        ("blocks.1.relu", (64, 11, 11), 0),
        ("blocks.1.pool", (64, 5, 5), 0),
        ("flatten", (1600,), 0),
        ("classifier", (10,), 16_010),
    ]


def test_hidden_dense_layers_follow_the_blocks_and_each_has_its_dropout() -> None:
    model = CnnModel(kind="cnn", dense=(128, 30), dropout=0.5)
    found = [(layer.name, layer.kind, layer.output_shape, layer.parameters) for layer in model.layer_facts(IMAGES)]
    assert found[6:] == [
        ("flatten", "Flatten", (1600,), 0),
        ("dense.0.linear", "Linear", (128,), 1601 * 128),
        ("dense.0.relu", "ReLU", (128,), 0),
        ("dense.0.dropout", "Dropout 0.5", (128,), 0),
        ("dense.1.linear", "Linear", (30,), 129 * 30),
        ("dense.1.relu", "ReLU", (30,), 0),
        ("dense.1.dropout", "Dropout 0.5", (30,), 0),
        ("classifier", "Linear", (10,), 31 * 10),
    ]
    assert parameters(CnnModel(kind="cnn", dense=(128,)), IMAGES) == 320 + 18_496 + 1601 * 128 + 129 * 10 == 225_034


def test_a_block_has_a_row_for_each_thing_that_it_does() -> None:
    block = ConvBlock(filters=6, kernel=5, stride=2, padding=1, norm="batch", pool=3, dropout=0.1)
    model = CnnModel(kind="cnn", blocks=(block,), head="average", dropout=0.5)
    assert [(layer.name, layer.kind, layer.output_shape, layer.parameters) for layer in model.layer_facts(IMAGES)] == [
        ("blocks.0.conv", "Conv2d 5×5, stride 2", (6, 13, 13), 25 * 6),
        ("blocks.0.norm", "BatchNorm2d", (6, 13, 13), 12),
        ("blocks.0.relu", "ReLU", (6, 13, 13), 0),
        ("blocks.0.pool", "MaxPool2d 3", (6, 4, 4), 0),
        ("blocks.0.dropout", "Dropout2d 0.1", (6, 4, 4), 0),
        ("average", "Average", (6,), 0),
        ("dropout", "Dropout 0.5", (6,), 0),
        ("classifier", "Linear", (10,), 70),
    ]


@pytest.mark.parametrize(
    ("blocks", "number", "left"),
    [
        ((ConvBlock(filters=1, kernel=27), ConvBlock(filters=1)), 1, "0×0 pixels are left after the 3×3 convolution, and pooling needs 2"),
        ((ConvBlock(filters=1, kernel=30, pool=1),), 0, "0×0 pixels are left after the 30×30 convolution"),
        ((ConvBlock(filters=1, kernel=31, padding=1, stride=9, pool=1),), 0, "0×0 pixels are left"),
        ((ConvBlock(filters=1, stride=20, pool=3),), 0, "2×2 pixels are left after the 3×3 convolution, and pooling needs 3"),
    ],
)
def test_a_block_that_is_too_large_for_its_image_is_named(blocks: tuple[ConvBlock, ...], number: int, left: str) -> None:
    with pytest.raises(FieldError) as caught:
        CnnModel(kind="cnn", blocks=blocks).layer_facts(IMAGES)
    assert caught.value.path == ("model", "blocks", number)
    assert left in caught.value.reason


def test_padding_makes_room_for_a_kernel() -> None:
    model = CnnModel(kind="cnn", blocks=(ConvBlock(filters=2, kernel=30, padding=1, pool=1),))
    assert model.layer_facts(IMAGES)[0].output_shape == (2, 1, 1)


def test_a_pool_of_one_pools_nothing() -> None:
    model = CnnModel(kind="cnn", blocks=(ConvBlock(filters=2, kernel=28, pool=1),))
    assert [layer.output_shape for layer in model.layer_facts(IMAGES)] == [(2, 1, 1), (2, 1, 1), (2,), (10,)]


# The counts that the nets are known by: He et al. (2016) for ImageNet, and the usual form for CIFAR with a stem of 3×3 pixels.
@pytest.mark.parametrize(
    ("network", "shape", "classes", "count"),
    [
        ("resnet18", (224, 224, 3), 1000, 11_689_512),
        ("resnet50", (224, 224, 3), 1000, 25_557_032),
        ("resnet18", (32, 32, 3), 10, 11_173_962),
    ],
)
def test_residual_nets_have_the_parameters_that_they_are_known_by(
    network: Any, shape: tuple[int, int, int], classes: int, count: int
) -> None:
    assert parameters(CnnModel(kind="cnn", network=network), replace(IMAGES, sample_shape=shape, classes=classes)) == count


def test_a_residual_net_is_told_by_its_residual_blocks() -> None:
    found = CnnModel(kind="cnn", network="resnet50").layer_facts(replace(IMAGES, sample_shape=(224, 224, 3), classes=1000))
    assert len(found) == 19
    assert [(layer.name, layer.kind, layer.output_shape) for layer in (found[0], found[3], found[4], found[16], found[17])] == [
        ("stem", "Conv2d 7×7, stride 2, MaxPool2d 3", (64, 56, 56)),
        ("layer1.2", "Bottleneck", (256, 56, 56)),
        ("layer2.0", "Bottleneck, stride 2", (512, 28, 28)),
        ("layer4.2", "Bottleneck", (2048, 7, 7)),
        ("average", "Average", (2048,)),
    ]


@pytest.mark.parametrize(
    ("stem", "side", "output"), [("auto", 63, 63), ("auto", 64, 16), ("small", 64, 64), ("large", 32, 8), ("large", 1, 1)]
)
def test_the_stem_is_small_for_images_below_64_pixels_unless_the_job_says_otherwise(stem: Any, side: int, output: int) -> None:
    found = CnnModel(kind="cnn", network="resnet18", stem=stem).layer_facts(replace(IMAGES, sample_shape=(side, side, 1)))
    assert found[0].output_shape == (64, output, output)


def test_the_linear_cell_is_two_linear_layers() -> None:
    model = RnnModel(kind="rnn", cell="linear", hidden_size=128)
    found = {layer.name: layer.parameters for layer in model.layer_facts(TEXT)}
    assert found == {"rnn.0.i2h": (103 + 128) * 128 + 128, "i2o": (103 + 128) * 103 + 103}


def test_a_further_layer_of_the_linear_cell_reads_the_states_of_the_one_below() -> None:
    model = RnnModel(kind="rnn", cell="linear", hidden_size=8, layers=2)
    found = {layer.name: layer.parameters for layer in model.layer_facts(TEXT)}
    assert found == {"rnn.0.i2h": (103 + 8 + 1) * 8, "rnn.1.i2h": (8 + 8 + 1) * 8, "i2o": (8 + 8 + 1) * 103}


# torch's nn.RNN, nn.GRU and nn.LSTM: 1, 3 or 4 times hidden·(input + hidden) weights and 2·hidden biases.
@pytest.mark.parametrize(("cell", "gates"), [("elman", 1), ("gru", 3), ("lstm", 4)])
def test_recurrent_layers_have_the_parameters_that_torch_gives_them(cell: str, gates: int) -> None:
    model = RnnModel.model_validate({"kind": "rnn", "cell": cell, "hidden_size": 8, "layers": 2, "embedding_size": 5})
    found = {layer.name: layer.parameters for layer in model.layer_facts(TEXT)}
    assert found == {"embedding": 103 * 5, "rnn.0": gates * (8 * (5 + 8) + 16), "rnn.1": gates * (8 * (8 + 8) + 16), "decoder": 9 * 103}


def test_without_an_embedding_a_character_goes_in_one_hot() -> None:
    assert (
        parameters(RnnModel(kind="rnn", cell="gru", hidden_size=256, embedding_size=0), TEXT) == 3 * (256 * (103 + 256) + 512) + 257 * 103
    )


def test_a_classifier_of_lines_reads_tokens_and_scores_classes() -> None:
    model = RnnModel(kind="rnn", cell="lstm", hidden_size=8, layers=2, embedding_size=5, bidirectional=True, dropout=0.5)
    assert [(layer.name, layer.kind, layer.output_shape, layer.parameters) for layer in model.layer_facts(LINES)] == [
        ("embedding", "Embedding", ("T", 5), 500 * 5),
        ("rnn.0", "lstm, both ways", ("T", 16), 2 * 4 * (8 * (5 + 8) + 16)),
        ("dropout.0", "Dropout 0.5", ("T", 16), 0),
        ("rnn.1", "lstm, both ways", ("T", 16), 2 * 4 * (8 * (16 + 8) + 16)),
        ("dropout.1", "Dropout 0.5", (16,), 0),
        ("decoder", "Linear", (2,), 17 * 2),
    ]


@pytest.mark.parametrize(("cell", "data", "said"), [("gru", TEXT, "must not see"), ("linear", LINES, "one direction")])
def test_what_cannot_be_read_both_ways_is_refused(cell: Any, data: DataFacts, said: str) -> None:
    with pytest.raises(FieldError, match=said) as caught:
        RnnModel(kind="rnn", cell=cell, bidirectional=True).layer_facts(data)
    assert caught.value.path == ("model", "bidirectional")


@pytest.mark.parametrize(
    ("settings", "inputs", "width"),
    [({}, 32, 0), ({}, 33, 64), ({"embedding_size": 0}, 9000, 0), ({"embedding_size": 5}, 3, 5), ({"cell": "linear"}, 9000, 0)],
)
def test_many_tokens_are_embedded_and_few_are_one_hot(settings: dict[str, Any], inputs: int, width: int) -> None:
    assert RnnModel(kind="rnn", **settings).width_of_embedding(inputs) == width

import pytest

from cloud_train.job.architecture import layers, steps_per_epoch, total_steps
from cloud_train.job.facts import DataFacts
from cloud_train.job.models import CnnModel, ConvBlock, RnnModel, TrainSpec
from cloud_train.job.problems import FieldError

IMAGES = DataFacts("digits", (28, 28, 1), 10, 1438, 359, "")
TEXT = DataFacts("text", (128,), 103, 3270, 363, "")


def parameters(model: CnnModel | RnnModel, data: DataFacts) -> int:
    return sum(layer.parameters for layer in layers(model, data))


def test_the_default_cnn_is_the_classic_net_of_34826_parameters() -> None:
    found = [(layer.name, layer.output_shape, layer.parameters) for layer in layers(CnnModel(kind="cnn"), IMAGES)]
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


def test_a_block_that_is_too_large_for_its_image_is_named() -> None:
    model = CnnModel(kind="cnn", blocks=(ConvBlock(filters=1, kernel=27), ConvBlock(filters=1)))
    with pytest.raises(FieldError) as caught:
        layers(model, IMAGES)
    assert caught.value.path == ("model", "blocks", 1)


def test_a_pool_of_one_pools_nothing() -> None:
    model = CnnModel(kind="cnn", blocks=(ConvBlock(filters=2, kernel=28, pool=1),))
    assert [layer.output_shape for layer in layers(model, IMAGES)] == [(2, 1, 1), (2, 1, 1), (2, 1, 1), (2,), (10,)]


def test_the_linear_cell_is_two_linear_layers() -> None:
    model = RnnModel(kind="rnn", cell="linear", hidden_size=128)
    found = {layer.name: layer.parameters for layer in layers(model, TEXT)}
    assert found == {"i2h": (103 + 128) * 128 + 128, "i2o": (103 + 128) * 103 + 103}


# torch's nn.RNN, nn.GRU and nn.LSTM: 1, 3 or 4 times hidden·(input + hidden) weights and 2·hidden biases.
@pytest.mark.parametrize(("cell", "gates"), [("elman", 1), ("gru", 3), ("lstm", 4)])
def test_recurrent_layers_have_the_parameters_that_torch_gives_them(cell: str, gates: int) -> None:
    model = RnnModel.model_validate({"kind": "rnn", "cell": cell, "hidden_size": 8, "layers": 2, "embedding_size": 5})
    found = {layer.name: layer.parameters for layer in layers(model, TEXT)}
    assert found == {"embedding": 103 * 5, "rnn.0": gates * (8 * (5 + 8) + 16), "rnn.1": gates * (8 * (8 + 8) + 16), "decoder": 9 * 103}


def test_without_an_embedding_a_character_goes_in_one_hot() -> None:
    assert parameters(RnnModel(kind="rnn", cell="gru", hidden_size=256), TEXT) == 3 * (256 * (103 + 256) + 512) + 257 * 103


def test_the_last_batch_of_an_epoch_may_be_smaller() -> None:
    assert [steps_per_epoch(IMAGES, size) for size in (1, 64, 1437, 1438, 5000)] == [1438, 23, 2, 1, 1]


def test_a_job_takes_its_steps_or_its_epochs() -> None:
    assert total_steps(TrainSpec(steps=7), 23) == 7
    assert total_steps(TrainSpec(epochs=5), 23) == 115

"""model.safetensors and model.json, also when they were written by somebody who means harm."""

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file
from torch import nn

from cloud_train.data.pixels import Normalize
from cloud_train.errors import CorruptError, NotFoundError
from cloud_train.job.models import JobSpec
from cloud_train.networks.cnn import CnnModel, ConvBlock
from cloud_train.networks.rnn import RnnModel
from cloud_train.training.data.dataset import DataSet
from cloud_train.training.data.memory import TensorSamples
from cloud_train.training.description import ModelDescription, build
from cloud_train.training.modelfile import load_network, save_model

CNN = ModelDescription(CnnModel(kind="cnn", blocks=(ConvBlock(filters=2),)), ("no", "yes"), (1, 8, 8))
NORMED = ModelDescription(
    CnnModel(kind="cnn", blocks=(ConvBlock(filters=2, norm="batch", dropout=0.5),), head="average"),
    ("no", "yes"),
    (3, 8, 8),
    Normalize(mean=(0.1, 0.2, 0.3), std=(1.0, 2.0, 3.0)),
    preparation="photograph",
)
RESNET = ModelDescription(CnnModel(kind="cnn", network="resnet18"), ("no", "yes"), (1, 8, 8), Normalize(mean=(0.5,), std=(0.5,)))
GRU = ModelDescription(RnnModel(kind="rnn", hidden_size=4), (" ", "a", "é", "😀"))
LINEAR = ModelDescription(RnnModel(kind="rnn", cell="linear", hidden_size=4, layers=2, embedding_size=3), (" ", "a"))
LINES = ModelDescription(
    RnnModel(kind="rnn", cell="lstm", hidden_size=4, bidirectional=True), ("bad", "gut"), tokens=("schön", "!"), unit="words", max_length=7
)


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    save_model(tmp_path, build(CNN, seed=0), CNN)
    return tmp_path


@pytest.mark.parametrize("description", [CNN, NORMED, RESNET, GRU, LINEAR, LINES])
def test_a_model_that_is_saved_and_loaded_is_the_same(tmp_path: Path, description: ModelDescription) -> None:
    network = build(description, seed=3)
    for module in network.modules():
        if isinstance(module, nn.BatchNorm2d):
            assert module.running_mean is not None
            module.running_mean.fill_(0.25)
    save_model(tmp_path, network, description)
    loaded, found = load_network(tmp_path)
    assert found == description
    assert not loaded.training
    assert list(loaded.state_dict()) == list(network.state_dict())
    for name, tensor in network.state_dict().items():
        assert torch.equal(tensor, loaded.state_dict()[name])


@pytest.mark.parametrize("memory_format", [torch.contiguous_format, torch.channels_last])
def test_the_same_weights_give_the_same_bytes(tmp_path: Path, memory_format: torch.memory_format) -> None:
    for name in ("first", "second"):
        (tmp_path / name).mkdir()
        network = build(CNN, seed=1)
        if name == "second":
            network.to(memory_format=memory_format)  # type: ignore[call-overload]  # torch's own signature leaves it out
        save_model(tmp_path / name, network, CNN)
    for file in ("model.safetensors", "model.json"):
        assert (tmp_path / "first" / file).read_bytes() == (tmp_path / "second" / file).read_bytes()


@pytest.mark.parametrize("description", [CNN, NORMED, RESNET, GRU, LINEAR, LINES])
def test_the_number_of_parameters_is_known_before_the_network_is_built(description: ModelDescription) -> None:
    assert description.parameters == sum(weight.numel() for weight in build(description, seed=0).parameters())


def test_a_description_holds_what_a_job_and_its_data_say() -> None:
    samples = TensorSamples(torch.zeros(1), torch.zeros(1))
    job = JobSpec.model_validate({"name": "job", "model": {"kind": "rnn", "hidden_size": 5}})
    data = DataSet(samples, samples, ("no",), tokens=("a",), unit="words", max_length=9, preparation="photograph")
    assert ModelDescription.of(job, data) == ModelDescription(
        RnnModel(kind="rnn", hidden_size=5), ("no",), tokens=("a",), unit="words", preparation="photograph", max_length=9
    )


@pytest.mark.parametrize("name", ["model.json", "model.safetensors"])
def test_a_file_that_is_missing_is_named(folder: Path, name: str) -> None:
    (folder / name).unlink()
    with pytest.raises(NotFoundError, match=name):
        load_network(folder)


@pytest.mark.parametrize(
    ("changes", "reason"),
    [
        ({"format": 1}, "format"),
        ({"model": {"kind": 3}}, "model"),
        ({"model": {}}, "model"),
        ({"model": []}, "model"),
        ({"model": {"kind": "cnn", "blocks": 5}}, "no len"),
        ({"model": {"kind": "cnn", "blocks": [{"filters": 10**9}]}}, "parameters"),
        ({"model": {"kind": "cnn", "blocks": [{"filters": 10**9}, {"filters": 10**9}]}}, "too small for this block|parameters"),
        ({"model": {"kind": "cnn", "blocks": [{"filters": 2, "kernel": 9}]}}, "too small for this block"),
        ({"model": {"kind": "cnn", "network": "resnet50"}}, "parameters"),
        ({"model": {"kind": "rnn", "hidden_size": 10**9}, "image_shape": None}, "vocabulary"),
        ({"model": {"kind": "rnn", "hidden_size": 10**9, "layers": 64}, "image_shape": None, "classes": ["a", "b"]}, "parameters"),
        ({"model": {"kind": "rnn"}}, "image_shape"),
        ({"model": {"kind": "rnn", "bidirectional": True}, "image_shape": None, "classes": ["a", "b"]}, "must not see"),
        ({"model": {"kind": "cnn", "blocks": [{"filters": 2, "kernel": 1, "pool": 1}] * 5}}, "parameters"),
        ({"model": {"kind": "cnn", "blocks": [{"filters": 1}] * 1001}}, "more than 1,000 blocks"),
        ({"classes": []}, "classes"),
        ({"classes": [1, 2]}, "classes"),
        ({"classes": None}, "classes"),
        ({"classes": ["no"]}, "parameters"),
        ({"image_shape": [1, 8]}, "image_shape"),
        ({"image_shape": [1, -8, 8]}, "image_shape"),
        ({"image_shape": [1, 1e9, 8]}, "image_shape"),
        ({"image_shape": [2, 8, 8]}, "1 channel or 3"),
        ({"image_shape": None}, "image_shape"),
        ({"tokens": ["a"]}, "tokens"),
        ({"normalize": {"mean": [0, 0], "std": [1, 1]}}, "normalize"),
        ({"normalize": {"mean": [0], "std": [0]}}, "normalize.std"),
        ({"normalize": {"mean": [float("nan")], "std": [1]}}, "normalize.mean"),
        ({"preparation": "photograph", "image_shape": [1, 8, 9]}, "square"),
        ({"preparation": "stew"}, "preparation"),
        ({"max_length": 0}, "max_length"),
        ({"surplus": 1}, "surplus"),
    ],
)
def test_a_description_that_does_not_fit_is_refused_before_a_network_is_built(folder: Path, changes: dict[str, Any], reason: str) -> None:
    fields = json.loads((folder / "model.json").read_text())
    (folder / "model.json").write_text(json.dumps({**fields, **changes}))
    with pytest.raises(CorruptError, match=reason):
        load_network(folder)


@pytest.mark.parametrize(
    ("changes", "reason"),
    [
        ({"tokens": ["a", "a"]}, "occurs twice"),
        ({"tokens": ["a", ""]}, "tokens"),
        ({"tokens": ["a"]}, "parameters"),
        ({"tokens": None}, "must not see|vocabulary"),
        ({"unit": "sentences"}, "unit"),
        ({"normalize": {"mean": [0], "std": [1]}}, "normalize"),
        ({"model": {"kind": "rnn", "cell": "linear", "bidirectional": True}}, "one direction"),
    ],
)
def test_a_description_of_a_classifier_of_lines_is_looked_at_as_closely(tmp_path: Path, changes: dict[str, Any], reason: str) -> None:
    save_model(tmp_path, build(LINES, seed=0), LINES)
    fields = json.loads((tmp_path / "model.json").read_text())
    (tmp_path / "model.json").write_text(json.dumps({**fields, **changes}))
    with pytest.raises(CorruptError, match=reason):
        load_network(tmp_path)


# With few weights to give to it, a network can still be told to make giant images, or to go over them with a giant kernel.
@pytest.mark.parametrize(
    ("block", "shape"),
    [
        (ConvBlock(filters=1, kernel=1, pool=1), (1, 32_767, 32_767)),
        (ConvBlock(filters=1, kernel=1, pool=1, padding=10**9), (1, 8, 8)),
        (ConvBlock(filters=1, kernel=1000, pool=1, padding=8000), (1, 8, 8)),
    ],
)
def test_a_description_whose_answers_would_take_all_memory_or_time_is_refused(
    tmp_path: Path, block: ConvBlock, shape: tuple[int, int, int]
) -> None:
    description = replace(CNN, model=CnnModel(kind="cnn", blocks=(block,), head="average"), image_shape=shape)
    save_model(tmp_path, build(description, seed=0), description)
    with pytest.raises(CorruptError, match="an unreasonable amount of memory or time"):
        load_network(tmp_path)


def test_a_million_blocks_are_refused_before_a_network_is_made_of_them(folder: Path) -> None:
    fields = json.loads((folder / "model.json").read_text())
    fields["model"] = {"kind": "cnn", "blocks": [{"filters": 1}] * 1_000_000}
    (folder / "model.json").write_text(json.dumps(fields))
    with pytest.raises(CorruptError, match="more than 1,000 blocks"):
        load_network(folder)


def test_the_buffers_of_a_batch_normalization_are_no_parameters_and_are_looked_at_all_the_same(tmp_path: Path) -> None:
    save_model(tmp_path, build(NORMED, seed=0), NORMED)
    weights = load_file(tmp_path / "model.safetensors")
    assert "blocks.0.norm.running_mean" in weights
    for name, tensor in (("blocks.0.norm.running_var", torch.ones(3)), ("huge.running_mean", torch.ones(1))):
        save_file({**weights, name: tensor}, tmp_path / "model.safetensors")
        with pytest.raises(CorruptError, match=name):
            load_network(tmp_path)


@pytest.mark.parametrize("content", [b"", b"\xff\xfe", b"null", b"[]", b"{}", b"[" * 100_000, b'{"format": 1}', b"NaN"])
def test_a_description_that_is_no_description_is_refused(folder: Path, content: bytes) -> None:
    (folder / "model.json").write_bytes(content)
    with pytest.raises(CorruptError, match=r"model\.json"):
        load_network(folder)


def test_a_description_of_absurd_size_is_not_read(folder: Path) -> None:
    with (folder / "model.json").open("r+b") as file:
        file.truncate(1 << 40)
    with pytest.raises(CorruptError, match="too large"):
        load_network(folder)


@pytest.mark.parametrize("content", [b"", b"12345678", b"\xff" * 64, b"\x02\0\0\0\0\0\0\0{}", (10**15).to_bytes(8, "little") + b"{}"])
def test_weights_that_are_no_safetensors_file_are_refused(folder: Path, content: bytes) -> None:
    (folder / "model.safetensors").write_bytes(content)
    with pytest.raises(CorruptError, match=r"model\.safetensors"):
        load_network(folder)


@pytest.mark.parametrize("cut", [1, 100, 300])
def test_weights_that_are_cut_short_are_refused(folder: Path, cut: int) -> None:
    path = folder / "model.safetensors"
    path.write_bytes(path.read_bytes()[:-cut])
    with pytest.raises(CorruptError, match=r"model\.safetensors"):
        load_network(folder)


@pytest.mark.parametrize(
    ("name", "tensor", "reason"),
    [
        ("classifier.bias", torch.zeros(2, dtype=torch.float64), "float64"),
        ("classifier.bias", torch.zeros(1, 2), "1×2"),
        ("classifier.bias", torch.tensor([0.0, torch.nan]), "not finite"),
        ("classifier.extra", torch.zeros(2), "classifier.bias is missing"),
    ],
)
def test_weights_of_another_form_are_refused(folder: Path, name: str, tensor: torch.Tensor, reason: str) -> None:
    path = folder / "model.safetensors"
    weights = {own: value.clone() for own, value in load_file(path).items()}
    del weights["classifier.bias"]
    save_file({**weights, name: tensor}, path)
    with pytest.raises(CorruptError, match=reason):
        load_network(folder)

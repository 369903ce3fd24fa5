"""model.safetensors and model.json, also when they were written by somebody who means harm."""

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file

from cloud_train.errors import CorruptError, NotFoundError
from cloud_train.job.models import CnnModel, ConvBlock, RnnModel
from cloud_train.training.modelfile import ModelDescription, load_model, save_model

CNN = ModelDescription(CnnModel(kind="cnn", blocks=(ConvBlock(filters=2),)), ("no", "yes"), (1, 8, 8))
GRU = ModelDescription(RnnModel(kind="rnn", hidden_size=4), (" ", "a", "é", "😀"), None)


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    save_model(tmp_path, CNN.build(), CNN)
    return tmp_path


@pytest.mark.parametrize("description", [CNN, GRU])
def test_a_model_that_is_saved_and_loaded_is_the_same(tmp_path: Path, description: ModelDescription) -> None:
    network = description.build(seed=3)
    save_model(tmp_path, network, description)
    loaded, found = load_model(tmp_path)
    assert found == description
    assert not loaded.training
    for name, tensor in network.state_dict().items():
        assert torch.equal(tensor, loaded.state_dict()[name])


def test_the_same_weights_give_the_same_bytes(tmp_path: Path) -> None:
    for name in ("first", "second"):
        (tmp_path / name).mkdir()
        save_model(tmp_path / name, CNN.build(seed=1), CNN)
    for file in ("model.safetensors", "model.json"):
        assert (tmp_path / "first" / file).read_bytes() == (tmp_path / "second" / file).read_bytes()


def test_the_number_of_parameters_is_known_before_the_network_is_built() -> None:
    assert CNN.parameters() == sum(weight.numel() for weight in CNN.build().parameters())


@pytest.mark.parametrize("name", ["model.json", "model.safetensors"])
def test_a_file_that_is_missing_is_named(folder: Path, name: str) -> None:
    (folder / name).unlink()
    with pytest.raises(NotFoundError, match=name):
        load_model(folder)


@pytest.mark.parametrize(
    ("changes", "reason"),
    [
        ({"format": 2}, "format"),
        ({"model": {"kind": "transformer"}}, "model.json"),
        ({"model": {"kind": "cnn", "blocks": [{"filters": 10**9}]}}, "parameters"),
        ({"model": {"kind": "cnn", "blocks": [{"filters": 10**9}, {"filters": 10**9}]}}, "too small for this block|parameters"),
        ({"model": {"kind": "cnn", "blocks": [{"filters": 2, "kernel": 9}]}}, "too small for this block"),
        ({"model": {"kind": "rnn", "hidden_size": 10**9}}, "vocabulary"),
        ({"model": {"kind": "cnn", "blocks": [{"filters": 2, "kernel": 1, "pool": 1}] * 5}}, "parameters"),
        ({"classes": []}, "classes"),
        ({"classes": [1, 2]}, "classes"),
        ({"classes": None}, "model.json"),
        ({"classes": ["no"]}, "parameters"),
        ({"image_shape": [1, 8]}, "image shape"),
        ({"image_shape": [1, -8, 8]}, "image shape"),
        ({"image_shape": [1, 1e9, 8]}, "image shape"),
        ({"image_shape": None}, "image shape"),
    ],
)
def test_a_description_that_does_not_fit_is_refused_before_a_network_is_built(folder: Path, changes: dict[str, Any], reason: str) -> None:
    fields = json.loads((folder / "model.json").read_text())
    (folder / "model.json").write_text(json.dumps({**fields, **changes}))
    with pytest.raises(CorruptError, match=reason):
        load_model(folder)


@pytest.mark.parametrize("content", [b"", b"\xff\xfe", b"null", b"[]", b"{}", b"[" * 100_000, b'{"format": 1}', b"NaN"])
def test_a_description_that_is_no_description_is_refused(folder: Path, content: bytes) -> None:
    (folder / "model.json").write_bytes(content)
    with pytest.raises(CorruptError, match=r"model\.json"):
        load_model(folder)


def test_a_description_of_absurd_size_is_not_read(folder: Path) -> None:
    with (folder / "model.json").open("r+b") as file:
        file.truncate(1 << 40)
    with pytest.raises(CorruptError, match="larger than"):
        load_model(folder)


@pytest.mark.parametrize("content", [b"", b"12345678", b"\xff" * 64, b"\x02\0\0\0\0\0\0\0{}", (10**15).to_bytes(8, "little") + b"{}"])
def test_weights_that_are_no_safetensors_file_are_refused(folder: Path, content: bytes) -> None:
    (folder / "model.safetensors").write_bytes(content)
    with pytest.raises(CorruptError, match=r"model\.safetensors"):
        load_model(folder)


@pytest.mark.parametrize("cut", [1, 100, 300])
def test_weights_that_are_cut_short_are_refused(folder: Path, cut: int) -> None:
    path = folder / "model.safetensors"
    path.write_bytes(path.read_bytes()[:-cut])
    with pytest.raises(CorruptError, match=r"model\.safetensors"):
        load_model(folder)


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
        load_model(folder)

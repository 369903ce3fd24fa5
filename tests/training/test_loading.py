"""Models in Python: what ``load_model`` gives for each network, and that the documents' code runs."""

import json
import re
import sys
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from torch import nn

import cloud_train
from cloud_train.data.pixels import Normalize
from cloud_train.errors import CorruptError, MissingDependencyError, NotFoundError, UsageError
from cloud_train.networks.cnn import CnnModel, ConvBlock
from cloud_train.networks.rnn import RnnModel
from cloud_train.run.manifest import write_manifest
from cloud_train.training import predict
from cloud_train.training.description import ModelDescription, build
from cloud_train.training.loading import LoadedModel, load_model
from cloud_train.training.modelfile import save_model

DOCUMENT = Path(__file__).parents[2] / "docs" / "loading.md"
LETTERS = tuple(" abcdefghijklmnopqrstuvwxyz")
IMAGES = {
    "blocks": ModelDescription(CnnModel(kind="cnn", blocks=(ConvBlock(filters=2, norm="batch", dropout=0.5),)), ("no", "yes"), (1, 8, 8)),
    "resnet18": ModelDescription(CnnModel(kind="cnn", network="resnet18"), ("a", "b", "c"), (3, 16, 16), preparation="photograph"),
    "resnet50": ModelDescription(
        CnnModel(kind="cnn", network="resnet50"), ("a", "b"), (1, 8, 8), Normalize(mean=(0.5,), std=(0.25,)), preparation="drawing"
    ),
}
TEXTS = {
    cell: ModelDescription(RnnModel.model_validate({"kind": "rnn", "cell": cell, "hidden_size": 4, "layers": 2}), LETTERS)
    for cell in ("linear", "elman", "gru", "lstm")
}
LINES = {
    cell: ModelDescription(
        RnnModel.model_validate({"kind": "rnn", "cell": cell, "hidden_size": 4, "embedding_size": 3, "bidirectional": cell != "linear"}),
        ("bad", "good"),
        tokens=("film", "fine", "!"),
        unit="words",
        max_length=4,
    )
    for cell in ("linear", "elman", "gru", "lstm")
}


def fetched(folder: Path, description: ModelDescription) -> Path:
    """A model's folder as ``fetch-model`` leaves it."""
    folder.mkdir(exist_ok=True)
    save_model(folder, build(description, seed=3), description)
    write_manifest(folder, None)
    return folder


def loaded(folder: Path) -> LoadedModel:
    model = load_model(folder)
    assert isinstance(model, LoadedModel)
    return model


def picture(file: Path, mode: str = "RGB") -> Path:
    pixels = np.random.default_rng(5).integers(0, 256, (20, 24, 3), dtype=np.uint8)
    Image.fromarray(pixels).convert(mode).save(file)
    return file


def answer(capsys: pytest.CaptureFixture[str], *arguments: str | Path) -> dict[str, Any]:
    assert predict.main([str(argument) for argument in arguments]) == 0
    found: dict[str, Any] = json.loads(capsys.readouterr().out)
    return found


@pytest.mark.parametrize("name", IMAGES)
def test_an_image_classifier_answers_as_predict_does(name: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    model, file = loaded(fetched(tmp_path / "model", IMAGES[name])), picture(tmp_path / "picture.png")
    (wanted,) = answer(capsys, tmp_path / "model", "--images", file)["predictions"]
    (found,) = model.predict([file])
    assert (found.label, found.probability, found.scores) == (wanted["class"], wanted["probability"], wanted["scores"])
    assert (model.classes, model.vocabulary) == (IMAGES[name].classes, None)
    (images,) = model.preprocess(file)
    assert model(images).softmax(-1)[0].tolist() == list(found.scores.values())


@pytest.mark.parametrize("name", TEXTS)
def test_a_language_model_continues_as_predict_does(name: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    model = loaded(fetched(tmp_path / "model", TEXTS[name]))
    wanted = answer(capsys, tmp_path / "model", "--prompt", "a fine ", "--length", "12", "--seed", "7")["continuation"]
    assert model.generate("a fine ", length=12, seed=7) == wanted
    assert model.vocabulary == model.classes == LETTERS
    scores, _ = model(*model.preprocess("a fine "))
    assert scores.shape == (1, 7, len(LETTERS))


@pytest.mark.parametrize("name", LINES)
def test_a_classifier_of_lines_answers_as_predict_does(name: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    model = loaded(fetched(tmp_path / "model", LINES[name]))
    (wanted,) = answer(capsys, tmp_path / "model", "--text", "a fine film!")["predictions"]
    (found,) = model.predict(["a fine film!"])
    assert (found.label, found.scores) == (wanted["class"], wanted["scores"])
    assert model.vocabulary == ("film", "fine", "!")


def test_a_loaded_model_is_a_torch_module_in_evaluation_mode(tmp_path: Path) -> None:
    model = loaded(fetched(tmp_path / "model", IMAGES["blocks"]))
    assert isinstance(model, nn.Module)
    assert not any(module.training for module in model.modules())
    assert model.network.state_dict().keys() == build(IMAGES["blocks"], seed=0).state_dict().keys()


def test_a_model_is_asked_what_it_can_answer(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="a language model has no classes"):
        loaded(fetched(tmp_path / "text", TEXTS["gru"])).predict(["a"])
    with pytest.raises(UsageError, match="only a language model can continue a text"):
        loaded(fetched(tmp_path / "lines", LINES["gru"])).generate("a")


def test_a_folder_that_is_no_model_is_refused(tmp_path: Path) -> None:
    with pytest.raises(NotFoundError, match="no such folder") as caught:
        load_model(tmp_path / "gone")
    assert "fetch-model" in str(caught.value.hint)
    with pytest.raises(NotFoundError, match=r"has no manifest\.json"):
        load_model(tmp_path)


def test_a_model_of_which_a_byte_was_changed_is_refused(tmp_path: Path) -> None:
    folder = fetched(tmp_path / "model", IMAGES["blocks"])
    content = bytearray((folder / "model.safetensors").read_bytes())
    content[-1] ^= 1
    (folder / "model.safetensors").write_bytes(content)
    with pytest.raises(CorruptError, match="SHA-256 differs"):
        load_model(folder)


def of_script(folder: Path, name: str) -> Path:
    folder.mkdir()
    (folder / name).write_bytes(b"weights")
    write_manifest(folder, None)
    return folder


def test_a_scripts_keras_model_is_loaded_by_keras(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    keras, saving = ModuleType("keras"), ModuleType("keras.saving")
    saving.load_model = lambda path: path.read_bytes  # type: ignore[attr-defined]  # stands for a model, which is callable
    monkeypatch.setitem(sys.modules, "keras", keras)
    monkeypatch.setitem(sys.modules, "keras.saving", saving)
    assert load_model(of_script(tmp_path / "model", "model.keras"))() == b"weights"


def test_without_keras_the_error_says_what_to_install(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "keras.saving", None)
    with pytest.raises(MissingDependencyError, match="needs Keras") as caught:
        load_model(of_script(tmp_path / "model", "model.keras"))
    assert "pip install keras" in str(caught.value.hint)


@pytest.mark.parametrize(("name", "hint"), [("weights.pt", "torch.load"), ("forest.joblib", "in the way its program saved it")])
def test_another_scripts_model_is_refused_with_how_to_load_it(tmp_path: Path, name: str, hint: str) -> None:
    with pytest.raises(UsageError, match=name) as caught:
        load_model(of_script(tmp_path / "model", name))
    assert hint in str(caught.value.hint)


def test_the_code_in_the_document_runs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    description = ModelDescription(CnnModel(kind="cnn"), tuple("0123456789"), (1, 28, 28))
    fetched(tmp_path / "model", description)
    picture(tmp_path / "seven.png", "L")
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(cloud_train, "load_model", load_model, raising=False)
    first, *others = re.findall(r"```python\n(.*?)```", DOCUMENT.read_text(encoding="utf-8"), re.DOTALL)
    variables: dict[str, Any] = {}
    for code in (first, *others):
        exec(code, variables)
    label, by_hand = capsys.readouterr().out.split()[0::2]
    assert label in description.classes
    with torch.no_grad():
        assert by_hand == description.classes[variables["model"](torch.zeros(1, 1, 28, 28)).argmax()]

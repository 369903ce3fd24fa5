"""The predicting program: what it answers, and what it answers when it cannot."""

import json
import math
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image

from cloud_train.data.digits import DigitsData
from cloud_train.data.pixels import Normalize
from cloud_train.networks.cnn import CnnModel, ConvBlock
from cloud_train.networks.rnn import RnnModel
from cloud_train.training import loading, predict
from cloud_train.training.data.decoding import middle, read_image
from cloud_train.training.data.digits import load_digits
from cloud_train.training.data.memory import TensorSamples
from cloud_train.training.description import ModelDescription, build
from cloud_train.training.modelfile import load_network, save_model
from tests.training.trainer import make_job, make_run, train_here

VOCABULARY = " .abcdefghijklmnopqrstuvwxyz"


@pytest.fixture(scope="module")
def digits_model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    run = make_run(tmp_path_factory.mktemp("digits"))
    train_here(make_job({"kind": "cnn", "blocks": [{"filters": 8}]}, train={"epochs": 3, "batch_size": 32, "optimizer": {"lr": 1e-2}}), run)
    return run.model


@pytest.fixture(scope="module")
def text_model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    run = make_run(tmp_path_factory.mktemp("text"))
    train_here(make_job({"kind": "rnn", "hidden_size": 32}, train={"steps": 60, "batch_size": 16, "optimizer": {"lr": 2e-2}}), run)
    return run.model


@pytest.fixture(scope="module")
def lines_model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    run = make_run(tmp_path_factory.mktemp("lines"))
    data = {"dataset": "sequences", "path": "lines.tsv", "max_length": 6}
    model = {"kind": "rnn", "hidden_size": 8, "embedding_size": 8, "bidirectional": True}
    train_here(make_job(model, data=data, train={"epochs": 12, "batch_size": 10, "optimizer": {"lr": 2e-2}}), run)
    return run.model


class Asking:
    """Asks the program, in this process; the answer is its stdout."""

    def __init__(self, capsys: pytest.CaptureFixture[str]) -> None:
        self._capsys = capsys
        self.status = 0

    def __call__(self, *arguments: str | Path) -> dict[str, Any]:
        self._capsys.readouterr()
        self.status = predict.main([str(argument) for argument in arguments])
        out, err = self._capsys.readouterr()
        assert err == ""
        answer: dict[str, Any] = json.loads(out, parse_constant=lambda name: pytest.fail(f"{name} is no JSON"))
        return answer


@pytest.fixture
def ask(capsys: pytest.CaptureFixture[str]) -> Asking:
    return Asking(capsys)


def test_images_of_digits_are_classified_as_in_validation(ask: Asking, digits_model: Path, tmp_path: Path) -> None:
    data = load_digits(DigitsData(dataset="digits", size=8), Path(), seed=0)
    files = [tmp_path / f"{number}.png" for number in range(40)]
    assert isinstance(data.validation, TensorSamples)
    inputs = data.validation.inputs[:40]
    for file, pixels in zip(files, inputs, strict=True):
        Image.fromarray((pixels[0].numpy() * 255).round().astype(np.uint8)).save(file)
    predictions = ask(digits_model, "--images", *files)["predictions"]
    assert ask.status == 0
    assert [one["file"] for one in predictions] == [str(file) for file in files]
    network, _ = load_network(digits_model)
    wanted = network(inputs).softmax(-1)
    for one, scores in zip(predictions, wanted.tolist(), strict=True):
        assert list(one["scores"].values()) == pytest.approx(scores, abs=0.02)  # a file has 256 shades
    for one in predictions:
        assert list(one["scores"]) == list("0123456789")
        assert math.isclose(sum(one["scores"].values()), 1, rel_tol=1e-5)
        assert one["probability"] == max(one["scores"].values()) == one["scores"][one["class"]]


def test_the_size_and_the_mode_of_an_image_do_not_matter(ask: Asking, digits_model: Path, tmp_path: Path) -> None:
    rows = np.linspace(0, 255, 64, dtype=np.uint8).reshape(8, 8)
    grey = Image.fromarray(rows)
    grey.save(tmp_path / "grey.png")
    grey.convert("RGB").save(tmp_path / "colours.png")
    grey.convert("RGBA").save(tmp_path / "alpha.png")
    Image.fromarray(rows.astype(np.uint16) * 257).save(tmp_path / "16-bit.png")
    grey.resize((80, 80), Image.Resampling.NEAREST).save(tmp_path / "large.png")
    files = [tmp_path / f"{name}.png" for name in ("grey", "colours", "alpha", "16-bit", "large")]
    first, *others = ask(digits_model, "--images", *files)["predictions"]
    for other in others:
        assert other["scores"] == pytest.approx(first["scores"], abs=0.02)


def test_an_image_is_inverted_only_if_asked(ask: Asking, digits_model: Path, tmp_path: Path) -> None:
    rows = np.linspace(0, 255, 64, dtype=np.uint8).reshape(8, 8)
    Image.fromarray(rows).save(tmp_path / "light.png")
    Image.fromarray(255 - rows).save(tmp_path / "dark.png")
    (light,) = ask(digits_model, "--images", tmp_path / "light.png")["predictions"]
    (dark,) = ask(digits_model, "--images", tmp_path / "dark.png")["predictions"]
    (inverted,) = ask(digits_model, "--invert", "--images", tmp_path / "dark.png")["predictions"]
    assert inverted["scores"] == pytest.approx(light["scores"])
    assert dark["scores"] != pytest.approx(light["scores"])


def test_a_prompt_is_continued_as_the_text_goes_on(ask: Asking, text_model: Path) -> None:
    answer = ask(text_model, "--prompt=the quick brown ", "--length", "9", "--temperature", "0")
    assert answer == {"prompt": "the quick brown ", "continuation": "fox jumps"}


def test_a_prompt_may_begin_like_an_option(ask: Asking, text_model: Path) -> None:
    assert "does not know '-'" in ask(text_model, "--prompt=--images")["error"]["message"]


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["--prompt=THE ÄPFEL"], "does not know 'E', 'F', 'H', 'L', 'P', 'T', 'Ä'"),
        (["--prompt="], "empty"),
        (["--prompt=a", "--top-k=0"], "top-k"),
        (["--prompt=a", "--temperature=-1"], "temperature"),
        (["--prompt=a", "--temperature=nan"], "temperature"),
        (["--prompt=a", "--seed=-1"], "seed"),
        (["--prompt=a", "--length=many"], "many"),
        (["--images", "a.png"], "continues text"),
        (["--text=a"], "continues text"),
        ([], "required"),
    ],
)
def test_what_a_text_model_cannot_do_is_said_in_json(ask: Asking, text_model: Path, arguments: list[str], said: str) -> None:
    error = ask(text_model, *arguments)["error"]
    assert (ask.status, error["code"]) == (2, "usage")
    assert said in error["message"]


def test_lines_of_text_are_classified(ask: Asking, lines_model: Path) -> None:
    texts = ["it was fine 3", "it was really really poor 88", "FINE", "-- poor!"]
    predictions = ask(lines_model, *(f"--text={text}" for text in texts))["predictions"]
    assert ask.status == 0
    assert [(one["text"], one["class"]) for one in predictions] == list(zip(texts, ["good", "bad", "good", "bad"], strict=True))
    for one in predictions:
        assert list(one["scores"]) == ["bad", "good"]
        assert math.isclose(sum(one["scores"].values()), 1, rel_tol=1e-5)
        assert one["probability"] == max(one["scores"].values()) == one["scores"][one["class"]]


def test_of_a_line_it_is_said_how_many_of_its_words_are_known(ask: Asking, lines_model: Path) -> None:
    predictions = ask(lines_model, "--text=it was fine", "--text=it was qwerty", "--text=qwerty asdf")["predictions"]
    assert [one["known_tokens"] for one in predictions] == [3, 2, 0]


def test_a_line_is_cut_off_where_training_cut_it_and_unknown_words_are_alike(ask: Asking, lines_model: Path) -> None:
    texts = ["a b c d e fine", "u v w x y fine", "a b c d e fine poor poor"]
    first, *others = ask(lines_model, *(f"--text={text}" for text in texts))["predictions"]
    assert all(other["scores"] == first["scores"] for other in others)
    assert first["class"] == "good"


@pytest.mark.parametrize(
    ("arguments", "said", "hint"),
    [
        (["--text=fine", "--text="], "the text '' contains nothing to classify", "one word"),
        (["--text= \t"], "contains nothing to classify", "one word"),
        (["--prompt=fine"], "classifies lines of text", "--text"),
        (["--images", "a.png"], "classifies lines of text", "--text"),
        (["--text=fine", "--prompt=fine"], "not allowed", None),
    ],
)
def test_what_a_model_of_lines_cannot_do_is_said_in_json(
    ask: Asking, lines_model: Path, arguments: list[str], said: str, hint: str | None
) -> None:
    error = ask(lines_model, *arguments)["error"]
    assert (ask.status, error["code"]) == (2, "usage")
    assert said in error["message"]
    assert hint is None or hint in error["hint"]


@pytest.mark.parametrize("channels", [1, 3])
def test_a_photograph_is_prepared_as_in_validation(ask: Asking, tmp_path: Path, channels: int) -> None:
    model = CnnModel(kind="cnn", network="resnet18")
    numbers = Normalize(mean=(0.4,), std=(0.2,))
    description = ModelDescription(model, ("no", "yes"), (channels, 16, 16), numbers, preparation="photograph")
    network = build(description, seed=1).eval()
    save_model(tmp_path, network, description)
    noise = np.random.default_rng(0).integers(0, 256, (40, 70, 3), dtype=np.uint8)
    Image.fromarray(noise).save(tmp_path / "photograph.png")
    (one,) = ask(tmp_path, "--images", tmp_path / "photograph.png")["predictions"]
    pixels_HWC = read_image(tmp_path / "photograph.png", 16, channels, middle(16))
    inputs = torch.from_numpy(pixels_HWC.copy()).permute(2, 0, 1).unsqueeze(0) / 255
    assert list(one["scores"].values()) == pytest.approx(network(inputs).softmax(-1)[0].tolist(), abs=1e-6)
    (inverted,) = ask(tmp_path, "--invert", "--images", tmp_path / "photograph.png")["predictions"]
    assert list(inverted["scores"].values()) == pytest.approx(network(1 - inputs).softmax(-1)[0].tolist(), abs=1e-5)
    assert ask(tmp_path, "--images", tmp_path / "missing.png")["error"]["code"] == "not-found"
    (tmp_path / "empty.jpg").touch()
    assert ask(tmp_path, "--images", tmp_path / "empty.jpg")["error"]["code"] == "corrupt"


def test_what_an_image_model_cannot_read_is_said_in_json(ask: Asking, digits_model: Path, tmp_path: Path) -> None:
    (tmp_path / "text.png").write_text("no image")
    Image.effect_noise((64, 64), 100).save(tmp_path / "cut.png")
    (tmp_path / "cut.png").write_bytes((tmp_path / "cut.png").read_bytes()[:1000])
    for arguments, status, code in (
        (["--images", tmp_path / "missing.png"], 4, "not-found"),
        (["--images", tmp_path / "text.png"], 8, "corrupt"),
        (["--images", tmp_path / "cut.png"], 8, "corrupt"),
        (["--images", tmp_path], 8, "corrupt"),
        (["--prompt=a"], 2, "usage"),
        (["--text=a"], 2, "usage"),
    ):
        error = ask(digits_model, *arguments)["error"]
        assert (ask.status, error["code"]) == (status, code)


def test_an_image_of_absurd_size_is_refused_before_it_is_unpacked(
    ask: Asking, digits_model: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", None)  # put back after the test
    monkeypatch.setattr(loading, "_MOST_PIXELS", 1000)
    Image.new("L", (40, 40)).save(tmp_path / "large.png")
    assert ask(digits_model, "--images", tmp_path / "large.png")["error"]["code"] == "corrupt"


def test_a_folder_without_a_model_is_said_in_json(ask: Asking, tmp_path: Path) -> None:
    assert ask(tmp_path, "--prompt=a")["error"]["code"] == "not-found"
    assert ask.status == 4


def test_weights_whose_scores_overflow_are_said_in_json(ask: Asking, tmp_path: Path) -> None:
    image = ModelDescription(CnnModel(kind="cnn", blocks=(ConvBlock(filters=2),)), ("no", "yes"), (1, 8, 8))
    text = ModelDescription(RnnModel(kind="rnn", cell="linear", hidden_size=4), tuple(VOCABULARY))
    lines = ModelDescription(RnnModel(kind="rnn", cell="linear", hidden_size=4), ("no", "yes"), tokens=("abc",), unit="words")
    Image.new("L", (8, 8), 255).save(tmp_path / "white.png")
    white = str(tmp_path / "white.png")
    for name, description, *question in (("a", image, "--images", white), ("b", text, "--prompt=abc"), ("c", lines, "--text=abc")):
        network = build(description, seed=0)
        with torch.no_grad():
            for weight in network.parameters():
                weight.fill_(1e38)
        (tmp_path / name).mkdir()
        save_model(tmp_path / name, network, description)
        error = ask(tmp_path / name, *question)["error"]
        assert (ask.status, error["code"]) == (8, "corrupt")
        assert "not finite" in error["message"]

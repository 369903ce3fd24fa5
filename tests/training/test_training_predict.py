"""The predicting program: what it answers, and what it answers when it cannot."""

import json
import math
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image

from cloud_train.errors import UsageError
from cloud_train.job.models import CnnModel, ConvBlock, DigitsData, RnnModel
from cloud_train.training import predict
from cloud_train.training.data.digits import load_digits
from cloud_train.training.generation import generate
from cloud_train.training.loop import evaluate
from cloud_train.training.modelfile import ModelDescription, load_model, save_model
from cloud_train.training.models import Rnn
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
    data = load_digits(DigitsData(dataset="digits", size=8), seed=0)
    files = [tmp_path / f"{number}.png" for number in range(40)]
    for file, pixels in zip(files, data.validation.inputs, strict=False):
        Image.fromarray((pixels[0].numpy() * 255).round().astype(np.uint8)).save(file)
    predictions = ask(digits_model, "--images", *files)["predictions"]
    assert ask.status == 0
    assert [one["file"] for one in predictions] == [str(file) for file in files]
    right = sum(int(one["class"]) == target for one, target in zip(predictions, data.validation.targets.tolist(), strict=False))
    network, _ = load_model(digits_model)
    assert right / 40 >= evaluate(network, data.validation, 64)["accuracy"] - 0.15
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
    assert "never seen '-'" in ask(text_model, "--prompt=--images")["error"]["message"]


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["--prompt=THE ÄPFEL"], "never seen 'E', 'F', 'H', 'L', 'P', 'T', 'Ä'"),
        (["--prompt="], "empty"),
        (["--prompt=a", "--top-k=0"], "top-k"),
        (["--prompt=a", "--temperature=-1"], "temperature"),
        (["--prompt=a", "--temperature=nan"], "temperature"),
        (["--prompt=a", "--seed=-1"], "seed"),
        (["--prompt=a", "--length=many"], "many"),
        (["--images", "a.png"], "continues text"),
        ([], "required"),
    ],
)
def test_what_a_text_model_cannot_do_is_said_in_json(ask: Asking, text_model: Path, arguments: list[str], said: str) -> None:
    error = ask(text_model, *arguments)["error"]
    assert (ask.status, error["code"]) == (2, "usage")
    assert said in error["message"]


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
    ):
        error = ask(digits_model, *arguments)["error"]
        assert (ask.status, error["code"]) == (status, code)


def test_an_image_of_absurd_size_is_refused_before_it_is_unpacked(
    ask: Asking, digits_model: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", None)  # put back after the test
    monkeypatch.setattr(predict, "_MOST_PIXELS", 1000)
    Image.new("L", (40, 40)).save(tmp_path / "large.png")
    assert ask(digits_model, "--images", tmp_path / "large.png")["error"]["code"] == "corrupt"


def test_a_folder_without_a_model_is_said_in_json(ask: Asking, tmp_path: Path) -> None:
    assert ask(tmp_path, "--prompt=a")["error"]["code"] == "not-found"
    assert ask.status == 4


def test_weights_whose_scores_overflow_are_said_in_json(ask: Asking, tmp_path: Path) -> None:
    image = ModelDescription(CnnModel(kind="cnn", blocks=(ConvBlock(filters=2),)), ("no", "yes"), (1, 8, 8))
    text = ModelDescription(RnnModel(kind="rnn", cell="linear", hidden_size=4), tuple(VOCABULARY), None)
    Image.new("L", (8, 8), 255).save(tmp_path / "white.png")
    for name, description, question in (("a", image, ["--images", str(tmp_path / "white.png")]), ("b", text, ["--prompt=abc"])):
        network = description.build()
        with torch.no_grad():
            for weight in network.parameters():
                weight.fill_(1e38)
        (tmp_path / name).mkdir()
        save_model(tmp_path / name, network, description)
        error = ask(tmp_path / name, *question)["error"]
        assert (ask.status, error["code"]) == (8, "corrupt")
        assert "not finite" in error["message"]


def test_the_same_seed_draws_the_same_text_and_another_one_another() -> None:
    network = untrained()
    texts = [generate(network, VOCABULARY, "the ", length=60, temperature=1.0, seed=seed) for seed in (1, 1, 2)]
    assert len(texts[0]) == 60
    assert texts[0] == texts[1] != texts[2]


def test_temperature_0_and_top_k_1_take_the_likeliest_character() -> None:
    network = untrained()
    coldest = generate(network, VOCABULARY, "the ", length=30, temperature=0)
    assert generate(network, VOCABULARY, "the ", length=30, temperature=5.0, top_k=1, seed=9) == coldest
    assert generate(network, VOCABULARY, "the ", length=30, temperature=1e-30, seed=9) == coldest
    assert generate(network, VOCABULARY, "the ", length=30, temperature=5.0, seed=9) != coldest


def test_drawing_from_more_characters_than_there_are_draws_from_all() -> None:
    network = untrained()
    assert generate(network, VOCABULARY, "a", length=20, top_k=10**6) == generate(network, VOCABULARY, "a", length=20)


def test_nothing_is_drawn_if_nothing_is_wanted() -> None:
    assert generate(untrained(), VOCABULARY, "a", length=0) == ""
    with pytest.raises(UsageError):
        generate(untrained(), VOCABULARY, "a", length=-1)


def untrained() -> Rnn:
    network = ModelDescription(RnnModel(kind="rnn", hidden_size=16), tuple(VOCABULARY), None).build(seed=1)
    assert isinstance(network, Rnn)
    return network.eval()

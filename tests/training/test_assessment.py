"""Evaluating a trained model on data that it has not seen."""

import math
from pathlib import Path

import pytest
import torch
from torch import nn

from cloud_train.errors import CorruptError, NotFoundError, UsageError
from cloud_train.networks.cnn import CnnModel
from cloud_train.networks.rnn import RnnModel
from cloud_train.training.assessment import area_under_curve, assess
from cloud_train.training.description import ModelDescription, build
from cloud_train.training.loading import LoadedModel
from tests.training.images.pictures import write_folder

CHARACTERS = tuple(sorted("abcdefghij\n "))
LINES = ModelDescription(
    RnnModel(kind="rnn", cell="gru", hidden_size=4, embedding_size=3), ("bad", "good"), tokens=("a", "b", "c"), unit="characters"
)
IMAGES = ModelDescription(
    CnnModel.model_validate({"kind": "cnn", "blocks": ({"filters": 2},)}), ("cat", "dog", "owl"), (3, 8, 8), preparation="photograph"
)
TEXT = ModelDescription(RnnModel(kind="rnn", cell="gru", hidden_size=4), CHARACTERS)


def model_of(description: ModelDescription) -> LoadedModel:
    return LoadedModel(build(description, seed=0), description)


def test_lines_are_measured_as_scikit_learn_does(tmp_path: Path) -> None:
    sklearn = pytest.importorskip("sklearn.metrics")
    lines = [(("good", "bad")[n % 3 == 0], "abc"[: n % 3 + 1] * (n % 5 + 1)) for n in range(200)]
    (tmp_path / "lines.tsv").write_text("".join(f"{label}\t{text}\n" for label, text in lines))
    model = model_of(LINES)
    with torch.no_grad():
        for weight in model.parameters():
            weight.mul_(4)  # so that it takes its input into account
    found = assess(model, tmp_path / "lines.tsv")
    predicted = [one.label for one in model.predict([text for _, text in lines])]
    labels = [label for label, _ in lines]
    scores = torch.tensor([[*one.scores.values()] for one in model.predict([text for _, text in lines])])
    assert found["source"] == f"{tmp_path / 'lines.tsv'}, 200 lines"
    assert found["samples"] == 200
    assert found["accuracy"] == sklearn.accuracy_score(labels, predicted)
    assert found["loss"] == pytest.approx(sklearn.log_loss(labels, scores.double() / scores.double().sum(1, keepdim=True)), rel=1e-5)
    recalls = sklearn.recall_score(labels, predicted, average=None, labels=["bad", "good"], zero_division=math.nan)
    assert [one["recall"] for one in found["classes"]] == pytest.approx([*recalls])
    precisions = sklearn.precision_score(labels, predicted, average=None, labels=["bad", "good"], zero_division=math.nan)
    assert [one["precision"] for one in found["classes"]] == pytest.approx([*precisions])
    assert found["macro_f1"] == pytest.approx(sklearn.f1_score(labels, predicted, average="macro"))
    assert [one["f1"] for one in found["classes"]] == pytest.approx([*sklearn.f1_score(labels, predicted, average=None)])
    assert found["auc"] == pytest.approx(sklearn.roc_auc_score([label == "good" for label in labels], scores[:, 1]), abs=1e-6)
    assert "top5_accuracy" not in found
    assert 20 < predicted.count("bad") < 180
    wrong = sum(label != other for label, other in zip(labels, predicted, strict=True))
    assert sum(one["samples"] for one in found["confusions"]) == wrong


@pytest.mark.parametrize("levels", [2, 5, 1000])
def test_the_area_under_the_curve_is_scikit_learns_also_with_equal_scores(levels: int) -> None:
    sklearn = pytest.importorskip("sklearn.metrics")
    generator = torch.Generator().manual_seed(levels)
    scores, truth = torch.randint(levels, (300,), generator=generator), torch.randint(2, (300,), generator=generator)
    assert area_under_curve(scores, truth) == pytest.approx(sklearn.roc_auc_score(truth.numpy(), scores.numpy()))
    assert area_under_curve(scores, torch.zeros_like(truth)) is None
    assert area_under_curve(scores, torch.ones_like(truth)) is None


def test_the_top_five_are_counted_where_there_are_more_classes(tmp_path: Path) -> None:
    sklearn = pytest.importorskip("sklearn.metrics")
    names = tuple("abcdefgh")
    description = ModelDescription(LINES.model, names, tokens=("a", "b", "c"), unit="characters")
    model = model_of(description)
    lines = [(names[n % 8], "abc"[: n % 3 + 1] * (n % 5 + 1)) for n in range(80)]
    (tmp_path / "lines.tsv").write_text("".join(f"{label}\t{text}\n" for label, text in lines))
    found = assess(model, tmp_path / "lines.tsv")
    scores = [[*one.scores.values()] for one in model.predict([text for _, text in lines])]
    labels = [names.index(label) for label, _ in lines]
    assert found["top5_accuracy"] == pytest.approx(sklearn.top_k_accuracy_score(labels, scores, k=5, labels=range(8)))
    assert "auc" not in found


def test_images_are_those_of_the_test_part_and_need_not_have_every_class(tmp_path: Path) -> None:
    for part, count in (("train", 9), ("val", 8), ("test", 7)):
        write_folder(tmp_path / part, {"cat": count, "owl": count})
    found = assess(model_of(IMAGES), tmp_path)
    assert found["source"] == f"{tmp_path / 'test'}, 14 images"
    assert [(one["class"], one["samples"]) for one in found["classes"]] == [("cat", 7), ("dog", 0), ("owl", 7)]
    assert found["classes"][1]["recall"] is None
    assert assess(model_of(IMAGES), tmp_path / "train")["samples"] == 18


def test_a_text_is_measured_in_bits_per_character(tmp_path: Path) -> None:
    text = "abc def ghij\n" * 30
    (tmp_path / "text.txt").write_text(text)
    model = model_of(TEXT)
    found = assess(model, tmp_path / "text.txt")
    numbers = torch.tensor([CHARACTERS.index(character) for character in text])
    with torch.no_grad():
        scores, _ = model(numbers[None, :-1])
    expected = nn.functional.cross_entropy(scores[0][: found["characters"]], numbers[1 : found["characters"] + 1]).item()
    assert found["bits_per_character"] == pytest.approx(expected / math.log(2), rel=1e-4)
    assert len(text) - 5 < found["characters"] < len(text)


def test_what_the_model_does_not_know_is_named(tmp_path: Path) -> None:
    (tmp_path / "lines.tsv").write_text("good\tabc\nugly\tabc\n")
    with pytest.raises(UsageError, match="classes that the model does not know: 'ugly'") as caught:
        assess(model_of(LINES), tmp_path / "lines.tsv")
    assert caught.value.hint == "the model's classes are 'bad', 'good'"
    (tmp_path / "text.txt").write_text("abc xyzzy")
    with pytest.raises(UsageError, match="5 characters that the model does not know: 'y', 'z', 'x'"):
        assess(model_of(TEXT), tmp_path / "text.txt")
    (tmp_path / "one.txt").write_text("a")
    with pytest.raises(UsageError, match="leaves nothing to predict"):
        assess(model_of(TEXT), tmp_path / "one.txt")


def test_data_that_cannot_be_read_is_said(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="no classes: it contains no folders"):
        assess(model_of(IMAGES), tmp_path)
    write_folder(tmp_path, {"cat": 2, "owl": 2})
    (tmp_path / "cat" / "broken.jpg").write_bytes(b"no image")
    with pytest.raises(CorruptError, match=r"broken\.jpg"):
        assess(model_of(IMAGES), tmp_path)
    with pytest.raises((NotFoundError, UsageError)):
        assess(model_of(LINES), tmp_path / "missing.tsv")


def test_a_model_whose_training_failed_has_no_metrics(tmp_path: Path) -> None:
    (tmp_path / "lines.tsv").write_text("good\tabc\nbad\tabc\n")
    model = model_of(LINES)
    with torch.no_grad():
        next(model.parameters()).fill_(math.nan)
    with pytest.raises(CorruptError, match="not finite"):
        assess(model, tmp_path / "lines.tsv")

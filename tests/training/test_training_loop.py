"""The loop: what it learns, what it tells, when it saves, when it refuses to go on."""

import json
import math
import re
import threading
import time
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn

from cloud_train.data.digits import DigitsData
from cloud_train.run.checkpoints import newest_valid
from cloud_train.run.manifest import read_manifest, verify
from cloud_train.training.data.dataset import DataSet, load
from cloud_train.training.data.digits import load_digits
from cloud_train.training.distributed import World
from cloud_train.training.evaluation import evaluate
from cloud_train.training.learner import DivergedError
from cloud_train.training.measures import ClassMeasure, measure_of
from cloud_train.training.modelfile import load_network
from cloud_train.training.ordering import validation_picks
from tests.training.trainer import make_job, make_run, train_here

CNN = {"kind": "cnn", "blocks": [{"filters": 8}]}
GRU = {"kind": "rnn", "cell": "gru", "hidden_size": 24}


def test_a_small_cnn_learns_the_digits(tmp_path: Path) -> None:
    job = make_job(CNN, train={"epochs": 4, "batch_size": 32, "optimizer": {"lr": 1e-2}})
    assert train_here(job, make_run(tmp_path))["accuracy"] > 0.9


@pytest.mark.parametrize("cell", ["linear", "elman", "gru", "lstm"])
def test_each_cell_learns_a_sentence_that_comes_again_and_again(tmp_path: Path, cell: str) -> None:
    model = {"kind": "rnn", "cell": cell, "hidden_size": 32}
    job = make_job(model, train={"steps": 40, "batch_size": 16, "optimizer": {"lr": 2e-2}, "clip_norm": 1.0})
    metrics = train_here(job, make_run(tmp_path))
    assert metrics["bits_per_character"] < math.log2(27) / 2
    assert metrics["bits_per_character"] == pytest.approx(metrics["loss"] / math.log(2))


def test_the_metrics_of_images_are_loss_accuracy_and_learning_rate(tmp_path: Path) -> None:
    run = make_run(tmp_path)
    train_here(make_job(CNN), run)
    trained = [line for line in run.logged if line["split"] == "train"]
    validated = [line for line in run.logged if line["split"] == "validation"]
    assert [line["step"] for line in trained] == [1, 2, 3, 4, 5, 6]
    assert [(line["step"], line["epoch"]) for line in validated] == [(3, 1.0), (6, 2.0)]
    assert trained[0]["epoch"] == pytest.approx(479 / 1438)
    assert all({"loss", "accuracy"} <= line.keys() for line in trained)
    assert trained[0]["learning_rate"] == 1e-3
    assert all(line.keys() == {"step", "epoch", "split", "loss", "accuracy"} for line in validated)
    written = [json.loads(line) for line in run.metrics.read_text().splitlines()]
    assert {(line["split"], line["name"]) for line in written} >= {("train", "loss"), ("validation", "accuracy")}


def test_text_has_bits_per_character_and_no_training_accuracy(tmp_path: Path) -> None:
    run = make_run(tmp_path)
    train_here(make_job(GRU, train={"epochs": 1, "batch_size": 64}), run)
    assert all("accuracy" not in line for line in run.logged if line["split"] == "train")
    assert run.logged[-1].keys() == {"step", "epoch", "split", "loss", "accuracy", "bits_per_character"}


def test_the_rates_are_told_about_once_a_second(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    clock, own, real = iter(range(0, 10_000, 2)), threading.current_thread(), time.monotonic
    monkeypatch.setattr("time.monotonic", lambda: next(clock) / 10 if threading.current_thread() is own else real())
    run = make_run(tmp_path)
    train_here(make_job(GRU, train={"steps": 30, "batch_size": 8}), run)
    told = [line for line in run.logged if "samples_per_second" in line]
    assert 0 < len(told) <= 8
    assert all(line["characters_per_second"] == pytest.approx(16 * line["samples_per_second"]) for line in told)


def test_the_log_has_a_line_for_each_epoch(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    train_here(make_job(CNN), make_run(tmp_path))
    lines = capsys.readouterr().out.splitlines()
    assert [line.split(":")[0] for line in lines] == ["epoch 1, step 3 of 6", "epoch 2, step 6 of 6"]
    assert re.search(r"loss \d\.\d{4}, validation loss \d\.\d{4}, accuracy \d\.\d{4}$", lines[0])


@pytest.mark.parametrize(
    ("every", "train", "saved"),
    [
        ("1 epoch", {"epochs": 2, "batch_size": 512}, [3, 6]),
        ("2 epochs", {"epochs": 3, "batch_size": 512}, [6, 9]),
        ("4 steps", {"epochs": 3, "batch_size": 512}, [4, 8, 9]),
        ("10 min", {"steps": 5, "batch_size": 512}, [5]),
        ("0.000001 s", {"steps": 3, "batch_size": 512}, [1, 2, 3]),
    ],
)
def test_checkpoints_are_saved_as_often_as_the_job_says_and_at_the_end(
    tmp_path: Path, every: str, train: dict[str, Any], saved: list[int]
) -> None:
    run = make_run(tmp_path)
    train_here(make_job(CNN, train={**train, "evaluate": "10 epochs"}, checkpoint={"every": every}), run)
    assert [verify(folder).step for folder in sorted(run.checkpoints.iterdir())] == saved


def test_a_checkpoint_says_how_good_it_is_and_what_its_bits_depend_on(tmp_path: Path) -> None:
    run = make_run(tmp_path)
    metrics = train_here(make_job(CNN), run)
    newest = newest_valid(run.checkpoints, print)
    assert newest is not None
    manifest = read_manifest(newest)
    assert dict(manifest.metrics) == {"validation/loss": metrics["loss"], "validation/accuracy": metrics["accuracy"]}
    assert manifest.fingerprint == {
        "torch": torch.__version__,
        "device": "cpu",
        "kind": manifest.fingerprint["kind"],
        "threads": torch.get_num_threads(),
        "processes": 1,
        "data": {
            "training": {"samples": 1438, "digest": manifest.fingerprint["data"]["training"]["digest"]},
            "validation": {"samples": 359, "digest": manifest.fingerprint["data"]["validation"]["digest"]},
        },
    }
    assert set(manifest.files) == {"model.safetensors", "model.json", "state.pt"}


def test_the_final_model_loads_by_itself_and_is_as_good_as_the_metrics_say(tmp_path: Path) -> None:
    run = make_run(tmp_path)
    metrics = train_here(make_job(CNN), run)
    assert set(verify(run.model).files) == {"model.safetensors", "model.json"}
    network, description = load_network(run.model)
    assert description.classes == tuple("0123456789")
    data = load_digits(DigitsData(dataset="digits", size=8), Path(), seed=0)
    assert evaluated(network, data, 512) == pytest.approx(metrics)


def test_validation_does_not_depend_on_the_batch_size(tmp_path: Path) -> None:
    run = make_run(tmp_path)
    train_here(make_job(CNN), run)
    network, _ = load_network(run.model)
    data = load_digits(DigitsData(dataset="digits", size=8), Path(), seed=0)
    whole = evaluated(network, data, 359)
    assert evaluated(network, data, 50) == pytest.approx(whole)
    assert evaluated(network, data, 1)["accuracy"] == whole["accuracy"]


def test_two_trainings_with_one_seed_give_the_same_bytes_and_another_seed_gives_others(tmp_path: Path) -> None:
    models = []
    for name, seed in (("first", 0), ("again", 0), ("other", 1)):
        run = make_run(tmp_path / name)
        train_here(make_job(CNN, train={"epochs": 1, "batch_size": 512, "seed": seed}), run)
        models.append((run.model / "model.safetensors").read_bytes())
    assert models[0] == models[1]
    assert models[0] != models[2]


def test_a_training_that_diverges_ends_before_the_weights_are_spoilt_and_names_the_step(tmp_path: Path) -> None:
    optimizer = {"name": "sgd", "lr": 1e30}
    run = make_run(tmp_path)
    job = make_job(CNN, train={"epochs": 1, "batch_size": 512, "optimizer": optimizer}, checkpoint={"every": "1 step"})
    with pytest.raises(DivergedError, match=r"step 2, rank 0: the loss is ") as caught:
        train_here(job, run)
    assert caught.value.hint is not None
    assert "train.optimizer.lr" in caught.value.hint
    newest = newest_valid(run.checkpoints, print)
    assert newest is not None
    load_network(newest)  # raises if a weight is not finite
    assert [verify(folder).step for folder in run.checkpoints.iterdir()] == [1]
    assert not list(run.model.iterdir())


def evaluated(network: nn.Module, data: DataSet, batch_size: int) -> dict[str, float]:
    measure = ClassMeasure(of_characters=data.validation.is_text)
    return evaluate(network, data.validation, validation_picks(data.validation, batch_size, World()), measure)


def test_the_training_loss_is_the_mean_of_the_epoch_so_far_weighted_by_their_samples(tmp_path: Path) -> None:
    run = make_run(tmp_path)
    train_here(make_job(CNN), run)
    lines = [line for line in run.logged if line["split"] == "train"]
    sizes = [479, 479, 480]
    for epoch in (lines[:3], lines[3:]):
        assert epoch[0]["loss"] == epoch[0]["batch_loss"]
        assert epoch[2]["loss"] == pytest.approx(sum(size * line["batch_loss"] for size, line in zip(sizes, epoch, strict=True)) / 1438)


def test_the_mean_of_an_epoch_is_continued_by_a_resumed_training(tmp_path: Path) -> None:
    job = make_job(CNN)
    with pytest.raises(SystemExit):
        train_here(job, make_run(tmp_path / "stopped", stop_after=2))
    resumed, through = make_run(tmp_path / "stopped", resume=True), make_run(tmp_path / "through")
    for run in (resumed, through):
        train_here(job, run)
    ends = [next(line for line in run.logged if (line["split"], line["step"]) == ("train", 3)) for run in (resumed, through)]
    assert (ends[0]["loss"], ends[0]["accuracy"]) == (ends[1]["loss"], ends[1]["accuracy"])


def test_the_bits_per_character_of_a_text_are_those_of_the_model_whatever_it_was_trained_with(tmp_path: Path) -> None:
    train_here(make_job(GRU, train={"steps": 3, "batch_size": 8}), run := make_run(tmp_path / "run"))
    network, description = load_network(run.model)
    text = "the quick brown fox jumps over the lazy dog. " * 250
    (tmp_path / "other.txt").write_text(text)
    found = []
    for sequence_length, batch_size in ((16, 4), (100, 64)):
        job = make_job(GRU, data={"dataset": "text", "path": "other.txt", "sequence_length": sequence_length, "validation": 0.5})
        samples = load(job, tmp_path / "other.txt").validation
        found.append(evaluate(network, samples, validation_picks(samples, batch_size, World()), measure_of(description)))
    assert found[0] == found[1]
    characters = torch.tensor([description.classes.index(character) for character in text[len(text) // 2 :]])
    with torch.no_grad():
        scores, _ = network(characters[None, :-1])
    one_pass = nn.functional.cross_entropy(scores[0], characters[1:]).item() / math.log(2)
    assert found[0]["bits_per_character"] == pytest.approx(one_pass, abs=0.01)

"""Stopped anywhere and resumed, a training ends with the bytes of one that was never stopped."""

from pathlib import Path
from typing import Any

import pytest
import torch

from cloud_train.errors import CorruptError
from cloud_train.run.checkpoints import newest_valid
from cloud_train.worker.contract import STOPPED
from tests.training.images.pictures import write_folder
from tests.training.trainer import TestRun, make_job, make_run, train_here

pytestmark = pytest.mark.slow

MODELS: dict[str, dict[str, Any]] = {
    "cnn": {"kind": "cnn", "blocks": [{"filters": 4}]},
    "linear": {"kind": "rnn", "cell": "linear", "hidden_size": 8},
    "elman": {"kind": "rnn", "cell": "elman", "hidden_size": 8},
    "gru": {"kind": "rnn", "cell": "gru", "hidden_size": 8, "layers": 2},
    "lstm": {"kind": "rnn", "cell": "lstm", "hidden_size": 8, "embedding_size": 4},
}


@pytest.mark.parametrize("optimizer", [{"name": "adam"}, {"name": "sgd", "lr": 0.1, "momentum": 0.9}, {"name": "sgd", "lr": 0.1}])
@pytest.mark.parametrize("model", MODELS)
def test_a_training_that_is_stopped_twice_in_an_epoch_ends_with_the_same_bytes(
    tmp_path: Path, model: str, optimizer: dict[str, Any]
) -> None:
    job = make_job(MODELS[model], train={"epochs": 2, "batch_size": 300 if model == "cnn" else 24, "optimizer": optimizer})
    through = make_run(tmp_path / "through")
    train_here(job, through)
    for stop_after in (2, 3):
        stop(job, make_run(tmp_path / "stopped", resume=True, stop_after=stop_after))
    resumed = make_run(tmp_path / "stopped", resume=True)
    train_here(job, resumed)
    assert model_bytes(resumed) == model_bytes(through)
    assert losses(resumed) == [line for line in losses(through) if line[0] > 3]


DROPPING = {"kind": "cnn", "blocks": [{"filters": 4, "norm": "batch", "dropout": 0.2}], "dropout": 0.3}
LINES = {"dataset": "sequences", "path": "lines.tsv"}
SENTENCE_READER = {"kind": "rnn", "hidden_size": 6, "bidirectional": True, "dropout": 0.2, "layers": 2}
FEATURES: dict[str, dict[str, Any]] = {
    "augmentation": {"model": DROPPING, "data": {"dataset": "digits", "size": 8, "augment": {"flip": True, "crop": 2}}},
    "hidden layer": {"model": {**DROPPING, "dense": [16]}},
    "average": {"model": DROPPING, "train": {"ema": 0.9, "accumulate": 3}},
    "bf16": {"model": DROPPING, "train": {"precision": "bf16"}},
    "fp16": {"model": DROPPING, "train": {"precision": "fp16"}},
    "one-cycle": {"model": DROPPING, "train": {"schedule": "one-cycle", "optimizer": {"name": "adamw", "no_decay": ["bias", "norm"]}}},
    "warm-up": {"model": DROPPING, "train": {"schedule": {"name": "cosine", "warmup": "4 steps"}, "label_smoothing": 0.1}},
    "nesterov": {"model": DROPPING, "train": {"optimizer": {"name": "sgd", "lr": 0.1, "momentum": 0.9, "nesterov": True}}},
    "patience": {"model": DROPPING, "train": {"early_stopping": {"patience": 3, "metric": "validation/loss"}, "evaluate": "1 step"}},
    "carried state": {
        "model": {"kind": "rnn", "cell": "lstm", "hidden_size": 6, "layers": 2, "dropout": 0.2},
        "train": {"carry_state": True},
    },
    "lines": {"model": SENTENCE_READER, "data": LINES, "train": {"class_weights": "balanced"}},
    "words": {"model": {**SENTENCE_READER, "embedding_size": 4}, "data": {**LINES, "tokens": "characters", "bucketing": False}},
    "residual": {  # eleven million parameters, so a few pictures rather than all digits: two steps an epoch
        "model": {"kind": "cnn", "network": "resnet18"},
        "data": {"dataset": "images", "path": "../pictures", "size": 8, "workers": 0, "validation": 0.2},
        "train": {"batch_size": 8, "optimizer": {"name": "sgd", "lr": 0.1}},
    },
}


@pytest.mark.parametrize("name", FEATURES)
def test_whatever_a_job_asks_for_is_carried_over_a_stop(tmp_path: Path, name: str) -> None:
    write_folder(tmp_path / "pictures", {"bright": 10, "dark": 10})
    feature = FEATURES[name]
    size = 300 if feature["model"]["kind"] == "cnn" else 12
    job = make_job(**{**feature, "train": {"epochs": 2, "batch_size": size, **feature.get("train", {})}})
    through = make_run(tmp_path / "through")
    metrics = train_here(job, through)
    for stop_after in (1, 3):
        stop(job, make_run(tmp_path / "stopped", resume=True, stop_after=stop_after))
    resumed = make_run(tmp_path / "stopped", resume=True)
    assert train_here(job, resumed) == metrics
    assert model_bytes(resumed) == model_bytes(through)
    assert losses(resumed) == [line for line in losses(through) if line[0] > 3]


def test_a_training_that_is_killed_repeats_the_steps_since_its_checkpoint(tmp_path: Path) -> None:
    job = make_job(MODELS["cnn"], train={"epochs": 2, "batch_size": 300}, checkpoint={"every": "3 steps"})
    through = make_run(tmp_path / "through")
    train_here(job, through)
    for folder in through.checkpoints.iterdir():
        if folder.name != "step-00000006":
            folder.rename(tmp_path / folder.name)
    resumed = make_run(tmp_path / "through", resume=True)
    before = model_bytes(through)
    train_here(job, resumed)
    assert [step for step, _ in losses(resumed)] == [7, 8, 9, 10]
    assert model_bytes(resumed) == before


def test_a_resumed_training_says_what_it_promises(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    job = make_job(MODELS["cnn"], train={"epochs": 2, "batch_size": 512})
    stop(job, make_run(tmp_path, resume=True, stop_after=2))
    assert "stop requested: saved at step 2 of 6" in capsys.readouterr().out
    stop(job, make_run(tmp_path, resume=True, stop_after=4))
    assert "resumed at step 2: bit-identical to a run that never stopped\n" in capsys.readouterr().out
    torch.set_num_threads(2)
    try:
        train_here(job, make_run(tmp_path, resume=True))
    finally:
        torch.set_num_threads(1)
    assert "resumed at step 4: same data order, but not bit-identical (threads: 1, now 2)\n" in capsys.readouterr().out


def test_a_run_that_is_stopped_while_it_validates_validates_when_it_is_resumed(tmp_path: Path) -> None:
    job = make_job(MODELS["cnn"], train={"epochs": 2, "batch_size": 512})
    stopped = make_run(tmp_path, stop_after=3)
    stop(job, stopped)
    assert all(line["split"] == "train" for line in stopped.logged)
    resumed = make_run(tmp_path, resume=True)
    train_here(job, resumed)
    assert [(line["step"], line["split"]) for line in resumed.logged] == [
        (3, "validation"),
        (4, "train"),
        (5, "train"),
        (6, "train"),
        (6, "validation"),
    ]


def test_a_run_that_is_stopped_in_its_last_validation_ends_when_it_is_resumed(tmp_path: Path) -> None:
    job = make_job(MODELS["cnn"], train={"epochs": 1, "batch_size": 512})
    stopped = make_run(tmp_path, stop_after=3)
    stop(job, stopped)
    assert not list(stopped.model.iterdir())
    resumed = make_run(tmp_path, resume=True)
    assert train_here(job, resumed)["accuracy"] > 0
    assert [(line["step"], line["split"]) for line in resumed.logged] == [(3, "validation")]
    assert (resumed.model / "manifest.json").exists()


def test_a_training_that_had_come_to_its_end_only_writes_the_model_again(tmp_path: Path) -> None:
    job = make_job(MODELS["gru"], train={"steps": 4, "batch_size": 24})
    first = make_run(tmp_path)
    metrics = train_here(job, first)
    before = model_bytes(first)
    for file in first.model.iterdir():
        file.unlink()
    again = make_run(tmp_path, resume=True)
    assert train_here(job, again) == metrics
    assert losses(again) == []
    assert model_bytes(again) == before


def test_the_checkpoint_of_another_model_is_refused(tmp_path: Path) -> None:
    train_here(make_job(MODELS["cnn"]), make_run(tmp_path))
    other = make_job({"kind": "cnn", "blocks": [{"filters": 5}]})
    with pytest.raises(CorruptError, match=r"does not fit this training: .*blocks\.0\.conv"):
        train_here(other, make_run(tmp_path, resume=True))


def test_the_checkpoint_of_another_optimizer_is_refused(tmp_path: Path) -> None:
    train_here(make_job(MODELS["cnn"]), make_run(tmp_path))
    other = make_job(MODELS["cnn"], train={"epochs": 3, "batch_size": 512, "optimizer": {"name": "sgd"}})
    with pytest.raises(CorruptError, match="the optimizer's state has mean, square, steps, but this optimizer keeps momentum"):
        train_here(other, make_run(tmp_path, resume=True))


@pytest.mark.parametrize("content", [b"", b"PK\x03\x04", b"cos\nsystem\n(S'touch harmed'\ntR."])
def test_a_state_that_is_none_is_refused_and_never_executed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, content: bytes) -> None:
    monkeypatch.chdir(tmp_path)
    train_here(make_job(MODELS["cnn"]), make_run(tmp_path))
    run = make_run(tmp_path, resume=True)
    assert run.resume_from is not None
    (run.resume_from / "state.pt").write_bytes(content)
    with pytest.raises(CorruptError, match="does not fit this training"):
        train_here(make_job(MODELS["cnn"]), run)
    assert not (tmp_path / "harmed").exists()


def stop(job: Any, run: TestRun) -> None:
    """Train until the run is told to stop; the checkpoint is then the newest."""
    with pytest.raises(SystemExit) as caught:
        train_here(job, run)
    assert caught.value.code == STOPPED
    newest = newest_valid(run.checkpoints, print)
    assert newest is not None
    assert newest.name == f"step-{run.stop_after:08d}"


def model_bytes(run: TestRun) -> bytes:
    return (run.model / "model.safetensors").read_bytes()


def losses(run: TestRun) -> list[tuple[int, float]]:
    return [(line["step"], line["loss"]) for line in run.logged if line["split"] == "train"]

"""Images that a data set has for a test: evaluated once, by the finished model; and what of a folder is said not to be read."""

import shutil
from pathlib import Path

import pytest

from cloud_train.run.manifest import read_manifest
from cloud_train.training.data.dataset import load
from cloud_train.training.description import ModelDescription
from cloud_train.training.distributed import ALONE
from cloud_train.training.loop import train
from tests.training.images.pictures import write_folder
from tests.training.trainer import TestRun, make_job, make_run

JOB = make_job(
    {"kind": "cnn", "blocks": [{"filters": 2}]},
    data={"dataset": "images", "path": "pictures", "size": 8, "workers": 0},
    train={"epochs": 2, "batch_size": 8, "tensorboard": True},
)


def trained(folder: Path, run: TestRun) -> dict[str, float]:
    data = load(JOB, folder / "pictures")
    return train(JOB, data, ModelDescription.of(JOB, data), run, ALONE)


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    for part, count in (("train", 12), ("valid", 6), ("test", 5)):
        write_folder(tmp_path / "pictures" / part, {"cat": count, "dog": count})
    return tmp_path


def test_the_finished_model_is_tested_once(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    run = make_run(folder)
    metrics = trained(folder, run)
    tested = [line for line in run.logged if line["split"] == "test"]
    assert [(line["step"], line["epoch"]) for line in tested] == [(6, 2.0)]
    assert set(tested[0]) == {"step", "epoch", "split", "loss", "accuracy"}
    assert metrics.keys() == {"loss", "accuracy"}, "those of the validation, which rank checkpoints"
    assert capsys.readouterr().out.splitlines()[-1].startswith("epoch 2, step 6 of 6: test loss ")
    assert set(read_manifest(run.checkpoints / "step-00000006").metrics) == {"validation/loss", "validation/accuracy"}


def test_a_run_that_is_stopped_is_tested_when_it_is_resumed(folder: Path) -> None:
    stopped = make_run(folder, stop_after=2)
    with pytest.raises(SystemExit):
        trained(folder, stopped)
    resumed = make_run(folder, resume=True)
    trained(folder, resumed)
    assert not [line for line in stopped.logged if line["split"] == "test"]
    through = make_run(folder / "through")
    trained(folder, through)
    assert [line for line in resumed.logged if line["split"] == "test"] == [line for line in through.logged if line["split"] == "test"]


def test_the_test_images_change_no_bit_of_the_model(folder: Path) -> None:
    run, without = make_run(folder / "with"), make_run(folder / "without")
    trained(folder, run)
    shutil.rmtree(folder / "pictures/test")
    trained(folder, without)
    assert (run.model / "model.safetensors").read_bytes() == (without.model / "model.safetensors").read_bytes()


def test_what_is_not_read_is_known_to_the_training_too(folder: Path) -> None:
    (folder / "pictures/train/cat/notes.txt").touch()
    assert "1 file is not read as images: 1 .txt" in load(JOB, folder / "pictures").remarks[0]

"""A run that is resumed on other data: other classes are refused, and other samples withdraw the promise of the same bytes."""

import json
import re
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch

from cloud_train.errors import JobError
from cloud_train.job.models import JobSpec
from cloud_train.run.checkpoints import newest_valid
from cloud_train.training.data.dataset import digest_of, load
from cloud_train.training.data.identity import identity
from cloud_train.training.description import ModelDescription
from cloud_train.training.distributed import ALONE
from cloud_train.training.loop import train
from tests.training.images.pictures import noise, write_folder
from tests.training.trainer import LINES, TEXT, TestRun, make_job, make_run

CNN = {"kind": "cnn", "blocks": [{"filters": 2}]}
RNN = {"kind": "rnn", "hidden_size": 4}
PICTURES = {"dataset": "images", "path": "pictures", "size": 8, "workers": 0, "validation": 0.2}
LABELLED = {"dataset": "sequences", "path": "lines.tsv"}
SAME = "bit-identical to a run that never stopped"

Resume = Callable[[], str]


class Training:
    """One run in a folder with data, stopped after its second step."""

    def __init__(self, folder: Path, job: JobSpec) -> None:
        self.folder, self._job = folder, job
        self.train(make_run(folder, stop_after=2))

    def train(self, run: TestRun) -> dict[str, float]:
        """Train on the data in the folder; ends with SystemExit if the run is stopped."""
        data = load(self._job, self.folder / str(getattr(self._job.data, "path", "")))
        try:
            return train(self._job, data, ModelDescription.of(self._job, data), run, ALONE)
        except SystemExit:
            assert run.stop_after is not None
            return {}


@pytest.fixture
def pictures(tmp_path: Path) -> Training:
    write_folder(tmp_path / "pictures", {"cat": 20, "dog": 20})
    return Training(tmp_path, make_job(CNN, data=PICTURES, train={"epochs": 2, "batch_size": 8}))


@pytest.fixture
def text(tmp_path: Path) -> Training:
    (tmp_path / "text.txt").write_text(TEXT)
    return Training(tmp_path, make_job(RNN, train={"epochs": 2, "batch_size": 8}))


@pytest.fixture
def lines(tmp_path: Path) -> Training:
    (tmp_path / "lines.tsv").write_text(LINES)
    return Training(tmp_path, make_job(RNN, data=LABELLED, train={"epochs": 2, "batch_size": 8}))


def resumed(training: Training, capsys: pytest.CaptureFixture[str]) -> str:
    """What the resumed training promises, after the step."""
    capsys.readouterr()
    training.train(make_run(training.folder, resume=True))
    found = re.search(r"^resumed at step 2: (.*)$", capsys.readouterr().out, re.MULTILINE)
    assert found is not None
    return found[1]


def test_the_same_data_elsewhere_is_the_same_data(pictures: Training, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    shutil.copytree(tmp_path, tmp_path / "elsewhere", ignore=shutil.ignore_patterns("elsewhere"))
    shutil.rmtree(tmp_path / "pictures")
    pictures.folder = tmp_path / "elsewhere"
    assert resumed(pictures, capsys) == SAME


def test_a_renamed_class_is_refused_by_its_name(pictures: Training) -> None:
    (pictures.folder / "pictures/cat").rename(pictures.folder / "pictures/katze")
    with pytest.raises(JobError, match="the classes of the data differ from those of the checkpoint: 'cat' is missing and 'katze' is new"):
        pictures.train(make_run(pictures.folder, resume=True))


def test_a_further_class_is_refused_by_its_name(pictures: Training) -> None:
    write_folder(pictures.folder / "pictures", {"ant": 3})
    with pytest.raises(JobError, match=r"the classes of the data differ from those of the checkpoint: 'ant' is new$"):
        pictures.train(make_run(pictures.folder, resume=True))


def add(folder: Path) -> None:
    noise(seed=99).save(folder / "cat/999.png")


def remove(folder: Path) -> None:
    (folder / "dog/003.png").unlink()


def rename(folder: Path) -> None:
    (folder / "dog/003.png").rename(folder / "dog/003b.png")


def replace(folder: Path) -> None:
    noise(20, 20).save(folder / "dog/003.png")


def relabel(folder: Path) -> None:
    (folder / "dog/003.png").rename(folder / "cat/003b.png")
    (folder / "cat/003.png").rename(folder / "dog/003b.png")


@pytest.mark.parametrize(
    ("change", "expected"),
    [
        (add, "training samples: 32, now 33"),
        (remove, "training samples: 32, now 31"),
        (rename, "the same number of training samples, but different ones"),
        (replace, "the same number of training samples, but different ones"),
        (relabel, "the same number of training samples, but different ones"),
    ],
)
def test_another_image_withdraws_the_promise(
    change: Callable[[Path], None], expected: str, pictures: Training, capsys: pytest.CaptureFixture[str]
) -> None:
    change(pictures.folder / "pictures")
    promise = resumed(pictures, capsys)
    assert promise.startswith("the data may have changed, so the result is not that of a run that never stopped (")
    assert expected in promise


def test_another_image_for_validation_is_another_split(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    for part in ("train", "val"):
        write_folder(tmp_path / "pictures" / part, {"cat": 10, "dog": 10})
    training = Training(tmp_path, make_job(CNN, data=PICTURES, train={"epochs": 2, "batch_size": 8}))
    (tmp_path / "pictures/val/cat/000.png").unlink()
    assert resumed(training, capsys).endswith("(validation samples: 20, now 19)")


def test_other_characters_are_refused_though_they_are_as_many(text: Training) -> None:
    (text.folder / "text.txt").write_text(TEXT.replace("q", "ä").replace("z", "ö"))
    with pytest.raises(JobError, match=r"the characters of the data differ .*: 'q', 'z' are missing and 'ä', 'ö' are new"):
        text.train(make_run(text.folder, resume=True))


def test_a_longer_text_withdraws_the_promise(text: Training, capsys: pytest.CaptureFixture[str]) -> None:
    (text.folder / "text.txt").write_text(TEXT * 2)
    assert "(training samples: 101, now 202; validation samples: 2, now 3)" in resumed(text, capsys)


@pytest.mark.parametrize("characters", [600, 200])
def test_a_shorter_text_withdraws_the_promise_and_trains_to_the_end(
    characters: int, text: Training, capsys: pytest.CaptureFixture[str]
) -> None:
    (text.folder / "text.txt").write_text(TEXT[:characters])
    assert "training samples: 101, now " in resumed(text, capsys)
    assert (text.folder / "model/manifest.json").exists()


def test_one_changed_character_withdraws_the_promise(text: Training, capsys: pytest.CaptureFixture[str]) -> None:
    (text.folder / "text.txt").write_text(TEXT.replace("the", "het", 1))
    assert "the same number of training samples, but different ones" in resumed(text, capsys)


def test_a_changed_label_withdraws_the_promise(lines: Training, capsys: pytest.CaptureFixture[str]) -> None:
    (lines.folder / "lines.tsv").write_text(LINES.replace("bad\t", "good\t", 1))
    assert "samples, but different ones" in resumed(lines, capsys)


def test_another_vocabulary_is_refused(lines: Training) -> None:
    (lines.folder / "lines.tsv").write_text(LINES.replace("really", "truly"))
    with pytest.raises(JobError, match=r"the tokens of the data differ .*: 'really' is missing and 'truly' is new"):
        lines.train(make_run(lines.folder, resume=True))


def test_words_that_are_more_or_less_frequent_than_before_are_refused(lines: Training) -> None:
    (lines.folder / "lines.tsv").write_text(LINES.replace("fine", "fine " * 9))
    with pytest.raises(JobError, match=r"the tokens of the data differ .*: they are in another order"):
        lines.train(make_run(lines.folder, resume=True))


@pytest.mark.parametrize("recorded", [None, [], {"training": 1}, {"training": {"samples": "many"}}, {"training": {"samples": 32}}])
def test_a_checkpoint_that_does_not_record_its_data_promises_nothing(
    recorded: Any, pictures: Training, capsys: pytest.CaptureFixture[str]
) -> None:
    newest = newest_valid(pictures.folder / "checkpoints", print)
    assert newest is not None
    manifest = json.loads((newest / "manifest.json").read_text())
    manifest["fingerprint"] = {**manifest["fingerprint"], "data": recorded}
    (newest / "manifest.json").write_text(json.dumps(manifest))
    assert "is not that of a run that never stopped" in resumed(pictures, capsys)


def test_numbers_count_by_their_value_and_those_that_numpy_lacks_count_too() -> None:
    assert digest_of(torch.tensor([1, 2])) == digest_of(torch.tensor([1, 2], dtype=torch.int32))
    assert len({digest_of(torch.tensor(numbers)) for numbers in ([1, 2], [2, 1], [[1, 2]], [1, 300], [1, 2**40], [1.0, 2.0], [])}) == 7
    assert digest_of(torch.tensor([0.5], dtype=torch.bfloat16))


def test_of_images_beyond_number_the_names_and_some_sizes_are_recorded(pictures: Training, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("cloud_train.training.data.images._MOST_SIZES", 4)
    job = make_job(CNN, data=PICTURES)
    before = identity(load(job, pictures.folder / "pictures"))
    noise(20, 20).save(pictures.folder / "pictures/cat/004.png")
    assert identity(load(job, pictures.folder / "pictures")) == before
    (pictures.folder / "pictures/cat/004.png").rename(pictures.folder / "pictures/cat/004b.png")
    assert identity(load(job, pictures.folder / "pictures")) != before

from pathlib import Path

import pytest

from cloud_train.data.mnist import SHA256 as MNIST_SHA256
from cloud_train.data.mnist import MnistData
from cloud_train.data.text import TextData
from cloud_train.job.schedules import Schedule
from cloud_train.job.training import WebWeights
from cloud_train.networks.base import ScriptModel
from cloud_train.networks.cnn import CnnModel
from cloud_train.networks.rnn import RnnModel
from cloud_train.spec.problems import JobFileError
from cloud_train.spec.types import Interval
from tests.job.conftest import Load

CNN = "name: a\nmodel: {kind: cnn, blocks: [{filters: 4}]}\ndata: {dataset: digits}\ntrain: {epochs: 3}\n"
SCRIPT = "name: a\nmodel: {kind: script, command: 'true'}\n"


def refused(load: Load, *overrides: str) -> dict[str, tuple[str, str]]:
    with pytest.raises(JobFileError) as caught:
        load(CNN, *overrides)
    return {str(problem.place): (problem.message, problem.suggestion) for problem in caught.value.problems}


def test_any_leaf_can_be_set_also_in_lists_and_sections_that_the_file_does_not_have(load: Load) -> None:
    spec = load(
        CNN, "model.blocks.0.filters=16", "train.optimizer.lr=1e-2", "limits.duration=2h", "retry.on=[failed]", "checkpoint.keep=9"
    ).spec
    assert isinstance(spec.model, CnnModel)
    assert spec.model.blocks[0].filters == 16
    assert spec.train.optimizer.lr == 0.01
    assert str(spec.limits.duration) == "2 h"
    assert spec.retry.on == ("failed",)
    assert spec.checkpoint.keep == 9


def test_an_item_of_a_default_list_can_be_set(load: Load) -> None:
    spec = load("name: a\nmodel: {kind: cnn}\ndata: {dataset: digits}\n", "model.blocks.1.filters=7", "retry.on.0=failed").spec
    assert isinstance(spec.model, CnnModel)
    assert [block.filters for block in spec.model.blocks] == [32, 7]
    assert spec.retry.on == ("failed", "infrastructure")


def test_a_whole_section_can_be_set(load: Load) -> None:
    spec = load(CNN, "model={kind: rnn, cell: lstm}", "data={dataset: python-docs}").spec
    assert spec.model == RnnModel(kind="rnn", cell="lstm")


def test_the_last_of_two_values_counts(load: Load) -> None:
    assert load(CNN, "train.seed=1", "train.seed=2").spec.train.seed == 2


def test_setting_steps_takes_the_place_of_epochs_and_the_reverse(load: Load) -> None:
    train = load(CNN, "train.steps=10").spec.train
    assert (train.epochs, train.steps) == (None, 10)
    train = load(CNN.replace("epochs", "steps"), "train.epochs=2").spec.train
    assert (train.epochs, train.steps) == (2, None)
    assert "cannot both be set" in next(iter(refused(load, "train.steps=10", "train.epochs=2").values()))[0]


DOWNLOADED = f"name: a\nmodel: {{kind: rnn}}\ndata: {{dataset: text, url: 'https://x/a.txt', sha256: {'a' * 64}}}\n"


def test_setting_a_path_takes_the_place_of_a_download_and_the_reverse(load: Load, tmp_path: Path) -> None:
    (tmp_path / "mine.txt").write_text("some words " * 100)
    data = load(DOWNLOADED, "data.path=mine.txt", "data.sequence_length=8").spec.data
    assert isinstance(data, TextData)
    assert (data.path, data.url, data.sha256) == (str(tmp_path / "mine.txt"), None, None)
    file = "name: a\nmodel: {kind: rnn}\ndata: {dataset: text, path: mine.txt}\n"
    data = load(file, "data.url=https://y/b.txt", f"data.sha256={'1' * 64}").spec.data
    assert isinstance(data, TextData)
    assert (data.path, data.url, data.sha256) == (None, "https://y/b.txt", "1" * 64)


def test_checksums_of_several_files_are_set_together(load: Load) -> None:
    checksums = ", ".join(f"{name}: {'b' * 64}" for name in MNIST_SHA256)
    data = load("name: a\nmodel: {kind: cnn}\ndata: {dataset: mnist}\n", f"data.sha256={{{checksums}}}").spec.data
    assert isinstance(data, MnistData)
    assert set(data.sha256.values()) == {"b" * 64}


def test_a_schedule_that_the_file_names_in_short_can_be_added_to(load: Load) -> None:
    loaded = load(CNN.replace("epochs: 3", "schedule: cosine"), "train.schedule.warmup=5 steps")
    assert loaded.spec.train.schedule == Schedule(name="cosine", warmup=Interval(5, "step"))
    assert loaded.origins["train.schedule.name"] == "job.yaml:4"
    assert loaded.origins["train.schedule.warmup"] == "--set"
    assert load(CNN, "train.schedule.name=step").spec.train.schedule == Schedule(name="step")
    assert "unknown key 'warmpu'" in next(iter(refused(load, "train.schedule=cosine", "train.schedule.warmpu=5 steps").values()))[0]


def test_where_the_job_takes_text_the_value_is_text(load: Load) -> None:
    spec = load(SCRIPT, "name=2024", "env.N=3", "env.EMPTY=", "env.URL=a=b: c", "provider=3").spec
    assert (spec.name, spec.env, spec.provider) == ("2024", {"N": "3", "EMPTY": "", "URL": "a=b: c"}, "3")


def test_a_command_is_a_text_or_a_list(load: Load) -> None:
    for value, wanted in {"echo a": "echo a", "[echo, a]": ("echo", "a")}.items():
        model = load(SCRIPT, f"model.command={value}").spec.model
        assert isinstance(model, ScriptModel)
        assert model.command == wanted


def test_a_relative_path_starts_at_the_working_directory(load: Load, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    load(SCRIPT)
    (tmp_path / "elsewhere").mkdir()
    monkeypatch.chdir(tmp_path / "elsewhere")
    (tmp_path / "elsewhere" / "job.yaml").write_text(SCRIPT)
    spec = load(SCRIPT, "store=runs", "data={dataset: files, path: .}", "data.path=.").spec
    assert spec.store == str(tmp_path / "elsewhere" / "runs")
    assert load(SCRIPT, "store=~/runs").spec.store == "~/runs"
    assert load(SCRIPT, "store=s3://bucket/x").spec.store == "s3://bucket/x"


def test_weights_to_start_from_are_a_path_of_the_working_directory_or_a_run(
    load: Load, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "best").mkdir()
    (tmp_path / "best" / "model.safetensors").write_bytes(bytes(8) + b"{}")
    assert load(CNN, "train.start_from=best").spec.train.start_from == str(tmp_path / "best")
    assert load(CNN, "train.start_from=other").spec.train.start_from == "other"
    assert load(CNN, "train.start_from=1e55").spec.train.start_from == "1e55"
    assert load(CNN, "train.start_from=1e55", "train.start_from=null").spec.train.start_from is None
    web = load(CNN, f"train.start_from={{url: 'https://example.com/w.pth', sha256: {'a' * 64}}}").spec.train.start_from
    assert isinstance(web, WebWeights)


def test_every_wrong_override_is_reported_with_the_nearest_name(load: Load) -> None:
    found = refused(load, "train.epoch=3", "trian.epochs=3", "train.optimizer.name=adma", "model.blocks.0.filters=x")
    assert found == {
        "--set train.epoch=3": ("unknown key 'epoch'", "epochs"),
        "--set trian.epochs=3": ("unknown key 'trian'", "train"),
        "--set train.optimizer.name=adma": ("unknown optimizer 'adma'", "adam"),
        "--set model.blocks.0.filters=x": ("model.blocks.0.filters cannot be 'x'", ""),
    }


@pytest.mark.parametrize("text", ["", "=", "train.epochs", "a..b=1", ".a=1", "a b=1", "name=a\0b", "name=a\nb", "env.A\udcff=1"])
def test_what_is_no_key_and_value_is_refused(load: Load, text: str) -> None:
    assert next(iter(refused(load, text).values()))[0] == "invalid override"


@pytest.mark.parametrize("text", ["model.blocks.1.filters=3", "model.blocks.x.filters=3", "train.epochs.x=3", f"model.blocks.{'9' * 30}=1"])
def test_what_is_not_there_cannot_be_set_a_part_of(load: Load, text: str) -> None:
    assert "it does not exist" in next(iter(refused(load, text).values()))[0]


def test_mistakes_of_the_file_and_of_overrides_are_reported_together(load: Load) -> None:
    with pytest.raises(JobFileError) as caught:
        load(CNN + "extra: 1\n", "train.epoch=3")
    assert [str(problem.place) for problem in caught.value.problems] == ["--set train.epoch=3", "job.yaml:5:1"]
    assert caught.value.message.startswith("2 mistakes in --set train.epoch=3 and job.yaml\n")


def test_the_value_of_a_variable_is_never_shown(load: Load) -> None:
    with pytest.raises(JobFileError) as caught:
        load(CNN, "env.WANDB_TOKEN=hunter2", "env={A: [hunter2]}", "secrets=[hunter-2]")
    assert "hunter" not in caught.value.message
    assert len(caught.value.problems) >= 2

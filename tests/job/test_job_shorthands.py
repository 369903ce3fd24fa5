"""What a job file may leave out or get wrong together: a name instead of a section, tabs, a key that was written twice."""

from pathlib import Path

import pytest

from cloud_train.job.loading import LoadedJob, load_job
from cloud_train.spec.problems import JobFileError


def load(folder: Path, text: str, *overrides: str) -> LoadedJob:
    (folder / "job.yaml").write_text(text)
    return load_job(folder / "job.yaml", overrides)


def mistakes(folder: Path, text: str) -> list[str]:
    with pytest.raises(JobFileError) as caught:
        load(folder, text)
    return [f"{problem.place.line}: {problem.message}" for problem in caught.value.problems]


def test_a_name_stands_for_a_section_that_begins_with_it(tmp_path: Path) -> None:
    short = load(tmp_path, "name: x\nmodel: cnn\ndata: digits\ntrain: {optimizer: sgd, schedule: cosine}\n")
    full = "name: x\nmodel: {kind: cnn}\ndata: {dataset: digits}\ntrain: {optimizer: {name: sgd}, schedule: {name: cosine}}\n"
    assert short.spec.model_dump(exclude={"train": {"schedule"}}) == load(tmp_path, full).spec.model_dump(exclude={"train": {"schedule"}})
    assert short.origins["train.optimizer.name"].endswith("job.yaml:4")
    assert short.origins["model.kind"].endswith("job.yaml:2")


def test_what_is_set_on_the_command_line_is_added_to_such_a_section(tmp_path: Path) -> None:
    text = "name: x\nmodel: cnn\ndata: digits\ntrain: {optimizer: sgd}\n"
    spec = load(tmp_path, text, "train.optimizer.lr=0.5").spec
    assert (spec.train.optimizer.name, spec.train.optimizer.lr) == ("sgd", 0.5)
    assert load(tmp_path, text, "train.optimizer=adamw").spec.train.optimizer.name == "adamw"


def test_an_unknown_name_is_a_mistake_at_its_place(tmp_path: Path) -> None:
    assert mistakes(tmp_path, "name: x\nmodel: cnnn\ndata: digitz\ntrain:\n  optimizer: adm\n") == [
        *("2: unknown kind 'cnnn'", "3: unknown dataset 'digitz'", "5: unknown optimizer 'adm'")
    ]


@pytest.mark.parametrize("text", ["model: {kind: mine}\ndata: {dataset: digits}", "model: {kind: cnn}\ndata: {dataset: mine}"])
def test_an_unknown_kind_or_data_set_points_at_a_program_of_ones_own(tmp_path: Path, text: str) -> None:
    with pytest.raises(JobFileError) as caught:
        load(tmp_path, f"name: x\n{text}\n")
    assert caught.value.problems[0].expected.endswith("; for a program of your own, kind: script")


def test_all_mistakes_are_reported_beside_a_key_that_was_written_twice_an_unknown_kind_and_a_bad_store(tmp_path: Path) -> None:
    text = "name: x\nname: y\nmodel: {kind: mine}\ntrain: {epochs: -1, sede: 1}\nstore: 's3:/bucket'\n"
    assert mistakes(tmp_path, text) == [
        "2: duplicate key 'name' (first defined on line 1)",
        "3: unknown kind 'mine'",
        "4: train.epochs cannot be -1",
        "4: unknown key 'sede'",
        "5: 's3:/bucket' is neither a URL nor a path",
    ]


def test_tabs_may_separate_but_not_indent(tmp_path: Path) -> None:
    spec = load(tmp_path, "name:\tx\t# a comment\nmodel:\t{kind:\tcnn}\ndata:\n  dataset:\tdigits\t\ntrain:\n  epochs: \t 3\n").spec
    assert (spec.name, spec.train.epochs) == ("x", 3)
    assert mistakes(tmp_path, "name: x\ntrain:\n\tepochs: 3\n") == ["3: not valid YAML: a tab at the beginning of a line"]


def test_a_tab_within_a_value_stays(tmp_path: Path) -> None:
    assert load(tmp_path, "name: x\nmodel: {kind: script, command: 'a\tb'}\n").spec.model.command == "a\tb"  # type: ignore[attr-defined]

"""The provider and the store of a user's jobs: from the environment, or from config.yaml in CLOUD_TRAIN_HOME."""

import re
from pathlib import Path

import pytest

from cloud_train.job.user_defaults import UserDefaults, read_user_defaults
from cloud_train.spec.problems import JobFileError
from tests.cli.command import CommandLine, command_line_of


def read(home: Path, text: str = "", **environment: str) -> UserDefaults:
    home.mkdir(exist_ok=True)
    (home / "config.yaml").write_text(text or "{}")
    return read_user_defaults(home, environment)


def test_without_a_file_or_variables_there_are_none(tmp_path: Path) -> None:
    assert read_user_defaults(tmp_path / "none", {}) == UserDefaults()


def test_a_variable_counts_before_the_file(tmp_path: Path) -> None:
    found = read(tmp_path, "store: s3://of-file/runs\nprovider: docker\n", CLOUD_TRAIN_STORE="gs://of-environment/runs")
    assert found.values == {"provider": "docker", "store": "gs://of-environment/runs"}
    assert str(found.places["store"]) == "CLOUD_TRAIN_STORE"
    assert str(found.places["provider"]) == f"{tmp_path}/config.yaml:2:11"


def test_a_relative_store_starts_at_the_file_or_at_the_current_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    assert read(tmp_path, "store: runs\n").values == {"store": str(tmp_path / "runs")}
    monkeypatch.chdir(tmp_path)
    assert read(tmp_path, CLOUD_TRAIN_STORE="here").values == {"store": str(tmp_path / "here")}


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("stor: runs\n", "config.yaml:1:1"),
        ("store: 3\n", "config.yaml:1:8"),
        ("store: s3:/bucket\n", "two slashes"),
        ("store: '${HOME}/runs'\n", "is not replaced"),
        ("- store\n", "keys and values"),
        ("aws: {role: x}\n", "config.yaml:1:1"),
    ],
)
def test_a_mistake_in_the_file_is_an_error_with_its_place(tmp_path: Path, text: str, words: str) -> None:
    with pytest.raises(JobFileError) as caught:
        read(tmp_path, text)
    assert words in " ".join(f"{problem.place} {problem.message} {problem.expected}" for problem in caught.value.problems)


def test_a_mistake_in_a_variable_names_it(tmp_path: Path) -> None:
    with pytest.raises(JobFileError) as caught:
        read(tmp_path, CLOUD_TRAIN_STORE="s3:/bucket")
    assert str(caught.value.problems[0].place) == "CLOUD_TRAIN_STORE"


@pytest.fixture
def line(tmp_path: Path) -> CommandLine:
    made = command_line_of(tmp_path)
    made.home.mkdir()
    (made.home / "config.yaml").write_text("store: usual\n")
    (made.folder / "job.yaml").write_text("name: job\nmodel: {kind: script, command: 'true'}\n")
    return made


def _store(line: CommandLine, *arguments: str, **variables: str) -> str:
    ended = line("submit", "job.yaml", "--dry-run", "--json", *arguments, **variables)
    assert ended.status == 0, ended
    return str(ended.json["store"])


def test_the_command_line_comes_before_the_job_the_environment_and_the_users_file(line: CommandLine) -> None:
    assert _store(line) == str(line.home / "usual")
    assert _store(line, CLOUD_TRAIN_STORE="/of/environment") == "/of/environment"
    (line.folder / "job.yaml").write_text("name: job\nmodel: {kind: script, command: 'true'}\nstore: of-job\n")
    assert _store(line, CLOUD_TRAIN_STORE="/of/environment") == str(line.folder / "of-job")
    assert _store(line, "--store", "/of/option", CLOUD_TRAIN_STORE="/of/environment") == "/of/option"


def test_a_plan_and_the_doctor_show_where_a_default_was_written(line: CommandLine) -> None:
    assert re.search(r"store +\S+/home/usual +\S*config.yaml:1\n", line("submit", "job.yaml", "--dry-run").text)
    assert re.search(r"default store +\S+/home/usual \(\S+/home/config.yaml:1:8\)", line("doctor").text)
    (line.home / "config.yaml").write_text("stor: usual\n")
    ended = line("doctor", "--json")
    assert ended.status == 5
    assert [finding["name"] for finding in ended.json["findings"] if finding["status"] == "error"] == ["defaults"]

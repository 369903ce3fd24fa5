from pathlib import Path

import pytest

from cloud_train.errors import NotFoundError
from cloud_train.job.config import Config, find_config, load_config
from cloud_train.spec.problems import JobFileError


def read(folder: Path, text: str) -> Config:
    file = folder / "c.yaml"
    file.write_text(text, encoding="utf-8")
    return load_config(Path("c.yaml"))


def test_a_config_names_provider_store_and_the_settings_of_providers(tmp_path: Path) -> None:
    config = read(tmp_path, "provider: slurm\nstore: s3://b/x\nlocal: {python: /p}\nslurm: {partition: x, nodes: [a, b]}\n")
    assert (config.provider, config.store) == ("slurm", "s3://b/x")
    assert config.settings == {"local": {"python": "/p"}, "slurm": {"partition": "x", "nodes": ("a", "b")}}


def test_relative_paths_start_at_the_config_files_folder_and_links_stay_links(tmp_path: Path) -> None:
    (tmp_path / "python").symlink_to("/usr/bin/env")
    config = read(tmp_path, "store: runs\nlocal: {python: python}\n")
    assert config.store == str(tmp_path / "runs")
    assert config.settings["local"]["python"] == str(tmp_path / "python")
    assert read(tmp_path, "store: ~/runs\n").store == str(tmp_path / "home" / "runs")


def test_every_mistake_of_a_config_is_reported_with_its_place_and_the_nearest_name(tmp_path: Path) -> None:
    with pytest.raises(JobFileError) as caught:
        read(tmp_path, "providr: local\nstore: ''\nlocal: {pyhton: /x, python: 3}\nslurm: 3\nA_b: {}\n")
    found = {str(problem.place): (problem.message, problem.suggestion) for problem in caught.value.problems}
    assert found == {
        "c.yaml:1:1": ("unknown key 'providr'", "provider"),
        "c.yaml:2:8": ("store cannot be ''", ""),
        "c.yaml:3:9": ("unknown key 'pyhton'", "python"),
        "c.yaml:3:29": ("local.python cannot be 3", ""),
        "c.yaml:4:1": ("unknown key 'slurm'", ""),
        "c.yaml:5:1": ("unknown key 'A_b'", ""),
    }


def test_a_home_folder_that_nobody_has_is_a_mistake(tmp_path: Path) -> None:
    with pytest.raises(JobFileError, match=r"c\.yaml:1:8"):
        read(tmp_path, "store: ~nobody-of-this-name/runs\n")


def test_a_config_is_found_here_then_beside_the_job_then_at_home(tmp_path: Path) -> None:
    folders = [Path("configs"), Path("jobs/configs"), Path("home/.cloud-train/configs")]
    for folder in folders:
        (tmp_path / folder).mkdir(parents=True)
        (tmp_path / folder / "x.yaml").write_text("")
    for folder in folders:
        found = find_config("x", Path("jobs"))
        assert found.absolute() == tmp_path / folder / "x.yaml"
        found.unlink()
    with pytest.raises(NotFoundError):
        find_config("x", Path("jobs"))


@pytest.mark.parametrize("name", ["folder/x.yaml", "x.yaml", "./x"])
def test_a_path_is_taken_as_one(name: str) -> None:
    assert find_config(name, Path("jobs")) == Path(name)


def test_a_config_that_is_not_there_names_what_was_tried_and_what_there_is(tmp_path: Path) -> None:
    (tmp_path / "configs").mkdir()
    (tmp_path / "configs" / "here.yaml").write_text("")
    with pytest.raises(NotFoundError) as caught:
        find_config("gone", tmp_path / "jobs")
    assert "configs/gone.yaml" in caught.value.message
    assert str(tmp_path / "home/.cloud-train/configs/gone.yaml") in caught.value.message
    assert caught.value.hint == "available: here"

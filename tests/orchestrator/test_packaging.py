"""From a job to the recipe of its image, without an engine."""

import json
from pathlib import Path

import pytest

from cloud_train.docker import container_paths
from cloud_train.errors import ProviderError
from cloud_train.image import building
from cloud_train.image.errors import ImageError, RegistryError
from cloud_train.image.recipe import Built
from cloud_train.orchestrator.home import Home
from cloud_train.orchestrator.packaging import DEFAULT_BASE, build_image, recipe_of
from cloud_train.orchestrator.planning import make_plan
from cloud_train.run.plan import Plan


def plan_of(home: Home, folder: Path, config: str | None = None, **sections: object) -> Plan:
    job = {"name": "test", "model": {"kind": "script", "command": "x", "directory": "code"}, "provider": "docker", "store": "runs"}
    (folder / "code").mkdir(exist_ok=True)
    (folder / "job.yaml").write_text(json.dumps({**job, **sections}))
    return make_plan(home, folder / "job.yaml", config=config, dry_run=True)


def test_the_image_of_a_script_has_its_folder_and_that_of_a_trainer_has_no_code(home: Home, tmp_path: Path) -> None:
    assert recipe_of(plan_of(home, tmp_path)).folder == tmp_path / "code"
    built_in = plan_of(home, tmp_path, model={"kind": "cnn"}, data={"dataset": "digits"})
    assert recipe_of(built_in).folder is None
    assert recipe_of(built_in).base == DEFAULT_BASE


def test_the_jobs_base_overrides_the_configs(home: Home, tmp_path: Path) -> None:
    config = tmp_path / "mine.yaml"
    config.write_text("docker: {base: from-config, platform: linux/arm64}\n")
    assert recipe_of(plan_of(home, tmp_path, str(config))).base == "from-config"
    assert recipe_of(plan_of(home, tmp_path, str(config))).platform == "linux/arm64"
    assert recipe_of(plan_of(home, tmp_path, str(config), image={"base": "from-job"})).base == "from-job"


@pytest.mark.parametrize(
    ("resources", "config", "uses"),
    [({}, "", False), ({"accelerator": "L4"}, "", True), ({"cpus": 2}, "machine: a2-highgpu-1g", True), ({"cpus": 2}, "", False)],
)
def test_an_image_gets_gpus_only_for_a_job_that_may_have_some(
    home: Home, tmp_path: Path, resources: dict[str, object], config: str, uses: bool
) -> None:
    (file := tmp_path / "mine.yaml").write_text(f"gcp: {{project: my-project, region: europe-west4, {config}}}\n")
    place = {"provider": "gcp", "store": "gs://bucket/runs"} if config else {}
    assert recipe_of(plan_of(home, tmp_path, str(file) if config else None, resources=resources, **place)).uses_gpus is uses


def test_the_program_gets_paths_inside_the_container(home: Home, tmp_path: Path) -> None:
    (tmp_path / "photographs").mkdir()
    plan = plan_of(home, tmp_path, data={"dataset": "files", "path": "photographs"})
    assert (plan.program.directory, plan.program.data) == (container_paths.CODE, container_paths.DATA)
    assert plan.host_data == str(tmp_path / "photographs")
    assert plan.image is not None
    assert DEFAULT_BASE in plan.image


@pytest.mark.parametrize(
    ("link", "target", "is_fine"),
    [
        ("a/link.jpg", "1.jpg", True),
        ("a/link.jpg", "../b/2.jpg", True),
        ("a/link.jpg", "gone.jpg", True),
        ("a/link.jpg", "../../photographs-elsewhere/3.jpg", False),
        ("link", "../elsewhere", False),
        ("link", "{}/photographs/a", False),
        ("a/link.jpg", "/gone", False),
    ],
)
def test_a_container_gets_no_data_with_links_that_mean_something_else_there(
    home: Home, tmp_path: Path, link: str, target: str, is_fine: bool
) -> None:
    for folder in ("a", "b"):
        (tmp_path / "photographs" / folder).mkdir(parents=True)
    (tmp_path / "photographs" / link).symlink_to(target.format(tmp_path))
    data = {"dataset": "files", "path": "photographs"}
    if is_fine:
        assert plan_of(home, tmp_path, data=data).host_data == str(tmp_path / "photographs")
        return
    with pytest.raises(ProviderError, match=f"photographs has a link out of the folder .*: {tmp_path}/photographs/{link} → ") as caught:
        plan_of(home, tmp_path, data=data)
    assert caught.value.hint is not None
    assert f"cp -rL {tmp_path}/photographs COPY" in caught.value.hint
    assert plan_of(home, tmp_path, data=data, provider="local").program.data == str(tmp_path / "photographs")


def test_a_push_uses_the_configured_engine_and_remembers_what_was_pushed(
    home: Home, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    config = tmp_path / "mine.yaml"
    config.write_text("docker: {host: 'unix:///of/the/config.sock'}\n")
    given: list[object] = []
    monkeypatch.setattr(building, "build_in_registry", lambda *arguments, login: given.extend([*arguments, login]))
    build_image(plan_of(home, tmp_path, str(config)), lambda _: None, "registry.example.com/me/test", home)
    assert given[-3:] == ["unix:///of/the/config.sock", home.folder / "pushed", None]


@pytest.mark.parametrize("repository", [None, "registry.example.com/me/test"])
def test_a_missing_base_image_has_a_hint_about_building_it(
    home: Home, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, repository: str | None
) -> None:
    def refuse(*_: object, login: object = None) -> Built:
        raise ImageError(f"there is no image docker.io/library/{DEFAULT_BASE}", hint="check its name")

    monkeypatch.setattr(building, "build_in_registry" if repository else "build_in_engine", refuse)
    with pytest.raises(ImageError) as caught:
        build_image(plan_of(home, tmp_path), lambda _: None, repository)
    assert "make image" in (caught.value.hint or "")
    with pytest.raises(ImageError, match="no image") as caught:
        build_image(plan_of(home, tmp_path, image={"base": "mine"}), lambda _: None, repository)
    assert caught.value.hint == "check its name"


def test_the_hint_for_a_refused_login_names_the_clouds_login_or_dockers(
    home: Home, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse(*_: object, login: object = None) -> Built:
        raise RegistryError("registry.example.com refuses to take a blob: 403", hint="log in with docker login", status=403)

    monkeypatch.setattr(building, "build_in_registry", refuse)
    for login, words in (
        (lambda: ("AWS", "password"), "permission to push to registry.example.com/me/test"),
        (lambda: None, "docker login"),
    ):
        with pytest.raises(RegistryError) as caught:
            build_image(plan_of(home, tmp_path), lambda _: None, "registry.example.com/me/test", login=login)
        assert words in (caught.value.hint or "")

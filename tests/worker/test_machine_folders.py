"""Where a worker can write on a cloud's machine, and as which user."""

import os
from pathlib import Path

import pytest

from cloud_train import exit_status
from cloud_train.errors import UsageError
from cloud_train.run.platform_rules import RUN_AS
from cloud_train.worker import machine_folders
from cloud_train.worker.machine_folders import WorkspaceError, become_user, ids_of, settle


@pytest.fixture
def blocked(tmp_path: Path) -> Path:
    """A file, below which nobody can make a folder, root included."""
    (tmp_path / "file").touch()
    return tmp_path / "file"


@pytest.fixture
def became(monkeypatch: pytest.MonkeyPatch) -> list[tuple[str, object]]:
    """What a process that is root was asked to become."""
    calls: list[tuple[str, object]] = []
    monkeypatch.setattr(os, "geteuid", lambda: 0)
    for name in ("setgroups", "setgid", "setuid"):
        monkeypatch.setattr(os, name, lambda value, name=name: calls.append((name, value)))
    return calls


def test_a_folder_that_can_be_written_is_used_and_nothing_is_changed(tmp_path: Path) -> None:
    environment = {"HOME": "/tmp"}
    assert settle(tmp_path / "cloud-train/work", environment) == tmp_path / "cloud-train/work"
    assert environment == {"HOME": "/tmp"}


def test_another_folder_takes_its_place_and_home_and_temporary_files_go_there_too(blocked: Path, tmp_path: Path) -> None:
    environment = {"TMPDIR": str(blocked / "deep"), "HOME": str(tmp_path / "home"), "CLOUD_TRAIN_HOME": str(blocked)}
    home = tmp_path / "home" / "cloud-train"
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(machine_folders, "_LARGE", str(blocked / "opt/ml"))
        assert settle(blocked / "work", environment) == home / "work"
    assert environment == {"HOME": str(home), "TMPDIR": str(home / "tmp"), "CLOUD_TRAIN_HOME": str(home)}
    assert (home / "tmp").is_dir()


def test_a_machine_without_any_folder_to_write_is_named_and_has_an_exit_status_of_its_own(
    blocked: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(machine_folders, "_candidates", lambda _: iter([blocked]))
    with pytest.raises(WorkspaceError, match=r"cannot write to any folder of this machine as user \d+: tried .*/file/work") as caught:
        settle(blocked / "work", {})
    assert caught.value.exit_code == exit_status.WORKSPACE == 18


def test_root_opens_sagemakers_folders_and_becomes_the_images_user(became: list[tuple[str, object]], tmp_path: Path) -> None:
    for folder in ("tmp", "opt/ml/model", "opt/ml/output/data"):
        (tmp_path / folder).mkdir(parents=True)
        (tmp_path / folder).chmod(0o755)
    environment = {RUN_AS: "65532:65532"}
    become_user("sagemaker", environment, tmp_path)
    assert became == [("setgroups", []), ("setgid", 65532), ("setuid", 65532)]
    assert [(tmp_path / folder).stat().st_mode & 0o7777 for folder in ("tmp", "opt/ml/model", "opt/ml/output")] == [0o1777, 0o777, 0o777]
    assert environment == {}, "the program has no use for it"


def test_a_user_other_than_root_and_an_image_that_names_none_change_nothing(
    became: list[tuple[str, object]], monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    become_user("sagemaker", {}, tmp_path)
    monkeypatch.setattr(os, "geteuid", lambda: 1000)
    become_user("sagemaker", {RUN_AS: "65532"}, tmp_path)
    assert became == []


def test_a_container_that_may_not_change_its_user_goes_on_and_says_so(
    became: list[tuple[str, object]], monkeypatch: pytest.MonkeyPatch, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    def refuse(_: object) -> None:
        raise PermissionError(1, "Operation not permitted")

    monkeypatch.setattr(os, "setgroups", refuse)
    become_user("sagemaker", {RUN_AS: "65532"}, tmp_path)
    assert capsys.readouterr().err == "cannot become user 65532: operation not permitted; continuing as root\n"


def test_a_user_is_read_as_docker_reads_it() -> None:
    assert ids_of("65532:65532") == (65532, 65532, [])
    assert ids_of("4711") == (4711, 0, [])
    assert ids_of("root")[:2] == (0, 0)
    assert ids_of("0:12")[:2] == (0, 12)
    with pytest.raises(UsageError, match="the image has no user 'nobody-of-ours'"):
        ids_of("nobody-of-ours")
    with pytest.raises(UsageError, match="the image has no group 'none-of-ours'"):
        ids_of("0:none-of-ours")

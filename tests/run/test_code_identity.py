"""The identity of a script's code."""

import os
import subprocess
from pathlib import Path
from typing import Any

import pytest

from cloud_train.run import code_identity as module
from cloud_train.run.code_identity import changed_files, code_difference, code_identity, in_manifest, listed


def write(path: Path, text: str = "print()\n") -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(text)


def git(folder: Path, *words: str) -> str:
    own = {"GIT_CONFIG_GLOBAL": os.devnull, "GIT_CONFIG_SYSTEM": os.devnull, "HOME": str(folder)}
    names = ("-c", "user.name=A", "-c", "user.email=a@example.com")
    done = subprocess.run(["git", *names, *words], cwd=folder, env={**os.environ, **own}, capture_output=True, check=True)
    return done.stdout.decode().strip()


def test_the_same_code_has_the_same_identity_wherever_it_is(tmp_path: Path) -> None:
    for folder in (tmp_path / "a", tmp_path / "elsewhere" / "b"):
        write(folder / "train.py")
        write(folder / "lib" / "net.py", "x = 1\n")
    assert code_identity(tmp_path / "a") == code_identity(tmp_path / "elsewhere" / "b")
    assert set(code_identity(tmp_path / "a").files) == {"train.py", "lib/net.py"}


@pytest.mark.parametrize("name", ["train.py", "lib/net.py", "conf/base.yaml", "kernel.cu", "requirements.txt", "Makefile"])
def test_a_change_of_a_source_file_is_another_identity(tmp_path: Path, name: str) -> None:
    write(tmp_path / name)
    before = code_identity(tmp_path)
    write(tmp_path / name, "print(1)\n")
    now = code_identity(tmp_path)
    assert now.sha256 != before.sha256
    assert changed_files(before.files, now.files) == [name]


@pytest.mark.parametrize(
    "name",
    ["data/a.jpg", "last.pt", "metrics.csv", ".git/config", ".cache/x.py", "__pycache__/a.py", "lightning_logs/v/hparams.yaml", "notes"],
)
def test_data_output_and_hidden_folders_are_not_code(tmp_path: Path, name: str) -> None:
    write(tmp_path / "train.py")
    before = code_identity(tmp_path)
    write(tmp_path / name, "anything")
    assert code_identity(tmp_path) == before


def test_a_program_without_an_ending_is_code_if_it_can_be_executed(tmp_path: Path) -> None:
    write(tmp_path / "train", "#!/bin/sh\n")
    (tmp_path / "train").chmod(0o755)
    assert set(code_identity(tmp_path).files) == {"train"}


def test_a_large_file_is_not_code(tmp_path: Path) -> None:
    (tmp_path / "table.py").write_bytes(b"#" * (module.LARGEST_BYTES + 1))
    assert code_identity(tmp_path).files == {}


def test_a_pipe_and_an_unreadable_link_are_left_out(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "pipe.py")
    (tmp_path / "gone.py").symlink_to("nowhere")
    assert code_identity(tmp_path).files == {}


def test_names_that_are_not_utf_8_are_read(tmp_path: Path) -> None:
    Path(os.fsdecode(os.fsencode(tmp_path) + b"/\xff.py")).write_text("x")
    assert len(code_identity(tmp_path).files) == 1


def test_files_are_read_only_up_to_a_limit_and_those_at_the_top_first(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "MOST_FILES", 3)
    for name in ("a/1.py", "a/2.py", "a/3.py", "z.py"):
        write(tmp_path / name)
    assert set(code_identity(tmp_path).files) == {"z.py", "a/1.py", "a/2.py"}


def test_folders_are_listed_only_up_to_a_limit(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "MOST_LISTED", 10)
    for number in range(20):
        write(tmp_path / "data" / f"{number}.png")
    write(tmp_path / "data" / "inner" / "hidden.py")
    write(tmp_path / "train.py")
    assert set(code_identity(tmp_path).files) == {"train.py"}


def test_files_can_be_left_out_by_name(tmp_path: Path) -> None:
    write(tmp_path / "train.py")
    write(tmp_path / "job.yaml")
    assert set(code_identity(tmp_path, leave_out=["job.yaml"]).files) == {"train.py"}


def test_the_commit_is_named_and_whether_files_were_changed_since(tmp_path: Path) -> None:
    write(tmp_path / "code" / "train.py")
    assert code_identity(tmp_path / "code").commit == ""
    git(tmp_path, "init", "-q")
    assert code_identity(tmp_path / "code").commit == "", "there is no commit yet"
    git(tmp_path, "add", ".")
    git(tmp_path, "commit", "-q", "-m", "First")
    found = code_identity(tmp_path / "code")
    assert (found.commit, found.is_modified) == (git(tmp_path, "rev-parse", "HEAD"), False)
    write(tmp_path / "code" / "train.py", "changed\n")
    assert code_identity(tmp_path / "code").is_modified


def test_without_git_there_is_no_commit(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    write(tmp_path / "train.py")
    git(tmp_path, "init", "-q")
    monkeypatch.setenv("PATH", str(tmp_path))
    assert code_identity(tmp_path).commit == ""


def test_changes_are_named_up_to_three(tmp_path: Path) -> None:
    before, now = {"a.py": "1", "b.py": "1", "c.py": "1"}, {"a.py": "2", "c.py": "1", "d.py": "1", "e.py": "1"}
    assert changed_files(before, now) == ["a.py", "b.py is missing", "d.py is new", "e.py is new"]
    assert listed(changed_files(before, now)) == "a.py, b.py is missing, d.py is new and 1 more"


def test_a_store_beside_the_code_and_the_runs_in_it_are_no_code(tmp_path: Path) -> None:
    (tmp_path / "train.py").write_text("1")
    before = code_identity(tmp_path, ["store"])
    for run in ("store/a", "elsewhere/b"):
        (tmp_path / run / "attempts").mkdir(parents=True)
        (tmp_path / run / "run.json").write_text("{}")
        (tmp_path / run / "hparams.yaml").write_text("lr: 1")
    (tmp_path / "store" / "config.yaml").write_text("lr: 1")
    assert code_identity(tmp_path, ["store"]) == before


def test_the_difference_from_a_checkpoint_is_said_in_words() -> None:
    before: dict[str, Any] = {"sha256": "a" * 64, "commit": "1" * 40, "is_modified": False, "files": {"train.py": "x", "lib/net.py": "y"}}
    now = {**before, "sha256": "b" * 64, "commit": "2" * 40, "files": {"train.py": "z", "new.py": "n"}}
    assert code_difference(before, now) == f"lib/net.py is missing, train.py (commit {'1' * 12}, now {'2' * 12})"
    assert code_difference(before, {**now, "files": {**before["files"], "new.py": "n"}}) == "", "new files do not count"
    assert code_difference(before, before) == ""
    assert code_difference({**before, "files": None}, now).startswith("there are too many files")
    odd = {**before, "files": {"\x1b[2J.py": "x"}}
    assert "\x1b" not in code_difference(odd, now)
    assert code_difference({**before, "commit": "\x1b[2J"}, now) == "lib/net.py is missing, train.py"


@pytest.mark.parametrize("recorded", [None, [], "x", {}, {"sha256": 1}, {"sha256": None, "files": {}}])
def test_a_manifest_without_an_identity_says_nothing(recorded: object) -> None:
    assert code_difference(recorded, {"sha256": "b" * 64, "files": {}}) == ""


def test_a_manifest_lists_few_files_only() -> None:
    few = {"sha256": "a", "commit": "", "is_modified": False, "files": dict.fromkeys(map(str, range(100)), "x"), "more": 1}
    assert set(in_manifest(few)) == {"sha256", "commit", "is_modified", "files"}
    assert "files" not in in_manifest({**few, "files": dict.fromkeys(map(str, range(101)), "x")})

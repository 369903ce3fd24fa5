"""The checkpoints of each attempt have a folder of their own, from which the next attempt takes over what it continues."""

import errno
import os
from pathlib import Path
from typing import Any

import pytest

from cloud_train import locks
from cloud_train.run import layout, manifest
from cloud_train.run.checkpoints import newest_valid, newest_valid_of_run, places_in_store, prune, publish, take_over
from cloud_train.run.manifest import verify, write_manifest
from cloud_train.run.succession import Ancestor, Branch, SupersededError
from cloud_train.storage.local import LocalStore


def save(run: Path, step: int, *, attempt: int | None, folder: int | None = None) -> Path:
    checkpoints = run / layout.checkpoints(folder or attempt or 1)
    temporary = checkpoints / ".new"
    (temporary / "deep").mkdir(parents=True)
    (temporary / "deep" / "weights").write_text(f"{step} of {attempt}")
    return publish(temporary, checkpoints, step, attempt=attempt)


def own(run: Path, attempt: int) -> Path:
    folder = run / layout.checkpoints(attempt)
    folder.mkdir(parents=True, exist_ok=True)
    return folder


def branch(number: int, **ancestors: tuple[int | None, int | None]) -> Branch:
    """The branch of an attempt; ``a2=(1, 20)`` means that attempt 2 started from attempt 1's checkpoint of step 20."""
    return Branch(number, {int(name[1:]): Ancestor(*origin) for name, origin in ancestors.items()}.get)


def names(folder: Path) -> list[str]:
    return sorted(path.name for path in folder.iterdir())


def moved(run: Path, attempt: int, of: Branch) -> tuple[list[str], list[str]]:
    """The names in an attempt's folder after it took over what it continues, and the notes."""
    notes: list[str] = []
    take_over(own(run, attempt), notes.append, of, attempt=attempt)
    return names(own(run, attempt)), notes


@pytest.mark.parametrize(("attempt", "name"), [(1, "checkpoints"), (2, "checkpoints-2"), (999_999, "checkpoints-999999")])
def test_the_name_of_a_folder_says_whose_checkpoints_it_has(attempt: int, name: str) -> None:
    assert layout.checkpoints(attempt) == name
    assert layout.checkpoints_of(name) == attempt


@pytest.mark.parametrize(
    "name", ["checkpoints-1", "checkpoints-0", "checkpoints-02", "checkpoints-", "checkpoints-1000000", "checkpoint", ""]
)
def test_other_names_are_no_folders_of_checkpoints(name: str) -> None:
    assert layout.checkpoints_of(name) is None


def test_the_checkpoints_of_the_attempt_before_are_moved_and_its_folder_is_removed(tmp_path: Path) -> None:
    inodes = [(save(tmp_path, step, attempt=1) / "deep" / "weights").stat().st_ino for step in (1, 2)]
    assert moved(tmp_path, 2, branch(2, a1=(0, None))) == (["step-00000001", "step-00000002"], [])
    assert not (tmp_path / "checkpoints").exists()
    taken = [own(tmp_path, 2) / layout.step_folder(step) for step in (1, 2)]
    assert [(verify(folder).step, (folder / "deep" / "weights").stat().st_ino) for folder in taken] == list(
        zip((1, 2), inodes, strict=True)
    )


def test_what_an_overtaken_attempt_made_later_stays_where_it_is(tmp_path: Path) -> None:
    for step in (1, 2, 3):
        save(tmp_path, step, attempt=1)
    found, notes = moved(tmp_path, 3, branch(3, a1=(0, None), a2=(1, 2)))
    assert found == ["step-00000001", "step-00000002"]
    assert names(tmp_path / "checkpoints") == ["step-00000003"]
    assert notes == ["skipped checkpoint step-00000003 of attempt 1: attempt 1 made it after another attempt had taken over"]


def test_what_is_not_complete_stays_and_what_is_half_written_is_deleted(tmp_path: Path) -> None:
    save(tmp_path, 1, attempt=1)
    for name in ("step-00000002", ".step-3.tmp", ".passed-over-step-00000009"):
        (tmp_path / "checkpoints" / name).mkdir()
        (tmp_path / "checkpoints" / name / "weights").write_text("x")
    found, notes = moved(tmp_path, 2, branch(2, a1=(0, None)))
    assert found == ["step-00000001"]
    assert names(tmp_path / "checkpoints") == [".passed-over-step-00000009", "step-00000002"]
    assert len(notes) == 1
    assert "manifest.json is missing" in notes[0]


def test_a_run_directory_of_an_earlier_version_is_continued(tmp_path: Path) -> None:
    for step, attempt in ((1, None), (2, 1), (3, 2), (4, 3)):
        save(tmp_path, step, attempt=attempt, folder=1)
    found, _ = moved(tmp_path, 4, branch(4, a1=(0, None), a2=(1, 2), a3=(2, 3)))
    assert found == [layout.step_folder(step) for step in (1, 2, 3, 4)]


def test_the_checkpoints_of_versions_that_named_no_attempt_belong_to_every_branch(tmp_path: Path) -> None:
    save(tmp_path, 7, attempt=None)
    assert branch(4, a2=(1, 3)).holds(None, 7)
    assert not branch(4, a1=(0, None), a2=(1, 3), a3=(2, 5)).holds(None, 7)
    assert branch(4, a1=(0, None), a2=(1, 3), a3=(2, 5)).holds(None, 5, folder=2)
    assert not branch(4, a1=(0, None), a2=(1, 3), a3=(2, 5)).holds(None, 6, folder=2)


def test_a_manifest_that_names_an_attempt_after_that_of_its_folder_does_not_count() -> None:
    assert not branch(9).holds(8, 1, folder=2)


def test_of_two_checkpoints_for_one_step_the_later_attempts_counts(tmp_path: Path) -> None:
    save(tmp_path, 5, attempt=1)
    save(tmp_path, 5, attempt=2)
    said = branch(3, a1=(0, None), a2=(1, 5))
    assert newest_valid_of_run(tmp_path, pytest.fail, said) == tmp_path / "checkpoints-2" / "step-00000005"
    assert [place[:2] for place in places_in_store(LocalStore(tmp_path.parent), tmp_path.name)] == [(5, 2), (5, 1)]
    moved(tmp_path, 3, said)
    assert (own(tmp_path, 3) / "step-00000005" / "deep" / "weights").read_text() == "5 of 2"


@pytest.mark.parametrize("reason", [errno.EXDEV, errno.EACCES])
def test_where_folders_cannot_be_moved_the_newest_valid_checkpoint_is_copied(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, reason: int
) -> None:
    for step in (1, 2, 3):
        save(tmp_path, step, attempt=1)
    (tmp_path / "checkpoints" / "step-00000003" / "deep" / "weights").write_text("damaged")
    rename = os.rename

    def refuse(source: str, target: str, **where: Any) -> None:
        if source == target:
            raise OSError(reason, os.strerror(reason))
        rename(source, target, **where)

    monkeypatch.setattr(os, "rename", refuse)
    found, notes = moved(tmp_path, 2, branch(2, a1=(0, None)))
    assert found == ["step-00000002"]
    assert verify(own(tmp_path, 2) / "step-00000002").attempt == 1
    assert notes == [f"copied step-00000002 from {tmp_path / 'checkpoints'}, since it cannot be moved"]
    assert len(names(tmp_path / "checkpoints")) == 3


def test_an_attempt_that_was_overtaken_takes_nothing_over(tmp_path: Path) -> None:
    save(tmp_path, 1, attempt=1)
    (tmp_path / layout.attempt(3)).mkdir(parents=True)
    (tmp_path / layout.status(3)).write_text("{}")
    with pytest.raises(SupersededError):
        moved(tmp_path, 2, branch(2, a1=(0, None)))
    assert names(tmp_path / "checkpoints") == ["step-00000001"]


def test_nothing_is_taken_over_from_a_folder_that_is_a_link(tmp_path: Path) -> None:
    outside, run = tmp_path / "outside", tmp_path / "run"
    save(outside, 1, attempt=1)
    run.mkdir()
    (run / "checkpoints").symlink_to(outside / "checkpoints")
    assert moved(run, 2, branch(2)) == ([], [])
    assert names(outside / "checkpoints") == ["step-00000001"]


def test_the_lock_of_a_run_directory_is_held_for_renames_only(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    held: list[str] = []
    original = locks.folder_held

    class Held:
        def __init__(self, *arguments: Any) -> None:
            self._inner = original(*arguments)

        def __enter__(self) -> None:
            held.append("held")
            self._inner.__enter__()

        def __exit__(self, *error: Any) -> None:
            held.pop()
            self._inner.__exit__(*error)

    def free(action: Any) -> Any:
        def checked(*arguments: Any, **named: Any) -> Any:
            assert held == []
            return action(*arguments, **named)

        return checked

    monkeypatch.setattr(locks, "folder_held", Held)
    for module, name in ((os, "fsync"), (os, "unlink"), (os, "rmdir"), (manifest, "_digest")):
        monkeypatch.setattr(module, name, free(getattr(module, name)))
    for step in (1, 2, 2, 3):
        last = save(tmp_path, step, attempt=1)
    assert len(prune(tmp_path / "checkpoints", 1, trusted=last, attempt=1)) == 2
    (tmp_path / "model").mkdir()
    (tmp_path / "model" / "weights").write_text("x")
    write_manifest(tmp_path / "model", None, root=tmp_path, attempt=1)
    moved(tmp_path, 2, branch(2, a1=(0, None)))
    assert newest_valid(own(tmp_path, 2), pytest.fail) == own(tmp_path, 2) / "step-00000003"

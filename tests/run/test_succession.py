"""What an attempt may publish in a folder, and which checkpoints the next one continues."""

from pathlib import Path

import pytest

from cloud_train.run import layout
from cloud_train.run.checkpoints import newest_valid, prune, publish
from cloud_train.run.manifest import read_manifest, write_manifest
from cloud_train.run.succession import Ancestor, Branch, SupersededError


def branch(number: int, **ancestors: tuple[int | None, int | None]) -> Branch:
    """The branch of an attempt; ``a2=(1, 20)`` means that attempt 2 started from attempt 1's checkpoint of step 20."""
    said = {int(name[1:]): Ancestor(*origin) for name, origin in ancestors.items()}
    return Branch(number, said.get)


def fill(checkpoints: Path, text: str) -> Path:
    temporary = checkpoints / ".new"
    temporary.mkdir(parents=True)
    (temporary / "weights").write_text(text)
    return temporary


def begins(run: Path, attempt: int) -> None:
    (run / layout.attempt(attempt)).mkdir(parents=True)
    (run / layout.status(attempt)).write_text("{}")


def test_an_attempt_continues_the_one_before_and_what_that_one_started_from() -> None:
    found = branch(3, a1=(0, None), a2=(1, 20))
    assert [found.holds(1, step) for step in (10, 20, 21, 30)] == [True, True, False, False]
    assert found.holds(2, 1000)


def test_checkpoints_that_no_later_attempt_saw_belong_to_no_branch() -> None:
    found = branch(4, a1=(0, None), a2=(1, 20), a3=(1, 10))
    assert not found.holds(2, 25)
    assert [found.holds(1, step) for step in (10, 15)] == [True, False]
    assert found.holds(3, 15)


def test_an_attempt_that_never_chose_a_checkpoint_leaves_the_branch_as_it_was() -> None:
    found = branch(4, a1=(0, None), a3=(None, None))
    assert found.holds(1, 30)
    assert found.holds(2, 30)


def test_a_start_from_the_beginning_begins_a_branch() -> None:
    found = branch(3, a1=(0, None), a2=(0, None))
    assert not found.holds(1, 5)
    assert found.holds(2, 5)


def test_own_checkpoints_and_those_of_earlier_versions_always_belong() -> None:
    found = branch(2, a1=(0, None))
    assert found.holds(None, 5)
    assert found.holds(2, 5)
    assert found.holds(3, 5)


def test_only_the_statuses_that_matter_are_read() -> None:
    asked: list[int] = []

    def ancestor(number: int) -> Ancestor:
        asked.append(number)
        return Ancestor(number - 1, number * 10)

    found = Branch(1000, ancestor)
    assert found.holds(999, 1)
    assert found.holds(998, 9990)
    assert asked == [999, 998]


def test_the_newest_checkpoint_of_another_branch_is_passed_over(tmp_path: Path) -> None:
    checkpoints = tmp_path / layout.CHECKPOINTS
    for step in (10, 20, 30):
        publish(fill(checkpoints, f"{step}"), checkpoints, step, attempt=1)
    notes: list[str] = []
    found = newest_valid(checkpoints, notes.append, branch(3, a1=(0, None), a2=(1, 20)))
    assert found is not None
    assert found.name == layout.step_folder(20)
    assert notes == ["skipped checkpoint step-00000030: attempt 1 made it after another attempt had taken over"]


def _made(run: Path, *, attempt: int | None, step: int) -> Path:
    checkpoints = run / layout.CHECKPOINTS
    return publish(fill(checkpoints, "x"), checkpoints, step, attempt=attempt)


def test_a_manifest_says_which_attempt_made_it(tmp_path: Path) -> None:
    assert read_manifest(_made(tmp_path, attempt=7, step=1)).attempt == 7
    plain = _made(tmp_path, attempt=None, step=2)
    assert read_manifest(plain).attempt is None
    assert b"attempt" not in (plain / layout.MANIFEST).read_bytes()


def test_an_attempt_that_was_overtaken_publishes_and_deletes_nothing(tmp_path: Path) -> None:
    checkpoints = tmp_path / layout.CHECKPOINTS
    for step in (1, 2):
        _made(tmp_path, attempt=1, step=step)
    temporary = fill(checkpoints, "late")
    model = tmp_path / layout.MODEL
    model.mkdir()
    (model / "weights").write_text("late")
    begins(tmp_path, 2)
    with pytest.raises(SupersededError, match="superseded by attempt 2"):
        publish(temporary, checkpoints, 3, attempt=1)
    with pytest.raises(SupersededError):
        prune(checkpoints, 1, trusted=checkpoints / layout.step_folder(2), attempt=1)
    with pytest.raises(SupersededError):
        write_manifest(model, None, root=tmp_path, attempt=1)
    assert sorted(path.name for path in checkpoints.iterdir()) == [".new", "step-00000001", "step-00000002"]
    assert not (model / layout.MANIFEST).exists()
    publish(temporary, checkpoints, 3, attempt=2)

"""Workspaces of several workers of one run on one machine."""

import fcntl
import os
from pathlib import Path

import pytest

from cloud_train.run import layout
from cloud_train.run.checkpoints import newest_valid, publish
from cloud_train.run.succession import Ancestor, Branch
from cloud_train.worker.own_workspace import earlier_runs, open_workspace, remove, take_over_newest

RUN = "script-261123-120000-abcd"


def checkpoint(run: Path, step: int, attempt: int) -> Path:
    temporary = run / layout.CHECKPOINTS / ".new"
    temporary.mkdir(parents=True)
    (temporary / "weights").write_text(f"{step} of {attempt}")
    return publish(temporary, run / layout.CHECKPOINTS, step, attempt=attempt)


def run_of(above: Path, attempt: int) -> Path:
    run = open_workspace(above, RUN, attempt).folder / RUN
    (run / layout.CHECKPOINTS).mkdir(parents=True, exist_ok=True)
    return run


def let_go(above: Path, attempt: int) -> None:
    """Let the worker of an attempt have ended: its workspace is marked, and no process holds the mark."""
    run = above / f"{RUN}.{attempt}" / RUN
    run.mkdir(parents=True)
    (run.parent / ".in-use").touch()


def test_a_worker_that_leaves_removes_its_workspace_and_those_that_nobody_uses(tmp_path: Path) -> None:
    let_go(tmp_path, 1)
    busy = run_of(tmp_path, 2)
    mine = open_workspace(tmp_path, RUN, 3)
    (tmp_path / f"{RUN}.x").mkdir()
    assert earlier_runs(mine, RUN) == [busy, tmp_path / f"{RUN}.1" / RUN]
    remove(mine, RUN)
    assert sorted(path.name for path in tmp_path.iterdir()) == [f"{RUN}.2", f"{RUN}.x"]
    assert busy.is_dir()


def test_a_workspace_with_files_that_never_arrived_stays(tmp_path: Path) -> None:
    let_go(tmp_path, 1)
    mine = run_of(tmp_path, 2)
    remove(open_workspace(tmp_path, RUN, 2), RUN)
    assert mine.is_dir()
    assert (tmp_path / f"{RUN}.1").is_dir()


def test_a_worker_that_began_no_attempt_leaves_nothing(tmp_path: Path) -> None:
    mine = open_workspace(tmp_path, RUN, 2)
    mine.put(f"{RUN}/{layout.RUN}", b"{}")
    mine.put(f"{RUN}/{layout.cancel(2)}", b"")
    remove(mine, RUN)
    assert list(tmp_path.iterdir()) == []


def test_a_workspace_stays_that_another_process_uses_or_that_has_anything_of_its_own(tmp_path: Path) -> None:
    shared, own = open_workspace(tmp_path, RUN, 1), open_workspace(tmp_path, RUN, 2)
    for workspace in (shared, own):
        workspace.put(f"{RUN}/{layout.RUN}", b"{}")
    own.put(f"{RUN}/{layout.status(2)}", b"{}")
    with (shared.folder / ".in-use").open() as mark:
        fcntl.flock(mark, fcntl.LOCK_SH)  # as another process does
        remove(shared, RUN)
        remove(own, RUN)
    assert sorted(path.name for path in tmp_path.iterdir()) == [f"{RUN}.1", f"{RUN}.2"]
    assert shared.get(f"{RUN}/{layout.RUN}") == own.get(f"{RUN}/{layout.RUN}") == b"{}"


def test_a_workspace_counts_as_in_use_while_a_process_has_it(tmp_path: Path) -> None:
    store = open_workspace(tmp_path, RUN, 1)
    with (store.folder / ".in-use").open() as mark, pytest.raises(BlockingIOError):
        fcntl.flock(mark, fcntl.LOCK_EX | fcntl.LOCK_NB)


def test_the_newest_checkpoint_of_the_branch_is_taken_over_and_outlives_its_workspace(tmp_path: Path) -> None:
    earlier, mine = run_of(tmp_path, 1), run_of(tmp_path, 3)
    for step in (10, 20, 30):
        checkpoint(earlier, step, attempt=1)
    branch = Branch(3, {2: Ancestor(1, 20)}.get)  # attempt 2 was made elsewhere, and never saw step 30
    notes: list[str] = []
    take_over_newest(earlier, mine / layout.CHECKPOINTS, notes.append, branch)
    take_over_newest(earlier, mine / layout.CHECKPOINTS, notes.append, branch)
    assert notes == [f"took over checkpoint step-00000020 from {earlier}"]
    for name in ("manifest.json", "weights"):
        (earlier / layout.CHECKPOINTS / "step-00000020" / name).unlink()
    found = newest_valid(mine / layout.CHECKPOINTS, pytest.fail, branch)
    assert found is not None
    assert (found.name, (found / "weights").read_text()) == ("step-00000020", "20 of 1")


def test_nothing_is_taken_over_through_a_link(tmp_path: Path) -> None:
    earlier, mine = run_of(tmp_path, 1), run_of(tmp_path, 2)
    real = checkpoint(earlier, 10, attempt=1)
    (real / "weights").rename(tmp_path / "outside")
    (real / "weights").symlink_to(tmp_path / "outside")
    take_over_newest(earlier, mine / layout.CHECKPOINTS, lambda _: None, Branch(2, lambda _: None))
    assert os.listdir(mine / layout.CHECKPOINTS) == []  # noqa: PTH208 -- hidden names too

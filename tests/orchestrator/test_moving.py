"""Runs that continue elsewhere: in another store, with another provider."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from cloud_train.errors import ConflictError, ProviderError, UsageError
from cloud_train.orchestrator import moving
from cloud_train.orchestrator.adopting import adopt
from cloud_train.orchestrator.home import Home
from cloud_train.orchestrator.planning import make_plan
from cloud_train.orchestrator.reading import read_logs, read_metrics
from cloud_train.orchestrator.reconcile import update_run
from cloud_train.orchestrator.resuming import Elsewhere, resume
from cloud_train.orchestrator.run_directory import read_record
from cloud_train.orchestrator.submitting import submit
from cloud_train.run import layout
from cloud_train.run.fencing import newer_attempt
from cloud_train.run.manifest import LARGEST
from cloud_train.run.states import State
from cloud_train.run.succession import SupersededError, publishing
from cloud_train.run.view import RunView
from cloud_train.storage.registry import open_store
from tests.stores import server_or_skip, use
from tests.support import accepting, wait_until

SAVE = """
step=$(basename "${CLOUD_TRAIN_RESUME:-none-0}"); step=$(expr "${step#*-}" + 1)
echo "attempt $CLOUD_TRAIN_ATTEMPT makes step $step"
echo '{"step": '$step', "name": "loss", "value": 0.5, "split": "train", "time": 1, "epoch": 1}' >> "$CLOUD_TRAIN_METRICS"
new="$CLOUD_TRAIN_CHECKPOINTS/.new"; mkdir "$new"; echo "weights $step" > "$new/weights"
mv "$new" "$CLOUD_TRAIN_CHECKPOINTS/step-0000000$step"
[ $step = 3 ] || exit 7
"""


@pytest.fixture
def home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Home:
    monkeypatch.setenv("CLOUD_TRAIN_HOME", str(tmp_path / "home"))
    return Home(tmp_path / "home")


@pytest.fixture
def bucket(monkeypatch: pytest.MonkeyPatch) -> str:
    server = server_or_skip("s3")
    use(server, monkeypatch)
    return f"{server.new_url()}/runs"


@pytest.fixture
def ended(home: Home, tmp_path: Path) -> RunView:
    """A run that failed after step 1, in a folder."""
    (tmp_path / "code").mkdir()
    path = tmp_path / "job.yaml"
    sections: dict[str, Any] = {"model": {"kind": "script", "command": ["/bin/sh", "-c", SAVE], "directory": "code"}}
    path.write_text(json.dumps({"name": "mover", "provider": "local", "store": str(tmp_path / "runs"), **sections}))
    return end_of(home, submit(home, make_plan(home, path)))


def end_of(home: Home, run: RunView) -> RunView:
    wait_until(lambda: update_run(home, run.run_id).state.is_end, f"{run.run_id} ends")
    return update_run(home, run.run_id)


def moved(home: Home, run: RunView, store: str, note: Callable[[str], None] = lambda _: None) -> RunView:
    return end_of(home, resume(home, run.run_id, note, elsewhere=Elsewhere(store=store)))


def test_a_run_moves_into_a_bucket_with_its_checkpoint_logs_and_metrics_and_continues(home: Home, ended: RunView, bucket: str) -> None:
    there = moved(home, ended, bucket)
    assert (there.store, there.attempt, there.state, there.resumed_step) == (bucket, 2, State.FAILED, 1)
    assert b"".join(read_logs(home, ended.run_id, 1)) == b"attempt 1 makes step 1\n"
    assert read_record(open_store(bucket), ended.run_id).provenance["moved_from"] == ended.run_directory
    back = moved(home, ended, ended.store)
    assert (back.attempt, back.state, back.resumed_step) == (3, State.SUCCEEDED, 2)
    assert [b"".join(read_logs(home, ended.run_id, number)) for number in (1, 2, 3)] == [
        b"attempt %d makes step %d\n" % (number, number) for number in (1, 2, 3)
    ]
    assert [point.step for point in read_metrics(home, ended.run_id)] == [1, 2, 3]


def test_only_a_valid_checkpoint_is_moved(home: Home, ended: RunView, bucket: str) -> None:
    second = end_of(home, resume(home, ended.run_id))
    assert second.attempt == 2
    (Path(ended.run_directory) / "checkpoints-2/step-00000002/weights").write_text("weights 9\n")
    for step in range(3, 6):  # never complete
        (Path(ended.run_directory) / f"checkpoints-2/step-0000000{step}").mkdir()
        (Path(ended.run_directory) / f"checkpoints-2/step-0000000{step}/weights").write_text("half")
    (Path(ended.run_directory) / "checkpoints-2/step-00000005/manifest.json").write_bytes(b" " * (LARGEST + 1))
    said: list[str] = []
    there = moved(home, ended, bucket, said.append)
    assert there.resumed_step == 1
    assert [line.split()[2] for line in said if line.startswith("skipped")] == ["step-00000005:", "step-00000002:"]
    assert any("skipped checkpoint step-00000002" in line for line in said)
    assert any("copied checkpoint step-00000001" in line and "verified" in line for line in said)


class CutOffError(BaseException):
    pass


def cut_off(*_: object, **__: object) -> None:
    raise CutOffError


def test_an_interrupted_move_leaves_the_run_in_place_and_can_be_repeated(
    home: Home, ended: RunView, bucket: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    for place in ("_copy_newest_checkpoint", "_Claim.close"):
        with monkeypatch.context() as patched:
            patched.setattr(f"cloud_train.orchestrator.moving.{place}", cut_off)
            with pytest.raises(CutOffError):
                moved(home, ended, bucket)
        now = update_run(home, ended.run_id)
        assert (now.store, now.state, now.message) == (ended.store, State.INTERRUPTED, f"being moved to {bucket}/{ended.run_id}")
    there = moved(home, ended, bucket)
    assert (there.store, there.attempt, there.resumed_step) == (bucket, 4, 1)


def test_a_run_whose_move_was_interrupted_is_resumed_in_its_old_place(
    home: Home, ended: RunView, bucket: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    with monkeypatch.context() as patched:
        patched.setattr("cloud_train.orchestrator.moving._copy_newest_checkpoint", cut_off)
        with pytest.raises(CutOffError):
            moved(home, ended, bucket)
    here = end_of(home, resume(home, ended.run_id))
    assert (here.store, here.attempt, here.resumed_step) == (ended.store, 3, 1)


@pytest.mark.parametrize("place", ["cloud_train.run.ledger.Ledger.move", "cloud_train.storage.local.LocalStore.put"])
def test_a_move_that_was_interrupted_after_its_last_decision_is_found_in_the_new_place(
    home: Home, ended: RunView, bucket: str, monkeypatch: pytest.MonkeyPatch, place: str
) -> None:
    with monkeypatch.context() as patched:
        patched.setattr(place, cut_off)
        with pytest.raises(CutOffError):
            moved(home, ended, bucket)
    there = f"{bucket}/{ended.run_id}"
    assert update_run(home, ended.run_id).message == f"moved to {there}"
    for elsewhere in (None, Elsewhere(store=bucket)):
        with pytest.raises(ConflictError, match="was moved to") as caught:
            resume(home, ended.run_id, elsewhere=elsewhere)
        assert caught.value.hint == f"resume it there: cloud-train adopt {there}"
    adopt(home, there)
    continued = end_of(home, resume(home, ended.run_id, ask=accepting))
    assert (continued.store, continued.attempt, continued.resumed_step) == (bucket, 2, 1)


def other_home(tmp_path: Path, run: RunView) -> Home:
    return found_at(tmp_path / "other", run.run_directory)


def found_at(folder: Path, run_directory: str | Path) -> Home:
    """A home that tracks the run in this run directory."""
    home = Home(folder)
    adopt(home, str(run_directory))
    return home


@pytest.mark.parametrize("elsewhere", [None, Elsewhere(store="runs-3")])
def test_of_a_move_and_another_resume_at_the_same_time_only_one_starts_an_attempt(
    home: Home, ended: RunView, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, elsewhere: Elsewhere | None
) -> None:
    monkeypatch.chdir(tmp_path)
    other, copy = other_home(tmp_path, ended), moving._copy_newest_checkpoint
    second: list[RunView] = []

    def copied_while_another_resumes(*arguments: Any) -> None:
        monkeypatch.setattr(moving, "_copy_newest_checkpoint", copy)
        second.append(end_of(other, resume(other, ended.run_id, elsewhere=elsewhere, ask=accepting)))
        copy(*arguments)

    monkeypatch.setattr(moving, "_copy_newest_checkpoint", copied_while_another_resumes)
    with pytest.raises(ConflictError, match="was not moved: it was resumed in its old place meanwhile"):
        resume(home, ended.run_id, elsewhere=Elsewhere(store=str(tmp_path / "runs-2")))
    assert second[0].resumed_step == 1
    with pytest.raises(ConflictError, match=f"the move of {ended.run_id} from .*/runs/{ended.run_id} was not completed"):
        resume(found_at(tmp_path / "third", tmp_path / "runs-2" / ended.run_id), ended.run_id, ask=accepting)
    assert begun(tmp_path) == {1, second[0].attempt}
    if elsewhere is None:
        assert (end_of(home, ended).attempt, end_of(home, ended).state) == (second[0].attempt, second[0].state)


def begun(folder: Path) -> set[int]:
    """The attempts whose program has begun, in whatever store."""
    return {int(log.parents[2].name) for log in folder.glob("runs*/*/attempts/*/logs/node-0/output.log") if log.stat().st_size}


def test_of_two_moves_at_once_the_second_is_refused_once_the_first_is_complete(home: Home, ended: RunView, tmp_path: Path) -> None:
    other = other_home(tmp_path, ended)
    moved(home, ended, str(tmp_path / "runs-2"))
    with pytest.raises(ConflictError, match="was moved to") as caught:
        resume(other, ended.run_id, elsewhere=Elsewhere(store=str(tmp_path / "runs-3")), ask=accepting)
    assert caught.value.hint == f"resume it there: cloud-train adopt {tmp_path / 'runs-2' / ended.run_id}"
    assert update_run(other, ended.run_id).message == f"moved to {tmp_path / 'runs-2' / ended.run_id}"


def test_a_run_whose_move_was_given_up_is_resumed_in_its_old_place_whatever_interrupts_that(
    home: Home, ended: RunView, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for place in ("moving._Claim.close", "resuming.launch"):
        with monkeypatch.context() as patched:
            patched.setattr(f"cloud_train.orchestrator.{place}", cut_off)
            with pytest.raises(CutOffError):
                resume(home, ended.run_id, elsewhere=Elsewhere(store=str(tmp_path / "runs-2")) if place.startswith("moving") else None)
    here = end_of(home, resume(home, ended.run_id))
    assert (here.store, here.resumed_step, begun(tmp_path)) == (ended.store, 1, {1, here.attempt})


def test_nobody_resumes_a_run_in_a_place_to_which_its_move_is_not_complete(
    home: Home, ended: RunView, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    there = tmp_path / "runs-2" / ended.run_id
    with monkeypatch.context() as patched:
        patched.setattr("cloud_train.orchestrator.moving._Claim.close", cut_off)
        with pytest.raises(CutOffError):
            moved(home, ended, str(there.parent))
    other = found_at(tmp_path / "other", there)
    with pytest.raises(ConflictError, match="was not completed") as caught:
        resume(other, ended.run_id, ask=accepting)
    assert caught.value.hint == f"resume it there: cloud-train adopt {ended.run_directory}"
    adopt(other, ended.run_directory)
    here = end_of(other, resume(other, ended.run_id, ask=accepting))
    assert (here.store, here.attempt, begun(tmp_path)) == (ended.store, 3, {1, 3})


def test_of_two_moves_to_the_same_place_the_second_keeps_what_the_first_wrote(
    home: Home, ended: RunView, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    there, other, copy = tmp_path / "runs-2", other_home(tmp_path, ended), moving._copy_newest_checkpoint

    def copied_while_another_moves(*arguments: Any) -> None:
        monkeypatch.setattr(moving, "_copy_newest_checkpoint", copy)
        end_of(other, resume(other, ended.run_id, elsewhere=Elsewhere(store=str(there)), ask=accepting))
        copy(*arguments)

    monkeypatch.setattr(moving, "_copy_newest_checkpoint", copied_while_another_moves)
    with pytest.raises(ConflictError, match="was not moved: another command was moving it to the same place"):
        resume(home, ended.run_id, elsewhere=Elsewhere(store=str(there)))
    assert (there / ended.run_id / "run.json").exists()
    assert end_of(other, resume(other, ended.run_id)).state is State.SUCCEEDED


def test_a_worker_that_was_left_behind_sees_that_its_run_has_moved(home: Home, ended: RunView, bucket: str) -> None:
    moved(home, ended, bucket)
    left = open_store(ended.store)
    assert newer_attempt(left, ended.run_id, 1, "the token of attempt 1") == 2
    with pytest.raises(SupersededError), publishing(Path(ended.run_directory), 1):
        pass


def test_the_same_folder_by_another_name_is_not_another_place(home: Home, ended: RunView, tmp_path: Path) -> None:
    (tmp_path / "link").symlink_to(tmp_path / "runs")
    for number, alias in enumerate((tmp_path / "link", tmp_path / "code" / ".." / "runs"), start=2):
        here = moved(home, ended, str(alias))
        assert (here.store, here.attempt, here.resumed_step) == (ended.store, number, number - 1)
    assert not (Path(ended.run_directory) / layout.MOVED).exists()


def test_a_run_that_was_continued_in_the_other_place_is_not_overwritten(home: Home, ended: RunView, bucket: str) -> None:
    store = open_store(bucket)
    store.put(f"{ended.run_id}/{layout.status(4)}", b"{}")
    with pytest.raises(UsageError, match="already has attempt 4") as caught:
        resume(home, ended.run_id, elsewhere=Elsewhere(store=bucket))
    assert f"cloud-train adopt {bucket}/{ended.run_id}" in (caught.value.hint or "")
    assert update_run(home, ended.run_id).store == ended.store


def test_a_machine_that_knows_the_old_place_is_directed_to_the_new_one(
    home: Home, ended: RunView, bucket: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    there = moved(home, ended, bucket)
    monkeypatch.setenv("CLOUD_TRAIN_HOME", str(tmp_path / "other"))
    other = Home(tmp_path / "other")
    assert adopt(other, ended.run_directory).message == f"moved to {bucket}/{ended.run_id}"
    with pytest.raises(ConflictError, match="was moved to") as caught:
        resume(other, ended.run_id)
    assert caught.value.hint == f"resume it there: cloud-train adopt {bucket}/{ended.run_id}"
    assert adopt(other, f"{bucket}/{ended.run_id}").attempt == there.attempt == 2
    assert end_of(other, resume(other, ended.run_id, ask=accepting)).state is State.SUCCEEDED


def test_a_store_that_the_new_provider_cannot_reach_is_refused_before_anything_moves(
    home: Home, ended: RunView, bucket: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)  # without a configs/aws.yaml that sets a store
    with pytest.raises(ProviderError, match="cannot reach the store"):
        resume(home, ended.run_id, elsewhere=Elsewhere(provider="aws"))
    assert list(open_store(bucket).list()) == []

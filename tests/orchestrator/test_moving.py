"""Runs that continue elsewhere: in another store, with another provider."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from cloud_train.errors import ConflictError, ProviderError, UsageError
from cloud_train.orchestrator.adopting import adopt
from cloud_train.orchestrator.home import Home
from cloud_train.orchestrator.planning import make_plan
from cloud_train.orchestrator.reading import read_logs, read_metrics
from cloud_train.orchestrator.reconcile import update_run
from cloud_train.orchestrator.resuming import Elsewhere, resume
from cloud_train.orchestrator.run_directory import read_record
from cloud_train.orchestrator.submitting import submit
from cloud_train.run import layout
from cloud_train.run.states import State
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
    said: list[str] = []
    there = moved(home, ended, bucket, said.append)
    assert there.resumed_step == 1
    assert any("skipped checkpoint step-00000002" in line for line in said)
    assert any("copied checkpoint step-00000001" in line and "verified" in line for line in said)


def test_an_interrupted_move_leaves_the_run_in_place_and_can_be_repeated(
    home: Home, ended: RunView, bucket: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    class CutOffError(BaseException):
        pass

    def cut_off(*_: object, **__: object) -> None:
        raise CutOffError

    with monkeypatch.context() as patched:
        patched.setattr("cloud_train.run.ledger.Ledger.move", cut_off)
        with pytest.raises(CutOffError):
            moved(home, ended, bucket)
    assert (update_run(home, ended.run_id).store, update_run(home, ended.run_id).attempt) == (ended.store, 1)
    assert moved(home, ended, bucket).resumed_step == 1


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
    assert adopt(other, ended.run_directory).attempt == 1
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

"""Run directories that were damaged while their run is running: they are shown, cancelled and resumed all the same."""

import json
import os
import signal
import tempfile
from collections.abc import Callable
from pathlib import Path

import psutil
import pytest

from cloud_train.errors import CorruptError, StoreError
from cloud_train.orchestrator.adopting import adopt
from cloud_train.orchestrator.home import Home
from cloud_train.orchestrator.planning import make_plan
from cloud_train.orchestrator.reconcile import update_run
from cloud_train.orchestrator.resuming import resume
from cloud_train.orchestrator.state import read_run
from cloud_train.orchestrator.stopping import cancel
from cloud_train.orchestrator.submitting import submit
from cloud_train.run.ledger_reader import LedgerReader
from cloud_train.run.record import sha256_of
from cloud_train.run.states import State
from cloud_train.run.view import RunView
from tests.orchestrator.conftest import Submit, run_folder
from tests.stores import server_or_skip, use
from tests.support import wait_until
from tests.worker.small_disk import fill, small_disk

FOREVER = "exec sleep 600"
DAMAGES: dict[str, Callable[[bytes], bytes]] = {
    "empty": lambda _: b"",
    "cut": lambda data: data[: len(data) // 2],
    "binary": lambda _: b"\xff\x00" * 100,
    "huge time": lambda data: json.dumps({**json.loads(data), "started": 1e300}).encode(),
    "text for a number": lambda data: json.dumps({**json.loads(data), "heartbeat": "soon"}).encode(),
    "a list": lambda _: b"[]",
}


@pytest.fixture
def running(home: Home, start: Submit) -> RunView:
    run = start(FOREVER, "limits: {grace: 1 s}")
    wait_until(lambda: update_run(home, run.run_id).state is State.RUNNING, "the program runs")
    return run


@pytest.mark.parametrize("damage", DAMAGES.values(), ids=DAMAGES)
def test_a_run_whose_status_is_damaged_is_shown_cancelled_and_resumed(
    damage: Callable[[bytes], bytes], home: Home, running: RunView
) -> None:
    status = run_folder(running) / "attempts" / "1" / "status.json"
    data = damage(status.read_bytes())
    status.write_bytes(data)
    shown = read_run(home, running.run_id)
    # A heartbeat may have replaced it since.
    assert shown.state is State.RUNNING
    assert "status.json" in shown.message or status.read_bytes() != data
    assert (shown.duration(2e9) or 0) < 1e9
    assert cancel(home, running.run_id).state is State.CANCELLED
    following = resume(home, running.run_id)
    assert following.attempt == 2
    assert cancel(home, running.run_id, force=True).state is State.CANCELLED


@pytest.mark.parametrize("damage", DAMAGES.values(), ids=DAMAGES)
def test_a_run_whose_worker_is_gone_and_whose_status_is_damaged_is_ended_and_resumed(
    damage: Callable[[bytes], bytes], home: Home, running: RunView
) -> None:
    status = run_folder(running) / "attempts" / "1" / "status.json"
    written = json.loads(status.read_bytes())
    os.kill(written["pid"], signal.SIGKILL)
    wait_until(lambda: not psutil.pid_exists(written["pid"]) or psutil.Process(written["pid"]).status() == "zombie", "the worker is gone")
    status.write_bytes(damage(status.read_bytes()))
    wait_until(lambda: update_run(home, running.run_id).state.is_end, "the end is found out")
    following = resume(home, running.run_id)
    assert following.attempt == 2
    assert cancel(home, running.run_id, force=True).state is State.CANCELLED


def test_a_run_whose_record_is_cut_off_is_resumed_and_its_run_directory_repaired(home: Home, running: RunView) -> None:
    record = run_folder(running) / "run.json"
    written = record.read_bytes()
    record.write_bytes(written[:100])
    assert read_run(home, running.run_id).state is State.RUNNING
    assert cancel(home, running.run_id).state is State.CANCELLED
    notes: list[str] = []
    assert resume(home, running.run_id, notes.append).attempt == 2
    assert notes == [
        f"code: the run's own, unchanged in {Path(running.job_file or '').parent}",
        f"run.json of {running.run_id} was damaged, and is restored from this machine's copy",
    ]
    assert record.read_bytes() == written
    wait_until(lambda: update_run(home, running.run_id).state is State.RUNNING, "attempt 2 runs")
    assert cancel(home, running.run_id, force=True).state is State.CANCELLED


def test_the_copies_of_a_record_are_private_and_kept_until_the_run_has_succeeded(home: Home, start: Submit) -> None:
    failed, succeeded = start("exit 3"), start("true")
    for run in (failed, succeeded):
        wait_until(lambda run=run: update_run(home, run.run_id).state.is_end, "the run has ended")  # type: ignore[misc]  # its default
    copies = list((home.folder / "records").iterdir())
    assert [path.name.split(".")[0] for path in copies] == [failed.run_id]
    assert copies[0].stat().st_mode & 0o777 == 0o600
    assert copies[0].read_bytes() == (run_folder(failed) / "run.json").read_bytes()


def test_a_home_without_a_copy_says_who_has_one(home: Home, running: RunView, tmp_path: Path) -> None:
    assert cancel(home, running.run_id).state is State.CANCELLED
    other = Home(tmp_path / "other")
    adopt(other, running.run_directory)
    (run_folder(running) / "run.json").write_bytes(b"{")
    with pytest.raises(CorruptError, match=r"run\.json is not a run record") as raised:
        resume(other, running.run_id)
    assert (raised.value.hint or "").startswith("resume the run on the machine that submitted it, which has a copy; or restore it")


def test_a_run_whose_record_and_its_copy_are_cut_off_can_be_cancelled_and_resume_says_what_is_wrong(home: Home, running: RunView) -> None:
    record = run_folder(running) / "run.json"
    written = record.read_bytes()
    record.write_bytes(written[:100])
    for copy in (home.folder / "records").iterdir():
        copy.write_bytes(written[:-1])
    assert cancel(home, running.run_id).state is State.CANCELLED
    with pytest.raises(CorruptError, match=r"run\.json is not a run record") as raised:
        resume(home, running.run_id)
    hint = raised.value.hint or ""
    assert f"restore it from a copy of the run directory (its SHA-256 is {sha256_of(written)})" in hint
    assert f"cloud-train submit {running.job_file}" in hint
    record.write_bytes(written)
    assert resume(home, running.run_id).attempt == 2
    assert cancel(home, running.run_id, force=True).state is State.CANCELLED


def test_a_resume_onto_a_full_disk_is_refused_before_anything_starts(home: Home, write_job: Callable[..., Path], tmp_path: Path) -> None:
    with small_disk(tmp_path / "disk", kilobytes=2048) as disk:
        run = submit(home, make_plan(home, write_job("exit 3"), [f"store={disk}/runs"]))
        wait_until(lambda: update_run(home, run.run_id).state.is_end, "the run has ended")
        ballast = fill(disk)
        with pytest.raises(StoreError, match="no space left") as raised:
            resume(home, run.run_id)
        assert "free some space" in (raised.value.hint or "")
        with LedgerReader(home.ledger_path) as ledger:
            entry = ledger.get(run.run_id)
        assert entry is not None
        assert entry.attempt == 1
        ballast.unlink()
        notes: list[str] = []
        assert resume(home, run.run_id, notes.append).attempt == 2
        assert [note.split(" has only")[0] for note in notes if "free space" in note] == [str(disk / "runs" / run.run_id)]
        wait_until(lambda: update_run(home, run.run_id).state.is_end, "the run has ended")


def test_a_resume_whose_workspace_has_no_room_is_refused_before_anything_starts(
    write_job: Callable[..., Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    server = server_or_skip("s3")
    use(server, monkeypatch)
    monkeypatch.setenv("HOME", str(tmp_path))
    home = Home(tmp_path / "home")
    home.folder.mkdir()
    with small_disk(home.folder / "work", kilobytes=4096) as disk:
        run = submit(home, make_plan(home, write_job("exit 3"), [f"store={server.new_url()}/runs"]))
        wait_until(lambda: update_run(home, run.run_id).state.is_end, "the run has ended")
        ballast = fill(disk)
        with pytest.raises(StoreError, match=f"cannot write to {disk}: no space left") as raised:
            resume(home, run.run_id)
        assert "free some space" in (raised.value.hint or "")
        assert read_run(home, run.run_id).attempt == 1
        ballast.unlink()
        assert resume(home, run.run_id).attempt == 2
        wait_until(lambda: update_run(home, run.run_id).state.is_end, "the run has ended")


def test_a_resume_says_that_the_disk_of_temporary_files_is_almost_full(
    home: Home, start: Submit, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    run = start("exit 3")
    wait_until(lambda: update_run(home, run.run_id).state.is_end, "the run has ended")
    with small_disk(tmp_path / "temporary", kilobytes=1024) as disk:
        monkeypatch.setattr(tempfile, "tempdir", str(disk))
        notes: list[str] = []
        assert resume(home, run.run_id, notes.append).attempt == 2
        assert f"{disk} has only 1 MB of free space; a full disk stops the run" in notes
        wait_until(lambda: update_run(home, run.run_id).state.is_end, "the run has ended")

"""Runs that are named by their run directory, without a ledger: seen, fetched and stopped, while nothing is recorded on this machine."""

import json
import os
import shutil
import signal
import sqlite3
from collections.abc import Callable
from contextlib import closing
from pathlib import Path

import psutil
import pytest

from cloud_train import Client, locks
from cloud_train.errors import ConflictError, NotFoundError, UsageError
from cloud_train.orchestrator.adopting import adopt
from cloud_train.orchestrator.consent import NotTrustedError
from cloud_train.orchestrator.doctor import examine
from cloud_train.orchestrator.home import Home
from cloud_train.orchestrator.reconcile import update_run, update_runs
from cloud_train.orchestrator.repairing import repair
from cloud_train.orchestrator.resuming import resume
from cloud_train.orchestrator.state import read_run
from cloud_train.orchestrator.stopping import cancel
from cloud_train.orchestrator.visiting import visit
from cloud_train.run.ledger_entry import RecordKind
from cloud_train.run.ledger_reader import DamagedRecordError, LedgerReader
from cloud_train.run.states import State
from cloud_train.run.view import RunView
from tests.orchestrator.conftest import Submit, run_folder
from tests.orchestrator.unfinished import KINDS, RUN, STORE, WRITES, Desk, never_written
from tests.orchestrator.unfinished import running as running_elsewhere
from tests.support import accepting, wait_until

GOING = "echo hello; echo w > $CLOUD_TRAIN_MODEL/weights; exec sleep 600"


@pytest.fixture
def running(home: Home, start: Submit) -> RunView:
    run = start(GOING, "limits: {grace: 1 s}")
    wait_until(lambda: update_run(home, run.run_id).state is State.RUNNING, "the program runs")
    return run


def change(home: Home, statement: str) -> None:
    with closing(sqlite3.connect(home.ledger_path)) as plain, plain:
        plain.execute(statement)


def worker_of(run: RunView) -> psutil.Process:
    return psutil.Process(json.loads((run_folder(run) / "attempts" / "1" / "status.json").read_bytes())["pid"])


def is_gone(process: psutil.Process) -> bool:
    return not process.is_running() or process.status() == psutil.STATUS_ZOMBIE


def everything_in(folder: Path) -> dict[str, bytes]:
    return {str(path): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


def _emptied(path: Path) -> None:
    path.write_bytes(b"")


def _overwritten(path: Path) -> None:
    path.write_bytes(b"not a database" * 1000)


@pytest.mark.parametrize("damage", [_emptied, _overwritten, Path.unlink], ids=["emptied", "overwritten", "deleted"])
def test_a_run_can_be_seen_and_stopped_by_its_directory_whatever_became_of_the_ledger(
    damage: Callable[[Path], None], home: Home, running: RunView, tmp_path: Path
) -> None:
    worker = worker_of(running)
    damage(home.ledger_path)
    before = everything_in(home.folder)
    notes: list[str] = []
    run = Client(home.folder, note=notes.append).run(running.run_directory)
    assert run.id == running.run_id
    assert "recording nothing" in notes[0]
    assert run.status(record=True).state is State.RUNNING
    assert run.logs() == "hello\n"
    assert list(run.metrics()) == []
    assert run.progress(record=True).view.state is State.RUNNING
    assert run.sync(tmp_path / "copy").folder == tmp_path / "copy"
    assert run.cancel().state is State.CANCELLED
    wait_until(lambda: is_gone(worker), "the worker is gone")
    assert everything_in(home.folder) == before


def test_a_worker_that_hangs_is_killed_by_its_run_directory(home: Home, running: RunView) -> None:
    worker = worker_of(running)
    home.ledger_path.unlink()
    worker.suspend()
    assert Client(home.folder).run(running.run_directory).cancel(force=True).state is State.CANCELLED
    assert is_gone(worker)


def test_a_look_by_the_run_directory_writes_no_end_and_stops_nothing(home: Home, running: RunView) -> None:
    worker = worker_of(running)
    home.ledger_path.unlink()
    os.kill(worker.pid, signal.SIGKILL)
    wait_until(lambda: is_gone(worker), "the worker is gone")
    run = Client(home.folder).run(running.run_directory)
    wait_until(lambda: not locks.is_held(home.folder / "local" / f"{run.id}.1.lock"), "its helpers are gone too")
    before = everything_in(run_folder(running))
    wait_until(lambda: run.status(record=True).state is State.INTERRUPTED, "the end is found out")
    assert [seen.view.state for seen in run.watch()] == [State.INTERRUPTED]
    assert everything_in(run_folder(running)) == before
    assert not home.ledger_path.exists()
    with pytest.raises(ConflictError, match="has already ended: interrupted"):
        run.cancel()
    assert everything_in(run_folder(running)) != before  # a cancellation records the end in the run directory
    assert not home.ledger_path.exists()


def test_a_run_that_the_ledger_has_is_the_same_by_its_directory(home: Home, running: RunView, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(home.folder.parent)
    notes: list[str] = []
    client = Client(home.folder, note=notes.append)
    by_path = client.run(f"./runs/{running.run_id}")
    assert by_path == client.run(running.run_id)
    assert by_path.url is None
    assert by_path.cancel().state is State.CANCELLED
    assert notes == []
    assert [run.state for run in update_runs(home)] == [State.CANCELLED]


@pytest.mark.slow
def test_a_run_of_another_home_is_cancelled_by_its_mark_alone(home: Home, running: RunView, tmp_path: Path) -> None:
    worker = worker_of(running)
    run = Client(tmp_path / "other").run(running.run_directory)
    assert run.status().is_unmanaged
    assert run.cancel().state is State.CANCELLED
    wait_until(lambda: is_gone(worker), "the worker is gone")
    assert update_run(home, running.run_id).state is State.CANCELLED


@pytest.mark.parametrize("content", [b"", b"[]", b"\xff\x00", b'{"format": 1'], ids=["empty", "list", "binary", "cut"])
def test_a_damaged_status_does_not_keep_a_run_from_being_stopped_by_its_directory(content: bytes, home: Home, running: RunView) -> None:
    worker = worker_of(running)
    home.ledger_path.unlink()
    (run_folder(running) / "attempts" / "1" / "status.json").write_bytes(content)
    assert Client(home.folder).run(running.run_directory).cancel().state is State.CANCELLED
    wait_until(lambda: is_gone(worker), "the worker is gone")


def test_a_resume_by_the_run_directory_adopts_it_and_asks(home: Home, start: Submit) -> None:
    run = start("exit 3")
    wait_until(lambda: update_run(home, run.run_id).state.is_end, "it has ended")
    home.ledger_path.unlink()
    with pytest.raises(NotTrustedError):
        Client(home.folder).run(run.run_directory).resume()
    again = Client(home.folder).run(run.run_directory).resume(trust=accepting)
    assert again.view.attempt == 2
    wait_until(lambda: update_run(home, run.run_id).state.is_end, "it has ended again")


def test_what_is_no_run_directory_is_named(home: Home, running: RunView, tmp_path: Path) -> None:
    client = Client(home.folder)
    with pytest.raises(NotFoundError, match="no run directory at"):
        client.run(f"{tmp_path}/runs/none-261130-120000-abcd")
    with pytest.raises(UsageError, match="unsupported store scheme"):
        client.run("http://example.com/runs/none-261130-120000-abcd")
    with pytest.raises(UsageError, match="only used for a run directory's URL"):
        client.run(running.run_id, config="aws")


@pytest.mark.slow
def test_a_worker_that_retried_by_itself_is_found_by_the_handle_of_its_launch(home: Home, start: Submit) -> None:
    run = start("[ $CLOUD_TRAIN_ATTEMPT = 2 ] || exit 3; exec sleep 600", "limits: {grace: 1 s}\nretry: {attempts: 2, on: [failed]}")
    wait_until(lambda: update_run(home, run.run_id).attempt == 2 and update_run(home, run.run_id).state is State.RUNNING, "it is retried")
    home.ledger_path.unlink()
    assert not Client(home.folder).run(run.run_directory).status().is_unmanaged
    assert Client(home.folder).run(run.run_directory).cancel(force=True).state is State.CANCELLED


def test_a_run_is_not_touched_through_a_copy_of_its_directory(home: Home, running: RunView, tmp_path: Path) -> None:
    copy = tmp_path / "copy" / running.run_id
    shutil.copytree(run_folder(running), copy)
    for damage in ("UPDATE runs SET created = 1", "UPDATE attempts SET reference = '{}'", "UPDATE attempts SET state = 'teleported'"):
        change(home, damage)
        with pytest.raises(ConflictError, match="already tracked here"):
            Client(home.folder).run(str(copy))
    assert worker_of(running).is_running()


def test_a_run_whose_store_is_wrong_in_the_ledger_can_be_stopped_and_adopted_where_it_is(home: Home, running: RunView) -> None:
    change(home, "UPDATE runs SET store = replace(store, 'runs', 'rums')")
    assert Client(home.folder).run(running.run_directory).cancel().state is State.CANCELLED
    assert adopt(home, running.run_directory).state is State.CANCELLED
    assert [run.store for run in update_runs(home)] == [running.store]


@pytest.mark.parametrize("kind", KINDS, ids=lambda kind: kind.__name__)
@pytest.mark.parametrize("is_found", [False, True], ids=["lost", "found"])
def test_a_look_at_any_run_by_its_directory_changes_nothing_anywhere(kind: Callable[[Desk], None], is_found: bool, desk: Desk) -> None:
    kind(desk)
    desk.place.found = is_found
    desk.home.ledger_path.unlink()
    desk.store.calls.clear()
    try:
        home, run_id = visit(desk.home, f"{STORE}/{RUN}")
    except NotFoundError:
        assert kind is never_written
        return
    update_run(home, run_id)
    read_run(home, run_id)
    assert not [call for call in desk.store.calls if call[0] in WRITES]
    assert desk.place.done == []
    assert not desk.home.ledger_path.exists()


def test_a_run_is_stopped_by_its_directory_with_the_handle_that_its_provider_finds(desk: Desk) -> None:
    running_elsewhere(desk)
    desk.place.found = True
    desk.home.ledger_path.unlink()
    home, run_id = visit(desk.home, f"{STORE}/{RUN}")
    cancel(home, run_id, wait=False)
    assert desk.place.done == ["cancel False"]


DAMAGES = {
    "no keys": "UPDATE attempts SET reference = '{}'",
    "a number": "UPDATE attempts SET reference = '5'",
    "other kind": """UPDATE attempts SET reference = '{"lock": 5}'""",
    "NUL": """UPDATE attempts SET reference = '{"lock": "a\\u0000b"}'""",
    "no JSON": "UPDATE attempts SET reference = 'lock'",
    "state": "UPDATE attempts SET state = 'teleported'",
    "provider": "UPDATE attempts SET provider = 'lokal'",
    "settings": "UPDATE attempts SET settings = '{'",
}


@pytest.mark.parametrize("damage", DAMAGES.values(), ids=DAMAGES)
def test_a_run_whose_record_is_damaged_is_stopped_all_the_same_and_the_record_is_repaired(
    damage: str, home: Home, running: RunView
) -> None:
    worker = worker_of(running)
    change(home, damage)
    assert next(finding for finding in examine(home) if finding.name == "ledger").status == "error"
    notes: list[str] = []
    worker.suspend()  # so that the mark in the run directory alone does not stop it
    assert cancel(home, running.run_id, force=True, note=notes.append).state is State.CANCELLED
    assert is_gone(worker)
    assert "damaged" in notes[0]
    repair(home, [str(home.folder.parent / "runs")])
    assert update_run(home, running.run_id).state is State.CANCELLED
    assert next(finding for finding in examine(home) if finding.name == "ledger").status == "ok"


@pytest.mark.parametrize("reference", ["{}", "5", "lock", '{"lock": 5}'])
def test_a_repair_finds_the_handle_of_a_running_attempt_again_and_keeps_what_is_trusted(
    reference: str, home: Home, running: RunView
) -> None:
    change(home, f"UPDATE attempts SET reference = '{reference}'")
    with pytest.raises(DamagedRecordError):
        resume(home, running.run_id)
    done = repair(home)
    assert done.kept == done.handles == [running.run_id]
    with LedgerReader(home.ledger_path) as ledger:
        entry = ledger.get(running.run_id)
        assert list(ledger.records(running.run_id).values()) == [RecordKind.OWN]
    assert entry is not None
    assert str(home.folder) in (entry.reference or {})["lock"]
    assert cancel(home, running.run_id).state is State.CANCELLED
    assert repair(home).moved_to is None

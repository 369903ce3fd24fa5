"""Books that survive: a ledger that cannot be written, and one that is damaged."""

import json
import random
import sqlite3
from collections.abc import Callable
from contextlib import closing
from pathlib import Path

import pytest

from cloud_train import locks
from cloud_train.errors import CloudTrainError, ConflictError, CorruptError, StoreError
from cloud_train.orchestrator.adopting import adopt
from cloud_train.orchestrator.doctor import examine
from cloud_train.orchestrator.following import glance
from cloud_train.orchestrator.home import Home
from cloud_train.orchestrator.listing import select
from cloud_train.orchestrator.reading import read_logs
from cloud_train.orchestrator.reconcile import update_run, update_runs
from cloud_train.orchestrator.repairing import repair
from cloud_train.orchestrator.results import fetch_model
from cloud_train.orchestrator.resuming import resume
from cloud_train.orchestrator.stopping import cancel
from cloud_train.run import ledger_file
from cloud_train.run.ledger import Ledger
from cloud_train.run.ledger_entry import RecordKind
from cloud_train.run.states import State
from cloud_train.run.view import RunView
from tests.orchestrator.conftest import Submit
from tests.support import accepting, wait_until
from tests.worker.small_disk import fill, small_disk

MODEL = 'echo "hello"; echo w > $CLOUD_TRAIN_MODEL/weights'


def ended(home: Home, run: RunView) -> RunView:
    wait_until(lambda: update_run(home, run.run_id).state.is_end, "the run has ended")
    return update_run(home, run.run_id)


@pytest.fixture
def runs(home: Home, start: Submit) -> list[str]:
    """Three runs that have succeeded."""
    started = [start(MODEL) for _ in range(3)]
    return [ended(home, run).run_id for run in started]


def change(home: Home, *statements: str) -> None:
    with closing(sqlite3.connect(home.ledger_path)) as plain, plain:
        for statement in statements:
            plain.execute(statement)


def test_runs_can_be_seen_and_stopped_though_the_disk_of_the_ledger_is_full(tmp_path: Path, start: Submit, home: Home) -> None:
    with small_disk(home.folder, kilobytes=512):
        done, going = ended(home, start(MODEL)), start("echo hello; exec sleep 600")
        wait_until(lambda: update_run(home, going.run_id).state is State.RUNNING, "the program has started")
        fill(home.folder)
        notes: list[str] = []
        assert glance(home, going.run_id, notes.append, record=True).view.state is State.RUNNING
        assert "not recorded" in notes[0]
        assert {run.run_id for run in update_runs(home, note=notes.append)} == {done.run_id, going.run_id}
        assert fetch_model(home, done.run_id, tmp_path / "model").folder == tmp_path / "model"
        with pytest.raises(StoreError, match="cannot use the ledger"):
            resume(home, done.run_id)
        assert b"".join(read_logs(home, done.run_id)) == b"hello\n"
        assert cancel(home, going.run_id, note=notes.append).state is State.CANCELLED


def test_a_damaged_record_hides_no_other_and_can_be_restored(home: Home, runs: list[str]) -> None:
    change(home, f"UPDATE attempts SET state = 'teleported' WHERE run_id = '{runs[1]}'")
    notes: list[str] = []
    assert {run.run_id for run in update_runs(home, note=notes.append)} == {runs[0], runs[2]}
    assert runs[1] in notes[0]
    assert "doctor --repair" in notes[0]
    with pytest.raises(CorruptError, match=runs[1]) as raised:
        update_run(home, runs[1])
    assert "doctor --repair" in (raised.value.hint or "")
    assert next(finding for finding in examine(home) if finding.name == "ledger").status == "error"
    done = repair(home, [str(home.folder.parent / "runs")])
    assert (sorted(done.kept), done.adopted) == (sorted([runs[0], runs[2]]), [runs[1]])
    assert update_run(home, runs[1]).state is State.SUCCEEDED
    with Ledger(home.ledger_path) as ledger:
        assert list(ledger.records(runs[0]).values()) == [RecordKind.OWN]
        assert ledger.records(runs[1]) == {}


def test_a_damaged_record_can_be_replaced_by_adopting_the_run(home: Home, runs: list[str]) -> None:
    change(home, f"UPDATE attempts SET reference = 'no json' WHERE run_id = '{runs[1]}'")
    assert adopt(home, str(home.folder.parent / "runs" / runs[1])).state is State.SUCCEEDED
    assert len(update_runs(home)) == 3


def test_a_run_whose_attempts_or_row_are_lost_can_be_adopted(home: Home, runs: list[str]) -> None:
    change(home, f"DELETE FROM attempts WHERE run_id = '{runs[0]}'", f"DELETE FROM runs WHERE run_id = '{runs[1]}'")
    assert [run.run_id for run in update_runs(home)] == [runs[2]]
    for run_id in runs[:2]:
        assert adopt(home, str(home.folder.parent / "runs" / run_id)).state is State.SUCCEEDED
    assert len(update_runs(home)) == 3


def _truncated(data: bytes) -> bytes:
    return data[: len(data) // 2]


def _headless(data: bytes) -> bytes:
    return b"\0" * 100 + data[100:]


def _other(_: bytes) -> bytes:
    return b"a file that is not a database " * 200


@pytest.mark.parametrize("damage", [_truncated, _headless, _other, lambda _: b""], ids=["truncated", "headless", "other", "emptied"])
def test_a_ledger_that_sqlite_cannot_read_is_restored_from_the_stores(
    damage: Callable[[bytes], bytes], home: Home, runs: list[str]
) -> None:
    home.ledger_path.write_bytes(damage(home.ledger_path.read_bytes()))
    if home.ledger_path.stat().st_size:
        with pytest.raises(StoreError, match="ledger") as raised:
            update_runs(home)
        assert "doctor --repair" in (raised.value.hint or "")
    done = repair(home, [str(home.folder.parent / "runs")])
    assert sorted([*done.kept, *done.adopted]) == sorted(runs)
    assert (done.moved_to is not None) == bool(damage(b"x" * 1000))
    assert sorted(run.run_id for run in update_runs(home)) == sorted(runs)
    assert repair(home).moved_to is None
    assert select(home, None) in runs


def test_of_a_ledger_with_one_damaged_page_the_rows_of_the_others_are_kept(home: Home) -> None:
    ids = [f"digits-261123-120000-{number:04}" for number in range(300)]
    with Ledger(home.ledger_path) as ledger:
        for run_id in ids:
            ledger.add(run_id, name="a", provider="local", store="/none", job_file=None, created=1.0, settings={}, record_sha256=run_id)
    whole = home.ledger_path.read_bytes()
    pages, kept = len(whole) // 4096, []
    for page in range(1, pages):  # the first one has the schema
        data = whole[: page * 4096] + bytes(4096) + whole[(page + 1) * 4096 :]
        home.ledger_path.write_bytes(data)
        rows = ledger_file.salvage(home.ledger_path)
        with Ledger(home.folder / f"new-{page}.sqlite3") as fresh:
            kept.append(len(fresh.restore(rows)))
    assert pages > 20
    assert sorted(kept)[len(kept) // 2] > 250
    assert sum(count > 0 for count in kept) >= len(kept) - 3  # the roots of the tables


@pytest.mark.parametrize("version", [1, 2, 3])
def test_an_older_ledger_is_sound(version: int, home: Home, runs: list[str]) -> None:
    drop = "ALTER TABLE attempts DROP COLUMN"
    lacking = {3: f"{drop} elapsed", 2: f"{drop} token", 1: f"DROP TABLE records; {drop} settings"}
    statements = [each for since, text in lacking.items() if since >= version for each in text.split("; ")]
    change(home, *statements, f"PRAGMA user_version = {version}")
    assert repair(home).moved_to is None
    assert {run.run_id for run in update_runs(home)} == set(runs)


@pytest.mark.parametrize(
    "damage",
    ["job_file = x'00'", "created = 9e999"],
    ids=["blob", "infinite"],
)
def test_a_run_with_a_value_of_another_kind_is_named_or_shown_and_repaired(damage: str, home: Home, runs: list[str]) -> None:
    with closing(sqlite3.connect(home.ledger_path)) as plain, plain:
        plain.execute("PRAGMA writable_schema = ON")
        plain.execute("UPDATE sqlite_schema SET sql = replace(sql, 'STRICT', '') WHERE name = 'runs'")
    change(home, f"UPDATE runs SET {damage} WHERE run_id = '{runs[0]}'")
    notes: list[str] = []
    shown = {run.run_id for run in update_runs(home, note=notes.append)}
    assert runs[0] in shown or runs[0] in "".join(notes)
    repair(home, [str(home.folder.parent / "runs")])
    assert {run.run_id for run in update_runs(home)} == set(runs)


@pytest.mark.parametrize("reference", ["{}", "5", "[1, 2]"])
def test_a_damaged_handle_is_named_as_such(reference: str, home: Home, start: Submit) -> None:
    run = start("exec sleep 600")
    wait_until(lambda: update_run(home, run.run_id).state is State.RUNNING, "the program has started")
    change(home, f"UPDATE attempts SET reference = '{reference}'")
    notes: list[str] = []
    update_runs(home, note=notes.append)
    assert "doctor --repair" in "".join(notes) or "damaged" in "".join(notes)
    with pytest.raises(CorruptError, match="damaged"):
        cancel(home, run.run_id)


def test_a_repair_that_meets_a_full_disk_leaves_the_damaged_ledger_where_it_is(start: Submit, home: Home) -> None:
    with small_disk(home.folder, kilobytes=256):
        run = ended(home, start("true"))
        change(home, "UPDATE attempts SET state = 'teleported'")
        before = home.ledger_path.read_bytes()
        fill(home.folder)
        with pytest.raises(StoreError, match="ledger"):
            repair(home, [str(home.folder.parent / "runs")])
        assert home.ledger_path.read_bytes() == before
        (home.folder / "ballast").unlink()
        assert repair(home, [str(home.folder.parent / "runs")]).adopted == [run.run_id]


def test_whatever_bytes_are_flipped_no_command_breaks_and_a_repair_brings_every_run_back(home: Home, runs: list[str]) -> None:
    whole = home.ledger_path.read_bytes()
    store = str(home.folder.parent / "runs")
    for seed in range(25):
        chance = random.Random(seed)
        data = bytearray(whole)
        for _ in range(chance.randint(1, 60)):
            data[chance.randrange(len(data))] = chance.randrange(256)
        for path in home.folder.glob("ledger.sqlite3*"):
            path.unlink()
        home.ledger_path.write_bytes(data)
        for command in (lambda: update_runs(home), lambda: select(home, None), lambda: update_run(home, runs[0])):
            try:
                command()
            except CloudTrainError:
                continue
        if _version(home) > 2:
            continue  # looks like the ledger of a newer version, which a repair leaves alone
        repair(home, [store])
        assert {run.run_id for run in update_runs(home)} >= set(runs), seed


def _version(home: Home) -> int:
    try:
        with closing(sqlite3.connect(home.ledger_path)) as plain:
            return int(plain.execute("PRAGMA user_version").fetchone()[0])
    except sqlite3.DatabaseError:
        return 0


def test_a_run_that_a_repair_found_again_asks_before_it_is_resumed(home: Home, start: Submit) -> None:
    run = ended(home, start("exit 3"))
    home.ledger_path.unlink()
    repair(home, [str(home.folder.parent / "runs")])
    with pytest.raises(CloudTrainError, match=r"another machine|not accepted|trust"):
        resume(home, run.run_id)
    resume(home, run.run_id, ask=accepting)
    ended(home, run)


def test_runs_of_other_machines_are_left_alone(home: Home, runs: list[str]) -> None:
    record = home.folder.parent / "runs" / runs[0] / "run.json"
    fields = json.loads(record.read_text())
    record.write_text(json.dumps({**fields, "provenance": {**fields["provenance"], "host": "elsewhere"}}))
    home.ledger_path.unlink()
    done = repair(home, [str(home.folder.parent / "runs")])
    assert sorted(done.adopted) == sorted(runs[1:])
    assert done.others == {str(home.folder.parent / "runs"): 1}


def test_no_repair_happens_during_a_submission_nor_to_a_whole_ledger(home: Home, runs: list[str]) -> None:
    assert repair(home).moved_to is None
    assert (repair(home, [str(home.folder.parent / "runs")]).adopted, len(update_runs(home))) == ([], 3)
    home.ledger_path.write_bytes(b"x" * 5000)
    with locks.held(home.submission_lock("busy-261130-120000-abcd")), pytest.raises(ConflictError, match="busy-261130-120000-abcd"):
        repair(home)
    assert home.ledger_path.read_bytes() == b"x" * 5000
    assert len(runs) == 3


def test_the_last_run_is_the_one_submitted_last_whatever_the_clock_was(home: Home, start: Submit, monkeypatch: pytest.MonkeyPatch) -> None:
    first = start("true")
    with monkeypatch.context() as stepped:
        stepped.setattr("cloud_train.orchestrator.submitting.time.time", lambda: 1.0e9)
        second = start("true")
    assert second.created < first.created
    assert select(home, None) == second.run_id

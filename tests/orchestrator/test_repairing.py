"""Books that survive: a ledger that cannot be written, and one that is damaged."""

import json
import os
import random
import sqlite3
from collections.abc import Callable
from contextlib import closing, suppress
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
from cloud_train.run.ledger import Ledger
from cloud_train.run.ledger_entry import RecordKind
from cloud_train.run.ledger_salvage import salvage
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
    for command in (lambda: update_runs(home), lambda: select(home, None), lambda: resume(home, runs[0])):
        with pytest.raises(StoreError, match="ledger") as raised:
            command()
        assert "doctor --repair" in (raised.value.hint or "")
    assert next(finding for finding in examine(home) if finding.name == "ledger").status == "error"
    done = repair(home, [str(home.folder.parent / "runs")])
    assert sorted([*done.kept, *done.adopted]) == sorted(runs)
    assert done.moved_to is not None
    assert sorted(run.run_id for run in update_runs(home)) == sorted(runs)
    assert repair(home).moved_to is None
    assert select(home, None) in runs


@pytest.fixture
def three_hundred(home: Home) -> list[str]:
    """The ids of three hundred runs, in the order of their submission."""
    ids = [f"digits-261123-120000-{number:04}" for number in range(300)]
    with Ledger(home.ledger_path) as ledger:
        for run_id in ids:
            ledger.add(
                run_id, name="a" * 100, provider="local", store="/none", job_file=None, created=1.0, settings={}, record_sha256=run_id
            )
    return ids


def kept_of(home: Home, data: bytes) -> list[str]:
    """The runs that a repair keeps of a ledger with this content."""
    home.ledger_path.write_bytes(data)
    fresh = home.folder / f"new-{os.urandom(4).hex()}.sqlite3"
    with Ledger(fresh) as ledger:
        kept = ledger.restore(salvage(home.ledger_path))
    with Ledger(fresh) as ledger:
        assert sorted(entry.run_id for entry in ledger.newest()) == sorted(kept)
    return kept


def test_of_a_truncated_ledger_the_runs_are_kept_whose_rows_are_in_what_is_left(home: Home, three_hundred: list[str]) -> None:
    whole = home.ledger_path.read_bytes()
    counts = []
    for tenth in range(1, 10):
        kept = kept_of(home, whole[: len(whole) * tenth // 10])
        assert kept == [run_id for run_id in three_hundred if run_id in set(kept)]
        counts.append(len(kept))
    assert counts == sorted(counts)
    assert counts[-1] > 200
    assert counts[4] > 50


@pytest.mark.parametrize("lost", [16, 100, 4096], ids=["magic", "header", "first page"])
def test_a_ledger_without_its_beginning_is_read_with_that_of_a_new_one(lost: int, home: Home, three_hundred: list[str]) -> None:
    assert kept_of(home, bytes(lost) + home.ledger_path.read_bytes()[lost:]) == three_hundred


def test_a_row_between_two_damaged_pages_is_kept(home: Home, three_hundred: list[str]) -> None:
    data = bytearray(home.ledger_path.read_bytes())
    leaves = [at for at in range(4096, len(data), 4096) if data[at] == 0x0D]  # of the table of runs
    for at in (leaves[1], leaves[-2]):
        data[at : at + 4096] = bytes(4096)
    assert len(leaves) > 5
    assert len(three_hundred) * (len(leaves) - 3) // len(leaves) < len(kept_of(home, bytes(data))) < 300


def test_what_only_the_log_has_survives_the_loss_of_the_file(home: Home, runs: list[str]) -> None:
    with closing(sqlite3.connect(home.ledger_path, isolation_level=None)) as reading:
        reading.execute("BEGIN")
        reading.execute("SELECT * FROM runs").fetchall()  # so that the log is not emptied
        change(home, "UPDATE runs SET name = 'renamed'", "UPDATE runs SET rowid = -rowid", "UPDATE runs SET rowid = -rowid")
        change(home, "REINDEX", "CREATE TABLE spare (a)", "DROP TABLE spare")
        log = home.folder / "ledger.sqlite3-wal"
        written = log.read_bytes()
    for loss in (lambda: home.ledger_path.write_bytes(b""), home.ledger_path.unlink):
        loss()
        log.write_bytes(written)
        for command in (lambda: update_runs(home), lambda: select(home, None), lambda: resume(home, runs[0])):
            with pytest.raises(StoreError, match="cannot use the ledger"):
                command()
        assert log.read_bytes() == written
        assert sorted(repair(home).kept) == sorted(runs)
        assert {run.name for run in update_runs(home)} == {"renamed"}


def test_of_a_ledger_with_one_damaged_page_the_rows_of_the_others_are_kept(home: Home, three_hundred: list[str]) -> None:
    whole = home.ledger_path.read_bytes()
    pages = len(whole) // 4096
    kept = [len(kept_of(home, whole[: page * 4096] + bytes(4096) + whole[(page + 1) * 4096 :])) for page in range(pages)]
    assert pages > 20
    assert sorted(kept)[len(kept) // 2] > 250
    assert sum(count > 0 for count in kept) >= len(kept) - 3  # the roots of the tables
    assert len(three_hundred) == 300


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
    ["job_file = x'00'", "created = 9e999", "store = x'00'"],
    ids=["blob", "infinite", "store"],
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


@pytest.mark.parametrize("number", [0, -1, 9223372036854775807])
def test_a_number_that_no_attempt_has_is_damage(number: int, home: Home, runs: list[str]) -> None:
    change(home, f"UPDATE attempts SET number = {number} WHERE run_id = '{runs[0]}'")
    for command in (update_run, resume, cancel):
        with pytest.raises(CloudTrainError, match=r"damaged|already ended"):
            command(home, runs[0])
    repair(home, [str(home.folder.parent / "runs")])
    assert {(run.run_id, run.attempt) for run in update_runs(home)} == {(run_id, 1) for run_id in runs}


@pytest.mark.parametrize("reference", ["{}", "5", "[1, 2]"])
def test_a_damaged_handle_is_named_as_such(reference: str, home: Home, start: Submit) -> None:
    run = start("exec sleep 600")
    wait_until(lambda: update_run(home, run.run_id).state is State.RUNNING, "the program has started")
    change(home, f"UPDATE attempts SET reference = '{reference}'")
    notes: list[str] = []
    update_runs(home, note=notes.append)
    assert "doctor --repair" in "".join(notes) or "damaged" in "".join(notes)
    with pytest.raises(CorruptError, match="damaged"):
        update_run(home, run.run_id)
    assert cancel(home, run.run_id).state is State.CANCELLED


@pytest.mark.parametrize(
    "damage",
    [
        "UPDATE runs SET store = store || char(0)",
        "UPDATE runs SET store = '~nobody-here/runs'",
        "UPDATE records SET kind = 'ow' || char(0)",
    ],
    ids=["NUL", "tilde", "kind"],
)
def test_texts_that_no_command_writes_break_no_command_and_are_repaired(damage: str, home: Home, runs: list[str]) -> None:
    store = str(home.folder.parent / "runs")
    change(home, f"{damage} WHERE run_id = '{runs[0]}'")
    for command in (read_logs, resume, update_run, select):
        with suppress(CloudTrainError):
            command(home, runs[0])
    assert {run.run_id for run in update_runs(home)} == set(runs)
    repair(home, [store])
    with suppress(CloudTrainError):
        adopt(home, f"{store}/{runs[0]}")
    assert b"".join(read_logs(home, runs[0])) == b"hello\n"
    assert next(finding for finding in examine(home) if finding.name == "ledger").status == "ok"


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
    for seed in range(40):
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


def test_what_an_earlier_repair_lost_comes_back_from_the_ledger_that_it_moved_aside(home: Home, start: Submit) -> None:
    first, second, third = (ended(home, start(MODEL)).run_id for _ in range(3))
    change(home, f"UPDATE attempts SET state = 'teleported' WHERE run_id = '{second}'")
    before = repair(home).moved_to
    assert before is not None
    change(home, f"DELETE FROM runs WHERE run_id = '{first}'", f"DELETE FROM attempts WHERE run_id = '{first}'")
    done = repair(home)
    assert (done.moved_to, done.returned, done.kept) == (None, [first], [third, second])
    with Ledger(home.ledger_path) as ledger:
        assert list(ledger.records(first).values()) == [RecordKind.OWN]
    assert select(home, None) == third
    home.ledger_path.write_bytes(b"")
    done = repair(home)
    assert done.moved_to not in (None, before)  # though both repairs may be in one second
    assert done.returned == [first, third]
    assert done.adopted == [second]
    assert select(home, None) == third
    assert repair(home).moved_to is None


@pytest.mark.parametrize(
    "statements",
    [
        ["DROP TABLE attempts"],
        ["DROP TABLE runs"],
        ["DROP TABLE records"],
        ["DROP TABLE runs", "DROP TABLE attempts", "DROP TABLE records", "PRAGMA user_version = 0"],
        ["PRAGMA user_version = 0"],
        ["PRAGMA user_version = -5"],
        ["PRAGMA user_version = 1000000"],
        ["PRAGMA user_version = 1"],
        ["ALTER TABLE attempts DROP COLUMN settings"],
        ["ALTER TABLE attempts RENAME COLUMN run_id TO ran_id"],
        ["ALTER TABLE attempts RENAME COLUMN message TO massage"],
    ],
    ids=lambda statements: statements[-1],
)
def test_a_ledger_with_a_damaged_schema_is_named_and_repaired(statements: list[str], home: Home, runs: list[str]) -> None:
    change(home, *statements)
    assert next(finding for finding in examine(home) if finding.name == "ledger").status == "error"
    with suppress(CloudTrainError):
        assert {run.run_id for run in update_runs(home)} == set(runs)
    repair(home, [str(home.folder.parent / "runs")])
    assert {run.run_id for run in update_runs(home)} == set(runs)
    assert next(finding for finding in examine(home) if finding.name == "ledger").status == "ok"


def test_the_doctor_finds_a_disk_that_is_full_and_a_ledger_that_cannot_be_written(home: Home, start: Submit) -> None:
    with small_disk(home.folder, kilobytes=512):
        ended(home, start("true"))
        assert {finding.name: finding.status for finding in examine(home)}["ledger"] == "ok"
        fill(home.folder)
        findings = {finding.name: finding for finding in examine(home)}
        assert findings["home"].status == "error"
        assert "no space left" in findings["home"].detail
        assert findings["ledger"].status == "error"
        assert "repair" not in findings["ledger"].remedy


@pytest.mark.slow
def test_the_doctor_names_a_process_that_does_not_let_others_write(home: Home, runs: list[str]) -> None:
    with closing(sqlite3.connect(home.ledger_path, isolation_level=None)) as writing:
        writing.execute("BEGIN IMMEDIATE")
        finding = next(finding for finding in examine(home) if finding.name == "ledger")
    assert (finding.status, len(runs)) == ("error", 3)
    assert "locked" in finding.detail


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

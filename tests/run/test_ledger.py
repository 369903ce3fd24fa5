"""The ledger."""

import multiprocessing
import sqlite3
from contextlib import closing
from pathlib import Path

import pytest

from cloud_train.errors import ConflictError, StoreError
from cloud_train.run.ledger import Ledger
from cloud_train.run.ledger_entry import RecordKind
from cloud_train.run.ledger_reader import LedgerReader
from cloud_train.run.states import Cause, State

RUN = "digits-261123-120000-abcd"


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "home" / "ledger.sqlite3"


def add(path: Path, run_id: str, created: float = 1.0) -> None:
    with Ledger(path) as ledger:
        ledger.add(
            run_id, name="digits", provider="local", store="/store", job_file="/job.yaml", created=created, settings={}, record_sha256=""
        )


def test_a_run_is_submitting_until_it_was_launched(path: Path) -> None:
    add(path, RUN)
    with Ledger(path) as ledger:
        before = ledger.get(RUN)
        assert before
        assert before.state is State.SUBMITTING
        assert before.reference is None
        ledger.launched(RUN, 1, {"pid": 7})
        after = ledger.get(RUN)
    assert after
    assert after.state is State.STARTING
    assert after.reference == {"pid": 7}


def test_a_worker_that_was_faster_than_its_launcher_is_not_set_back(path: Path) -> None:
    add(path, RUN)
    with Ledger(path) as ledger:
        ledger.observed(RUN, 1, State.SUCCEEDED, Cause.SUCCEEDED)
        ledger.launched(RUN, 1, {"pid": 7})
        entry = ledger.get(RUN)
    assert entry
    assert entry.state is State.SUCCEEDED


def test_an_id_is_taken_once(path: Path) -> None:
    add(path, RUN)
    with pytest.raises(ConflictError):
        add(path, RUN)


def test_an_attempt_that_the_worker_began_takes_over_the_handle(path: Path) -> None:
    add(path, RUN)
    with Ledger(path) as ledger:
        ledger.launched(RUN, 1, {"lock": "x"})
        ledger.observed(RUN, 2, State.RUNNING, started=5.0, host="here", resumed_step=40)
        entry = ledger.get(RUN)
    assert entry
    assert (entry.attempt, entry.state, entry.reference, entry.resumed_step) == (2, State.RUNNING, {"lock": "x"}, 40)


def test_the_newest_run_comes_first(path: Path) -> None:
    for number in range(5):
        add(path, f"digits-261123-12000{number}-abcd", float(number))
    with Ledger(path) as ledger:
        assert [entry.created for entry in ledger.newest()] == [4.0, 3.0, 2.0, 1.0, 0.0]
        assert [entry.created for entry in ledger.newest(2)] == [4.0, 3.0]


def test_a_run_is_found_by_its_beginning_and_by_its_last_characters(path: Path) -> None:
    add(path, RUN)
    add(path, "digits-261123-120001-wxyz", 2.0)
    with Ledger(path) as ledger:
        assert ledger.matching("digits-261123-120000") == [RUN]
        assert ledger.matching("digits") == ["digits-261123-120001-wxyz", RUN]
        assert ledger.matching("abcd") == [RUN]
        assert ledger.matching("%") == []
        assert ledger.matching("digits_") == []


def test_a_forgotten_run_leaves_nothing(path: Path) -> None:
    add(path, RUN)
    with Ledger(path) as ledger:
        ledger.forget(RUN)
        assert ledger.get(RUN) is None
    with sqlite3.connect(path) as connection:
        assert connection.execute("SELECT count(*) FROM attempts").fetchone() == (0,)
    connection.close()


def _add_one(arguments: tuple[Path, int]) -> None:
    path, number = arguments
    add(path, f"digits-261123-120000-{number:04}", float(number))


def test_fifty_processes_that_make_the_ledger_at_once_lose_nothing(path: Path) -> None:
    with multiprocessing.get_context("spawn").Pool(8) as pool:
        pool.map(_add_one, [(path, number) for number in range(50)], chunksize=1)
    with Ledger(path) as ledger:
        assert len(ledger.newest()) == 50


def test_a_ledger_of_a_newer_version_is_left_alone(path: Path) -> None:
    add(path, RUN)
    connection = sqlite3.connect(path)
    connection.execute("PRAGMA user_version = 99")
    connection.close()
    with pytest.raises(StoreError, match="newer cloud-train"):
        Ledger(path)


def test_a_file_that_is_no_ledger_is_named(path: Path) -> None:
    path.parent.mkdir()
    path.write_bytes(b"this is not a database, and long enough to be told apart from one" * 10)
    with pytest.raises(StoreError, match=r"ledger\.sqlite3"):
        Ledger(path)


def test_a_ledger_of_the_first_version_keeps_its_runs_and_vouches_for_none_of_their_records(tmp_path: Path) -> None:
    path = tmp_path / "ledger.sqlite3"
    with Ledger(path) as ledger:
        ledger.add("old-run", name="old", provider="local", store="/s", job_file=None, created=1.0, settings={"a": 1}, record_sha256="x")
    with closing(sqlite3.connect(path)) as plain, plain:  # what later versions brought, taken away again
        plain.execute("DROP TABLE records")
        plain.execute("ALTER TABLE attempts DROP COLUMN elapsed")
        plain.execute("ALTER TABLE attempts DROP COLUMN settings")
        plain.execute("ALTER TABLE attempts DROP COLUMN token")
        plain.execute("PRAGMA user_version = 1")
    with Ledger(path) as ledger:
        entry = ledger.get("old-run")
        assert entry is not None
        assert (entry.name, entry.settings, ledger.records("old-run")) == ("old", {}, {})
        ledger.know_record("old-run", "y", RecordKind.ACCEPTED)
    with Ledger(path) as ledger:
        assert ledger.records("old-run") == {"y": RecordKind.ACCEPTED}


def test_a_record_that_was_only_seen_can_be_accepted_and_an_own_one_stays_own(tmp_path: Path) -> None:
    with Ledger(tmp_path / "ledger.sqlite3") as ledger:
        ledger.add("run", name="n", provider="local", store="/s", job_file=None, created=1.0, settings={}, record_sha256="own")
        ledger.know_record("run", "other", RecordKind.SEEN)
        ledger.know_record("run", "other", RecordKind.ACCEPTED)
        ledger.know_record("run", "own", RecordKind.SEEN)
        assert ledger.records("run") == {"own": RecordKind.OWN, "other": RecordKind.ACCEPTED}
        ledger.distrust("run")
        assert ledger.records("run") == {}


def test_a_folder_in_the_place_of_the_ledger_is_named_with_the_way_out(tmp_path: Path) -> None:
    (tmp_path / "ledger.sqlite3").mkdir()
    for opened in (Ledger, LedgerReader):
        with pytest.raises(StoreError, match=r"ledger\.sqlite3: it is a folder") as raised:
            opened(tmp_path / "ledger.sqlite3")
        assert raised.value.hint == "move the folder away, or set CLOUD_TRAIN_HOME to another folder"

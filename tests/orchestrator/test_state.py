"""Reading never acts: every reading verb and shell completion, on every kind of unfinished run, with writing forbidden."""

import hashlib
import json
from collections.abc import Callable
from pathlib import Path
from typing import NoReturn

import pytest

from cloud_train.cli.main import main
from cloud_train.cli.options import complete_run
from cloud_train.errors import CloudTrainError
from cloud_train.orchestrator.findings import RecordStatus, WriteStatus
from cloud_train.orchestrator.state import look
from cloud_train.providers.base import Handle
from cloud_train.run.ledger_reader import LedgerReader
from tests.orchestrator.unfinished import (
    KINDS,
    RUN,
    STORE,
    VANISHED,
    WRITES,
    Desk,
    cancelled_and_vanished,
    cut_off,
    never_shown,
    never_written,
    running,
    vanished,
)


def readings(folder: Path) -> list[list[str]]:
    """Every verb that only reads."""
    return [
        ["list", "--json"],
        ["list", "--all", "--json"],
        ["list", "--store", STORE],
        ["list", "--store", STORE, "--json"],
        ["status", RUN, "--json"],
        ["logs", RUN],
        ["logs", RUN, "--json"],
        ["logs", RUN, "--tail", "3"],
        ["logs", RUN, "--attempt", "1"],
        ["metrics", RUN],
        ["metrics", RUN, "--json"],
        ["metrics", RUN, "--plot"],
        ["fetch-model", RUN, "--to", str(folder / "model")],
        ["fetch-model", RUN, "--checkpoint", "last", "--to", str(folder / "model")],
        ["sync", RUN, "--to", str(folder / "copy")],
        ["evaluate", RUN, str(folder)],
        ["predict", RUN, "--text", "a line"],
    ]


def snapshot(desk: Desk) -> dict[str, str]:
    """The SHA-256 of every file in the home and the store, except those in which ``sync`` remembers its copies."""
    files = (path for path in desk.home.folder.rglob("*") if path.is_file() and "transfers" not in path.parts)
    contents = {str(path): path.read_bytes() for path in files}
    contents |= {key: data for key, (data, _) in desk.store.objects.items()}
    return {name: hashlib.sha256(data).hexdigest() for name, data in contents.items()}


def refuse(*_: object) -> NoReturn:
    raise AssertionError("a look opened the ledger for changes")


@pytest.mark.parametrize("kind", KINDS, ids=lambda kind: kind.__name__)
def test_reading_verbs_and_completion_write_nothing(
    kind: Callable[[Desk], None], desk: Desk, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    kind(desk)
    before = snapshot(desk)
    desk.store.calls.clear()
    monkeypatch.setattr("cloud_train.run.ledger_file.connect", refuse)
    statuses = {}
    for verb in readings(tmp_path):
        statuses[" ".join(verb)] = main(verb)
        captured = capsys.readouterr()
        assert "bug in cloud-train" not in captured.out + captured.err, (verb, captured)
        if "--json" in verb:
            json.loads(captured.out)
    completed = complete_run(RUN[:5])
    written = [call for call in desk.store.calls if call[0] in WRITES]
    assert (written, desk.place.done) == ([], [])
    assert snapshot(desk) == before
    assert set(statuses.values()) <= {0, 4, 8}, statuses  # not found, and corrupt for the unreadable
    assert [run_id for run_id, _ in completed] == ([] if kind is never_written else [RUN])


@pytest.mark.parametrize("kind", [cut_off, never_shown, vanished, cancelled_and_vanished], ids=lambda kind: kind.__name__)
def test_following_a_log_as_json_writes_nothing(
    kind: Callable[[Desk], None], desk: Desk, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    kind(desk)
    before = snapshot(desk)
    desk.store.calls.clear()
    monkeypatch.setattr("cloud_train.run.ledger_file.connect", refuse)
    status = main(["logs", RUN, "--follow", "--json"])
    assert "bug in cloud-train" not in "".join(capsys.readouterr())
    assert ([call for call in desk.store.calls if call[0] in WRITES], desk.place.done) == ([], [])
    assert snapshot(desk) == before
    assert status in {0, 1, 4, 5, 6, 10}, status


@pytest.mark.parametrize("kind", [cut_off, never_shown, vanished, cancelled_and_vanished], ids=lambda kind: kind.__name__)
def test_an_unrecorded_end_is_shown_as_such(kind: Callable[[Desk], None], desk: Desk, capsys: pytest.CaptureFixture[str]) -> None:
    kind(desk)
    state = "cancelled" if kind is cancelled_and_vanished else "interrupted"
    assert complete_run(RUN) == [(RUN, f"{state} (not yet recorded)")]
    assert main(["status", RUN, "--json"]) == 0
    assert json.loads(capsys.readouterr().out)["is_recorded"] is False
    assert main(["status", RUN]) == 0  # which records it
    capsys.readouterr()
    assert complete_run(RUN) == [(RUN, state)]


def test_findings_name_the_launch_that_was_observed(desk: Desk) -> None:
    vanished(desk)
    with LedgerReader(desk.home.ledger_path) as reader:
        findings = look(desk.home, reader, RUN)
    assert findings.launch == Handle(RUN, 1, "place", STORE, {"job": RUN})
    assert findings.observation == VANISHED
    written, recorded = (action for action in findings.pending if isinstance(action, WriteStatus | RecordStatus))
    assert isinstance(written, WriteStatus)
    assert (written.launch, written.attempt, recorded.attempt) == (findings.launch, 1, 1)


def test_the_read_only_ledger_refuses_every_change(desk: Desk) -> None:
    running(desk)
    with LedgerReader(desk.home.ledger_path) as reader, pytest.raises(CloudTrainError, match="readonly"):
        reader._rows("DELETE FROM runs RETURNING run_id", ())

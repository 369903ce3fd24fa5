"""Logs of single nodes, and metrics."""

from dataclasses import replace
from pathlib import Path

import pytest

from cloud_train.errors import NotFoundError, UsageError
from cloud_train.orchestrator import reading
from cloud_train.orchestrator.home import Home
from cloud_train.run import layout
from cloud_train.run.record import Program, RunRecord
from cloud_train.run.states import State
from cloud_train.run.view import RunView

RUN = "several-261128-120000-abcd"


@pytest.fixture
def run(home: Home, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> RunView:
    """A run with two nodes, neither of which has written yet; tests can replace its state."""
    record = RunRecord(RUN, 0.0, {"resources": {"nodes": 2}}, Program(("true",), "/"), {}, {})
    (tmp_path / "runs" / RUN).mkdir(parents=True)
    (tmp_path / "runs" / RUN / layout.RUN).write_bytes(record.to_json())
    run = RunView(
        run_id=RUN,
        name="several",
        provider="docker",
        store=str(tmp_path / "runs"),
        job_file=None,
        created=0.0,
        attempt=1,
        state=State.RUNNING,
        cause=None,
        message="",
        started=0.0,
        ended=None,
        heartbeat=0.0,
        host="here",
        resumed_step=None,
    )
    monkeypatch.setattr(reading, "read_run", lambda *_: run)
    return run


@pytest.mark.parametrize("node", [0, 1])
def test_a_node_that_has_not_written_yet_has_an_empty_log(node: int, run: RunView, home: Home) -> None:
    assert b"".join(reading.read_logs(home, run.run_id, node=node)) == b""


def test_a_node_that_never_wrote_has_no_log(run: RunView, home: Home, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(reading, "read_run", lambda *_: replace(run, state=State.FAILED))
    with pytest.raises(NotFoundError, match=r"attempt 1 of several-.* has no log of node 1"):
        reading.read_logs(home, run.run_id, node=1)


def test_an_unknown_node_is_an_error_at_once(run: RunView, home: Home) -> None:
    for read in (reading.read_logs, reading.follow_logs):
        with pytest.raises(UsageError, match="has no node 2; its nodes are 0 to 1"):
            next(read(home, run.run_id, node=2))


def test_of_very_many_metrics_not_all_are_kept_and_that_is_said(run: RunView, home: Home, monkeypatch: pytest.MonkeyPatch) -> None:
    file = Path(run.run_directory, layout.metrics(1))
    file.parent.mkdir(parents=True)
    file.write_text("".join(f'{{"step": {step}, "name": "loss", "value": 1}}\n' for step in range(10)))
    notes: list[str] = []
    monkeypatch.setattr(reading, "MOST_POINTS", 10)
    assert [point.step for point in reading.read_metrics(home, run.run_id, notes.append)] == list(range(10))
    assert notes == []
    monkeypatch.setattr(reading, "MOST_POINTS", 4)
    assert [point.step for point in reading.read_metrics(home, run.run_id, notes.append)] == [0, 6, 8, 9]
    assert len(notes) == 1

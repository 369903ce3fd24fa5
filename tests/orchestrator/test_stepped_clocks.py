"""Clocks that are set while a run is running: its duration, its start and its pace are shown as they were, here and from the ledger."""

import os
import signal
import time
from collections.abc import Callable
from pathlib import Path

import pytest

from cloud_train.orchestrator.following import _Pace
from cloud_train.orchestrator.home import Home
from cloud_train.orchestrator.reconcile import update_run
from cloud_train.orchestrator.state import read_run
from cloud_train.orchestrator.stopping import cancel
from cloud_train.run import layout
from cloud_train.run.ledger_reader import LedgerReader
from cloud_train.run.metrics import MetricPoint
from cloud_train.run.record import AttemptStatus
from cloud_train.run.states import Cause, State
from cloud_train.run.view import RunView
from tests.orchestrator.conftest import Submit, run_folder
from tests.support import wait_until

ROOT = Path(__file__).parents[2]
YEARS = 4629 * 86400.0
CLOCK = """
import os, sys, time
if "cloud_train.worker" in sys.orig_argv:
    true, first, then = time.time, float(os.environ["CLOCK_FIRST"]), float(os.environ["CLOCK_THEN"])
    time.time = lambda: true() + (then if os.path.exists(os.environ["CLOCK_SET"]) else first)
    from cloud_train.worker import supervisor
    from cloud_train.worker.context import Timing
    supervisor.DEFAULT_TIMING = Timing(heartbeat=0.2, look=0.1)
"""
"""Runs first in every process: the worker's clock differs by ``CLOCK_FIRST`` seconds, and by ``CLOCK_THEN`` once a file exists."""

UNTIL_TOLD = "until [ -e $HOME/finish ]; do sleep 0.1; done"
SetClock = Callable[[], None]


@pytest.fixture(params=[(-YEARS, 0.0), (0.0, -YEARS), (YEARS, 0.0), (0.0, YEARS), (YEARS, YEARS)])
def set_clock(request: pytest.FixtureRequest, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> SetClock:
    """Sets the workers' clock when it is called."""
    (tmp_path / "patch").mkdir()
    (tmp_path / "patch" / "sitecustomize.py").write_text(CLOCK)
    monkeypatch.setenv("PYTHONPATH", os.pathsep.join([str(tmp_path / "patch"), str(ROOT)]))
    first, then = request.param
    for name, value in {"CLOCK_FIRST": str(first), "CLOCK_THEN": str(then), "CLOCK_SET": str(tmp_path / "set")}.items():
        monkeypatch.setenv(name, value)
    return (tmp_path / "set").touch


def status_of(run: RunView) -> AttemptStatus:
    return AttemptStatus.from_json((run_folder(run) / layout.status(1)).read_bytes(), "status")


def begin(home: Home, start: Submit, set_clock: SetClock) -> RunView:
    """A run that is running, whose worker has written a heartbeat since its clock was set."""
    run = start(UNTIL_TOLD, "limits: {duration: 1 h, grace: 1 s}")
    wait_until(lambda: update_run(home, run.run_id).state is State.RUNNING, "it runs")
    before = status_of(run).heartbeat
    set_clock()
    wait_until(lambda: status_of(run).heartbeat != before, "a heartbeat")
    last = status_of(run).heartbeat
    wait_until(lambda: status_of(run).heartbeat != last, "another heartbeat")
    return run


def test_a_running_run_shows_how_long_it_has_run(home: Home, start: Submit, set_clock: SetClock) -> None:
    run = begin(home, start, set_clock)
    shown = read_run(home, run.run_id)
    assert shown.state is State.RUNNING
    assert 0 < (shown.duration(time.time()) or 0) < 60
    assert abs((shown.started or 0) - status_of(run).heartbeat) < 60
    cancel(home, run.run_id, force=True)


def test_a_run_that_ended_shows_how_long_it_took_here_and_from_the_ledger(
    home: Home, start: Submit, set_clock: SetClock, tmp_path: Path
) -> None:
    run = begin(home, start, set_clock)
    update_run(home, run.run_id)
    (tmp_path / "finish").touch()
    wait_until(lambda: update_run(home, run.run_id).state.is_end, "it has ended")
    ended = update_run(home, run.run_id)
    assert ended.cause is Cause.SUCCEEDED  # and did not reach its limit
    assert 0 < (ended.duration() or 0) < 60
    assert ended.started is not None
    assert ended.ended is not None
    assert 0 <= ended.ended - ended.started < 60
    with LedgerReader(home.ledger_path) as ledger:
        entry = ledger.get(run.run_id)
    assert entry is not None
    assert entry.view().duration() == ended.duration() == ended.to_json()["duration_seconds"]


def test_a_lost_worker_s_run_lasted_until_it_was_last_seen(home: Home, start: Submit, set_clock: SetClock) -> None:
    run = begin(home, start, set_clock)
    os.killpg(os.getpgid(status_of(run).pid), signal.SIGKILL)
    wait_until(lambda: update_run(home, run.run_id).state.is_end, "its end was found")
    last = status_of(run)
    ended = update_run(home, run.run_id)
    assert ended.cause is Cause.INFRASTRUCTURE
    assert 0 < (ended.duration() or 0) < 60
    assert ended.duration() == last.elapsed


def point(step: int, seconds: float) -> MetricPoint:
    return MetricPoint(1, step, None, seconds, "train", "loss", 0.5)


def test_the_pace_is_measured_again_after_the_clock_was_set_back() -> None:
    pace = _Pace()
    rates = []
    for step, seconds in ((0, YEARS), (1, YEARS + 1), (2, YEARS + 2), (3, 5.0), (5, 6.0)):
        pace.add(point(step, seconds))
        rates.append(pace.steps_per_second)
    assert rates == [None, 1, 1, None, 2]

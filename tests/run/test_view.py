"""How long an attempt took, as it is shown: by its worker's own measure if there is one, never negative."""

from dataclasses import replace

import pytest

from cloud_train.run.record import AttemptStatus
from cloud_train.run.states import Cause, State
from cloud_train.run.view import RunView

YEARS = 4629 * 86400.0
RUN = RunView("run", "name", "local", "/runs", None, 1000.0, 1, State.RUNNING, started=2000.0)
RUNNING = AttemptStatus(State.RUNNING, started=2000.0, heartbeat=2100.0, host="h", pid=1, elapsed=100.0)


def seen(status: AttemptStatus) -> RunView:
    return replace(RUN.shown_by(1, status), heartbeat=status.heartbeat, elapsed=status.elapsed)


def test_a_running_attempt_has_lasted_until_its_last_heartbeat_and_a_plausible_pause_longer() -> None:
    shown = seen(RUNNING)
    assert [shown.duration(now) for now in (2100.0, 2107.0, 2130.0, 2160.0, YEARS, 1.0)] == [100, 107, 130, 100, 100, 100]
    assert shown.duration() is None


def test_without_a_measure_the_times_count_and_the_result_is_never_negative() -> None:
    shown = seen(replace(RUNNING, elapsed=None))
    assert [shown.duration(now) for now in (2107.0, 1.0)] == [107, 0]
    ended = RUN.shown_by(1, replace(RUNNING, elapsed=None).ended_with(Cause.FAILED, "", 1900.0))
    assert ended.duration() == 0


def test_of_an_attempt_that_no_worker_measured_nobody_knows_how_long_it_took() -> None:
    gone = seen(replace(RUNNING, elapsed=0.0).ended_with(Cause.INFRASTRUCTURE, "the worker was killed", 2100.0))
    claim = RUN.shown_by(1, replace(RUNNING, elapsed=None, host="", pid=0).ended_with(Cause.INFRASTRUCTURE, "moved to", 2000.0))
    assert (gone.duration(), gone.duration(3000.0), claim.duration(3000.0)) == (None, None, None)


def test_a_complete_move_names_the_new_place_and_nothing_else_that_says_so_does() -> None:
    claim = replace(RUNNING, host="", pid=0)
    there = "s3://bucket/runs/run"
    assert RUN.shown_by(2, claim.ended_with(Cause.INFRASTRUCTURE, f"moved to {there}", 1.0)).moved_to == there
    for words in (f"being moved to {there}", "moved to another machine"):
        assert RUN.shown_by(2, claim.ended_with(Cause.INFRASTRUCTURE, words, 1.0)).moved_to is None
    assert RUN.shown_by(2, RUNNING.ended_with(Cause.FAILED, f"moved to {there}", 1.0)).moved_to is None


@pytest.mark.parametrize("step", [YEARS, -1500.0, 60.0])
def test_the_start_is_shown_by_the_clock_as_it_was_set(step: float) -> None:
    status = replace(RUNNING, heartbeat=2100.0 + step)
    assert RUN.shown_by(1, status).started == 2000.0 + step
    ended = status.ended_with(Cause.FAILED, "", 2101.0 + step)
    assert (ended.began, ended.started) == (2000.0 + step, 2000.0 + step)
    assert RUN.shown_by(1, ended).duration() == 100


def test_a_clock_that_only_drifts_does_not_change_the_start() -> None:
    status = replace(RUNNING, heartbeat=2100.0 + 59)
    assert RUN.shown_by(1, status).started == 2000.0


def test_the_measure_is_part_of_the_status_and_optional() -> None:
    assert AttemptStatus.from_json(RUNNING.to_json(), "here").elapsed == 100.0
    assert AttemptStatus.from_json(RUNNING.to_json().replace(b'"elapsed": 100.0', b'"future": 1'), "here").elapsed is None


def test_the_measure_of_a_running_attempt_is_not_recorded_since_every_heartbeat_changes_it() -> None:
    assert RUN.shown_by(1, RUNNING).elapsed is None
    assert RUN.shown_by(1, RUNNING.ended_with(Cause.SUCCEEDED, "", 2100.0)).elapsed == 100.0


def test_json_has_the_duration_and_not_the_measure() -> None:
    ended = RUN.shown_by(1, RUNNING.ended_with(Cause.SUCCEEDED, "", 9000.0)).to_json()
    assert ended["duration_seconds"] == 100.0
    assert "elapsed" not in ended

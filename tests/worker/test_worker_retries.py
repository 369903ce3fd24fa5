from dataclasses import replace

import pytest

from cloud_train.run.states import Cause, State
from cloud_train.worker.context import Timing
from tests.support import wait_until
from tests.worker.launching import CANCELLED_AS_IT_FAILS, QUICK, Launched

SLOW = replace(QUICK, retry=(600.0,))


def attempts(launched: Launched) -> list[int]:
    return sorted(int(path.name) for path in (launched.directory / "attempts").iterdir())


def test_three_attempts_are_three_launches_at_most(launched: Launched) -> None:
    launched.shell("echo $CLOUD_TRAIN_ATTEMPT; exit 1", attempts=3, retry_on=(Cause.FAILED,))
    worker = launched.start()
    assert worker.wait(30) == Cause.FAILED.exit_code
    assert attempts(launched) == [1, 2, 3]
    assert [launched.output(number) for number in (1, 2, 3)] == [b"1\n", b"2\n", b"3\n"]
    assert "attempt 2 of 3 follows in 0.05 s" in launched.worker_log(1)


def test_attempts_count_across_workers(launched: Launched) -> None:
    launched.shell("exit 1", attempts=3, retry_on=(Cause.FAILED,))
    launched.start(attempt=3).wait(30)
    assert attempts(launched) == [3]


def test_a_later_attempt_that_succeeds_ends_the_run(launched: Launched) -> None:
    launched.shell('test "$CLOUD_TRAIN_ATTEMPT" = 2', attempts=5, retry_on=(Cause.FAILED,))
    worker = launched.start()
    assert worker.wait(30) == 0
    assert attempts(launched) == [1, 2]
    assert launched.ended_with(Cause.FAILED, 1)
    assert launched.ended_with(Cause.SUCCEEDED, 2)


def test_a_cause_that_is_not_listed_is_not_retried(launched: Launched) -> None:
    launched.shell("exit 1", attempts=3, retry_on=(Cause.INFRASTRUCTURE, Cause.PREEMPTED))
    launched.start().wait(30)
    assert attempts(launched) == [1]


def test_a_time_limit_may_be_retried(launched: Launched) -> None:
    launched.shell("exec sleep 60", attempts=2, retry_on=(Cause.TIMED_OUT,), duration_seconds=0.1)
    launched.start().wait(30)
    assert attempts(launched) == [1, 2]


def test_a_run_that_is_told_to_stop_is_not_retried_here(launched: Launched) -> None:
    launched.shell("echo ready; exec sleep 60", attempts=3, retry_on=(Cause.PREEMPTED,))
    worker = launched.start()
    launched.says(b"ready")
    worker.terminate()
    worker.wait(30)
    assert attempts(launched) == [1]


def test_a_stop_between_two_attempts_ends_the_waiting_and_the_end_stays(launched: Launched) -> None:
    launched.shell("exit 1", attempts=2, retry_on=(Cause.FAILED,))
    worker = launched.start(timing=SLOW)
    wait_until(lambda: launched.is_in(State.FAILED), "the first attempt has ended")
    worker.terminate()
    assert worker.wait(30) == Cause.FAILED.exit_code
    assert attempts(launched) == [1]
    assert launched.ended_with(Cause.FAILED)


def test_whoever_cancels_between_two_attempts_gets_a_cancelled_run(launched: Launched) -> None:
    launched.shell("exit 1", attempts=2, retry_on=(Cause.FAILED,))
    worker = launched.start(timing=SLOW)
    wait_until(lambda: launched.is_in(State.FAILED), "the first attempt has ended")
    launched.cancel()
    assert worker.wait(30) == Cause.CANCELLED.exit_code
    assert launched.ended_with(Cause.CANCELLED)
    assert attempts(launched) == [1]
    assert "this one ended with failed: exit status 1" in launched.status().message


def test_whoever_cancels_at_the_moment_of_the_failure_gets_a_cancelled_run_too(launched: Launched) -> None:
    launched.shell("exit 1", attempts=2, retry_on=(Cause.FAILED,))
    worker = launched.start(timing=SLOW, before=CANCELLED_AS_IT_FAILS)
    assert worker.wait(30) == Cause.CANCELLED.exit_code
    assert launched.ended_with(Cause.CANCELLED)
    assert attempts(launched) == [1]


def test_a_mark_on_an_earlier_attempt_of_the_same_worker_cancels_the_run(launched: Launched) -> None:
    launched.shell('test "$CLOUD_TRAIN_ATTEMPT" = 2 || exit 1; echo ready; exec sleep 60', attempts=2, retry_on=(Cause.FAILED,))
    worker = launched.start()
    launched.says(b"ready", attempt=2)
    launched.cancel(attempt=1)
    worker.wait(30)
    assert launched.ended_with(Cause.CANCELLED, 2)


def test_the_waits_between_attempts_grow_to_ten_minutes() -> None:
    assert Timing().retry == (15, 30, 60, 120, 300, 600)


@pytest.mark.parametrize("cause", ["infrastructure", "out-of-memory"])
def test_the_cause_that_the_program_names_decides_on_a_retry(launched: Launched, cause: str) -> None:
    said = f'{{"message": "no", "cause": "{cause}"}}'
    launched.shell(f"echo '{said}' > \"$CLOUD_TRAIN_FAILURE\"; exit 1", attempts=2, retry_on=(Cause.INFRASTRUCTURE,))
    launched.start().wait(30)
    assert attempts(launched) == ([1, 2] if cause == "infrastructure" else [1])

"""The retry policy: which errors are retried, how often, for how long, with what waits."""

import random
from collections.abc import Callable
from dataclasses import dataclass, field

import pytest

from cloud_train.retry import RetryPolicy, retry_after_seconds


class BusyError(Exception):
    """Passes; ``seconds`` is how long the server asks to be left alone."""

    def __init__(self, seconds: float | None = None) -> None:
        super().__init__("busy")
        self.seconds = seconds


@dataclass
class Clock:
    """A clock that only sleeping moves."""

    now: float = 1000.0
    waits: list[float] = field(default_factory=list)

    def time(self) -> float:
        return self.now

    def sleep(self, seconds: float) -> None:
        self.waits.append(seconds)
        self.now += seconds

    def policy(
        self, *, attempts: int | None = None, time_limit: float | None = None, jitter: Callable[[], float] = lambda: 1.0
    ) -> RetryPolicy:
        return RetryPolicy(attempts, time_limit, first_wait=1.0, longest_wait=8.0, sleep=self.sleep, clock=self.time, jitter=jitter)


def failing(*errors: Exception) -> Callable[[], str]:
    """Raises these errors, one a call, then succeeds."""
    left = list(errors)

    def action() -> str:
        if left:
            raise left.pop(0)
        return "done"

    return action


def is_busy(error: Exception) -> bool:
    return isinstance(error, BusyError)


def asked(error: Exception) -> float | None:
    return error.seconds if isinstance(error, BusyError) else None


def test_what_succeeds_is_not_retried() -> None:
    clock = Clock()
    assert clock.policy().call(failing(), is_busy) == "done"
    assert clock.waits == []


def test_waits_double_up_to_the_longest() -> None:
    clock = Clock()
    assert clock.policy().call(failing(*[BusyError()] * 6), is_busy) == "done"
    assert clock.waits == [1.0, 2.0, 4.0, 8.0, 8.0, 8.0]


def test_a_wait_is_a_random_part_of_its_limit() -> None:
    clock, again = Clock(), random.Random(5)
    clock.policy(jitter=random.Random(5).random).call(failing(*[BusyError()] * 5), is_busy)
    assert clock.waits == [limit * again.random() for limit in (1.0, 2.0, 4.0, 8.0, 8.0)]


def test_by_default_the_jitter_is_random_from_0_to_1() -> None:
    waits = {RetryPolicy(first_wait=1.0).attempts_left().next_wait() for _ in range(20)}
    assert len(waits) == 20
    assert all(wait is not None and 0 <= wait < 1 for wait in waits)


def test_an_error_that_is_not_transient_is_raised_at_once() -> None:
    clock = Clock()
    with pytest.raises(KeyError):
        clock.policy().call(failing(BusyError(), KeyError("no")), is_busy)
    assert clock.waits == [1.0]


def test_an_interruption_is_never_retried() -> None:
    calls = []

    def interrupted() -> None:
        calls.append(1)
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        Clock().policy().call(interrupted, lambda error: True)
    assert len(calls) == 1


def test_the_last_error_is_raised_when_the_attempts_are_used_up() -> None:
    clock, last = Clock(), BusyError()
    with pytest.raises(BusyError) as caught:
        clock.policy(attempts=3).call(failing(BusyError(), BusyError(), last, BusyError()), is_busy)
    assert caught.value is last
    assert clock.waits == [1.0, 2.0]


def test_no_attempt_begins_after_the_time_limit() -> None:
    clock = Clock()
    with pytest.raises(BusyError):
        clock.policy(time_limit=20.0).call(failing(*[BusyError()] * 99), is_busy)
    assert clock.waits == [1.0, 2.0, 4.0, 8.0]
    assert clock.now < 1020


def test_a_server_that_asks_for_a_longer_wait_gets_it_up_to_a_bound() -> None:
    clock = Clock()
    clock.policy().call(failing(BusyError(5.0), BusyError(0.0), BusyError(3600.0)), is_busy, asked)
    assert clock.waits == [5.0, 2.0, 60.0]


def test_a_wait_that_a_server_asks_for_counts_against_the_time_limit() -> None:
    clock = Clock()
    with pytest.raises(BusyError):
        clock.policy(time_limit=30.0).call(failing(BusyError(31.0)), is_busy, asked)
    assert clock.waits == []


def test_after_progress_attempts_and_time_are_counted_from_the_beginning() -> None:
    clock = Clock()
    left = clock.policy(attempts=3, time_limit=10.0).attempts_left()
    for _ in range(5):
        assert left.wait()
        assert left.wait()
        left.restart()
    assert left.wait()
    assert left.wait()
    assert not left.wait()
    assert clock.waits == [1.0, 2.0] * 6


def test_a_loop_without_limits_keeps_waiting_for_the_longest_time() -> None:
    left = Clock().policy().attempts_left()
    assert [left.next_wait() for _ in range(5000)][-1] == 8.0


@pytest.mark.parametrize(
    ("header", "seconds"),
    [
        ("120", 120.0),
        (" 3 ", 3.0),
        ("Wed, 21 Oct 2015 07:28:30 GMT", 30.0),
        ("Wed, 21 Oct 2015 07:00:00 GMT", 0.0),
        ("", None),
        (None, None),
        ("soon", None),
        ("-1", None),
        ("1.5", None),
        ("٣", None),
        ("9" * 5000, 999999999.0),
        ("Wed, 99 Oct 2015 07:28:30 GMT", None),
    ],
)
def test_retry_after_holds_seconds_or_a_date(header: str | None, seconds: float | None) -> None:
    assert retry_after_seconds(header, lambda: 1445412480.0) == seconds

"""Steps on a few threads."""

import os
import signal
import subprocess
import sys
import threading
from collections.abc import Sequence
from functools import partial

import pytest

from cloud_train.errors import StoreError
from cloud_train.storage.transfer.pool import FIRST_THREADS, Bounds, Signals, Step, run_steps


def signals() -> Signals:
    return Signals(threading.Event(), threading.Event())


def test_steps_that_follow_go_before_new_ones() -> None:
    order: list[str] = []

    def begin(name: str) -> Sequence[Step]:
        order.append(f"begin {name}")
        return [Step(partial(end, name))]

    def end(name: str) -> Sequence[Step]:
        order.append(f"end {name}")
        return ()

    run_steps((Step(partial(begin, name)) for name in "abcd"), Bounds(1, 1, None), signals(), lambda: None)
    assert sorted(order) == sorted(f"{what} {name}" for what in ("begin", "end") for name in "abcd")
    assert order.index("end a") < order.index("begin d")


def test_steps_together_hold_no_more_memory_than_allowed_and_a_larger_one_runs_alone() -> None:
    lock, held, most = threading.Lock(), [0], [0]

    def hold(size: int) -> Sequence[Step]:
        with lock:
            held[0] += size
            most[0] = max(most[0], held[0])
        with lock:
            held[0] -= size
        return ()

    sizes = [10, 60, 40, 90, 30, 30, 30] * 20
    run_steps((Step(partial(hold, size), size) for size in sizes), Bounds(8, 100, None), signals(), lambda: None)
    assert most[0] <= 100
    run_steps(iter([Step(lambda: hold(500), 500), Step(lambda: hold(1), 1)]), Bounds(8, 100, None), signals(), lambda: None)
    assert most[0] == 500


def test_the_first_error_is_raised_when_every_thread_has_ended() -> None:
    ends = signals()

    def fail() -> Sequence[Step]:
        raise StoreError("no")

    with pytest.raises(StoreError, match="no"):
        run_steps(iter([Step(fail), *[Step(tuple)] * 100]), Bounds(4, 1, None), ends, lambda: None)
    assert ends.stopped.is_set()
    assert ends.idle.is_set()


def test_the_time_limit_is_heard_while_a_step_waits() -> None:
    now, release, ends = [0.0], threading.Event(), signals()

    def wait() -> Sequence[Step]:
        while not ends.stopped.wait(0.01):
            pass
        return ()

    def tick() -> None:
        now[0] += 100

    with pytest.raises(StoreError, match="not finished within the time limit of 60 s"):
        run_steps(iter([Step(wait)]), Bounds(1, 1, 60, lambda: now[0]), ends, tick)
    release.set()
    assert ends.idle.is_set()


def test_as_long_as_all_threads_wait_there_are_more_of_them() -> None:
    together = threading.Barrier(16)  # passes when 16 steps run at the same time

    def wait() -> Sequence[Step]:
        together.wait()
        return ()

    run_steps(iter([Step(wait)] * 32), Bounds(16, 1, 60, computed=lambda: 0.0), signals(), lambda: None)


@pytest.mark.parametrize("why", ["they compute", "one has nothing to do"])
def test_no_thread_is_added_while_more_would_not_help(why: str) -> None:
    computed, looks, looked = iter(range(10**6)), [0], threading.Event()
    names: set[str] = set()

    def wait() -> Sequence[Step]:
        names.add(threading.current_thread().name)
        looked.wait()
        return ()

    def tick() -> None:
        looks[0] += 1
        if looks[0] == 3:
            before.update(thread.name for thread in threading.enumerate())
            looked.set()

    before: set[str] = set()
    outside = {thread.name for thread in threading.enumerate()}
    bounds = Bounds(16, 1, 60, computed=lambda: float(next(computed)) if why == "they compute" else 0.0)
    run_steps(iter([Step(wait)] * (32 if why == "they compute" else FIRST_THREADS - 1)), bounds, signals(), tick)
    assert len(before - outside) == FIRST_THREADS


_WAITS = """
import sys, threading
from cloud_train.storage.transfer.pool import *
signals = Signals(threading.Event(), threading.Event())
def wait():
    print("waiting", flush=True)
    sys.stdin.read()  # a server that never answers
try:
    run_steps(iter([Step(wait)]), Bounds(1, 1, None), signals, lambda: None)
except KeyboardInterrupt:
    print("stopped", signals.idle.is_set(), flush=True)
"""


@pytest.mark.slow
def test_ctrl_c_is_heard_while_a_server_does_not_answer() -> None:
    with subprocess.Popen([sys.executable, "-c", _WAITS], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None
        assert process.stdout.readline() == "waiting\n"
        os.kill(process.pid, signal.SIGINT)
        assert process.stdout.readline() == "stopped False\n"
        process.kill()

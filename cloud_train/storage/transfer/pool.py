"""Many small steps on a few threads, with a bound on the memory that they take together.

A step returns the steps that follow it, and they go before new ones: what has begun is brought to its end. The threads take the steps
themselves, because handing out thousands of small ones would cost more than doing them. The thread that calls ``run_steps`` only watches,
so Ctrl-C and the time limit are heard at once, whatever other threads wait for.

Threads that compute get in each other's way (only one at a time runs Python), and threads that wait for a distant server do not. So a
pool begins with few, and as long as all of them mostly wait, it gets more.
"""

import os
import threading
import time
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass

from cloud_train.errors import StoreError

FIRST_THREADS = max(3, min(8, (os.cpu_count() or 1) + 1))
"""With which a pool begins."""

_IDLE_SHARE = 0.5  # of one core, that the process uses while more threads would help
_LOOK_SECONDS = 0.1
_GRACE_SECONDS = 3.0


@dataclass(frozen=True)
class Step:
    """Something to do on a thread of the pool."""

    action: Callable[[], Sequence["Step"]]
    """Returns what is to be done after it."""
    memory_bytes: int = 0
    """What it holds in memory while it runs."""


@dataclass(frozen=True)
class Bounds:
    """How much is done at once, and for how long."""

    threads: int
    """At most."""
    memory_bytes: int
    """Steps run together only as long as they hold less than this; one that wants more by itself runs alone."""
    time_limit: float | None
    """Seconds for everything, or None."""
    clock: Callable[[], float] = time.monotonic
    computed: Callable[[], float] = time.process_time
    """CPU seconds that this process used so far."""


@dataclass(frozen=True)
class Signals:
    """How a pool and its steps tell each other about the end."""

    stopped: threading.Event
    """Set when no further step shall begin; a step that takes long looks at it."""
    idle: threading.Event
    """Set when every thread has ended."""


def run_steps(first: Iterator[Step], bounds: Bounds, signals: Signals, tick: Callable[[], None]) -> None:
    """Run all steps, and those that follow them; ``tick`` is called here now and then, ``first`` is read by the threads, one at a time.

    Raises the error of the first step that fails, and StoreError when the time is up. Then, and on Ctrl-C, no further
    step begins, and those that run get a moment to end; a thread that still waits for a server is left to itself.
    """
    work = _Work(first, bounds, signals.stopped)
    try:
        work.grow()
        _watch(work, bounds, tick)
    finally:
        work.stop()
        if work.is_left(time.monotonic() + _GRACE_SECONDS):
            signals.idle.set()


def _watch(work: "_Work", bounds: Bounds, tick: Callable[[], None]) -> None:
    looked, computed = time.monotonic(), bounds.computed()
    while not work.ended.wait(_LOOK_SECONDS):
        work.check_time()
        now, computed_now = time.monotonic(), bounds.computed()
        if computed_now - computed < _IDLE_SHARE * (now - looked):
            work.grow()
        looked, computed = now, computed_now
        tick()
    if work.error is not None:
        raise work.error


class _Work:
    """What is still to be done, and the threads that do it."""

    def __init__(self, first: Iterator[Step], bounds: Bounds, stopped: threading.Event) -> None:
        self._first = first
        self._bounds = bounds
        self._give_up_at = None if bounds.time_limit is None else bounds.clock() + bounds.time_limit
        self._stopped = stopped
        self._threads: list[threading.Thread] = []
        self._changed = threading.Condition(threading.Lock())  # guards all that follows
        self._following: deque[Step] = deque()
        self._running = self._waiting = self._memory_bytes = 0
        self.error: BaseException | None = None
        """Of the first step that failed."""
        self.ended = threading.Event()
        """Set when everything is done, or a step has failed."""

    def grow(self) -> None:
        """Begin with a few threads, or double their number as far as allowed, unless one of them has nothing to do."""
        if not self._waiting:
            more = len(self._threads) or FIRST_THREADS
            for _ in range(min(more, self._bounds.threads - len(self._threads))):
                thread = threading.Thread(target=self._run, daemon=True)
                self._threads.append(thread)  # before it starts: Ctrl-C may come in between
                thread.start()

    def check_time(self) -> None:
        """Raises StoreError when the time is up."""
        if self._give_up_at is not None and self._bounds.clock() > self._give_up_at:
            limit = self._bounds.time_limit
            raise StoreError(f"not done after {limit:g} s, the time limit", hint="rerun: downloads resume where they stopped")

    def is_left(self, give_up_at: float) -> bool:
        """Wait for the threads, until ``give_up_at`` by the monotonic clock; whether all have ended."""
        started = [thread for thread in self._threads if thread.ident is not None]
        for thread in started:
            thread.join(max(0.0, give_up_at - time.monotonic()))
        return not any(thread.is_alive() for thread in started)

    def _run(self) -> None:
        try:
            while (step := self._take()) is not None:
                self._settle(step, step.action())
        except BaseException as error:  # noqa: BLE001 - whatever it is, it is raised again in the thread that asked for the work
            with self._changed:
                self.error = error if self.error is None else self.error
            self.stop()
        self.ended.set()

    def stop(self) -> None:
        """No further step begins."""
        self._stopped.set()
        with self._changed:
            self._changed.notify_all()

    def _take(self) -> Step | None:
        """The next step, as soon as there is memory for it; None if there will be none."""
        with self._changed:
            while not self._stopped.is_set():
                if not self._following:
                    self._following.extend([step] if (step := next(self._first, None)) is not None else [])
                if not self._following and not self._running:
                    return None
                if self._following and self._has_room(self._following[0]):
                    self.check_time()
                    step = self._following.popleft()
                    self._running, self._memory_bytes = self._running + 1, self._memory_bytes + step.memory_bytes
                    return step
                self._waiting += 1
                self._changed.wait()
                self._waiting -= 1
        return None

    def _has_room(self, step: Step) -> bool:
        return not self._running or self._memory_bytes + step.memory_bytes <= self._bounds.memory_bytes

    def _settle(self, step: Step, following: Sequence[Step]) -> None:
        with self._changed:
            self._running, self._memory_bytes = self._running - 1, self._memory_bytes - step.memory_bytes
            self._following.extend(following)
            self._changed.notify_all()

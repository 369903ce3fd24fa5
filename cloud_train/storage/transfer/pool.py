"""A thread pool for many small steps, with a limit on their total memory.

A step returns the steps that follow it, which run before new ones, so that work in progress is finished first. The threads take the steps
themselves, because handing out thousands of small ones would take longer than doing them. The thread that calls ``run_steps`` only watches,
so it reacts immediately to Ctrl-C and the time limit.

Threads that compute slow each other down (only one at a time runs Python), but threads that wait for a distant server do not. So a pool
starts with a few threads, and grows as long as all of them are mostly waiting.
"""

import os
import threading
import time
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass

from cloud_train.errors import StoreError

FIRST_THREADS = max(3, min(8, (os.cpu_count() or 1) + 1))
"""Number of threads with which a pool starts."""

_IDLE_SHARE = 0.5  # CPU use, as a share of one core, below which more threads help
_LOOK_SECONDS = 0.1
_GRACE_SECONDS = 3.0


@dataclass(frozen=True)
class Step:
    """A unit of work for a thread of the pool."""

    action: Callable[[], Sequence["Step"]]
    """Returns the steps that follow."""
    memory_bytes: int = 0
    """Memory that it takes while it runs."""


@dataclass(frozen=True)
class Bounds:
    """Limits of a pool."""

    threads: int
    """Maximum number of threads."""
    memory_bytes: int
    """Maximum total memory of concurrent steps; a step that needs more runs alone."""
    time_limit: float | None
    """Seconds for all steps, or None."""
    clock: Callable[[], float] = time.monotonic
    computed: Callable[[], float] = time.process_time
    """CPU seconds that this process has used."""


@dataclass(frozen=True)
class Signals:
    """Events with which a pool and its steps communicate the end."""

    stopped: threading.Event
    """Set when no further step may begin; long steps should check it."""
    idle: threading.Event
    """Set when every thread has ended."""


def run_steps(first: Iterator[Step], bounds: Bounds, signals: Signals, tick: Callable[[], None]) -> None:
    """Run all steps and those that follow them. ``tick`` is called regularly on this thread; the threads consume ``first`` one at a time.

    Raises the error of the first step that fails, and StoreError at the time limit. Then, and on Ctrl-C, no further step begins, and
    running ones get a moment to finish; a thread that is still waiting for a server is abandoned.
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
    """The remaining steps and the threads that run them."""

    def __init__(self, first: Iterator[Step], bounds: Bounds, stopped: threading.Event) -> None:
        self._first = first
        self._bounds = bounds
        self._give_up_at = None if bounds.time_limit is None else bounds.clock() + bounds.time_limit
        self._stopped = stopped
        self._threads: list[threading.Thread] = []
        self._changed = threading.Condition(threading.Lock())  # guards the following fields
        self._following: deque[Step] = deque()
        self._running = self._waiting = self._memory_bytes = 0
        self.error: BaseException | None = None
        """The error of the first step that failed."""
        self.ended = threading.Event()
        """Set when everything is done, or a step has failed."""

    def grow(self) -> None:
        """Start a few threads, or double their number up to the limit, unless one of them is idle."""
        if not self._waiting:
            more = len(self._threads) or FIRST_THREADS
            for _ in range(min(more, self._bounds.threads - len(self._threads))):
                thread = threading.Thread(target=self._run, daemon=True)
                self._threads.append(thread)  # before it starts: Ctrl-C may come in between
                thread.start()

    def check_time(self) -> None:
        """Raise StoreError if the time limit is exceeded."""
        if self._give_up_at is not None and self._bounds.clock() > self._give_up_at:
            limit = self._bounds.time_limit
            raise StoreError(f"not finished within the time limit of {limit:g} s", hint="rerun: downloads resume where they stopped")

    def is_left(self, give_up_at: float) -> bool:
        """Wait for the threads until ``give_up_at`` on the monotonic clock; returns whether all have ended."""
        started = [thread for thread in self._threads if thread.ident is not None]
        for thread in started:
            thread.join(max(0.0, give_up_at - time.monotonic()))
        return not any(thread.is_alive() for thread in started)

    def _run(self) -> None:
        try:
            while (step := self._take()) is not None:
                self._settle(step, step.action())
        except BaseException as error:  # noqa: BLE001 - any error is raised again in the calling thread
            with self._changed:
                self.error = error if self.error is None else self.error
            self.stop()
        self.ended.set()

    def stop(self) -> None:
        """Let no further step begin."""
        self._stopped.set()
        with self._changed:
            self._changed.notify_all()

    def _take(self) -> Step | None:
        """The next step, once there is enough memory for it; None at the end."""
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

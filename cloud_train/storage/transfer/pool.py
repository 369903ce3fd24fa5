"""Many small steps on a few threads, with a bound on the memory that they take together.

A step returns the steps that follow it, and they go before new ones: what has begun is brought to its end. The thread that calls
``run_steps`` hands them out and does nothing else, so Ctrl-C and the time limit are heard at once, whatever other threads wait for.
"""

import threading
import time
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from contextlib import suppress
from dataclasses import dataclass
from queue import Empty, SimpleQueue

from cloud_train.errors import StoreError

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
    memory_bytes: int
    """Steps run together only as long as they hold less than this; one that wants more by itself runs alone."""
    time_limit: float | None
    """Seconds for everything, or None."""
    clock: Callable[[], float] = time.monotonic


@dataclass(frozen=True)
class Signals:
    """How a pool and its steps tell each other about the end."""

    stopped: threading.Event
    """Set when no further step shall begin; a step that takes long looks at it."""
    idle: threading.Event
    """Set when every thread has ended."""


@dataclass(frozen=True)
class _Outcome:
    step: Step
    following: Sequence[Step]
    error: BaseException | None


def run_steps(first: Iterator[Step], bounds: Bounds, signals: Signals, tick: Callable[[], None]) -> None:
    """Run all steps, and those that follow them; ``tick`` is called here now and then.

    Raises the error of the first step that fails, and StoreError when the time is up. Then, and on Ctrl-C, no further
    step begins, and those that run get a moment to end; a thread that still waits for a server is left to itself.
    """
    todo: SimpleQueue[Step | None] = SimpleQueue()
    outcomes: SimpleQueue[_Outcome] = SimpleQueue()
    threads = [threading.Thread(target=_work, args=(todo, outcomes, signals.stopped), daemon=True) for _ in range(bounds.threads)]
    for thread in threads:
        thread.start()
    try:
        _hand_out(first, bounds, todo, outcomes, tick)
    finally:
        signals.stopped.set()
        for _ in threads:
            todo.put(None)
        give_up_at = time.monotonic() + _GRACE_SECONDS
        for thread in threads:
            thread.join(max(0.0, give_up_at - time.monotonic()))
        if not any(thread.is_alive() for thread in threads):
            signals.idle.set()


def _hand_out(
    first: Iterator[Step], bounds: Bounds, todo: "SimpleQueue[Step | None]", outcomes: "SimpleQueue[_Outcome]", tick: Callable[[], None]
) -> None:
    give_up_at = None if bounds.time_limit is None else bounds.clock() + bounds.time_limit
    following: deque[Step] = deque()
    running = memory = 0
    while True:
        # One more than there are threads, so that none waits for this one.
        while running <= bounds.threads:
            if not following:
                following.extend([step] if (step := next(first, None)) is not None else [])
            if not following or (running and memory + following[0].memory_bytes > bounds.memory_bytes):
                break
            step = following.popleft()
            running, memory = running + 1, memory + step.memory_bytes
            todo.put(step)
        if not running:
            return
        with suppress(Empty):
            outcome = outcomes.get(timeout=_LOOK_SECONDS)
            running, memory = running - 1, memory - outcome.step.memory_bytes
            if outcome.error is not None:
                raise outcome.error
            following.extend(outcome.following)
        if give_up_at is not None and bounds.clock() > give_up_at:
            raise StoreError(f"not done after {bounds.time_limit:g} s, the time limit", hint="do it again: it goes on where it stopped")
        tick()


def _work(todo: "SimpleQueue[Step | None]", outcomes: "SimpleQueue[_Outcome]", stopped: threading.Event) -> None:
    while (step := todo.get()) is not None and not stopped.is_set():
        try:
            outcome = _Outcome(step, step.action(), None)
        except BaseException as error:  # noqa: BLE001 - whatever it is, it is raised again in the thread that asked for the work
            outcome = _Outcome(step, (), error)
        outcomes.put(outcome)

"""The time of a cloud simulator: the machine's own, or one that a test moves.

Queues, log lag, timeouts and tokens of a simulator run on its clock; containers, which are real, run in real time. A state machine needs no
thread: work out the state from ``clock.now()`` when a request asks for it. Where a thread is needed, it waits with ``clock.wait(seconds,
stop)``, so that whoever closes the simulator can end it at once.
"""

import threading
import time
from typing import Protocol

_PACE_SECONDS = 0.01
"""How often a waiting thread looks at the event that ends it, in real time."""


class Clock(Protocol):
    """What a simulator knows of time."""

    def now(self) -> float:
        """Seconds since the epoch."""

    def sleep(self, seconds: float) -> None:
        """Return when so many seconds of this clock have passed."""

    def wait(self, seconds: float, until: threading.Event) -> bool:
        """Return when so many seconds of this clock have passed, or ``until`` is set; whether it is set."""


class RealClock:
    """The time of this machine."""

    def now(self) -> float:
        """Seconds since the epoch."""
        return time.time()

    def sleep(self, seconds: float) -> None:
        """Return when so many seconds have passed."""
        time.sleep(max(0.0, seconds))

    def wait(self, seconds: float, until: threading.Event) -> bool:
        """Return when so many seconds have passed, or ``until`` is set; whether it is set."""
        return until.wait(max(0.0, seconds))


class MovedClock(RealClock):
    """The time of this machine, which a test may set ahead: for containers that live through hours of a cloud's."""

    def __init__(self) -> None:
        self._ahead = 0.0

    def now(self) -> float:
        """Seconds since the epoch, of this clock."""
        return time.time() + self._ahead

    def advance(self, seconds: float) -> None:
        """Set the clock ahead by so many seconds; whoever waits goes on waiting in real time."""
        self._ahead += seconds


class VirtualClock:
    """A time that stands still until a test advances it; any number of threads may wait on it."""

    def __init__(self, start: float = 1_700_000_000.0) -> None:
        self._now = start
        self._moved = threading.Condition()

    def now(self) -> float:
        """Seconds since the epoch, of this clock."""
        with self._moved:
            return self._now

    def advance(self, seconds: float) -> None:
        """Move the clock on and wake whoever waited for that. Negative seconds set it back, as a corrected clock is."""
        with self._moved:
            self._now += seconds
            self._moved.notify_all()

    def sleep(self, seconds: float) -> None:
        """Return when the clock was advanced by so many seconds. Never returns if nobody does: prefer ``wait``."""
        self.wait(seconds, threading.Event())

    def wait(self, seconds: float, until: threading.Event) -> bool:
        """Return when the clock was advanced by so many seconds, or ``until`` is set; whether it is set."""
        with self._moved:
            deadline = self._now + seconds
            while self._now < deadline and not until.is_set():
                self._moved.wait(_PACE_SECONDS)
        return until.is_set()

"""The retry policy: which errors are retried, how often, for how long, and how long to wait in between.

Waits use "full jitter": a random fraction of a limit that doubles with each failure, so that clients that were throttled together do not
retry together (https://aws.amazon.com/blogs/architecture/exponential-backoff-and-jitter/). A server's ``Retry-After`` makes a wait longer.

::

    RetryPolicy(attempts=5, time_limit=None).call(send, lambda error: isinstance(error, BusyError))

A loop that needs more than that counts with ``policy.attempts_left()``; see ``Attempts``.
"""

import random
import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import TypeVar

Result = TypeVar("Result")

TRANSIENT_STATUSES = frozenset({408, 429, 500, 502, 503, 504})
"""HTTP statuses after which the same request may succeed (RFC 9110, section 15; RFC 6585 for 429)."""


@dataclass(frozen=True)
class RetryPolicy:
    """How often and for how long a call is attempted. Clock, sleep and jitter are parameters, for tests."""

    attempts: int | None = None
    """Maximum number of attempts, including the first; None for no limit."""
    time_limit: float | None = 120.0
    """How long after the first attempt another one may begin, in seconds; None for no limit."""
    first_wait: float = 0.25
    """Upper limit of the first wait, in seconds; it doubles each time."""
    longest_wait: float = 8.0
    """Upper limit of every wait, in seconds."""
    longest_retry_after: float = 60.0
    """Upper limit of a wait that a server requests, in seconds."""
    sleep: Callable[[float], object] = time.sleep
    clock: Callable[[], float] = time.monotonic
    jitter: Callable[[], float] = random.random
    """The fraction of the upper limit to wait, from 0 to 1."""

    def call(
        self,
        action: Callable[[], Result],
        is_transient: Callable[[Exception], bool],
        retry_after: Callable[[Exception], float | None] = lambda error: None,
    ) -> Result:
        """Call ``action`` until it succeeds, and return its result.

        Raises an error immediately if ``is_transient`` returns False for it, otherwise the last one when attempts or time run out.
        ``retry_after`` returns the wait that the server requested in an error, in seconds.
        """
        left = self.attempts_left()
        while True:
            try:
                return action()
            except Exception as error:
                if not is_transient(error) or not left.wait(retry_after(error)):
                    raise

    def attempts_left(self) -> "Attempts":
        """Start counting attempts and time."""
        return Attempts(self)


class Attempts:
    """Counts the attempts of one call::

    left = policy.attempts_left()
    while not (result := ask()).is_final:
        if not left.wait():
            raise GivenUpError
    """

    def __init__(self, policy: RetryPolicy) -> None:
        self._policy = policy
        self._began = policy.clock()
        self.failures = 0
        """Consecutive failures."""

    def wait(self, retry_after: float | None = None) -> bool:
        """Count a failure, and sleep before the next attempt. Returns False, without sleeping, if no attempt is left."""
        if (seconds := self.next_wait(retry_after)) is None:
            return False
        self._policy.sleep(seconds)
        return True

    def next_wait(self, retry_after: float | None = None) -> float | None:
        """Count a failure; returns the seconds to wait before the next attempt, or None if no attempt is left.

        ``retry_after`` is the wait that the server requested, in seconds.
        """
        policy = self._policy
        self.failures += 1
        if policy.attempts is not None and self.failures >= policy.attempts:
            return None
        limit = min(policy.longest_wait, policy.first_wait * 2.0 ** min(self.failures - 1, 100))
        seconds = max(limit * policy.jitter(), min(retry_after or 0.0, policy.longest_retry_after))
        if policy.time_limit is not None and policy.clock() - self._began + seconds >= policy.time_limit:
            return None
        return seconds

    def restart(self) -> None:
        """Reset failures and time, because there was progress."""
        self.failures = 0
        self._began = self._policy.clock()


def retry_after_seconds(header: str | None, now: Callable[[], float] = time.time) -> float | None:
    """The seconds in a ``Retry-After`` header, which contains seconds or a date (RFC 9110, section 10.2.3); None if it is malformed."""
    text = (header or "").strip()
    if text.isascii() and text.isdigit():
        return float(text[:9])
    if not text:
        return None
    from email.utils import parsedate_to_datetime  # imports the mail parser, and few servers send a date

    try:
        return max(0.0, parsedate_to_datetime(text).timestamp() - now())
    except (ValueError, TypeError, OverflowError):
        return None

"""New credentials in the middle of the work: a refusal for those that have ended is a reason to ask the cloud's own chain once more.

Each SDK renews what it knows to be temporary before it ends. It cannot know that a key was replaced, that somebody logged in again, or that
a token was called back early: only the service's refusal tells. If the chain then finds other credentials, the request is worth another
try; if it finds the same ones, the refusal stands.
"""

import time
from collections.abc import Callable
from threading import Lock

_UNDER_WAY_SECONDS = 60.0  # a request that was signed before the renewal may be refused after it
_PAUSE_SECONDS = 5.0  # threads that are refused together ask once


class Renewal:
    """When one store's credentials are renewed; may be used by many threads."""

    def __init__(self, renew: Callable[[], bool], clock: Callable[[], float] = time.monotonic) -> None:
        """``renew`` asks the chain, and puts other credentials than those in use into their place; it returns whether there were any."""
        self._renew, self._clock = renew, clock
        self._lock = Lock()
        self._renewed = self._asked = float("-inf")

    def came(self) -> bool:
        """After a refusal: whether there are other credentials by now. Raises StoreError where the chain itself ends in an error."""
        with self._lock:
            if self._clock() - self._renewed < _UNDER_WAY_SECONDS:
                return True
            if self._clock() - self._asked < _PAUSE_SECONDS:
                return False
            self._asked = self._clock()
            if self._renew():
                self._renewed = self._clock()
                return True
            return False

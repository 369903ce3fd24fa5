"""The faults that a test orders from a cloud simulator, by the name of the operation that they befall::

    simulator.faults.add("CreateTrainingJob", Fault.LOST_ANSWER)
    simulator.faults.add(ANY, Fault.THROTTLE, times=3)
    simulator.faults.hide("jobs", requests=2)  # a job that is created now is missing from the next two listings

``tests.clouds.server`` brings those of ``TRANSPORT`` by itself. The others are the simulator's to ask for, with ``take``, at the moment at
which its cloud would find out. Interruptions befall a job, not a request: each simulator has a method for them.
"""

import threading
from collections.abc import Iterable
from dataclasses import dataclass
from enum import Enum

from tests.clouds.clock import Clock, RealClock

ANY = "*"
"""In place of an operation's name: whichever comes next."""


class Fault(Enum):
    """What may befall a request."""

    SERVER_ERROR = "server error"
    """Not carried out; status 500 and the provider's words."""
    THROTTLE = "throttle"
    """Not carried out; the provider's way to say: too many requests."""
    EXPIRED_TOKEN = "expired token"
    """Not carried out; the provider's way to say that the credentials have expired (401 or 403)."""
    LOST_ANSWER = "lost answer"
    """Carried out; then the connection is closed without an answer."""
    HALF_OPEN = "half open"
    """Not carried out; the connection stays open, and no answer comes until the server or the client closes it."""
    NO_CAPACITY = "no capacity"
    """The simulator's own: it has no such machines now. At the operation that creates a job, or while the job waits."""


REFUSALS = frozenset({Fault.SERVER_ERROR, Fault.THROTTLE, Fault.EXPIRED_TOKEN})
"""Those whose answer is made by the simulator's ``error``."""
TRANSPORT = REFUSALS | {Fault.LOST_ANSWER, Fault.HALF_OPEN}
"""Those that the server brings before the simulator sees the request, or after it has answered."""


@dataclass
class _Ordered:
    operation: str
    fault: Fault
    times: int


@dataclass
class _Hidden:
    requests: int
    until: float


class Faults:
    """The orders of one simulator, in the sequence in which they came. Safe to use from several threads."""

    def __init__(self, clock: Clock | None = None) -> None:
        self._clock = clock or RealClock()
        self._lock = threading.Lock()
        self._ordered: list[_Ordered] = []
        self._delays: dict[str, tuple[int, float]] = {}
        self._hidden: dict[tuple[str, str], _Hidden] = {}

    def add(self, operation: str, fault: Fault, times: int = 1) -> None:
        """Let ``fault`` befall the next ``times`` requests of this operation (``ANY``: of whichever)."""
        with self._lock:
            self._ordered.append(_Ordered(operation, fault, times))

    def take(self, operation: str, among: Iterable[Fault] = TRANSPORT) -> Fault | None:
        """The fault that befalls this request of ``operation``, of those in ``among``; it is used up by that. None for no fault."""
        wanted = frozenset(among)
        with self._lock:
            for ordered in self._ordered:
                if ordered.operation in (operation, ANY) and ordered.fault in wanted:
                    ordered.times -= 1
                    self._ordered = [one for one in self._ordered if one.times > 0]
                    return ordered.fault
        return None

    def clear(self) -> None:
        """Forget all orders; whatever is hidden shows."""
        with self._lock:
            self._ordered.clear()
            self._delays.clear()
            self._hidden.clear()

    def hide(self, things: str, *, requests: int = 0, seconds: float = 0.0) -> None:
        """Eventual consistency: whatever is created from now on among ``things`` is missing from the next ``requests`` listings, and
        from all for so many ``seconds`` of the clock.
        """
        with self._lock:
            self._delays[things] = (requests, seconds)

    def created(self, things: str, key: str) -> None:
        """The simulator has created ``key``: from now on it is hidden, if that was ordered."""
        with self._lock:
            if things in self._delays:
                requests, seconds = self._delays[things]
                self._hidden[things, key] = _Hidden(requests, self._clock.now() + seconds)

    def shown(self, things: str, keys: Iterable[str]) -> list[str]:
        """Those of ``keys`` that a listing shows. Call it once for each listing (or look-up) that is asked for: it counts them."""
        with self._lock:
            return [key for key in keys if not self._is_hidden(things, key)]

    def _is_hidden(self, things: str, key: str) -> bool:
        hidden = self._hidden.get((things, key))
        if hidden is None:
            return False
        hidden.requests -= 1
        if hidden.requests >= 0 or self._clock.now() < hidden.until:
            return True
        del self._hidden[things, key]
        return False

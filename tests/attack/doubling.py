"""Whether work takes time in proportion to its input: the input is doubled, and the time must not do much more than double.

Time is that of the processor in this thread, so other programs on the machine do not count.
"""

import signal
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

MOST_GROWTH = 3.0
"""How much longer twice the input may take: 2 is linear, 4 is quadratic, and the rest is the noise of a busy machine."""


class TooSlowError(AssertionError):
    """The work takes much more than twice the time for twice the input."""


def check_linear(work: Callable[[Any], object], input_of: Callable[[int], Any], *, largest: int, floor: float, what: str) -> None:
    """Do ``work`` on inputs of growing size. Raises TooSlowError once that takes ``floor`` seconds and twice the size far more than twice.

    What takes less than ``floor`` at the ``largest`` size is quick enough, whatever it does. A slow result is measured again before it
    counts, so that a busy machine does not fail the test.
    """
    size = 64
    while size <= largest:
        once = seconds_of(work, input_of(size), what)
        if once >= floor:
            tries = (_growth(work, input_of, size, what) for _ in range(4))
            growth = next((growth for growth in tries if growth < MOST_GROWTH), None)
            if growth is None:
                raise TooSlowError(f"{what}: {size:,} take {once:.3f} s, and twice as much takes more than {MOST_GROWTH:g} times as long")
            if once >= 2 * floor:
                return
        size *= 2


def _growth(work: Callable[[Any], object], input_of: Callable[[int], Any], size: int, what: str) -> float:
    single, double = input_of(size), input_of(2 * size)
    return min(seconds_of(work, double, what) for _ in range(2)) / max(min(seconds_of(work, single, what) for _ in range(2)), 1e-6)


def seconds_of(work: Callable[[Any], object], given: Any, what: str) -> float:
    """How long ``work`` takes. Raises TooSlowError instead of waiting for it for ever."""
    with _deadline(what):
        start = time.thread_time()
        work(given)
        return time.thread_time() - start


@contextmanager
def _deadline(what: str, seconds: float = 2.0) -> Iterator[None]:
    def too_late(*_: object) -> None:
        raise TooSlowError(f"{what}: not done after {seconds:g} s of the processor")

    before = signal.signal(signal.SIGVTALRM, too_late)  # the engine of regular expressions looks for signals
    signal.setitimer(signal.ITIMER_VIRTUAL, seconds)
    try:
        yield
    finally:
        signal.setitimer(signal.ITIMER_VIRTUAL, 0)
        signal.signal(signal.SIGVTALRM, before)

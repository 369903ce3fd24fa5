"""Signal handling: each signal writes a byte into a pipe, so that one ``select`` waits for all signals and for a timeout."""

import os
import select
import signal
from contextlib import suppress
from types import FrameType

_STOP = (signal.SIGTERM, signal.SIGINT)


class Signals:
    """Handles signals from its creation on. Create one per process, in the main thread."""

    def __init__(self) -> None:
        self.stop_requested = False
        self._reading, self._writing = os.pipe()
        os.set_blocking(self._reading, False)
        os.set_blocking(self._writing, False)
        signal.set_wakeup_fd(self._writing, warn_on_full_buffer=False)
        for number in _STOP:
            signal.signal(number, self._on_stop)
        # Handlers, not SIG_IGN, which the program would inherit. A closed terminal does not stop the worker.
        for number in (signal.SIGHUP, signal.SIGCHLD):
            signal.signal(number, _on_other)

    def wait(self, seconds: float) -> None:
        """Wait for a signal since the last call, for at most ``seconds``."""
        ready, _, _ = select.select([self._reading], [], [], max(0.0, seconds))
        if ready:
            with suppress(BlockingIOError):
                while os.read(self._reading, 4096):
                    pass

    def close_in_child(self) -> None:
        """In a forked child: stop handling signals, which would wake the worker, and ignore a SIGTERM meant for the worker."""
        signal.set_wakeup_fd(-1)
        for number in (*_STOP, signal.SIGHUP):
            signal.signal(number, signal.SIG_IGN)
        signal.signal(signal.SIGCHLD, signal.SIG_DFL)
        os.close(self._reading)
        os.close(self._writing)

    def _on_stop(self, _number: int, _frame: FrameType | None) -> None:
        self.stop_requested = True


def _on_other(_number: int, _frame: FrameType | None) -> None:
    """Nothing to do: the signal has woken the worker."""

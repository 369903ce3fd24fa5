"""The worker's signals and child processes: long work in a forked child, and how each child ended.

Each signal writes a byte into a pipe, so that one ``select`` waits for all signals and for a timeout: while a fork hashes gigabytes, the
worker keeps handling signals and writing heartbeats.
"""

from __future__ import annotations  # the worker also runs on Python 3.10, in users' own images

import os
import select
import signal
from collections.abc import Callable
from contextlib import suppress
from types import FrameType

_STOP = (signal.SIGTERM, signal.SIGINT)


_LOOK_SECONDS = 1.0
_RESULT_BYTES = 32 * 1024  # fits a pipe's buffer on every system, so the child never waits for a reader


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


class Subprocess:
    """A function that runs in a forked child; the worker is single-threaded, so forking is safe."""

    def __init__(self, work: Callable[[], str], in_child: Callable[[], None]) -> None:
        """Start ``work``, after ``in_child`` has closed the worker's descriptors. The result is a string of at most 32 KiB."""
        self._reading, writing = os.pipe()
        self.pid = os.fork()
        if self.pid == 0:
            _work_and_exit(work, in_child, writing)
        os.close(writing)

    def result(self, exit_code: int) -> tuple[bool, str]:
        """After the child has been reaped: whether it succeeded, and its result or the error."""
        text = os.read(self._reading, _RESULT_BYTES).decode(errors="replace")
        os.close(self._reading)
        if exit_code < 0:
            return False, f"it was killed by signal {-exit_code}"
        return exit_code == 0, text


def do(work: Callable[[], str], signals: Signals, in_child: Callable[[], None], *, gives_up: bool) -> tuple[bool, str]:
    """Run work outside an attempt in a forked child and wait; with ``gives_up``, kill it when the worker is told to stop.

    Returns the same as ``Subprocess.result``.
    """
    subprocess = Subprocess(work, in_child)
    while True:
        pid, status = os.waitpid(subprocess.pid, os.WNOHANG)
        if pid:
            return subprocess.result(os.waitstatus_to_exitcode(status))
        signals.wait(_LOOK_SECONDS)
        if gives_up and signals.stop_requested:
            os.kill(subprocess.pid, signal.SIGKILL)


def _work_and_exit(work: Callable[[], str], in_child: Callable[[], None], writing: int) -> None:
    code = 1
    try:
        in_child()
        try:
            text = work()
            code = 0
        except Exception as error:  # noqa: BLE001 -- any error becomes the result, which the worker reports
            text = f"{error}" or type(error).__name__
        os.write(writing, text.encode(errors="replace")[:_RESULT_BYTES])
    finally:
        os._exit(code)  # never return into the worker's code


class Children:
    """Exit codes of child processes by process id, negative for signals."""

    def __init__(self, of_others: Callable[[int, int], None]) -> None:
        """``of_others`` receives the process id and wait status of every reaped child that is not expected."""
        self._of_others = of_others
        self._codes: dict[int, int | None] = {}

    def expect(self, pid: int) -> None:
        """Record how this child ends."""
        self._codes[pid] = None

    def has_ended(self, pid: int) -> bool:
        """Whether ``reap`` has reaped it."""
        return self._codes[pid] is not None

    def code(self, pid: int) -> int | None:
        """Its exit code; None until it has ended."""
        return self._codes[pid]

    def reap(self) -> bool:
        """Reap every child that has ended, including adopted ones; returns False if no children are left."""
        while True:
            try:
                pid, status = os.waitpid(-1, os.WNOHANG)
            except ChildProcessError:
                return False
            if pid == 0:
                return True
            if pid in self._codes:
                self._codes[pid] = os.waitstatus_to_exitcode(status)
            else:
                self._of_others(pid, status)

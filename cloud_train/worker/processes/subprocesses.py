"""Child processes of the worker: long work in a forked child, and how each child ended.

While a fork hashes gigabytes, the worker keeps handling signals and writing heartbeats.
"""

from __future__ import annotations  # the worker runs on Python 3.10 as well, in images of the user's

import os
import signal
from collections.abc import Callable

from cloud_train.worker.processes.signals import Signals

_LOOK_SECONDS = 1.0
_RESULT_BYTES = 32 * 1024  # fits a pipe's buffer on every system, so the child never waits for a reader


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

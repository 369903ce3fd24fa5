"""Child processes of the worker: work that takes long in a forked child, and how each child ended.

Hashing gigabytes in a fork lets the worker go on listening to signals and writing heartbeats.
"""

from __future__ import annotations  # the worker runs on Python 3.10 as well, in images of the user's

import os
import signal
from collections.abc import Callable

from cloud_train.worker.processes.signals import Signals

_LOOK_SECONDS = 1.0
_RESULT_BYTES = 32 * 1024  # fits a pipe's buffer on every system, so the child never waits for a reader


class Subprocess:
    """A function at work in a child of this process; the worker is single-threaded, so a fork is safe."""

    def __init__(self, work: Callable[[], str], in_child: Callable[[], None]) -> None:
        """Start ``work``; ``in_child`` runs first, to let go of what belongs to the worker. The result is a text of at most 32 KiB."""
        self._reading, writing = os.pipe()
        self.pid = os.fork()
        if self.pid == 0:
            _work_and_exit(work, in_child, writing)
        os.close(writing)

    def result(self, exit_code: int) -> tuple[bool, str]:
        """Once the child has been reaped: whether it went well, and the result or what went wrong."""
        text = os.read(self._reading, _RESULT_BYTES).decode(errors="replace")
        os.close(self._reading)
        if exit_code < 0:
            return False, f"it was killed by signal {-exit_code}"
        return exit_code == 0, text


def do(work: Callable[[], str], signals: Signals, in_child: Callable[[], None], *, gives_up: bool) -> tuple[bool, str]:
    """Run work outside an attempt in a forked child, and wait; ``gives_up``: only until the worker is told to stop.

    Returns what ``Subprocess.result`` does.
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
        except Exception as error:  # noqa: BLE001 -- whatever it is, it is the result: the worker reports it
            text = f"{error}" or type(error).__name__
        os.write(writing, text.encode(errors="replace")[:_RESULT_BYTES])
    finally:
        os._exit(code)  # never back into the worker's own code


class Children:
    """Exit codes by process id. A code is negative for a signal."""

    def __init__(self, of_others: Callable[[int, int], None]) -> None:
        """``of_others`` is told process id and wait status of every other child that was reaped."""
        self._of_others = of_others
        self._codes: dict[int, int | None] = {}

    def expect(self, pid: int) -> None:
        """Remember how this one will end."""
        self._codes[pid] = None

    def has_ended(self, pid: int) -> bool:
        """Whether it has, as far as ``reap`` has found out."""
        return self._codes[pid] is not None

    def code(self, pid: int) -> int | None:
        """How it ended; None while it has not."""
        return self._codes[pid]

    def reap(self) -> bool:
        """Reap every child that has ended, adopted ones included; returns False if no children are left."""
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

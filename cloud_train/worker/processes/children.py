"""The processes that an attempt has begun, and how each of them ended; those that it adopted are reaped as well."""

from __future__ import annotations  # the worker runs on Python 3.10 as well, in images of the user's

import os
from collections.abc import Callable


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
        """Bury every child that has ended, adopted ones included; False if there are no children any more."""
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

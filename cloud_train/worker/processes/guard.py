"""The guard: a small forked process that kills the program if the worker is killed, or if it is suspended and overtaken.

Without it, the program would keep running unsupervised, and a later attempt would write into the same run directory at the same time. The
guard also holds the worker's lock, so the attempt counts as alive until its processes have ended.
"""

import os
import select
import signal
from collections.abc import Callable
from contextlib import suppress
from functools import partial

from cloud_train.worker.processes.tree import kill_marked

_DONE = b"done\n"
_ROUNDS = 20  # of looking for remaining processes, which may fork during the search


class Guard:
    """Guards one attempt until ``dismiss``. The end of the pipe tells the process that the worker died."""

    def __init__(
        self, mark: tuple[str, str], in_child: Callable[[], None], is_over: Callable[[], bool] = lambda: False, look: float | None = None
    ) -> None:
        """Start the process; ``mark`` is an environment variable, and its value, that every process of the attempt has.

        Every ``look`` seconds it asks ``is_over`` whether the program may not run any more, whatever the worker does.
        """
        reading, self._writing = os.pipe()
        self.pid = os.fork()
        if self.pid == 0:
            os.close(self._writing)
            _watch_and_exit(reading, mark, in_child, partial(_wait, reading, is_over, look))
        os.close(reading)

    def protect(self, group: int) -> None:
        """Kill the process group ``group`` as well if the worker dies."""
        self._say(b"%d\n" % group)

    def dismiss(self) -> None:
        """End the guard after the program has ended."""
        self._say(_DONE)
        self.close()

    def close(self) -> None:
        """Close the pipe, in the worker or in a forked child of it."""
        os.close(self._writing)

    def _say(self, line: bytes) -> None:
        with suppress(BrokenPipeError):  # the guard was killed
            os.write(self._writing, line)


def _wait(reading: int, is_over: Callable[[], bool], look: float | None) -> bool:
    """Wait until there is something to read; False if the program may not run any more."""
    while not select.select([reading], [], [], look)[0]:
        if is_over():
            return False
    return True


def _watch_and_exit(reading: int, mark: tuple[str, str], in_child: Callable[[], None], wait: Callable[[], bool]) -> None:
    try:
        in_child()
        os.setsid()  # leave the worker's process group, which may be killed as a whole
        said = b""
        while not said.endswith(_DONE):
            piece = os.read(reading, 4096) if wait() else b""
            if not piece:
                _kill_all([int(line) for line in said.split()], mark)
                break
            said += piece
    finally:
        os._exit(0)  # never return into the worker's code


def _kill_all(groups: list[int], mark: tuple[str, str]) -> None:
    for group in groups:
        with suppress(ProcessLookupError, PermissionError):
            os.killpg(group, signal.SIGKILL)
    for _ in range(_ROUNDS):
        if not kill_marked(*mark):
            return

"""The guard: a small forked process that kills the program if the worker is killed.

Without it, the program would keep running unsupervised, and a later attempt would write into the same run directory at the same time. The
guard also holds the worker's lock, so the attempt counts as alive until its processes have ended.
"""

import os
import signal
from collections.abc import Callable
from contextlib import suppress

from cloud_train.worker.processes.tree import kill_marked

_DONE = b"done\n"
_ROUNDS = 20  # of looking for remaining processes, which may fork during the search


class Guard:
    """Guards one attempt until ``dismiss``. The end of the pipe tells the process that the worker died."""

    def __init__(self, mark: tuple[str, str], in_child: Callable[[], None]) -> None:
        """Start the process; ``mark`` is an environment variable, and its value, that every process of the attempt has."""
        reading, self._writing = os.pipe()
        self.pid = os.fork()
        if self.pid == 0:
            _watch_and_exit(reading, self._writing, mark, in_child)
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


def _watch_and_exit(reading: int, writing: int, mark: tuple[str, str], in_child: Callable[[], None]) -> None:
    try:
        in_child()
        os.close(writing)
        os.setsid()  # leave the worker's process group, which may be killed as a whole
        said = b""
        while not said.endswith(_DONE):
            piece = os.read(reading, 4096)
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

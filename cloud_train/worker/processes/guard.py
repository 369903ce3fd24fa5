"""The guard: a small forked process that outlives a worker which is killed, and takes the program with it.

Without it a program would run on unwatched, and a later attempt would write into the same run directory beside it. The guard has the
worker's lock open as well, so the attempt counts as alive until its processes are gone.
"""

import os
import signal
from collections.abc import Callable
from contextlib import suppress

from cloud_train.worker.processes.tree import kill_marked

_DONE = b"done\n"
_ROUNDS = 20  # of looking for what is left: more than one, because a process may fork while it is being looked for


class Guard:
    """Watches over one attempt until ``dismiss``. The worker tells it of the program; the pipe's end tells it of the worker's."""

    def __init__(self, mark: tuple[str, str], in_child: Callable[[], None]) -> None:
        """Start watching; ``mark`` is the environment variable, and its value, that every process of the attempt has."""
        reading, self._writing = os.pipe()
        self.pid = os.fork()
        if self.pid == 0:
            _watch_and_exit(reading, self._writing, mark, in_child)
        os.close(reading)

    def protect(self, group: int) -> None:
        """From now on, kill the process group ``group`` when the worker is gone."""
        self._say(b"%d\n" % group)

    def dismiss(self) -> None:
        """The program is gone: so may the guard be."""
        self._say(_DONE)
        self.close()

    def close(self) -> None:
        """Let go of the pipe, in the worker or in a forked child of it."""
        os.close(self._writing)

    def _say(self, line: bytes) -> None:
        with suppress(BrokenPipeError):  # the guard was killed: then there is none
            os.write(self._writing, line)


def _watch_and_exit(reading: int, writing: int, mark: tuple[str, str], in_child: Callable[[], None]) -> None:
    try:
        in_child()
        os.close(writing)
        os.setsid()  # out of the worker's process group, which may be killed as a whole
        said = b""
        while not said.endswith(_DONE):
            piece = os.read(reading, 4096)
            if not piece:
                _kill_all([int(line) for line in said.split()], mark)
                break
            said += piece
    finally:
        os._exit(0)  # never back into the worker's own code


def _kill_all(groups: list[int], mark: tuple[str, str]) -> None:
    for group in groups:
        with suppress(ProcessLookupError, PermissionError):
            os.killpg(group, signal.SIGKILL)
    for _ in range(_ROUNDS):
        if not kill_marked(*mark):
            return

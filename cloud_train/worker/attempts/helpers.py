"""The worker's own processes beside the program: the guard, the fetcher, forked work and the uploader. All others are the program's."""

from __future__ import annotations  # what only some runs need is named here, and imported where it is needed

import os
import signal
from collections.abc import Callable
from time import monotonic
from typing import TYPE_CHECKING

from cloud_train.run.shard_exchange import ShardExchange
from cloud_train.worker import contract
from cloud_train.worker.context import AttemptContext
from cloud_train.worker.processes import tree
from cloud_train.worker.processes.guard import Guard
from cloud_train.worker.processes.subprocesses import Children, Subprocess

if TYPE_CHECKING:
    from cloud_train.worker.fetcher import Fetcher

_REAP_AGAIN_SECONDS = 0.05


class Helpers:
    """Those of one attempt. All are forks of the worker, and each lets go of what belongs to the worker and to the others."""

    def __init__(self, at: AttemptContext, children: Children, number: int) -> None:
        """Start the guard; ``number`` is the attempt's."""
        self._at, self._children, self._number = at, children, number
        self._subprocesses: dict[int, Subprocess] = {}
        self._fetcher: Fetcher | None = None
        self._guard = Guard((contract.METRICS, str(at.workspace.metrics)), self._let_go_of_the_workers)
        children.expect(self._guard.pid)

    def pids(self) -> set[int]:
        """The process ids of all that are at work."""
        fetcher = {self._fetcher.pid} if self._fetcher else set()
        return {self._guard.pid, *self._lasting(), *self._subprocesses, *fetcher}

    def protect(self, group: int) -> None:
        """Let the guard end the process group ``group`` should the worker be gone."""
        self._guard.protect(group)

    def fetch(self, exchange: ShardExchange) -> None:
        """Start the fetcher."""
        from cloud_train.worker.fetcher import Fetcher

        self._fetcher = Fetcher(exchange, self._at.worker_log.note, self._in_child)
        self._children.expect(self._fetcher.pid)

    def keep_going(self) -> None:
        """Restart those that must last and are gone."""
        if self._at.uploader:
            self._at.uploader.keep_going(self._number, self._let_go_of_the_attempts)
        if (fetcher := self._fetcher) and (code := self._children.code(fetcher.pid)) is not None and fetcher.goes_on(code):
            self._children.expect(fetcher.pid)

    def tell_to_stop(self) -> None:
        """Let nothing begin that would hold up a program which is to stop."""
        if self._fetcher:
            self._fetcher.tell_to_stop()

    def begin(self, work: Callable[[], str]) -> Subprocess:
        """Start a subprocess."""
        subprocess = Subprocess(work, self._in_child)
        self._subprocesses[subprocess.pid] = subprocess
        self._children.expect(subprocess.pid)
        return subprocess

    def is_done(self, subprocess: Subprocess) -> bool:
        """Whether it has ended, well or not."""
        return self._children.has_ended(subprocess.pid)

    def abandon(self, subprocess: Subprocess) -> None:
        """End a subprocess, unless it is done."""
        if not self.is_done(subprocess):
            os.kill(subprocess.pid, signal.SIGKILL)

    def result(self, subprocess: Subprocess) -> tuple[bool, str]:
        """Of a subprocess that is done: whether it succeeded, and its result or the reason."""
        del self._subprocesses[subprocess.pid]
        return subprocess.result(self._children.code(subprocess.pid) or 0)

    def end(self) -> None:
        """The program is gone: end all but the uploader, and reap whatever is left of anything."""
        self._guard.dismiss()
        if self._fetcher:
            self._fetcher.end()
        # The kernel's list of children may leave one out while others end; that waiting finds no child any more is certain.
        give_up_at = monotonic() + self._at.timing.unkillable
        while self._children.reap() and monotonic() < give_up_at:
            if self._children.has_ended(self._guard.pid):
                if self._lasting() and not tree.has_children(self._lasting()):
                    return
                tree.kill_children(self._lasting())
            self._at.signals.wait(_REAP_AGAIN_SECONDS)

    def _lasting(self) -> set[int]:
        """Those that outlast the attempt."""
        return {self._at.uploader.pid} if self._at.uploader else set()

    def _in_child(self) -> None:
        self._let_go_of_the_workers()
        self._let_go_of_the_attempts()

    def _let_go_of_the_attempts(self) -> None:
        self._guard.close()
        if self._fetcher:
            self._fetcher.close()

    def _let_go_of_the_workers(self) -> None:
        self._at.signals.close_in_child()
        if self._at.uploader:
            self._at.uploader.close()

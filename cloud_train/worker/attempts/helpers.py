"""The worker's own child processes: the guard, the fetcher, the uploader and forked work. All other children belong to the program."""

from __future__ import annotations  # for types that are imported only where they are used

import os
import signal
from collections.abc import Callable
from functools import partial
from time import monotonic
from typing import TYPE_CHECKING

from cloud_train.run.shard_exchange import ShardExchange
from cloud_train.worker import contract, notices
from cloud_train.worker.console import Console, wanted
from cloud_train.worker.context import AttemptContext
from cloud_train.worker.processes import tree
from cloud_train.worker.processes.guard import Guard
from cloud_train.worker.processes.subprocesses import Children, Subprocess

if TYPE_CHECKING:
    from cloud_train.worker.fetcher import Fetcher

_CONSOLE_SECONDS = 5.0
"""How long a platform's log may take for the end of the output."""
_REAP_AGAIN_SECONDS = 0.05


class Helpers:
    """The helpers of one attempt. All are forks of the worker, and each closes the descriptors of the worker and of the others."""

    def __init__(self, at: AttemptContext, children: Children, number: int) -> None:
        """Start the guard; ``number`` is the attempt's."""
        self._at, self._children, self._number = at, children, number
        self._subprocesses: dict[int, Subprocess] = {}
        self._fetcher: Fetcher | None = None
        self._console: Console | None = None
        self._notices: Subprocess | None = None
        self._group: int | None = None
        self._guard = self._new_guard()

    def pids(self) -> set[int]:
        """The process ids of all running helpers."""
        fetcher = {self._fetcher.pid} if self._fetcher else set()
        console = {self._console.pid} if self._console and not self._children.has_ended(self._console.pid) else set()
        return {self._guard.pid, *self._lasting(), *self._subprocesses, *fetcher, *console}

    def protect(self, group: int) -> None:
        """Have the guard kill the process group ``group`` if the worker dies."""
        self._group = group
        self._guard.protect(group)

    def fetch(self, exchange: ShardExchange) -> None:
        """Start the fetcher."""
        from cloud_train.worker.fetcher import Fetcher

        self._fetcher = Fetcher(exchange, self._at.worker_log.note, self._in_child)
        self._children.expect(self._fetcher.pid)

    def show_output(self) -> None:
        """Copy the program's output to this worker's standard output, if that is a log of a platform's or a container's."""
        if wanted():
            self._console = Console(self._at.workspace.output_log, self._at.workspace.store, self._in_child)
            self._children.expect(self._console.pid)

    def watch_notices(self) -> None:
        """Watch for a notice that this machine is about to be reclaimed, if its platform gives any."""
        if look := notices.look_of(os.environ.get(contract.PLATFORM, "")):
            self._notices = self.begin(partial(notices.wait, look, os.getpid()))

    def notice(self) -> str:
        """That notice, once; otherwise empty."""
        watching = self._notices
        if watching is None or not self.is_done(watching):
            return ""
        self._notices = None
        went_well, said = self.result(watching)
        return said if went_well else ""

    def keep_going(self) -> None:
        """Restart the uploader, the fetcher or the guard if it died."""
        if self._children.has_ended(self._guard.pid):
            self._guard.close()
            self._guard = self._new_guard()
            if self._group is not None:
                self._guard.protect(self._group)
        if self._at.uploader:
            self._at.uploader.keep_going(self._number, self._let_go_of_the_attempts)
        if (fetcher := self._fetcher) and (code := self._children.code(fetcher.pid)) is not None and fetcher.restarted(code):
            self._children.expect(fetcher.pid)

    def tell_to_stop(self) -> None:
        """Tell a program that is waiting for shards that it has to stop."""
        if self._fetcher:
            self._fetcher.tell_to_stop()

    def begin(self, work: Callable[[], str]) -> Subprocess:
        """Start a subprocess."""
        subprocess = Subprocess(work, self._in_child)
        self._subprocesses[subprocess.pid] = subprocess
        self._children.expect(subprocess.pid)
        return subprocess

    def is_done(self, subprocess: Subprocess) -> bool:
        """Whether it has ended, successfully or not."""
        return self._children.has_ended(subprocess.pid)

    def abandon(self, subprocess: Subprocess) -> None:
        """Kill a subprocess, unless it has ended."""
        if not self.is_done(subprocess):
            os.kill(subprocess.pid, signal.SIGKILL)

    def result(self, subprocess: Subprocess) -> tuple[bool, str]:
        """Whether an ended subprocess succeeded, and its result or the reason."""
        del self._subprocesses[subprocess.pid]
        return subprocess.result(self._children.code(subprocess.pid) or 0)

    def end(self) -> None:
        """After the program's end: end all helpers but the uploader, and reap all remaining processes."""
        self._end_console()
        if self._notices:
            self.abandon(self._notices)
        self._guard.dismiss()
        if self._fetcher:
            self._fetcher.end()
        # The kernel's list of children may omit one while others end; only waitpid reliably reports that there are no children left.
        give_up_at = monotonic() + self._at.timing.unkillable
        while self._children.reap() and monotonic() < give_up_at:
            if self._children.has_ended(self._guard.pid):
                if self._lasting() and not tree.has_children(self._lasting()):
                    return
                tree.kill_children(self._lasting())
            self._at.signals.wait(_REAP_AGAIN_SECONDS)

    def _end_console(self) -> None:
        """Give it a moment for the rest of the output."""
        if self._console is None:
            return
        self._console.end()
        give_up_at = monotonic() + _CONSOLE_SECONDS
        while not self._children.has_ended(self._console.pid) and monotonic() < give_up_at:
            self._at.signals.wait(_REAP_AGAIN_SECONDS)
            self._children.reap()

    def _new_guard(self) -> Guard:
        def let_go() -> None:
            self._let_go_of_the_workers()
            self._let_go_of_the_copiers()

        at, mark = self._at, (contract.METRICS, str(self._at.workspace.metrics))
        guard = Guard(mark, let_go, lambda: at.superseded() is not None, at.timing.heartbeat)
        self._children.expect(guard.pid)
        return guard

    def _lasting(self) -> set[int]:
        """The helpers that outlive the attempt."""
        return {self._at.uploader.pid} if self._at.uploader else set()

    def _in_child(self) -> None:
        self._let_go_of_the_workers()
        self._let_go_of_the_attempts()

    def _let_go_of_the_attempts(self) -> None:
        self._guard.close()
        self._let_go_of_the_copiers()

    def _let_go_of_the_copiers(self) -> None:
        for copier in (self._fetcher, self._console):
            if copier:
                copier.close()

    def _let_go_of_the_workers(self) -> None:
        self._at.signals.close_in_child()
        if self._at.uploader:
            self._at.uploader.close()

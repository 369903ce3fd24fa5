"""An attempt's event loop: it sleeps until something happens or is due, writes heartbeats and decides when the program has to stop."""

import math
from collections.abc import Callable
from time import monotonic

from cloud_train.worker.attempts.helpers import Helpers
from cloud_train.worker.context import AttemptContext
from cloud_train.worker.ending import Stop
from cloud_train.worker.nodes import nodes_named
from cloud_train.worker.processes.subprocesses import Children


class Watch:
    """Single-threaded: things only happen inside ``turn``. Moments are in seconds of ``time.monotonic``; infinite means never."""

    def __init__(self, at: AttemptContext, children: Children, helpers: Helpers) -> None:
        self._at, self._children, self._helpers = at, children, helpers
        self.stop: Stop | None = None
        """The first reason to end the attempt; None until there is one."""
        self.limit = math.inf
        """When the attempt reaches its time limit."""
        self.kill_at = math.inf
        """When to kill whatever is left of the program."""
        self.is_forced = False
        """Whether the run was cancelled without the grace period."""
        self._is_told = False
        self._pace = at.timing.look
        self._next_heartbeat = monotonic() + at.timing.heartbeat
        self._next_look = monotonic() + self._pace

    def turn(self) -> None:
        """Sleep until something happens or is due, then do the routine work of an attempt."""
        at = self._at
        at.signals.wait(min(self._next_heartbeat, self._next_look, self.limit, self.kill_at) - monotonic())
        self._children.reap()
        now = monotonic()
        beats = now >= self._next_heartbeat
        if beats:
            self._next_heartbeat = now + at.timing.heartbeat
            at.status.update()
            self._helpers.keep_going()
            if self.stop is not Stop.SUPERSEDED and at.superseded() is not None:
                self.stop, self.kill_at = Stop.SUPERSEDED, now
        if self.stop is None:
            self.stop = self._reason_to_stop(now, beats)
        if self.stop:
            self.limit = math.inf
            if beats and self._is_told and at.is_forced():
                self.kill_at, self.is_forced = min(self.kill_at, now), True
        if now >= self._next_look:
            self._next_look = now + self._pace
            at.peers.look()

    def look_every(self, seconds: float) -> None:
        """Look at the other nodes at the next turn, and then at this interval."""
        self._pace, self._next_look = seconds, monotonic()

    def give_grace(self, seconds: float) -> None:
        """After the program was told to stop: kill it after this time, or as soon as a cancellation skips the grace period."""
        self._is_told = True
        self.kill_at = monotonic() + seconds

    def do(self, work: Callable[[], str], *, abandon_on_stop: bool = False) -> tuple[bool, str]:
        """Run work in a forked child and wait, handling events meanwhile; returns whether it succeeded, and its result or the reason."""
        subprocess = self._helpers.begin(work)
        while not self._helpers.is_done(subprocess):
            self.turn()
            if self.stop and abandon_on_stop:
                self._helpers.abandon(subprocess)
        return self._helpers.result(subprocess)

    def _reason_to_stop(self, now: float, beats: bool) -> Stop | None:
        at = self._at
        if (beats or at.signals.stop_requested) and at.is_cancelled():
            return Stop.CANCELLED
        if at.signals.stop_requested:
            return Stop.TOLD
        if notice := self._helpers.notice():
            at.worker_log.note(notice)
            return Stop.NOTICE
        if now >= self.limit:
            return Stop.TIME_LIMIT
        return Stop.OTHER_NODE if self._another_ends() else None

    def _another_ends(self) -> bool:
        """Whether another node is ending or lost."""
        peers = self._at.peers
        if leaving := peers.leaving():
            self._at.worker_log.note(f"{nodes_named(leaving)}: ending")
        elif gone := set(peers.silent(self._at.timing.silence)) - set(peers.missing()):
            self._at.worker_log.note(f"{nodes_named(gone)}: no heartbeat for {self._at.timing.silence:g} s")
        else:
            return False
        return True

"""The program at work: its whole process tree, from its start over SIGTERM and the grace period to the last SIGKILL."""

import math
import signal
from collections.abc import Callable
from time import monotonic

from cloud_train.errors import StoreError
from cloud_train.run.states import State
from cloud_train.worker.attempts.helpers import Helpers
from cloud_train.worker.attempts.watch import Watch
from cloud_train.worker.context import AttemptContext
from cloud_train.worker.processes import tree
from cloud_train.worker.processes.children import Children

_KILL_AGAIN_SECONDS = 0.05


class Running:
    """A program that was started as process group ``group``."""

    def __init__(self, group: int, at: AttemptContext, children: Children, helpers: Helpers, watch: Watch) -> None:
        self._group, self._at, self._children, self._helpers, self._watch = group, at, children, helpers, watch
        self._is_told = False
        self.fault: StoreError | None = None
        """What was found wrong meanwhile, for which the program was told to stop."""
        self._give_up_at = math.inf
        children.expect(group)
        helpers.protect(group)

    def until_gone(self, meanwhile: Callable[[], None] | None) -> int:
        """Until the program and everything that it started is gone; returns its exit status.

        ``meanwhile`` is called at every turn. If it raises StoreError, that is the ``fault``: the program is told to stop.
        """
        watch = self._watch
        while True:
            watch.turn()
            if (watch.stop or self.fault) and not self._is_told:
                self._tell_to_stop(watch.stop.value if watch.stop else str(self.fault))
            if self._children.has_ended(self._group):
                if not tree.tree_is_alive(self._group, self._helpers.pids()):
                    break
                self._hurry_leftovers()
            if monotonic() >= watch.kill_at and not self._kill():
                break
            if meanwhile and not self.fault:
                try:
                    meanwhile()
                except StoreError as error:
                    self.fault = error
        watch.limit = watch.kill_at = math.inf
        exit_code = self._children.code(self._group)
        return -signal.SIGKILL if exit_code is None else exit_code

    def how_killed(self) -> str:
        """Why it had to be killed; nothing if it had not."""
        if self._give_up_at == math.inf:
            return ""
        grace = self._at.record.program.grace_seconds
        return "killed at once, as asked" if self._watch.is_forced else f"killed after the grace period of {grace:g} s"

    def _tell_to_stop(self, reason: str) -> None:
        self._is_told = True
        grace = self._at.record.program.grace_seconds
        self._at.worker_log.note(f"{reason}: SIGTERM for the program, {grace:g} s for its last checkpoint")
        tree.terminate(self._group)
        self._helpers.tell_to_stop()
        self._watch.give_grace(grace)
        self._at.status.update(state=State.STOPPING)

    def _hurry_leftovers(self) -> None:
        # A shell dies of SIGTERM at once, while the program that it started is still saving: during a stop, what belongs to the group has
        # the rest of the grace period. What is left otherwise was forgotten by the program.
        if self._is_told and tree.group_is_alive(self._group):
            return
        if self._watch.kill_at > (soon := monotonic() + self._at.timing.leftover):
            self._watch.kill_at = soon
            self._at.worker_log.note("the program left processes behind: they are ended")
            tree.terminate(self._group)

    def _kill(self) -> bool:
        """Kill what is left of the tree; False once that has been tried for long enough."""
        now = monotonic()
        if self._give_up_at == math.inf:
            self._give_up_at = now + self._at.timing.unkillable
            self._at.worker_log.note("SIGKILL for what is left of the program")
        if now > self._give_up_at:
            self._at.worker_log.note("some process cannot be killed; it is left behind")
            return False
        tree.kill(self._group, self._helpers.pids())
        self._watch.kill_at = now + _KILL_AGAIN_SECONDS
        return True

"""Seals the checkpoints that a program writes without manifests: while it runs, and those that it leaves."""

from collections.abc import Callable
from functools import partial

from cloud_train.worker.attempts import sealing
from cloud_train.worker.attempts.helpers import Helpers
from cloud_train.worker.attempts.watch import Watch
from cloud_train.worker.context import AttemptContext
from cloud_train.worker.processes.subprocesses import Subprocess


class Sealer:
    """Of one attempt, made before the program starts; at most one subprocess of it is at work."""

    def __init__(self, at: AttemptContext, helpers: Helpers, watch: Watch) -> None:
        self._at, self._helpers, self._watch = at, helpers, watch
        self._checkpoints = at.workspace.checkpoints
        # A folder that an earlier attempt left unsealed was never synced: after a crash of the machine it may be anything.
        self._foreign = sealing.unsealed(self._checkpoints)
        self._tried: set[str] = set()
        self._subprocess: Subprocess | None = None

    def look(self) -> None:
        """Seal new checkpoints, in a subprocess. Waits for nothing."""
        if self._subprocess and self._helpers.is_done(self._subprocess):
            self._helpers.result(self._subprocess)
            self._subprocess = None
        if self._subprocess is None and (names := sealing.unsealed(self._checkpoints) - self._foreign - self._tried):
            self._tried |= names
            self._subprocess = self._helpers.begin(self._sealing(names))

    def finish(self) -> None:
        """The program is gone: seal all checkpoints that it has left."""
        while self._subprocess:
            self._watch.turn()
            self.look()
        # What could not be sealed before, because it was still being written perhaps, gets another chance.
        if names := sealing.unsealed(self._checkpoints) - self._foreign:
            self._watch.do(self._sealing(names))

    def _sealing(self, names: set[str]) -> Callable[[], str]:
        keep = self._at.record.program.keep_checkpoints
        return partial(sealing.seal_checkpoints, self._checkpoints, names, keep, self._at.worker_log.note)

"""One attempt from its claim to its end, single-threaded: start the program, listen, give signs of life, stop it, say why it ended."""

import math
import os
import signal
import sys
from collections.abc import Callable
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from time import monotonic

from cloud_train.errors import CloudTrainError, StoreError
from cloud_train.run.layout import step_of
from cloud_train.run.record import RunRecord
from cloud_train.run.states import Cause, State
from cloud_train.worker import contract, ending, program, sealing, tree
from cloud_train.worker.chores import Chore
from cloud_train.worker.ending import Ending, Stop
from cloud_train.worker.guard import Guard
from cloud_train.worker.journal import Journal
from cloud_train.worker.node import NodeContext
from cloud_train.worker.reserve import Reserve, is_full
from cloud_train.worker.signals import Signals
from cloud_train.worker.status import StatusFile
from cloud_train.worker.workspace import Workspace

_KILL_AGAIN_SECONDS = 0.05
_LAST_WRITES = 30  # tries to write down the end, where the disk is full


@dataclass(frozen=True)
class Timing:
    """The paces of a worker, in seconds."""

    heartbeat: float = 5.0
    """Between two signs of life; the cancel mark is looked for as often."""
    look: float = 1.0
    """Between two looks for new checkpoints of a script."""
    leftover: float = 2.0
    """For what a program leaves behind, from SIGTERM to SIGKILL."""
    unkillable: float = 10.0
    """After SIGKILL, before a process that is stuck in the kernel is given up."""
    write_again: float = 1.0
    """Between two tries to write down the end, where the disk is full."""
    retry: tuple[float, ...] = (15, 30, 60, 120, 300, 600)
    """Before the second launch, the third, …; the last one counts for all further ones."""


@dataclass(frozen=True)
class Surroundings:
    """What an attempt works with."""

    record: RunRecord
    workspace: Workspace
    node: NodeContext
    status: StatusFile
    journal: Journal
    signals: Signals
    is_cancelled: Callable[[], bool]
    """Looks for the mark of somebody who cancelled the run."""
    timing: Timing


class Attempt:
    """One attempt at work; ``run`` it once."""

    def __init__(self, number: int, surroundings: Surroundings) -> None:
        self._number = number
        self._at = surroundings
        self._stop: Stop | None = None
        self._limit = self._kill_at = self._give_up_at = math.inf
        self._next_heartbeat = monotonic() + surroundings.timing.heartbeat
        self._next_look = monotonic() + surroundings.timing.look
        self._exit_codes: dict[int, int | None] = {}
        self._told = False
        self._chore: Chore | None = None
        self._foreign: set[str] = set()
        self._tried: set[str] = set()
        self._reserve = Reserve(surroundings.workspace.reserve)
        self._guard = Guard((contract.METRICS, str(surroundings.workspace.metrics)), surroundings.signals.close_in_child)
        self._expect(self._guard.pid)

    def run(self) -> Ending:
        """Run the program to its end; returns why it ended, written down already."""
        self._reserve.take()
        try:
            end = self._start_to_end()
        except program.ProgramStartError as error:
            end = Ending(Cause.FAILED, error.message)
        except (CloudTrainError, OSError) as error:
            end = Ending(Cause.INFRASTRUCTURE, str(error))
        if end.cause in (Cause.FAILED, Cause.INFRASTRUCTURE) and is_full(self._at.workspace.record.parent):
            end = replace(end, message=f"{end.message}; the disk of {self._at.workspace.record.parent} is full")
        self._guard.dismiss()
        self._bury_children()
        self._write_down(end)
        return end

    def _start_to_end(self) -> Ending:
        at = self._at
        at.workspace.make_folders()
        at.journal.note(f"attempt {self._number} of {at.record.run_id} on {at.status.status.host}: worker {at.status.status.pid}")
        resume = self._find_checkpoint()
        if self._stop:
            return self._stopped(None)
        kills_before = ending.oom_kills()
        environment = program.environment_of(at.record, at.workspace, self._number, node=at.node, resume=resume, own=os.environ)
        group = program.start(at.record.program, environment, at.workspace.output_log)
        self._expect(group)
        self._guard.protect(group)
        at.status.update(state=State.RUNNING, resumed_step=step_of(resume.name) if resume else None)
        at.journal.note(f"started process {group}: {' '.join(at.record.program.command)[:300]}")
        exit_code = self._supervise(group)
        at.journal.note(f"the program ended: {ending.describe(exit_code)}")
        was_stopped = self._was_stopped(exit_code)
        self._finish_sealing()
        if was_stopped:
            return self._stopped(exit_code)
        out_of_memory = ending.oom_kills() > kills_before
        end = ending.of_program(exit_code, out_of_memory, at.workspace.failure, at.workspace.output_log)
        return self._with_sealed_model(end) if end.cause is Cause.SUCCEEDED else end

    def _find_checkpoint(self) -> Path | None:
        checkpoints = self._at.workspace.checkpoints
        if sealing.is_empty(checkpoints):
            return None
        went_well, found = self._do(partial(sealing.prepare, checkpoints, self._at.journal.note), abandon_on_stop=True)
        if not went_well and not self._stop:
            raise StoreError(f"the checkpoints in {checkpoints} cannot be read: {found}")
        # A folder that an earlier attempt left unsealed was never synced: after a crash of the machine it may be anything.
        self._foreign = sealing.unsealed(checkpoints)
        self._at.journal.note(f"resuming from step {step_of(found)}" if found else "no valid checkpoint: starting afresh")
        return checkpoints / found if found else None

    def _supervise(self, group: int) -> int:
        """Until the program and everything that it started is gone; returns its exit status."""
        duration = self._at.record.program.duration_seconds
        self._limit = math.inf if duration is None else monotonic() + duration
        while True:
            self._turn()
            if self._stop and not self._told:
                self._tell_to_stop(group, self._stop)
            if self._has_ended(group):
                if not tree.tree_is_alive(group, self._helpers()):
                    break
                self._hurry_leftovers(group)
            if monotonic() >= self._kill_at and not self._kill(group):
                break
            self._look_for_checkpoints()
        self._limit = self._kill_at = math.inf
        exit_code = self._exit_codes[group]
        return -signal.SIGKILL if exit_code is None else exit_code

    def _turn(self) -> None:
        """Sleep until something happens or is due, then do what every moment of an attempt needs."""
        at = self._at
        at.signals.wait(min(self._next_heartbeat, self._next_look, self._limit, self._kill_at) - monotonic())
        self._reap()
        now = monotonic()
        beats = now >= self._next_heartbeat
        if beats:
            self._next_heartbeat = now + at.timing.heartbeat
            at.status.update()
        if self._stop is None:
            if (beats or at.signals.stop_requested) and at.is_cancelled():
                self._stop = Stop.CANCELLED
            elif at.signals.stop_requested:
                self._stop = Stop.TOLD
            elif now >= self._limit:
                self._stop = Stop.TIME_LIMIT
        if self._stop:
            self._limit = math.inf
        if now >= self._next_look:
            self._next_look = now + at.timing.look

    def _tell_to_stop(self, group: int, reason: Stop) -> None:
        self._told = True
        grace = self._at.record.program.grace_seconds
        self._at.journal.note(f"{reason.value}: SIGTERM for the program, {grace:g} s for its last checkpoint")
        tree.terminate(group)
        self._kill_at = monotonic() + grace
        self._at.status.update(state=State.STOPPING)

    def _hurry_leftovers(self, group: int) -> None:
        # A shell dies of SIGTERM at once, while the program that it started is still saving: during a stop, what belongs to the group has
        # the rest of the grace period. What is left otherwise was forgotten by the program.
        if self._stop and tree.group_is_alive(group):
            return
        if self._kill_at > (soon := monotonic() + self._at.timing.leftover):
            self._kill_at = soon
            self._at.journal.note("the program left processes behind: they are ended")
            tree.terminate(group)

    def _kill(self, group: int) -> bool:
        """Kill what is left of the tree; False once that has been tried for long enough."""
        now = monotonic()
        if self._give_up_at == math.inf:
            self._give_up_at = now + self._at.timing.unkillable
            self._at.journal.note("SIGKILL for what is left of the program")
        if now > self._give_up_at:
            self._at.journal.note("some process cannot be killed; it is left behind")
            return False
        tree.kill(group, self._helpers())
        self._kill_at = now + _KILL_AGAIN_SECONDS
        return True

    def _was_stopped(self, exit_code: int) -> bool:
        # Whoever cancels may signal the program before the worker has seen the mark.
        return self._stop is not None or (exit_code != 0 and self._at.is_cancelled())

    def _stopped(self, exit_code: int | None) -> Ending:
        had_to_be_killed = self._give_up_at < math.inf
        reason = Stop.CANCELLED if self._stop is None or self._at.is_cancelled() else self._stop
        return ending.of_stop(reason, self._at.record.program, exit_code, had_to_be_killed, self._at.workspace.failure)

    def _look_for_checkpoints(self) -> None:
        """Seal new checkpoints of a script, in a chore."""
        if self._chore and self._has_ended(self._chore.pid):
            self._result(self._chore)
            self._chore = None
        if self._chore is None and (names := sealing.unsealed(self._at.workspace.checkpoints) - self._foreign - self._tried):
            self._tried |= names
            self._chore = self._begin(self._sealing(names))

    def _finish_sealing(self) -> None:
        while self._chore:
            self._turn()
            self._look_for_checkpoints()
        # What could not be sealed before, because it was still being written perhaps, gets another chance.
        if names := sealing.unsealed(self._at.workspace.checkpoints) - self._foreign:
            self._do(self._sealing(names))

    def _sealing(self, names: set[str]) -> Callable[[], str]:
        keep = self._at.record.program.keep_checkpoints
        return partial(sealing.seal_checkpoints, self._at.workspace.checkpoints, names, keep, self._at.journal.note)

    def _with_sealed_model(self, end: Ending) -> Ending:
        if not sealing.model_needs_seal(self._at.workspace.model):
            return end
        went_well, text = self._do(partial(sealing.seal_model, self._at.workspace.model))
        return end if went_well else Ending(Cause.FAILED, f"the program ended well, but its model is not complete: {text}", end.exit_code)

    def _do(self, work: Callable[[], str], abandon_on_stop: bool = False) -> tuple[bool, str]:
        """Do a chore and wait for it, listening meanwhile."""
        chore = self._begin(work)
        while not self._has_ended(chore.pid):
            self._turn()
            if self._stop and abandon_on_stop and not self._has_ended(chore.pid):
                os.kill(chore.pid, signal.SIGKILL)
        return self._result(chore)

    def _begin(self, work: Callable[[], str]) -> Chore:
        chore = Chore(work, self._in_child)
        self._expect(chore.pid)
        return chore

    def _result(self, chore: Chore) -> tuple[bool, str]:
        return chore.result(self._exit_codes.pop(chore.pid) or 0)

    def _in_child(self) -> None:
        self._at.signals.close_in_child()
        self._guard.close()

    def _helpers(self) -> set[int]:
        return {self._guard.pid} | ({self._chore.pid} if self._chore else set())

    def _expect(self, pid: int) -> None:
        self._exit_codes[pid] = None

    def _has_ended(self, pid: int) -> bool:
        return self._exit_codes[pid] is not None

    def _reap(self) -> bool:
        """Bury every child that has ended, adopted ones included; False if there are no children any more."""
        while True:
            try:
                pid, status = os.waitpid(-1, os.WNOHANG)
            except ChildProcessError:
                return False
            if pid == 0:
                return True
            if pid in self._exit_codes:
                self._exit_codes[pid] = os.waitstatus_to_exitcode(status)

    def _bury_children(self) -> None:
        # The kernel's list of children may leave one out while others end; that waiting finds no child any more is certain.
        give_up_at = monotonic() + self._at.timing.unkillable
        while self._reap() and monotonic() < give_up_at:
            if self._has_ended(self._guard.pid):
                tree.kill_children()
            self._at.signals.wait(_KILL_AGAIN_SECONDS)

    def _write_down(self, end: Ending) -> None:
        self._reserve.release()
        self._at.journal.note(f"{end.cause.value}: {end.message}" if end.message else end.cause.value)
        for _ in range(_LAST_WRITES):
            if self._at.status.end(end):
                return
            self._at.signals.wait(self._at.timing.write_again)
        print(f"the end cannot be written: {end.cause.value}: {end.message}", file=sys.stderr)

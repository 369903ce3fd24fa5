"""One attempt from its claim to its end, single-threaded: start the program, listen, give signs of life, stop it, say why it ended."""

import math
import os
import signal
import sys
from collections.abc import Callable
from dataclasses import replace
from functools import partial
from pathlib import Path
from time import monotonic

from cloud_train.errors import CloudTrainError, CorruptError, StoreError
from cloud_train.run.arrivals import Arrivals
from cloud_train.run.layout import step_of
from cloud_train.run.states import Cause, State
from cloud_train.storage.local import LocalStore
from cloud_train.worker import contract, data, ending, program, sealing, tree
from cloud_train.worker.children import Children
from cloud_train.worker.chores import Chore
from cloud_train.worker.ending import Ending, Stop
from cloud_train.worker.fetcher import Fetcher
from cloud_train.worker.guard import Guard
from cloud_train.worker.reserve import Reserve, is_full
from cloud_train.worker.surroundings import Surroundings
from cloud_train.worker.verdict import nodes_named, verdict

_KILL_AGAIN_SECONDS = 0.05
_LAST_WRITES = 30  # tries to write down the end, where the disk is full


class NodeMissingError(CloudTrainError):
    """A node of the attempt did not come."""

    code = "node-missing"


class Attempt:
    """One attempt at work; ``run`` it once."""

    def __init__(self, number: int, surroundings: Surroundings) -> None:
        self._number = number
        self._at = surroundings
        self._stop: Stop | None = None
        self._limit = self._deadline = self._kill_at = self._give_up_at = math.inf
        self._pace = surroundings.timing.look
        self._next_heartbeat = monotonic() + surroundings.timing.heartbeat
        self._next_look = monotonic() + self._pace
        self._children = Children(self._buried)
        self._told = self._is_forced = False
        self._chore: Chore | None = None
        self._fetcher: Fetcher | None = None
        self._foreign: set[str] = set()
        self._tried: set[str] = set()
        self._reserve = Reserve(surroundings.workspace.reserve)
        self._guard = Guard((contract.METRICS, str(surroundings.workspace.metrics)), self._let_go_of_the_workers)
        self._children.expect(self._guard.pid)

    def run(self) -> Ending:
        """Run the program to its end; returns why it ended, written down already: on node 0 the whole attempt, on others this node."""
        self._reserve.take()
        try:
            end = self._start_to_end()
            if self._leads:
                end = self._with_the_others(end)
                end = self._with_sealed_model(end) if end.cause is Cause.SUCCEEDED else end
        except program.ProgramStartError as error:
            end = self._with_the_others(Ending(Cause.FAILED, error.message))
        except (CloudTrainError, OSError) as error:
            end = self._with_the_others(Ending(Cause.INFRASTRUCTURE, str(error)))
        if end.cause in (Cause.FAILED, Cause.INFRASTRUCTURE) and is_full(self._at.workspace.record.parent):
            end = replace(end, message=f"{end.message}; the disk of {self._at.workspace.record.parent} is full")
        self._guard.dismiss()
        if self._fetcher:
            self._fetcher.end()
        self._bury_children()
        self._write_down(end)
        return end

    def _start_to_end(self) -> Ending:
        at = self._at
        at.workspace.make_folders()
        at.journal.note(f"attempt {self._number} of {at.record.run_id} on {at.status.status.host}: worker {at.status.status.pid}")
        self._join()
        fetched = self._fetch_data()
        resume = self._find_checkpoint() if self._leads else self._given_checkpoint()
        if self._stop:
            return self._stopped(None)
        if self._leads:
            at.peers.choose_start(resume.name if resume else "")
        kills_before = ending.oom_kills()
        environment = program.environment_of(
            at.record, at.workspace, self._number, node=at.node, resume=resume, data=fetched, own=os.environ
        )
        group = program.start(program.on_this_machine(at.record), environment, at.workspace.output_log)
        self._children.expect(group)
        self._guard.protect(group)
        self._look_every(at.timing.look)
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
        return ending.beside_others(exit_code, end) if at.peers else end

    @property
    def _leads(self) -> bool:
        """Whether this is node 0, which alone touches checkpoints and model, keeps the time limit and says how the attempt ended."""
        return self._at.node.rank == 0

    def _join(self) -> None:
        """Wait until all nodes are there; the others of node 0 wait for that one alone. Raises NodeMissingError."""
        at, give_up_at = self._at, monotonic() + self._at.timing.join
        if not at.peers:
            return
        self._look_every(at.timing.join_look)
        at.peers.look()
        while not self._stop and (missing := at.peers.missing()):
            if monotonic() >= give_up_at:
                minutes = f"{at.timing.join / 60:.3g} min"
                raise NodeMissingError(f"{nodes_named(missing)} of {at.node.nodes} did not join within {minutes}")
            self._turn()

    def _given_checkpoint(self) -> Path | None:
        """What node 0 found. Looking for it here as well could find another one, if a file changed meanwhile or a disk fails."""
        name = None
        while not self._stop and (name := self._at.peers.start()) is None:
            self._turn()
        if self._stop or not name:
            return None
        if step_of(name) is None:
            raise CorruptError(f"node 0 names {name!r}, which is no checkpoint")
        self._at.journal.note(f"resuming from step {step_of(name)}, as node 0 does")
        checkpoints = self._at.workspace.checkpoints
        if self._at.remote:
            went_well, reason = self._do(partial(self._at.remote.bring, name, checkpoints, self._at.timing.join), abandon_on_stop=True)
            if not went_well and not self._stop:
                raise StoreError(f"checkpoint {name} cannot be brought from {self._at.remote.url}: {reason}")
        return checkpoints / name

    def _with_the_others(self, own: Ending) -> Ending:
        """On node 0: wait for the ends of the other nodes; returns that of the attempt."""
        peers, timing = self._at.peers, self._at.timing
        if not self._leads or not peers:
            return own
        if own.cause is Cause.SUCCEEDED:
            self._limit = self._deadline
            while peers.working() and not self._stop:
                self._turn()
            self._limit = math.inf
            if peers.leaving() or (self._stop and peers.working()):
                self._stop = self._stop or Stop.OTHER_NODE
                own = self._stopped(own.exit_code)
        if own.cause is Cause.SUCCEEDED:
            return own
        self._kill_at = math.inf
        self._at.status.update(state=State.STOPPING)  # which tells the others to stop
        give_up_at = monotonic() + self._at.record.program.grace_seconds + timing.leftover + timing.unkillable
        while set(peers.working()) - set(peers.silent(timing.lost)) and monotonic() < give_up_at:
            self._turn()
        return verdict(own, peers.statuses, peers.working())

    def _find_checkpoint(self) -> Path | None:
        checkpoints, remote = self._at.workspace.checkpoints, self._at.remote
        if sealing.is_empty(checkpoints) and not remote:
            return None

        def prepare() -> str:
            if remote:
                remote.bring_newest(checkpoints, self._at.journal.note)
            return sealing.prepare(checkpoints, self._at.journal.note)

        went_well, found = self._do(prepare, abandon_on_stop=True)
        if not went_well and not self._stop:
            raise StoreError(f"the checkpoints in {checkpoints} cannot be read: {found}")
        # A folder that an earlier attempt left unsealed was never synced: after a crash of the machine it may be anything.
        self._foreign = sealing.unsealed(checkpoints)
        self._at.journal.note(f"resuming from step {step_of(found)}" if found else "no valid checkpoint: starting afresh")
        return checkpoints / found if found else None

    def _fetch_data(self) -> Path | None:
        """Where the job's data lies on this machine if it had to be fetched from a store; None where it had not."""
        source = self._at.record.program.data
        if source is None or not data.is_in_store(source) or self._stop:
            return None

        at, early = self._at, data.can_begin_early(self._at.record.job)

        def fetch() -> str:
            return str(data.bring(source, program.download_folder(os.environ), at.journal.note, early=early))

        went_well, found = self._do(fetch, abandon_on_stop=True)
        if not went_well and not self._stop:
            raise StoreError(f"the data cannot be fetched: {found}")
        arrivals = Arrivals(Path(found), at.record.run_id, at.node.rank)
        if arrivals.source and went_well:
            self._fetcher = Fetcher(arrivals, at.journal.note, self._in_child)
            self._children.expect(self._fetcher.pid)
        return Path(found)

    def _supervise(self, group: int) -> int:
        """Until the program and everything that it started is gone; returns its exit status."""
        duration = self._at.record.program.duration_seconds
        if duration is not None and self._leads:
            self._limit = self._deadline = monotonic() + duration
        while True:
            self._turn()
            if self._stop and not self._told:
                self._tell_to_stop(group, self._stop)
            if self._children.has_ended(group):
                if not tree.tree_is_alive(group, self._helpers()):
                    break
                self._hurry_leftovers(group)
            if monotonic() >= self._kill_at and not self._kill(group):
                break
            self._look_for_checkpoints()
        self._limit = self._kill_at = math.inf
        exit_code = self._children.code(group)
        return -signal.SIGKILL if exit_code is None else exit_code

    def _turn(self) -> None:
        """Sleep until something happens or is due, then do what every moment of an attempt needs."""
        at = self._at
        at.signals.wait(min(self._next_heartbeat, self._next_look, self._limit, self._kill_at) - monotonic())
        self._children.bury()
        now = monotonic()
        beats = now >= self._next_heartbeat
        if beats:
            self._next_heartbeat = now + at.timing.heartbeat
            at.status.update()
            if at.ferry:
                at.ferry.keep_going(self._number, self._let_go_of_the_attempts)
            if (fetcher := self._fetcher) and (code := self._children.code(fetcher.pid)) is not None and fetcher.goes_on(code):
                self._children.expect(fetcher.pid)
        if self._stop is None:
            if (beats or at.signals.stop_requested) and at.is_cancelled():
                self._stop = Stop.CANCELLED
            elif at.signals.stop_requested:
                self._stop = Stop.TOLD
            elif now >= self._limit:
                self._stop = Stop.TIME_LIMIT
            elif self._another_ends():
                self._stop = Stop.OTHER_NODE
        if self._stop:
            self._limit = math.inf
            if beats and self._told and at.is_forced():
                self._kill_at, self._is_forced = min(self._kill_at, now), True
        if now >= self._next_look:
            self._next_look = now + self._pace
            at.peers.look()

    def _look_every(self, seconds: float) -> None:
        self._pace, self._next_look = seconds, monotonic()

    def _another_ends(self) -> bool:
        """Whether another node leaves, or is gone."""
        peers = self._at.peers
        if leaving := peers.leaving():
            self._at.journal.note(f"{nodes_named(leaving)}: ending")
        elif gone := set(peers.silent(self._at.timing.silence)) - set(peers.missing()):
            self._at.journal.note(f"{nodes_named(gone)}: no sign of life for {self._at.timing.silence:g} s")
        else:
            return False
        return True

    def _tell_to_stop(self, group: int, reason: Stop) -> None:
        self._told = True
        grace = self._at.record.program.grace_seconds
        self._at.journal.note(f"{reason.value}: SIGTERM for the program, {grace:g} s for its last checkpoint")
        tree.terminate(group)
        if self._fetcher:
            self._fetcher.tell_to_stop()
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
        described, killed = self._at.record.program, ""
        if self._give_up_at < math.inf:
            killed = "killed at once, as asked" if self._is_forced else f"killed after the grace period of {described.grace_seconds:g} s"
        if self._at.remote and not self._at.is_cancelled():  # whoever cancels signals the worker too: the mark may still be on its way
            self._do(partial(self._at.remote.bring_marks, LocalStore(self._at.workspace.store), [self._number]))
        reason = Stop.CANCELLED if self._stop is None or self._at.is_cancelled() else self._stop
        return ending.of_stop(reason, described, exit_code, killed, self._at.workspace.failure)

    def _look_for_checkpoints(self) -> None:
        """Seal new checkpoints of a script, in a chore."""
        if not self._leads:
            return
        if self._chore and self._children.has_ended(self._chore.pid):
            self._result(self._chore)
            self._chore = None
        if self._chore is None and (names := sealing.unsealed(self._at.workspace.checkpoints) - self._foreign - self._tried):
            self._tried |= names
            self._chore = self._begin(self._sealing(names))

    def _finish_sealing(self) -> None:
        if not self._leads:
            return
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
        while not self._children.has_ended(chore.pid):
            self._turn()
            if self._stop and abandon_on_stop and not self._children.has_ended(chore.pid):
                os.kill(chore.pid, signal.SIGKILL)
        return self._result(chore)

    def _begin(self, work: Callable[[], str]) -> Chore:
        chore = Chore(work, self._in_child)
        self._children.expect(chore.pid)
        return chore

    def _result(self, chore: Chore) -> tuple[bool, str]:
        return chore.result(self._children.code(chore.pid) or 0)

    def _in_child(self) -> None:
        self._let_go_of_the_workers()
        self._let_go_of_the_attempts()

    def _let_go_of_the_attempts(self) -> None:
        self._guard.close()
        if self._fetcher:
            self._fetcher.close()

    def _let_go_of_the_workers(self) -> None:
        self._at.signals.close_in_child()
        if self._at.ferry:
            self._at.ferry.close()

    def _helpers(self) -> set[int]:
        return {self._guard.pid, *self._lasting, *(each.pid for each in (self._chore, self._fetcher) if each)}

    @property
    def _lasting(self) -> set[int]:
        """Children of the worker that outlast the attempt."""
        return {self._at.ferry.pid} if self._at.ferry else set()

    def _buried(self, pid: int, status: int) -> None:
        if self._at.ferry and pid == self._at.ferry.pid:
            self._at.ferry.reaped(status)

    def _bury_children(self) -> None:
        # The kernel's list of children may leave one out while others end; that waiting finds no child any more is certain.
        give_up_at = monotonic() + self._at.timing.unkillable
        while self._children.bury() and monotonic() < give_up_at:
            if self._children.has_ended(self._guard.pid):
                if self._lasting and not tree.has_children(self._lasting):
                    return
                tree.kill_children(self._lasting)
            self._at.signals.wait(_KILL_AGAIN_SECONDS)

    def _write_down(self, end: Ending) -> None:
        self._reserve.release()
        self._at.journal.note(f"{end.cause.value}: {end.message}" if end.message else end.cause.value)
        for _ in range(_LAST_WRITES):
            if self._at.status.end(end):
                return
            self._at.signals.wait(self._at.timing.write_again)
        print(f"the end cannot be written: {end.cause.value}: {end.message}", file=sys.stderr)

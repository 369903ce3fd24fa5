"""One attempt from start to end: join the other nodes, find the checkpoint and the data, run the program, record why it ended."""

import json
import math
import os
import signal
import sys
from collections.abc import Callable
from contextlib import suppress
from dataclasses import replace
from functools import partial
from pathlib import Path
from time import monotonic
from typing import Any

from cloud_train.beneath import open_within
from cloud_train.data.downloads import downloads_of
from cloud_train.errors import CloudTrainError, CorruptError, StoreError
from cloud_train.run.fencing import ancestor_in
from cloud_train.run.layout import step_of
from cloud_train.run.shard_exchange import ShardExchange
from cloud_train.run.states import Cause, State
from cloud_train.run.succession import Branch, superseded_by
from cloud_train.storage.base import RetriesExhaustedError
from cloud_train.storage.local import LocalStore
from cloud_train.worker import accelerators, contract, data, ending
from cloud_train.worker.attempts import program, script_code, sealing
from cloud_train.worker.attempts.helpers import Helpers
from cloud_train.worker.attempts.program import Running
from cloud_train.worker.attempts.sealing import Sealer
from cloud_train.worker.attempts.watch import Watch
from cloud_train.worker.context import AttemptContext
from cloud_train.worker.ending import Ending, Stop
from cloud_train.worker.nodes import nodes_named, verdict, wait_for_name
from cloud_train.worker.own_workspace import take_over_newest
from cloud_train.worker.processes.subprocesses import Children
from cloud_train.worker.weights import bring_weights, weights_of
from cloud_train.worker.workspace import DiskReserve, is_full

_MOST_METRICS_BYTES = 1 << 20
_FOUND = "found: "
_KILLED = 128 + signal.SIGKILL
_LAST_WRITES = 30  # tries to record the end on a full disk


class NodeMissingError(CloudTrainError):
    """A node of the attempt did not join."""

    code = "node-missing"


class DataRefusedError(CloudTrainError):
    """The job's data cannot be downloaded, and retrying would not help: a wrong URL or checksum, or a full disk."""

    code = "data-refused"


class AcceleratorMissingError(CloudTrainError):
    """The program could not use the GPUs that the job asks for."""

    code = "accelerator-missing"


class Attempt:
    """One attempt; call ``run`` once."""

    def __init__(self, number: int, context: AttemptContext, *, heeds_notices: bool = True) -> None:
        """``heeds_notices`` is whether to stop when the platform announces that it will reclaim this machine."""
        self._number = number
        self._heeds_notices = heeds_notices
        self._at = context
        self._deadline = math.inf
        self._origin: int | None = None
        """The attempt that made the checkpoint from which this one starts, 0 for a start from the beginning; None if unknown."""
        self._code: dict[str, Any] = {}
        """What identifies a script's code; empty for a built-in trainer."""
        self._start = ""
        """The name of that checkpoint and the SHA-256 of its manifest, for the other nodes; empty for a start from the beginning."""
        self._reserve = DiskReserve(context.workspace.reserve, context.workspace.store)
        self._children = Children(self._reaped)
        self._helpers = Helpers(context, self._children, number)
        self._watch = Watch(context, self._children, self._helpers)

    def run(self) -> Ending:
        """Run the program to its end, and record and return why it ended: on node 0 the whole attempt, on others this node."""
        self._reserve.take()
        try:
            end = self._start_to_end()
            if self._leads:
                end = self._with_the_others(end)
                end = self._with_sealed_model(end) if end.cause is Cause.SUCCEEDED else end
        except (program.ProgramStartError, DataRefusedError) as error:
            end = self._with_the_others(Ending(Cause.FAILED, error.message))
        except AcceleratorMissingError as error:
            end = self._with_the_others(Ending(Cause.NO_ACCELERATOR, error.message))
        except (CloudTrainError, OSError) as error:
            end = self._with_the_others(Ending(Cause.INFRASTRUCTURE, str(error)))
        if end.cause in (Cause.FAILED, Cause.INFRASTRUCTURE) and is_full(self._at.workspace.record.parent):
            end = replace(end, message=f"{end.message}; the disk of {self._at.workspace.record.parent} is full")
        self._helpers.end()
        if self._leads:
            sealing.discard_empty(self._at.workspace.model)
        self._write_down(end)
        return end

    def _start_to_end(self) -> Ending:
        at = self._at
        at.workspace.make_folders()
        at.worker_log.note(f"attempt {self._number} of {at.record.run_id} on {at.status.status.host}: worker {at.status.status.pid}")
        if self._heeds_notices:
            self._helpers.watch_notices()
        self._check_accelerators()
        self._join()
        fetched = self._fetch_data()
        resume = self._find_checkpoint() if self._leads else self._given_checkpoint()
        if self._leads:
            self._identify_code(resume)
        weights = self._bring_weights() if resume is None else None
        if self._watch.stop:
            return self._stopped(None)
        sealer = Sealer(at, self._number, self._helpers, self._watch, self._code) if self._leads else None
        if self._leads:
            at.peers.choose_start(self._start)
        kills_before = ending.oom_kills()
        environment = program.environment_of(
            at.record,
            at.record_sha256,
            at.workspace,
            self._number,
            node=at.node,
            resume=resume,
            data=fetched,
            weights=weights,
            own=os.environ,
        )
        environment.pop(contract.CODE, None)  # of another run, whose program submitted this one
        if self._code:
            environment[contract.CODE] = json.dumps(self._code)
        started = program.with_python(program.on_this_machine(at.record), environment)
        group = program.start(started, environment, at.workspace.output_log, at.workspace.store)
        running = Running(group, at, self._children, self._helpers, self._watch)
        self._helpers.show_output()
        self._watch.look_every(at.timing.look)
        at.status.update(state=State.RUNNING, resumed_step=step_of(resume.name) if resume else None, origin=self._origin)
        at.worker_log.note(f"started process {group}: {' '.join(started.command)[:300]}")
        if at.record.program.duration_seconds is not None and self._leads:
            self._watch.limit = self._deadline = monotonic() + at.record.program.duration_seconds
        exit_code = running.until_gone(sealer.look if sealer else None)
        at.worker_log.note(f"the program ended: {ending.describe(exit_code)}")
        self._note_rejected_metrics()
        if self._is_superseded():
            return self._stopped(exit_code)
        was_stopped = self._was_stopped(exit_code)
        fault = running.fault or (_fault_of(partial(sealer.finish, was_killed=exit_code < 0 or exit_code == _KILLED)) if sealer else None)
        if was_stopped:
            return self._stopped(exit_code, running.how_killed())
        if fault:  # retrying would not help
            return Ending(Cause.FAILED, fault.message, exit_code)
        out_of_memory = ending.oom_kills() > kills_before
        end = ending.of_program(exit_code, out_of_memory, at.workspace.failure, at.workspace.output_log)
        return ending.beside_others(exit_code, end) if at.peers else end

    def _identify_code(self, resume: Path | None) -> None:
        """Identify a script's code, and note whether the checkpoint was made by other code."""
        at = self._at
        if not program.is_script(at.record):
            return
        went_well, found = self._watch.do(partial(script_code.identity, at.record, at.workspace.store), abandon_on_stop=True)
        if not went_well or not found:
            return
        self._code = json.loads(found)
        with suppress(CorruptError):
            if resume and (remark := script_code.remark_on(resume, self._code)):
                at.worker_log.note(remark)

    def _note_rejected_metrics(self) -> None:
        """Note lines of the program's metrics that are not metrics; only of the first MiB, since a program's lines are alike."""
        from cloud_train.run.metrics import rejected_in  # the worker of a program without metrics does not need it

        with suppress(OSError):  # there is no file, or a link or pipe in its place
            with os.fdopen(open_within(self._at.workspace.metrics, self._at.workspace.store), "rb") as file:
                data = file.read(_MOST_METRICS_BYTES)
            if said := str(rejected_in(data[: data.rfind(b"\n") + 1])):
                self._at.worker_log.note(said)

    @property
    def _leads(self) -> bool:
        """Whether this is node 0, which alone handles checkpoints, the model and the time limit, and decides how the attempt ended."""
        return self._at.node.rank == 0

    def _check_accelerators(self) -> None:
        """Raise AcceleratorMissingError if the program could not use the GPUs that the job asks for; first, because they are paid for."""
        job = self._at.record.job
        kind, count = accelerators.asked(job)
        if not count:
            return
        environment = program.given_environment(self._at.record, os.environ)
        went_well, found = self._watch.do(partial(accelerators.lacking, job, environment), abandon_on_stop=True)
        if went_well and found:
            raise AcceleratorMissingError(found)
        self._at.worker_log.note(f"{count} × {kind}: {'found' if went_well else f'not checked: {found}'}")

    def _join(self) -> None:
        """Wait until all nodes have joined; nodes other than node 0 wait for node 0 only. Raises NodeMissingError."""
        at, give_up_at = self._at, monotonic() + self._at.timing.join
        if not at.peers:
            return
        self._watch.look_every(at.timing.join_look)
        at.peers.look()
        while not self._watch.stop and (missing := at.peers.missing()):
            if monotonic() >= give_up_at:
                minutes = f"{at.timing.join / 60:.3g} min"
                raise NodeMissingError(f"{nodes_named(missing)} of {at.node.nodes} did not join within {minutes}")
            self._watch.turn()
        if not self._watch.stop:
            self._wait_for_name(max(give_up_at - monotonic(), at.timing.heartbeat))

    def _wait_for_name(self, seconds: float) -> None:
        """Wait until the name of node 0, at which the program's processes meet, can be resolved. Raises NodeMissingError."""
        address = self._at.node.master_address
        found, reason = self._watch.do(partial(wait_for_name, address, seconds), abandon_on_stop=True)
        if not found and not self._watch.stop:
            raise NodeMissingError(f"the name of node 0, {address}, cannot be resolved: {reason}")

    def _given_checkpoint(self) -> Path | None:
        """The checkpoint that node 0 chose. Choosing here as well could lead to another one if a file changed or a disk failed."""
        chosen = None
        while not self._watch.stop and (chosen := self._at.peers.start()) is None:
            self._watch.turn()
        if self._watch.stop or not chosen:
            return None
        name, _, digest = chosen.partition(" ")
        if step_of(name) is None:
            raise CorruptError(f"node 0 chose {name!r}, which is not a checkpoint")
        self._at.worker_log.note(f"resuming from step {step_of(name)}, chosen by node 0")
        checkpoints = self._at.workspace.checkpoints
        if self._at.remote:
            went_well, reason = self._watch.do(
                partial(self._at.remote.bring, name, digest, checkpoints, self._at.timing.join), abandon_on_stop=True
            )
            if not went_well and not self._watch.stop:
                raise StoreError(f"checkpoint {name} cannot be downloaded from {self._at.remote.url}: {reason}")
            if went_well:
                from cloud_train.worker.attempts import foreign

                foreign.restore(checkpoints, name, self._at.worker_log.note)
        return checkpoints / name

    def _with_the_others(self, own: Ending) -> Ending:
        """On node 0: wait for the other nodes to end; returns the end of the attempt."""
        peers, timing = self._at.peers, self._at.timing
        if not self._leads or not peers or own.is_superseded:  # the other nodes look for a newer attempt themselves
            return own
        if own.cause is Cause.SUCCEEDED:
            self._watch.limit = self._deadline
            while peers.working() and not self._watch.stop:
                self._watch.turn()
            self._watch.limit = math.inf
            if peers.leaving() or (self._watch.stop and peers.working()):
                self._watch.stop = self._watch.stop or Stop.OTHER_NODE
                own = self._stopped(own.exit_code)
        if own.cause is Cause.SUCCEEDED:
            return own
        self._watch.kill_at = math.inf
        self._at.status.update(state=State.STOPPING)  # which tells the others to stop
        give_up_at = monotonic() + self._at.record.program.grace_seconds + timing.leftover + timing.unkillable
        while set(peers.working()) - set(peers.silent(timing.lost)) and monotonic() < give_up_at:
            self._watch.turn()
        return verdict(own, peers.statuses, peers.working())

    def _find_checkpoint(self) -> Path | None:
        checkpoints, remote = self._at.workspace.checkpoints, self._at.remote
        if sealing.has_none(checkpoints) and not remote:
            self._origin = 0
            return None

        def prepare() -> str:
            from cloud_train.run.checkpoints import take_over

            note = self._at.worker_log.note
            store = remote.store() if remote else LocalStore(self._at.workspace.store)
            branch = Branch(self._number, ancestor_in(store, self._at.record.run_id))
            makers = take_over(checkpoints, note, branch, attempt=self._number)
            for earlier in self._at.earlier:
                makers |= take_over_newest(earlier, checkpoints, note, branch)
            if remote:
                makers |= remote.bring_newest(checkpoints, note, branch)
            if found := sealing.prepare(checkpoints, note, self._number, branch, makers):
                from cloud_train.worker.attempts import foreign

                foreign.restore(checkpoints, found.split(" ")[0], note)
            return found

        went_well, found = self._watch.do(prepare, abandon_on_stop=True)
        if not went_well and not self._watch.stop:
            raise StoreError(f"the checkpoints in {checkpoints} cannot be read: {found}")
        found, origin, digest = found.split(" ") if went_well and found else ("", "0", "")
        self._origin = int(origin) or None if found else 0
        self._start = f"{found} {digest}".strip()
        self._at.worker_log.note(f"resuming from step {step_of(found)}" if found else "no valid checkpoint: starting from the beginning")
        return checkpoints / found if found else None

    def _fetch_data(self) -> Path | None:
        """Path of the job's data on this machine if it was fetched from a store; otherwise None."""
        source = self._at.record.program.data
        if source is None:
            self._download_data()
        if source is None or not data.is_in_store(source) or self._watch.stop:
            return None

        at, early = self._at, data.can_begin_early(self._at.record.job)

        def fetch() -> str:
            return str(data.bring(source, program.download_folder(os.environ), at.worker_log.note, early=early))

        went_well, found = self._watch.do(fetch, abandon_on_stop=True)
        if not went_well and not self._watch.stop:
            raise StoreError(f"the data cannot be fetched: {found}")
        exchange = ShardExchange(Path(found), at.record.run_id, at.node.rank)
        if exchange.source and went_well:
            self._helpers.fetch(exchange)
        return Path(found)

    def _download_data(self) -> None:
        """Download the data set's files from web servers into the cache. Raises DataRefusedError if retrying would not help."""
        files = downloads_of(self._at.record.job.get("data"), self._at.record.plan.get("most_download_bytes"))
        if not files:
            return

        def download() -> str:
            data.download_all(files, program.download_folder(os.environ), self._at.worker_log.note, allow_loopback=_is_here())
            return ""

        self._bring(download, "the data")

    def _bring_weights(self) -> Path | None:
        """The weights that the run begins with, on this machine; None for random ones. Raises DataRefusedError and StoreError."""
        at = self._at
        start = weights_of(at.record.plan)
        if start is None or self._watch.stop:
            return None
        run, cache = at.workspace.record.parent, program.download_folder(os.environ)

        def bring() -> str:
            return str(bring_weights(start, run, at.remote, cache, at.worker_log.note, allow_loopback=_is_here()))

        found = self._bring(bring, "the weights to start from")
        return Path(found) if found else None

    def _bring(self, bring: Callable[[], str], what: str) -> str:
        """The result of ``bring``; empty if the attempt was stopped. Raises StoreError, and DataRefusedError if a retry would not help."""

        def tried() -> str:
            try:
                return f"{_FOUND}{bring()}"
            except RetriesExhaustedError:
                raise
            except CloudTrainError as error:
                return f"{error.message} ({error.hint})" if error.hint else error.message

        went_well, found = self._watch.do(tried, abandon_on_stop=True)
        if not went_well and not self._watch.stop:
            raise StoreError(f"{what} cannot be fetched: {found}")
        if went_well and not found.startswith(_FOUND):
            raise DataRefusedError(found)
        return found.removeprefix(_FOUND) if went_well else ""

    def _is_superseded(self) -> bool:
        """Whether a newer attempt has begun; looked for before anything of this one counts as a result."""
        if self._at.superseded() is not None:
            self._watch.stop = Stop.SUPERSEDED
        return self._watch.stop is Stop.SUPERSEDED

    def _was_stopped(self, exit_code: int) -> bool:
        # A cancellation may signal the program before the worker has seen the mark.
        return self._watch.stop is not None or (exit_code != 0 and self._at.is_cancelled())

    def _stopped(self, exit_code: int | None, killed: str = "") -> Ending:
        if self._watch.stop is Stop.SUPERSEDED:
            reason = superseded_by(self._at.superseded() or self._number + 1)
            return Ending(Cause.INFRASTRUCTURE, reason, exit_code, is_superseded=True)
        if self._at.remote and not self._at.is_cancelled():  # a cancellation signals the worker too, and the mark may not have arrived yet
            self._watch.do(partial(self._at.remote.bring_marks, LocalStore(self._at.workspace.store), [self._number]))
        why = Stop.CANCELLED if self._watch.stop is None or self._at.is_cancelled() else self._watch.stop
        return ending.of_stop(why, self._at.record.program, exit_code, killed, self._at.workspace.failure)

    def _with_sealed_model(self, end: Ending) -> Ending:
        model: Path | None = self._at.workspace.model
        if not sealing.has_model(self._at.workspace.model):
            run_id, store = self._at.record.run_id, LocalStore(self._at.workspace.store)
            branch = Branch(self._number, ancestor_in(store, run_id))
            model = sealing.earlier_model(self._at.workspace.model.parent, branch, self._number)
        if model is None:
            return end
        went_well, text = self._watch.do(partial(sealing.seal_model, model, self._number, self._code))
        if not went_well and self._is_superseded():
            return self._stopped(end.exit_code)
        return (
            end if went_well else Ending(Cause.FAILED, f"the program succeeded, but its model cannot be completed: {text}", end.exit_code)
        )

    def _reaped(self, pid: int, status: int) -> None:
        if self._at.uploader and pid == self._at.uploader.pid:
            self._at.uploader.reaped(status)

    def _write_down(self, end: Ending) -> None:
        self._reserve.release()
        self._at.worker_log.note(f"{end.cause.value}: {end.message}" if end.message else end.cause.value)
        for _ in range(_LAST_WRITES):
            if self._at.status.end(end):
                return
            self._at.signals.wait(self._at.timing.write_again)
        print(f"cannot record the end: {end.cause.value}: {end.message}", file=sys.stderr)


def _is_here() -> bool:
    """Whether this is no cloud's machine, so that downloads from loopback addresses are allowed."""
    return not os.environ.get(contract.PLATFORM)


def _fault_of(action: Callable[[], None]) -> StoreError | None:
    try:
        action()
    except StoreError as error:
        return error
    return None

"""The program: its environment, how it is started and stopped, and words for everything that can be wrong with the command."""

import errno
import math
import os
import signal
import subprocess
import sys
from collections.abc import Callable, Mapping
from contextlib import suppress
from dataclasses import replace
from pathlib import Path
from time import monotonic

from cloud_train.beneath import IrregularError, open_within
from cloud_train.environment import TRAINER_VARIABLES, with_original_python_path, with_quiet_threads, with_safe_python_path
from cloud_train.errors import CloudTrainError, StoreError
from cloud_train.run.record import Program, RunRecord
from cloud_train.run.states import State
from cloud_train.storage.credential_forwarding import FORWARDED, withheld
from cloud_train.worker import accelerators, contract
from cloud_train.worker.attempts.helpers import Helpers
from cloud_train.worker.attempts.watch import Watch
from cloud_train.worker.context import AttemptContext
from cloud_train.worker.ending import Stop
from cloud_train.worker.nodes import NodeContext
from cloud_train.worker.processes import tree
from cloud_train.worker.processes.subprocesses import Children
from cloud_train.worker.workspace import Workspace

TRAINER = ("-m", "cloud_train.training")
"""What the Python of the worker runs for a job of a built-in model."""
_PYTHONS = ("python", "python3")
_SHELL = ("/bin/sh", "-c")
_PREFIX = "CLOUD_TRAIN_"
_HOME = "CLOUD_TRAIN_HOME"


class ProgramStartError(CloudTrainError):
    """The program could not be started; it is the job's doing, not the machine's."""

    code = "program-start"


def start(program: Program, environment: Mapping[str, str], output_log: Path, root: Path | None = None) -> int:
    """Start the program in a session of its own and return its process id, which is its process group's too.

    ``root``: a folder above the log, below which no link is followed. Raises ProgramStartError if command or folder are wrong, and
    StoreError if the log cannot be written.
    """
    if not Path(program.directory).is_dir():
        raise ProgramStartError(f"the folder {program.directory!r} does not exist, so {program.command[0]!r} cannot start in it")
    descriptor = _open_log(output_log, root)
    try:
        return _spawn(program, environment, descriptor)
    finally:
        os.close(descriptor)


def on_this_machine(record: RunRecord) -> Program:
    """The program as it starts here: a built-in trainer is the one beside this worker, whatever command the record holds, and starts in
    ``/``: `python -m` imports what is in the folder that it starts in.
    """
    program = record.program
    if is_script(record):
        return program
    return replace(program, command=(sys.executable, *TRAINER), directory="/")


def with_python(program: Program, environment: Mapping[str, str]) -> Program:
    """The program, with the interpreter that runs this worker in place of ``python`` or ``python3`` as its first word, if PATH has none."""
    first, *others = program.command
    in_shell = program.command[:2] == _SHELL and len(program.command) == 3
    word = program.command[2].split(None, 1)[0] if in_shell and program.command[2].strip() else first
    folders = environment.get("PATH", os.defpath).split(os.pathsep)
    if word not in _PYTHONS or any(os.access(f"{folder or '.'}/{word}", os.X_OK) for folder in folders):
        return program
    if in_shell:
        import shlex  # like shutil, it takes a while that most workers can save

        return replace(program, command=(*_SHELL, program.command[2].replace(word, shlex.quote(sys.executable), 1)))
    return replace(program, command=(sys.executable, *others))


def environment_of(
    record: RunRecord,
    record_sha256: str,
    workspace: Workspace,
    attempt: int,
    *,
    node: NodeContext,
    resume: Path | None,
    data: Path | None,
    weights: Path | None = None,
    own: Mapping[str, str],
) -> dict[str, str]:
    """The program's environment: ``given_environment``, then the contract's variables, and no stale ones of another run."""
    program = record.program
    given = given_environment(record, own)
    return {
        "PYTHONUNBUFFERED": "1",  # so that a Python program's lines are logged as they are printed, even if it is killed afterwards
        **(given if contract.PLATFORM in own else with_quiet_threads(given)),  # a rented machine has no other programs to spare
        **({contract.PLATFORM: own[contract.PLATFORM]} if contract.PLATFORM in own else {}),
        contract.RUN_ID: record.run_id,
        contract.ATTEMPT: str(attempt),
        contract.JOB: str(workspace.record),
        contract.JOB_SHA256: record_sha256,
        contract.CHECKPOINTS: str(workspace.checkpoints),
        contract.RESUME: str(resume or ""),
        **({contract.START_FROM: str(weights)} if weights else {}),
        contract.MODEL: str(workspace.model),
        contract.METRICS: str(workspace.metrics),
        contract.DATA: str(data or program.data or download_folder(own)),
        contract.FAILURE: str(workspace.failure),
        contract.GRACE_SECONDS: f"{program.grace_seconds:g}",
        contract.NODE_RANK: str(node.rank),
        contract.NODES: str(node.nodes),
        **({contract.MASTER_ADDRESS: node.master_address, contract.MASTER_PORT: str(node.master_port)} if node.nodes > 1 else {}),
        contract.KEEP_CHECKPOINTS: str(program.keep_checkpoints),
        contract.BEST: program.ranking.to_text(),
    }


def given_environment(record: RunRecord, own: Mapping[str, str], root: Path = Path("/")) -> dict[str, str]:
    """The worker's ``own`` environment, then the job's, with NVIDIA's libraries where they are below ``root`` and not found otherwise."""
    given = _own_and_of_job(record, own)
    return {**given, **accelerators.library_path(given, root)}


def _own_and_of_job(record: RunRecord, own: Mapping[str, str]) -> dict[str, str]:
    """The worker's ``own`` environment and the job's; of the latter, a built-in trainer gets only ``TRAINER_VARIABLES``.

    The credentials with which the worker opens the store are left out, unless the job names them as secrets.
    """
    kept_back = {FORWARDED, *withheld(own, record.job.get("secrets", ()))}
    inherited = {name: value for name, value in own.items() if (not name.startswith(_PREFIX) or name == _HOME) and name not in kept_back}
    given = with_original_python_path(inherited)
    if is_script(record):
        return {**given, **record.program.environment}
    tuning = {name: value for name, value in record.program.environment.items() if name in TRAINER_VARIABLES}
    return with_safe_python_path({**given, **tuning})


def is_script(record: RunRecord) -> bool:
    """Whether the program is the user's own, not a built-in trainer."""
    return bool(record.job.get("model", {}).get("kind", "script") == "script")


def _open_log(path: Path, root: Path | None = None) -> int:
    # The program writes its log itself: there is no pipe, so no byte is touched, nothing is lost if the worker dies, and it costs nothing.
    # Appending, so that its processes never write over each other.
    try:
        descriptor = open_within(path, root, os.O_WRONLY | os.O_APPEND | os.O_CREAT)
    except IrregularError as error:
        raise StoreError(f"cannot write {error.path}: it is {error.what}") from error
    except OSError as error:
        raise StoreError(f"cannot write {path}: {(error.strerror or str(error)).lower()}") from error
    os.set_blocking(descriptor, True)  # as programs expect it
    return descriptor


def _spawn(program: Program, environment: Mapping[str, str], output: int) -> int:
    try:
        process = subprocess.Popen(
            program.command,
            cwd=program.directory,
            env=environment,
            stdin=subprocess.DEVNULL,
            stdout=output,
            stderr=output,
            start_new_session=True,
        )
    except (OSError, ValueError) as error:
        raise ProgramStartError(_explained(program, error)) from error
    process.returncode = 0  # the worker reaps its children itself, orphans included; subprocess need not warn that this one runs
    return process.pid


def _explained(program: Program, error: OSError | ValueError) -> str:
    name = program.command[0]
    if not isinstance(error, OSError):
        return f"{name!r} cannot be started: a word of the command, or a variable, is not possible there ({error})"
    if error.errno == errno.ENOENT:
        return f"the command {name!r} was not found (PATH and the folder {program.directory!r} were searched)"
    reasons = {
        errno.EACCES: "it is not executable",
        errno.ENOEXEC: "it is neither a program nor a script with a first line such as '#!/bin/sh'",
        errno.E2BIG: "its arguments and environment are too long",
    }
    return f"the command {name!r} cannot be started: {reasons.get(error.errno or 0) or os.strerror(error.errno or 0).lower()}"


def download_folder(environment: Mapping[str, str]) -> Path:
    """The cache of this machine, which lasts from run to run."""
    folder = Path(environment.get(_HOME) or "~/.cloud-train") / "data"
    with suppress(OSError, RuntimeError):  # no home, or none that can be written: a program that downloads nothing does not need it
        folder = folder.expanduser()
        folder.mkdir(parents=True, exist_ok=True)
    return folder


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
            if watch.stop is Stop.SUPERSEDED:
                self._is_told = True  # it is killed at once: it may not write any more
            if (watch.stop or self.fault) and not self._is_told:
                self._tell_to_stop(watch.stop.value if watch.stop else str(self.fault))
            if self._children.has_ended(self._group):
                if not tree.tree_is_alive(self._group, self._helpers.pids()):
                    break
                self._hurry_leftovers()
            if monotonic() >= watch.kill_at and not self._kill():
                break
            if meanwhile and not self.fault and watch.stop is not Stop.SUPERSEDED:
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
            self._at.worker_log.note("the program left processes behind; ending them")
            tree.terminate(self._group)

    def _kill(self) -> bool:
        """Kill what is left of the tree; False once that has been tried for long enough."""
        now = monotonic()
        if self._give_up_at == math.inf:
            self._give_up_at = now + self._at.timing.unkillable
            self._at.worker_log.note("SIGKILL for what is left of the program")
        if now > self._give_up_at:
            self._at.worker_log.note("a process cannot be killed; leaving it behind")
            return False
        tree.kill(self._group, self._helpers.pids())
        self._watch.kill_at = now + _KILL_AGAIN_SECONDS
        return True

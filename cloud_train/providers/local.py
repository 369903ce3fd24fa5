"""The ``local`` provider: the worker as a detached process on this machine, which waits for its part of the machine (``run.turns``).

A lock, not a process id, shows whether an attempt is alive. The launcher takes an flock on the attempt's lock file, and passes the open
descriptor to the worker. So a live attempt is always locked, the kernel releases the lock however the worker ends, and a recycled process
id is never mistaken for the run. The file also receives the output of the worker's Python until the worker writes its own log.
"""

import os
import signal
import socket
import subprocess
import sys
from collections.abc import Iterator, Mapping
from contextlib import suppress
from pathlib import Path
from typing import TYPE_CHECKING, Any

from cloud_train import locks
from cloud_train.environment import inherited, with_safe_python_path
from cloud_train.errors import CorruptError, ProviderError
from cloud_train.providers.base import TAKEN, AlreadyLaunchedError, Capabilities, Handle, Observation, Request, worker_arguments
from cloud_train.run import documents, layout, turns
from cloud_train.run.record import AttemptStatus
from cloud_train.run.states import Cause, State
from cloud_train.storage.base import ObjectMissingError
from cloud_train.storage.registry import open_store, scheme_of

if TYPE_CHECKING:
    import psutil

    from cloud_train.run.plan import Plan

_LOCK_ARGUMENT = "--lock-fd"
_LAUNCH_VARIABLE = "_CLOUD_TRAIN_LAUNCH"  # inherited by all processes of an attempt, to find those that outlived its worker
_LAST_WORDS_BYTES = 2000


class LocalProvider:
    """Runs on this machine. It keeps one small lock file per attempt under ``home``."""

    name = "local"
    capabilities = Capabilities(stores=("file", "s3", "gs", "az"), max_nodes=1, spot=False, enforces=("cpus",))

    def __init__(self, home: Path) -> None:
        self._folder = home / "local"
        self._workspaces = home / "work"

    def interpreter(self, settings: Mapping[str, Any]) -> str:
        """``local.python`` in the config file, otherwise this process's own Python."""
        return str(Path(settings.get("python") or sys.executable).expanduser())

    def render(self, plan: "Plan") -> Request:
        """The worker's command line, and the attempt's lock file."""
        worker = [self.interpreter(plan.provider_settings), "-m", "cloud_train.worker"]
        workspace = [] if scheme_of(plan.store) == "file" else ["--workspace", str(self._workspaces)]
        return {
            "command": [*worker, "--store", plan.store, *worker_arguments(plan), *workspace, *self._turn(plan)],
            "lock": str(self._lock_file(plan.run_id, plan.attempt)),
            "run_id": plan.run_id,
            "attempt": plan.attempt,
            "store": plan.store,
        }

    def _turn(self, plan: "Plan") -> list[str]:
        """What the worker waits for, if the job asks for part of the machine."""
        asked = plan.job.resources
        gpus = asked.accelerator.count if asked.accelerator else 0
        needs = {"cpus": asked.cpus or 0, "memory": asked.memory.bytes if asked.memory else 0, "gpus": gpus}
        texts = [f"{name}={number}" for name, number in needs.items() if number]
        return ["--turns", str(self._folder), "--needs", ",".join(texts)] if texts else []

    def check(self, request: Request) -> list[str]:
        """A problem if the interpreter does not exist."""
        python = Path(request["command"][0])
        return [] if python.is_file() else [f"local.python: there is no file {python}"]

    def launch(self, request: Request, secrets: dict[str, str]) -> Handle:
        """Start the worker, detached from this terminal and holding the attempt's lock."""
        lock = Path(request["lock"])
        descriptor = self._take_lock(lock, request["run_id"], request["attempt"])
        try:
            process = subprocess.Popen(
                [*request["command"], _LOCK_ARGUMENT, str(descriptor)],
                cwd="/",
                env={**with_safe_python_path(inherited()), **secrets, _LAUNCH_VARIABLE: str(lock)},
                stdin=subprocess.DEVNULL,
                stdout=descriptor,
                stderr=descriptor,
                start_new_session=True,
                pass_fds=(descriptor,),
            )
        except OSError as error:
            raise ProviderError(f"cannot start {request['command'][0]}: {error.strerror}") from error
        finally:
            os.close(descriptor)
        process.returncode = 0  # the worker outlives this process by design; this prevents subprocess's warning about it
        return Handle(request["run_id"], request["attempt"], self.name, request["store"], {"pid": process.pid, "lock": str(lock)})

    def find(self, run_id: str, attempt: int, store: str, settings: Mapping[str, Any]) -> Handle | None:
        """The attempt, if it was launched from this home: its lock is held, or its lock file exists and its worker wrote a status."""
        lock = self._lock_file(run_id, attempt)
        handle = Handle(run_id, attempt, self.name, store, {"lock": str(lock)})
        return handle if locks.is_held(lock) or (lock.exists() and _status(handle)) else None

    def observe(self, handle: Handle) -> Observation:
        """Running while the lock is held, or queued. A worker that released the lock without writing an end has died."""
        lock = _lock_of(handle)
        if locks.is_held(lock):
            waits = turns.explain(turns.read(lock.parent), lock.stem)
            return Observation(State.QUEUED, None, waits) if waits else Observation(State.RUNNING)
        if _is_of_another_worker(handle):
            return TAKEN
        last_words = _last_words(lock)
        message = "the worker was killed, or the machine was restarted"
        return Observation(Cause.INFRASTRUCTURE.state, Cause.INFRASTRUCTURE, f"{message}: {last_words}" if last_words else message)

    def cancel(self, handle: Handle, force: bool = False) -> None:
        """Send SIGTERM to the worker, which then ends its program's process tree; ``force`` kills both."""
        if locks.is_held(_lock_of(handle)) and (pid := _worker(handle)) is not None:
            with suppress(ProcessLookupError):
                os.kill(pid, signal.SIGKILL if force else signal.SIGTERM)
        if force:
            _kill_leftovers(handle)

    def clean_up(self, handle: Handle) -> None:
        """Do nothing: the lock file stays as the record of the launch."""

    def logs(self, handle: Handle, cursor: str | None) -> tuple[bytes, str | None]:
        """The output of the worker's Python until the worker wrote its own log."""
        start = int(cursor or 0)
        try:
            with _lock_of(handle).open("rb") as file:
                file.seek(start)
                data = file.read()
        except FileNotFoundError:
            data = b""
        return data, str(start + len(data))

    def _lock_file(self, run_id: str, attempt: int) -> Path:
        return turns.lock_file(self._folder, turns.turn_name(run_id, attempt))

    def _take_lock(self, path: Path, run_id: str, attempt: int) -> int:
        try:
            descriptor = locks.take(path)
        except OSError as error:
            raise ProviderError(
                f"cannot write {path}: {error.strerror}", hint="make that folder writable, or choose another one with CLOUD_TRAIN_HOME"
            ) from error
        if descriptor is None:
            raise AlreadyLaunchedError(f"attempt {attempt} of {run_id} is already running")
        return descriptor


def _status(handle: Handle) -> AttemptStatus | None:
    key = f"{handle.run_id}/{layout.status(handle.attempt)}"
    try:
        return AttemptStatus.from_json(documents.read(open_store(handle.store), key, documents.LARGEST_STATUS), key)
    except ObjectMissingError:
        return None


def _is_of_another_worker(handle: Handle) -> bool:
    """Whether a worker on another machine, or from another home, began this attempt first, so that the one launched here exited."""
    try:
        status = _status(handle)
    except CorruptError:  # the lock alone decides
        return False
    if status is None or status.state.is_end:
        return False
    if status.host != socket.gethostname():
        return True
    if status.pid == handle.reference.get("pid", status.pid):
        return False
    import psutil  # takes 20 ms, and is only needed here

    try:
        return handle.run_id in psutil.Process(status.pid).cmdline()
    except psutil.Error:
        return False


def _last_words(lock: Path) -> str:
    with suppress(FileNotFoundError):
        lines = lock.read_bytes()[-_LAST_WORDS_BYTES:].decode(errors="replace").split("\n")
        return next((line.strip() for line in reversed(lines) if line.strip()), "")
    return ""


def _lock_of(handle: Handle) -> Path:
    # A retry that the worker started itself uses the lock of the original launch.
    return Path(handle.reference["lock"])


def _worker(handle: Handle) -> int | None:
    """The process id of the worker launched from this home, found by its environment, not by the process id in the run directory."""
    pid = handle.reference.get("pid")
    if isinstance(pid, int):
        return next((process.pid for process in _launched(handle, pid)), None)
    workers = {process.pid: process for process in _launched(handle) if _is_worker(process)}
    return next((pid for pid, process in workers.items() if process.ppid() not in workers), None)  # the others are its children


def _kill_leftovers(handle: Handle) -> None:
    import psutil  # takes 20 ms, and is only needed here

    for process in _launched(handle):
        with suppress(psutil.Error, OSError):
            process.kill()


def _launched(handle: Handle, pid: int | None = None) -> Iterator["psutil.Process"]:
    """This user's processes that belong to the attempt's launch, or only the one with this process id."""
    import psutil  # takes 20 ms, and is only needed here

    lock = _lock_of(handle)  # whose path names the home too: another one on this machine may have launched the same attempt
    with suppress(psutil.Error, ValueError):
        for process in psutil.process_iter() if pid is None else [psutil.Process(pid)]:
            with suppress(psutil.Error, OSError):
                if process.environ().get(_LAUNCH_VARIABLE) in (str(lock), lock.stem):  # the latter from an earlier version
                    yield process


def _is_worker(process: "psutil.Process") -> bool:
    import psutil

    with suppress(psutil.Error):
        return "cloud_train.worker" in process.cmdline()
    return False

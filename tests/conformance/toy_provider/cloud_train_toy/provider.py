"""The ``toy`` provider: a spooler process on this machine starts the worker, and keeps one JSON file an attempt.

The spooler stands for what a real provider has: somebody else who starts the attempt, knows whether it lives, and remembers how it ended.
It holds a lock on the attempt's log for as long as the attempt is alive, and so does the worker that it starts.
"""

import fcntl
import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Mapping
from contextlib import suppress
from pathlib import Path
from typing import TYPE_CHECKING, Any

from cloud_train.errors import ProviderError
from cloud_train.providers.base import AlreadyLaunchedError, Capabilities, Handle, Observation, Request, worker_arguments
from cloud_train.run import layout
from cloud_train.run.states import Cause, State
from cloud_train.storage.base import ObjectMissingError
from cloud_train.storage.registry import open_store

if TYPE_CHECKING:
    from cloud_train.run.plan import Plan

_CAUSES = {cause.exit_code: cause for cause in Cause}  # a worker exits with the status of its attempt's cause
_LEAVE_SECONDS = 10.0  # for a worker that has written its end to be gone


class ToyProvider:
    """Runs on this machine, by way of a spooler. ``home`` is the folder under which it keeps a JSON file and a log for each attempt."""

    name = "toy"
    capabilities = Capabilities(stores=("file",), max_nodes=1, spot=False, enforces=())

    def __init__(self, home: Path) -> None:
        self._folder = home / "toy"

    def interpreter(self, settings: Mapping[str, Any]) -> str:
        """``toy: {python: …}`` of the config, otherwise the Python that runs this."""
        return str(settings.get("python") or sys.executable)

    def render(self, plan: "Plan") -> Request:
        """The worker's command line, and the attempt's JSON file."""
        worker = [self.interpreter(plan.provider_settings), "-m", "cloud_train.worker"]
        return {
            "command": [*worker, "--store", plan.store, *worker_arguments(plan)],
            "record": str(self._record(plan.run_id, plan.attempt)),
            "run_id": plan.run_id,
            "attempt": plan.attempt,
            "store": plan.store,
        }

    def check(self, request: Request) -> list[str]:
        """The interpreter has to exist."""
        python = Path(request["command"][0])
        return [] if python.is_file() else [f"toy.python: there is no Python at {python}"]

    def launch(self, request: Request, secrets: dict[str, str]) -> Handle:
        """Hand the attempt to a spooler of its own, and return when it has taken it."""
        run_id, attempt, store, record = request["run_id"], request["attempt"], request["store"], Path(request["record"])
        if self.find(run_id, attempt, store, {}):
            raise AlreadyLaunchedError(f"attempt {attempt} of {run_id} was launched before")
        try:
            record.parent.mkdir(parents=True, exist_ok=True)
            record.open("x").close()  # of two launches at once, one makes the file
            with _log_of(record).open("ab") as log:
                fcntl.flock(log, fcntl.LOCK_EX)
                _start_spooler([str(record), str(log.fileno()), *request["command"]], log.fileno(), {**os.environ, **secrets})
        except FileExistsError as error:
            raise AlreadyLaunchedError(f"attempt {attempt} of {run_id} is being launched") from error
        except OSError as error:
            raise ProviderError(f"the spooler of {run_id} cannot be started: {error}") from error
        return Handle(run_id, attempt, self.name, store, {"record": str(record)})

    def find(self, run_id: str, attempt: int, store: str, settings: Mapping[str, Any]) -> Handle | None:
        """An attempt was launched if it has a JSON file, or, after that was tidied away, if its worker wrote a status."""
        record = self._record(run_id, attempt)
        if not record.exists():
            try:
                open_store(store).stat(f"{run_id}/{layout.status(attempt)}")
            except ObjectMissingError:
                return None
        return Handle(run_id, attempt, self.name, store, {"record": str(record)})

    def observe(self, handle: Handle) -> Observation:
        """Running while the lock is held; afterwards what the spooler wrote down of the end."""
        record = Path(handle.reference["record"])
        if _is_alive(record):
            return Observation(State.RUNNING)
        known = _read(record)
        if known is None:
            return Observation(Cause.UNKNOWN.state, Cause.UNKNOWN, "the spooler knows no such attempt")
        if "exit_status" not in known:
            return Observation(Cause.INFRASTRUCTURE.state, Cause.INFRASTRUCTURE, "the spooler died, and the worker with it")
        cause = _CAUSES.get(known["exit_status"], Cause.INFRASTRUCTURE)
        return Observation(cause.state, cause, f"the worker ended with status {known['exit_status']}")

    def cancel(self, handle: Handle, force: bool = False) -> None:
        """SIGTERM for the spooler, which passes it on; ``force`` kills spooler and worker, and the worker's guard ends the program."""
        record = Path(handle.reference["record"])
        spooler = (_read(record) or {}).get("spooler")
        if spooler is not None and _is_alive(record):
            with suppress(ProcessLookupError):
                os.killpg(spooler, signal.SIGKILL) if force else os.kill(spooler, signal.SIGTERM)

    def clean_up(self, handle: Handle) -> None:
        """Remove the attempt's files. A worker that has just written its end is waited for; one that goes on is left alone."""
        record = Path(handle.reference["record"])
        give_up = time.monotonic() + _LEAVE_SECONDS
        while _is_alive(record):
            if time.monotonic() > give_up:
                return
            time.sleep(0.005)
        record.unlink(missing_ok=True)
        _log_of(record).unlink(missing_ok=True)

    def logs(self, handle: Handle, cursor: str | None) -> tuple[bytes, str | None]:
        """What the worker's Python said before the worker could keep its own log; the cursor is a number of bytes."""
        start = int(cursor or 0)
        try:
            data = _log_of(Path(handle.reference["record"])).read_bytes()[start:]
        except FileNotFoundError:
            data = b""
        return data, str(start + len(data))

    def _record(self, run_id: str, attempt: int) -> Path:
        return self._folder / f"{run_id}.{attempt}.json"


def _start_spooler(arguments: list[str], descriptor: int, environment: dict[str, str]) -> None:
    process = subprocess.Popen(
        [sys.executable, "-m", "cloud_train_toy.spooler", *arguments],
        cwd="/",
        env=environment,
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=descriptor,
        start_new_session=True,
        pass_fds=(descriptor,),
    )
    process.returncode = 0  # the spooler outlives this process by design: subprocess need not warn that it still runs
    assert process.stdout is not None
    with process.stdout as said:
        if not said.readline():
            raise OSError("it ended at once; its log says why")


def _log_of(record: Path) -> Path:
    return record.with_suffix(".log")


def _read(record: Path) -> dict[str, Any] | None:
    """What the spooler wrote down; nothing yet if it has not begun, None if there is no such attempt."""
    try:
        return dict(json.loads(record.read_text() or "{}"))
    except FileNotFoundError:
        return None


def _is_alive(record: Path) -> bool:
    try:
        with _log_of(record).open("rb") as log:
            fcntl.flock(log, fcntl.LOCK_SH | fcntl.LOCK_NB)
    except FileNotFoundError:
        return False
    except BlockingIOError:
        return True
    return False

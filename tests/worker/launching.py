"""Workers as real processes, on run directories in a temporary folder."""

import json
import os
import signal
import subprocess
import sys
from collections.abc import Mapping
from contextlib import suppress
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

import psutil

from cloud_train.run import layout
from cloud_train.run.record import AttemptStatus, Program, RunRecord, sha256_of
from cloud_train.run.states import Cause, State
from cloud_train.worker.context import Timing
from tests.support import wait_until

RUN_ID = "script-261123-120000-abcd"
QUICK = Timing(heartbeat=0.05, look=0.05, leftover=0.3, unkillable=10, write_again=0.05, retry=(0.05,))

_QUICK_WORKER = """
import json, sys
from cloud_train.worker.processes.subprocesses import Signals
signals = Signals()
from cloud_train.run.record import sha256_of
from cloud_train.storage.registry import open_store
from cloud_train.worker.nodes import from_variables
from cloud_train.worker.supervisor import run_attempts
from cloud_train.worker.context import Timing
store, run_id, attempt, timing = sys.argv[1:]
store = open_store(store)
record = sha256_of(store.get(f"{run_id}/run.json"))
sys.exit(run_attempts(store, run_id, int(attempt), record, node=from_variables(), signals=signals, timing=Timing(**json.loads(timing))))
"""

CANCELLED_AS_IT_FAILS = """
from cloud_train.storage.local import LocalStore

class CancelledAsItFails(LocalStore):
    def replace(self, seen, data):
        written = super().replace(seen, data)
        if seen.key.endswith("/status.json") and b'"failed"' in data:
            self.put(seen.key.replace("status.json", "cancel"), b"")
        return written

import cloud_train.storage.registry
cloud_train.storage.registry.open_store = lambda url: CancelledAsItFails(__import__("pathlib").Path(url))
"""
"""Put before a worker's code: its store holds somebody who cancels at the very moment in which an attempt's failure is written down."""


class Launched:
    """A run directory, and the workers that a test starts for it."""

    def __init__(self, folder: Path) -> None:
        self.store = folder / "store"
        self.directory = self.store / RUN_ID
        self.work = folder / "work"
        self.home = folder / "home"
        self.console = folder / "console"
        """The workers' standard output."""
        self.work.mkdir()
        self.home.mkdir()
        self.workers: list[subprocess.Popen[bytes]] = []

    def job(self, *command: str, secrets: tuple[str, ...] = (), of_job: Mapping[str, Any] | None = None, **program: Any) -> None:
        """Write run.json for this command; ``of_job`` are further sections of the job."""
        described = replace(Program(command, str(self.work), grace_seconds=20), **program)
        record = RunRecord(RUN_ID, 0.0, {"secrets": list(secrets), **(of_job or {})}, described, {}, {})
        self.directory.mkdir(parents=True, exist_ok=True)
        (self.directory / layout.RUN).write_bytes(record.to_json())

    def python(self, code: str, **program: Any) -> None:
        """Write run.json for a Python program, as a file in its folder."""
        (self.work / "program.py").write_text(code)
        self.job(sys.executable, "program.py", **program)

    def shell(self, code: str, **program: Any) -> None:
        """Write run.json for a shell program."""
        self.job("/bin/sh", "-c", code, **program)

    def start(
        self, attempt: int = 1, timing: Timing = QUICK, environment: Mapping[str, str] | None = None, before: str = ""
    ) -> subprocess.Popen[bytes]:
        """Start a worker with quick paces; ``before`` is Python code that its process runs first."""
        arguments = [str(self.store), RUN_ID, str(attempt), json.dumps(asdict(timing))]
        return self._start([sys.executable, "-c", before + _QUICK_WORKER, *arguments], environment)

    def start_by_command_line(self, *options: str, pass_fds: tuple[int, ...] = ()) -> subprocess.Popen[bytes]:
        """Start a worker just as a provider does."""
        record = sha256_of((self.directory / layout.RUN).read_bytes())
        arguments = ["--store", str(self.store), "--run", RUN_ID, "--attempt", "1", "--record", record, *options]
        return self._start([sys.executable, "-m", "cloud_train.worker", *arguments], None, pass_fds)

    def run(self, attempt: int = 1, timing: Timing = QUICK, environment: Mapping[str, str] | None = None) -> AttemptStatus:
        """Run a worker to its end; returns the attempt's status."""
        self.start(attempt, timing, environment).wait(60)
        return self.status(attempt)

    def status(self, attempt: int = 1) -> AttemptStatus:
        path = self.directory / layout.status(attempt)
        return AttemptStatus.from_json(path.read_bytes(), str(path))

    def is_in(self, state: State, attempt: int = 1) -> bool:
        return (self.directory / layout.status(attempt)).exists() and self.status(attempt).state is state

    def ended_with(self, cause: Cause, attempt: int = 1) -> bool:
        return self.is_in(cause.state, attempt) and self.status(attempt).cause is cause

    def output(self, attempt: int = 1) -> bytes:
        path = self.directory / layout.output_log(attempt)
        return path.read_bytes() if path.exists() else b""

    def worker_log(self, attempt: int = 1) -> str:
        return (self.directory / layout.worker_log(attempt)).read_text()

    def says(self, word: bytes, attempt: int = 1) -> None:
        """Wait until the program has printed ``word``."""
        wait_until(lambda: word in self.output(attempt), f"the program says {word!r}")

    def cancel(self, attempt: int = 1) -> None:
        """Leave the mark of somebody who cancels."""
        (self.directory / layout.cancel(attempt)).write_bytes(b"")

    def end(self) -> None:
        """End every worker, and whatever of its attempt is left, by process id."""
        for worker in self.workers:
            if worker.poll() is None:
                worker.send_signal(signal.SIGKILL)
            worker.wait()
            if worker.stderr:
                worker.stderr.close()
        wait_until(lambda: not living(self.work), "nothing is left of the run")

    def _start(self, command: list[str], environment: Mapping[str, str] | None, pass_fds: tuple[int, ...] = ()) -> subprocess.Popen[bytes]:
        own = {name: value for name, value in os.environ.items() if not name.startswith("CLOUD_TRAIN_")}
        with self.console.open("ab") as console:
            worker = subprocess.Popen(
                command,
                env={**own, "CLOUD_TRAIN_HOME": str(self.home), **(environment or {})},
                stdin=subprocess.DEVNULL,
                stdout=console,
                stderr=subprocess.PIPE,
                start_new_session=True,
                pass_fds=pass_fds,
            )
        self.workers.append(worker)
        return worker


def living(folder: Path) -> list[psutil.Process]:
    """The processes that work in ``folder``."""
    found = []
    for process in psutil.process_iter():
        with suppress(psutil.Error):
            if process.status() != psutil.STATUS_ZOMBIE and process.cwd() == str(folder):
                found.append(process)
    return found

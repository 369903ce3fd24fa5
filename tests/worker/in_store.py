"""Workers as real processes whose run lies in an object store: each machine has a home and a workspace of its own."""

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
from cloud_train.run.states import State
from cloud_train.run.streams import open_stream
from cloud_train.storage.base import ObjectMissingError, Store
from cloud_train.storage.registry import open_store
from cloud_train.worker.context import Timing
from tests.support import wait_until

RUN_ID = "script-261123-120000-abcd"
QUICK = Timing(heartbeat=0.1, look=0.05, join_look=0.05, leftover=0.3, write_again=0.05, retry=(0.1,), uploading=20, farewell=10)

_QUICK_WORKER = """
import json, os, sys
from cloud_train.worker.processes.subprocesses import Signals
signals = Signals()
from pathlib import Path
from cloud_train.storage.local import LocalStore
from cloud_train.retry import RetryPolicy
from cloud_train.worker import remote
from cloud_train.worker.uploads import attempts, streams, uploader
from cloud_train.worker.nodes import from_variables
from cloud_train.worker.platforms import platform_of
from cloud_train.worker.supervisor import run_attempts
from cloud_train.worker.context import Timing
uploader._LOOK_SECONDS = 0.05
uploader._LOOK_POLICY = RetryPolicy(time_limit=0.5)
uploader._BLOCKED_POLICY = RetryPolicy(time_limit=None, first_wait=0.1, longest_wait=0.5)
attempts._CANCEL_SECONDS, attempts._PEERS_SECONDS, streams._LEAST_SECONDS = 0.2, 0.1, 0.2
url, run_id, attempt, record, workspace, timing = sys.argv[1:]
store, paces = LocalStore(Path(workspace)), Timing(**json.loads(timing))
found = remote.Remote(url, run_id)
platform = platform_of("azureml") if "AZUREML_RUN_ID" in os.environ else None
node = platform.node if platform else from_variables()
sys.exit(run_attempts(store, run_id, int(attempt), record, node=node, signals=signals, timing=paces, remote=found, platform=platform))
"""


class Machine:
    """A machine with an empty home, on which a test starts workers for one run in a store."""

    def __init__(self, folder: Path, url: str) -> None:
        self.url = url
        self.store: Store = open_store(url)
        self.home = folder / "home"
        self.work = folder / "work"
        self.folder = folder / "program"
        self.workspace = self.work / RUN_ID
        self.home.mkdir(parents=True)
        self.folder.mkdir()
        self.workers: list[subprocess.Popen[bytes]] = []

    def job(self, *command: str, **program: Any) -> None:
        """Write run.json for this command into the store."""
        described = replace(Program(command, str(self.folder), grace_seconds=20), **program)
        self.store.put(f"{RUN_ID}/{layout.RUN}", RunRecord(RUN_ID, 0.0, {}, described, {}, {}).to_json())

    def python(self, code: str, **program: Any) -> None:
        """Write run.json for a Python program."""
        self.job(sys.executable, "-c", code, **program)

    def shell(self, code: str, **program: Any) -> None:
        """Write run.json for a shell program."""
        self.job("/bin/sh", "-c", code, **program)

    def start(self, attempt: int = 1, timing: Timing = QUICK, environment: Mapping[str, str] | None = None) -> subprocess.Popen[bytes]:
        """Start a worker with quick paces."""
        own = {name: value for name, value in os.environ.items() if not name.startswith("CLOUD_TRAIN_")}
        record = sha256_of(self.store.get(f"{RUN_ID}/{layout.RUN}"))
        worker = subprocess.Popen(
            [sys.executable, "-c", _QUICK_WORKER, self.url, RUN_ID, str(attempt), record, str(self.work), json.dumps(asdict(timing))],
            env={**own, "CLOUD_TRAIN_HOME": str(self.home), **(environment or {})},
            stdin=subprocess.DEVNULL,
            stderr=subprocess.PIPE,
            start_new_session=True,
        )
        self.workers.append(worker)
        return worker

    def run(self, attempt: int = 1, timing: Timing = QUICK) -> int:
        """Run a worker to its end; returns its exit status."""
        return self.start(attempt, timing).wait(60)

    def status(self, attempt: int = 1) -> AttemptStatus:
        key = f"{RUN_ID}/{layout.status(attempt)}"
        return AttemptStatus.from_json(self.store.get(key), key)

    def is_in(self, state: State, attempt: int = 1) -> bool:
        with suppress(ObjectMissingError):
            return self.status(attempt).state is state
        return False

    def stream(self, name: str) -> bytes:
        """A stream as it lies in the store."""
        return open_stream(self.store, f"{RUN_ID}/{name}").read(0)

    def output(self, attempt: int = 1) -> bytes:
        return self.stream(layout.output_log(attempt))

    def worker_log(self, attempt: int = 1) -> str:
        return self.stream(layout.worker_log(attempt)).decode()

    def printed(self, attempt: int = 1) -> bytes:
        """The output as it lies on the machine."""
        path = self.workspace / layout.output_log(attempt)
        return path.read_bytes() if path.exists() else b""

    def says(self, word: bytes, attempt: int = 1) -> None:
        """Wait until the program has printed ``word``."""
        wait_until(lambda: word in self.printed(attempt), f"the program says {word!r}")

    def steps(self) -> list[int]:
        """The steps of which the store has a checkpoint with a manifest."""
        return sorted(self.checkpoints())

    def checkpoints(self) -> dict[int, str]:
        """The folder of each checkpoint in the store that has a manifest, by its step."""
        keys = [info.key.removeprefix(f"{RUN_ID}/") for info in self.store.list(f"{RUN_ID}/{layout.CHECKPOINTS}")]
        folders = [key.removesuffix(f"/{layout.MANIFEST}") for key in keys if key.endswith(f"/{layout.MANIFEST}")]
        return {layout.step_of(folder.rpartition("/")[2]) or 0: folder for folder in folders}

    def living(self) -> list[psutil.Process]:
        """Every process that a worker of this machine has started, and the workers."""
        found = []
        for process in psutil.process_iter():
            with suppress(psutil.Error):
                if process.status() != psutil.STATUS_ZOMBIE and process.environ().get("CLOUD_TRAIN_HOME") == str(self.home):
                    found.append(process)
        return found

    def uploader(self, worker: subprocess.Popen[bytes]) -> psutil.Process:
        """The worker's process that ships: the one child of its own program text that has threads."""
        found: list[psutil.Process] = []

        def look() -> bool:
            with suppress(psutil.Error):
                found[:] = [child for child in psutil.Process(worker.pid).children() if child.num_threads() > 2]
            return bool(found)

        wait_until(look, "there is a process that ships")
        return found[0]

    def is_quiet(self) -> None:
        """Wait until nothing of what its workers started lives any more."""
        wait_until(lambda: not self.living(), "nothing is left of the run")

    def kill(self) -> None:
        """SIGKILL for everything at once, as when the machine goes away."""
        for process in self.living():
            with suppress(psutil.Error):
                process.send_signal(signal.SIGSTOP)  # so that nothing is written by those that are killed later
        for process in self.living():
            with suppress(psutil.Error):
                process.kill()
        self.end()

    def end(self) -> None:
        """End whatever is left of this machine's workers, by process id."""
        for worker in self.workers:
            if worker.poll() is None:
                worker.kill()
            worker.wait()
            if worker.stderr:
                worker.stderr.close()
        for process in self.living():
            with suppress(psutil.Error):
                process.kill()
        self.is_quiet()

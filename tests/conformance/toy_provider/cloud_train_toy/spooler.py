"""The spooler of one attempt: ``python -m cloud_train_toy.spooler RECORD LOCK COMMAND…``.

It starts the worker, passes SIGTERM on to it, and writes down how it ended. ``LOCK`` is the attempt's log, open and locked: spooler and
worker keep it open, and the kernel lets the lock go however they end.
"""

import json
import os
import signal
import subprocess
import sys
from contextlib import suppress
from pathlib import Path
from types import FrameType


class Spooler:
    """Runs one worker to its end."""

    def __init__(self, record: Path, lock: int) -> None:
        self._record, self._lock = record, lock
        self._worker: subprocess.Popen[bytes] | None = None
        self._told_to_stop = False
        signal.signal(signal.SIGTERM, self._pass_on)

    def run(self, command: list[str]) -> int:
        """Start the worker and wait for it; returns its exit status."""
        self._write({"spooler": os.getpid()})
        with suppress(OSError):  # whoever launched this may have been killed meanwhile, and the attempt goes on all the same
            print("taken", flush=True)
        os.dup2(self._lock, 1)  # nobody reads on at the other end
        self._worker = subprocess.Popen(
            [*command, "--lock-fd", str(self._lock)], stdin=subprocess.DEVNULL, stdout=self._lock, stderr=self._lock, pass_fds=(self._lock,)
        )
        if self._told_to_stop:
            self._worker.terminate()
        status = self._worker.wait()
        self._write({"spooler": os.getpid(), "exit_status": status})
        return status

    def _pass_on(self, _number: int, _frame: FrameType | None) -> None:
        self._told_to_stop = True
        if self._worker is not None:
            self._worker.terminate()

    def _write(self, fields: dict[str, int]) -> None:
        half = self._record.with_suffix(".half")
        half.write_text(json.dumps(fields))
        half.replace(self._record)


if __name__ == "__main__":
    record_path, descriptor, *worker_command = sys.argv[1:]
    sys.exit(Spooler(Path(record_path), int(descriptor)).run(worker_command))

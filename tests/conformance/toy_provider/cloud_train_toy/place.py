"""What the conformance suite has to know of the toy: the only code of its tests that is about this one provider.

``CLOUD_TRAIN_CONFORMANCE_PLACE=cloud_train_toy.place:PLACE`` runs the suite against it.
"""

import json
import os
import signal
import sys
from collections.abc import Mapping
from contextlib import suppress
from pathlib import Path
from typing import Any

import psutil


class ToyPlace:
    """The machine that this runs on, by way of spoolers."""

    name = "toy"
    trains = True
    job: Mapping[str, Any] = {}
    settings: Mapping[str, Any] = {"python": sys.executable}

    def require(self) -> None:
        """Nothing beside Python."""

    def store(self, folder: Path) -> str:
        """A folder of the test's own."""
        return str(folder / "runs")

    def spoil(self, request: dict[str, Any]) -> dict[str, Any]:
        """A Python that is not there."""
        return {**request, "command": ["/no/such/python", *request["command"][1:]]}

    def kill(self, home: Path, run_id: str) -> None:
        """SIGKILL for the spooler and the worker, which are one process group: nobody is left to write an end."""
        for record in (home / "toy").glob(f"{run_id}.*.json"):
            with suppress(ProcessLookupError, KeyError, ValueError):
                os.killpg(json.loads(record.read_text())["spooler"], signal.SIGKILL)

    def leftovers(self, home: Path, run_id: str) -> list[str]:
        """The spooler's files, and every process that belongs to the run."""
        files = [str(path) for path in (home / "toy").glob(f"{run_id}.*")]
        return files + [" ".join(process.info["cmdline"]) for process in _processes(run_id)]

    def clear(self, home: Path, run_id: str) -> None:
        """End what a failed test left."""
        self.kill(home, run_id)
        for process in _processes(run_id):
            with suppress(psutil.Error):
                process.kill()


def _processes(run_id: str) -> list[psutil.Process]:
    """Spooler and worker have the run's id in their command lines, the program in its environment."""
    found = []
    for process in psutil.process_iter(["cmdline"]):
        with suppress(psutil.Error):
            named = any(run_id in word for word in process.info["cmdline"] or ())
            if named or process.environ().get("CLOUD_TRAIN_RUN_ID") == run_id:
                found.append(process)
    return found


PLACE = ToyPlace()

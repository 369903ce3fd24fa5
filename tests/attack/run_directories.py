"""Run directories as a worker writes them, for tests that then put something hostile into them."""

import hashlib
import json
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

from cloud_train.run import layout
from cloud_train.run.record import AttemptStatus, Program, RunRecord
from cloud_train.run.states import Cause, State

GOOD = "good-261130-091500-k3f9"
BAD = "evil-261130-091500-0666"
CREATED = 1_795_000_000.0


def run_directory(store: Path, run_id: str, attempt: int = 1) -> Path:
    """A run that succeeded, with a line of log and one of metrics."""
    program = Program(("true",), "/")
    record = RunRecord(run_id, CREATED, {"name": "test"}, program, {"provider": "local", "provider_settings": {}}, {"job_file": None})
    status = AttemptStatus(State.STARTING, CREATED, CREATED, "host", 1).ended_with(Cause.SUCCEEDED, "", CREATED + 1, 0)
    line = {"step": 1, "epoch": 0.5, "time": CREATED, "split": "train", "name": "loss", "value": 0.5}
    write(store / run_id / layout.RUN, record.to_json())
    write(store / run_id / layout.status(attempt), status.to_json())
    write(store / run_id / layout.output_log(attempt), b"hello\n")
    write(store / run_id / layout.metrics(attempt), f"{json.dumps(line)}\n".encode())
    return store / run_id


def write(path: Path, data: bytes) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(data)


def manifest_of(folder: Path, step: int | None, **files: bytes) -> None:
    """A folder with a manifest that lists these contents, whatever lies there."""
    entries = {name: {"size": len(data), "sha256": hashlib.sha256(data).hexdigest()} for name, data in files.items()}
    document = {"format": 1, "step": step, "metrics": {}, "fingerprint": {}, "files": entries}
    write(folder / layout.MANIFEST, json.dumps(document).encode())


def changed(path: Path, change: Callable[[dict[str, Any]], object]) -> None:
    """Change a JSON document; NaN and infinity are written as Python does."""
    document = json.loads(path.read_bytes())
    change(document)
    path.write_text(json.dumps(document))


def replaced_by(path: Path, what: Callable[[Path], object]) -> None:
    """Put something else where a file is."""
    path.unlink()
    what(path)


def sparse(path: Path) -> None:
    """A file of 8 GB that takes no space."""
    with path.open("wb") as file:
        file.truncate(8 << 30)


def pipe(path: Path) -> None:
    os.mkfifo(path)


def deep(path: Path) -> None:
    path.write_bytes(b'{"format": 1, "job": ' + b"[" * 100_000 + b"]" * 100_000 + b"}")

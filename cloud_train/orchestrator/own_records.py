"""Copies of the ``run.json`` files that this machine wrote. If the one in a run directory is damaged, its copy replaces it.

They are private files in the home, named after the run and the SHA-256 of their content, and kept until the run has succeeded. A copy whose
content has another SHA-256 is ignored.
"""

from collections.abc import Iterable
from contextlib import suppress
from pathlib import Path

from cloud_train import private
from cloud_train.errors import CorruptError
from cloud_train.orchestrator.home import Home
from cloud_train.run.record import RunRecord, sha256_of


def keep(home: Home, run_id: str, written: bytes) -> None:
    """Keep a copy, if the disk has room: the run starts in any case."""
    path = _path(home, run_id, sha256_of(written))
    with suppress(OSError):
        private.make_folder(path.parent)
        private.write_text(path, written.decode())


def kept(home: Home, run_id: str, store: str, digests: Iterable[str]) -> bytes | None:
    """The copy of the run's ``run.json`` with one of these SHA-256 digests, for a run directory in ``store``; None if there is none."""
    for sha256 in digests:
        path = _path(home, run_id, sha256)
        with suppress(OSError, CorruptError):
            written = path.read_bytes()
            if sha256_of(written) == sha256 and str(RunRecord.from_json(written, str(path)).plan.get("store")).rstrip("/") == store.rstrip(
                "/"
            ):
                return written
    return None


def forget(home: Home, run_id: str) -> None:
    """Remove the copies of a run that can no longer be resumed."""
    for path in (home.folder / "records").glob(f"{run_id}.*.json"):
        with suppress(OSError):
            path.unlink()


def _path(home: Home, run_id: str, sha256: str) -> Path:
    return home.folder / "records" / f"{run_id}.{sha256}.json"

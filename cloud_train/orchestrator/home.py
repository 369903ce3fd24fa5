"""The folder on this machine for the ledger and the local provider's files: ``$CLOUD_TRAIN_HOME``, or ``~/.cloud-train``."""

from dataclasses import dataclass
from os import PathLike, fspath
from pathlib import Path
from typing import Self

from cloud_train.spec.paths import home_folder


@dataclass(frozen=True)
class Home:
    """That folder. Its contents are created when they are first needed."""

    folder: Path

    @classmethod
    def from_environment(cls) -> Self:
        """``$CLOUD_TRAIN_HOME`` if it is set, otherwise ``~/.cloud-train``. Raises UsageError."""
        return cls(home_folder())

    @classmethod
    def at(cls, folder: str | PathLike[str]) -> Self:
        """Another folder; ``~`` is replaced. Raises UsageError."""
        return cls(home_folder({"CLOUD_TRAIN_HOME": fspath(folder)}))

    @property
    def ledger_path(self) -> Path:
        """Path of the ledger."""
        return self.folder / "ledger.sqlite3"

    def submission_lock(self, run_id: str) -> Path:
        """Path of the lock that a process holds while it submits or resumes this run."""
        return self.folder / "submitting" / f"{run_id}.lock"

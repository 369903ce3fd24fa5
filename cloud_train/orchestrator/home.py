"""The folder on this machine that holds the ledger and what the local provider needs: ``$CLOUD_TRAIN_HOME``, or ``~/.cloud-train``."""

import os
from dataclasses import dataclass
from pathlib import Path
from typing import Self


@dataclass(frozen=True)
class Home:
    """That folder. Nothing is made before it is needed."""

    folder: Path

    @classmethod
    def from_environment(cls) -> Self:
        """``$CLOUD_TRAIN_HOME`` if it is set, otherwise ``~/.cloud-train``."""
        return cls(Path(os.environ.get("CLOUD_TRAIN_HOME") or "~/.cloud-train").expanduser().absolute())

    @property
    def ledger_path(self) -> Path:
        """The ledger's file."""
        return self.folder / "ledger.sqlite3"

    def submission_lock(self, run_id: str) -> Path:
        """The lock that a process holds while it submits or resumes this run."""
        return self.folder / "submitting" / f"{run_id}.lock"

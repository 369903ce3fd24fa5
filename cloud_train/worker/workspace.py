"""Paths of an attempt's files on this machine. In a local store, program and worker write directly into the run directory."""

from __future__ import annotations  # the worker also runs on Python 3.10, in users' own images

import os
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from cloud_train.beneath import open_folder, open_within, unlink_within
from cloud_train.errors import StoreError
from cloud_train.run import layout
from cloud_train.storage.base import Store

if TYPE_CHECKING:
    from typing_extensions import Self  # noqa: UP035 -- typing has it from Python 3.11 on


@dataclass(frozen=True)
class Workspace:
    """The paths of one attempt on one node."""

    store: Path
    """The folder that contains the run directory."""
    record: Path
    checkpoints: Path
    """This attempt's own."""
    model: Path
    """Where this attempt's program leaves its model, which becomes the run's when the attempt succeeds."""
    output_log: Path
    worker_log: Path
    metrics: Path
    failure: Path
    reserve: Path
    """File that reserves disk space for recording the end; stores do not list its name."""

    @classmethod
    def in_store(cls, store: Store, run_id: str, attempt: int, node_rank: int) -> Self:
        """The workspace inside a local folder; raises StoreError for any other store."""

        def path(key: str) -> Path:
            found = store.local_path(f"{run_id}/{key}")
            if found is None:
                raise StoreError(f"the store {store.url} is not a folder on this machine", hint="use a local folder as the store")
            return found

        return cls(
            store=path(layout.RUN).parent.parent,
            record=path(layout.RUN),
            checkpoints=path(layout.checkpoints(attempt)),
            model=path(layout.unfinished_model(attempt)),
            output_log=path(layout.output_log(attempt, node_rank)),
            worker_log=path(layout.worker_log(attempt, node_rank)),
            metrics=path(layout.metrics(attempt, node_rank)),
            failure=path(layout.failure(attempt, node_rank)),
            reserve=path(f"{layout.attempt(attempt)}/.cloud-train-reserve" + (f"-{node_rank}" if node_rank else "")),
        )

    def make_folders(self) -> None:
        """Create the folders that programs may rely on, without following links; raises StoreError."""
        try:
            for folder in (self.checkpoints, self.model, self.output_log.parent, self.metrics.parent, self.failure.parent):
                os.close(open_folder(self.store, folder.relative_to(self.store).parts, make=True))
        except OSError as error:
            raise StoreError(f"cannot make {error.filename}: {(error.strerror or str(error)).lower()}") from error


RESERVE_BYTES = 64 * 1024
"""Enough for a status and some lines of log, each in its own block."""


class DiskReserve:
    """A file that reserves disk space until it is needed."""

    def __init__(self, path: Path, root: Path | None = None) -> None:
        """``root``: an ancestor folder, below which no link is followed."""
        self._path, self._root = path, root

    def take(self) -> None:
        """Reserve the space, if there is enough."""
        with suppress(OSError):
            descriptor = open_within(self._path, self._root, os.O_WRONLY | os.O_CREAT, 0o600)
            try:
                os.posix_fallocate(descriptor, 0, RESERVE_BYTES)
            finally:
                os.close(descriptor)

    def release(self) -> None:
        """Free the space."""
        with suppress(OSError):
            unlink_within(self._path, self._root)


def is_full(folder: Path) -> bool:
    """Whether the disk of ``folder`` is full."""
    try:
        disk = os.statvfs(folder)
    except OSError:
        return False
    return disk.f_bavail * disk.f_frsize < RESERVE_BYTES

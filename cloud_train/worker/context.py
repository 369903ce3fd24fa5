"""What an attempt works with, and the paces it keeps."""

from __future__ import annotations  # what only some runs need is named here, and imported where it is needed

from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING

from cloud_train.run.record import RunRecord
from cloud_train.worker.nodes import NodeContext, Peers
from cloud_train.worker.processes.signals import Signals
from cloud_train.worker.status import StatusFile
from cloud_train.worker.worker_log import WorkerLog
from cloud_train.worker.workspace import Workspace

if TYPE_CHECKING:
    from cloud_train.worker.remote import Remote
    from cloud_train.worker.uploads.uploader import Uploader


@dataclass(frozen=True)
class Timing:
    """The paces of a worker, in seconds."""

    heartbeat: float = 5.0
    """Between two signs of life; the cancel mark is looked for as often."""
    look: float = 1.0
    """Between two looks for new checkpoints of a script, and for what becomes of the other nodes."""
    join_look: float = 0.1
    """Between two looks for the other nodes, before the program starts."""
    join: float = 300.0
    """Until every node has to be there."""
    silence: float = 60.0
    """Without a sign of life of another node, before it counts as gone."""
    lost: float = 15.0
    """The same once there is reason to think that it is gone."""
    farewell: float = 5.0
    """For node 0 to say how an attempt ended and whether another follows, before another node leaves."""
    leftover: float = 2.0
    """For what a program leaves behind, from SIGTERM to SIGKILL."""
    unkillable: float = 10.0
    """After SIGKILL, before a process that is stuck in the kernel is given up."""
    write_again: float = 1.0
    """Between two tries to write down the end, where the disk is full."""
    uploading: float = 300.0
    """Without anything coming through to the store, once the end has come, before the rest is given up."""
    retry: tuple[float, ...] = (15, 30, 60, 120, 300, 600)
    """Before the second launch, the third, …; the last one counts for all further ones."""


@dataclass(frozen=True)
class AttemptContext:
    """What an attempt works with."""

    record: RunRecord
    record_sha256: str
    """SHA-256 of the run.json that the record was read from."""
    workspace: Workspace
    node: NodeContext
    status: StatusFile
    worker_log: WorkerLog
    signals: Signals
    peers: Peers
    """The other nodes."""
    is_cancelled: Callable[[], bool]
    """Looks for the mark of a cancellation."""
    is_forced: Callable[[], bool]
    """Whether the cancellation skips the grace period."""
    timing: Timing
    remote: Remote | None = None
    """The run in its store, where that is a cloud's."""
    uploader: Uploader | None = None
    """The process that uploads to it."""

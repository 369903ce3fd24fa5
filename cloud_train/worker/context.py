"""The context of an attempt: everything it works with, and its intervals and timeouts."""

from __future__ import annotations  # for types that are imported only where they are used

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from cloud_train.run.record import RunRecord
from cloud_train.worker.nodes import NodeContext, Peers
from cloud_train.worker.processes.subprocesses import Signals
from cloud_train.worker.status import StatusFile
from cloud_train.worker.worker_log import WorkerLog
from cloud_train.worker.workspace import Workspace

if TYPE_CHECKING:
    from cloud_train.worker.remote import Remote
    from cloud_train.worker.uploads.uploader import Uploader


@dataclass(frozen=True)
class Timing:
    """A worker's intervals and timeouts, in seconds."""

    heartbeat: float = 5.0
    """Interval between heartbeats, and between checks for the cancel mark."""
    look: float = 1.0
    """Interval between checks for new checkpoints of a script, and for the state of the other nodes."""
    join_look: float = 0.1
    """Interval between checks for the other nodes before the program starts."""
    join: float = 300.0
    """Timeout for all nodes to join."""
    silence: float = 60.0
    """Time without a heartbeat after which another node counts as lost."""
    lost: float = 15.0
    """The same if there is another reason to believe that it is lost."""
    farewell: float = 5.0
    """How long another node waits for node 0 to report how the attempt ended and whether another follows."""
    leftover: float = 2.0
    """Time from SIGTERM to SIGKILL for processes that the program left running."""
    unkillable: float = 10.0
    """Time after SIGKILL until a process stuck in the kernel is abandoned."""
    write_again: float = 1.0
    """Interval between attempts to record the end on a full disk."""
    uploading: float = 300.0
    """Time without any successful upload, after the end, until the remaining uploads are abandoned."""
    reclaimed: float = 120.0
    """How long to wait after a notice for the machine to be reclaimed, until the run continues here because it was not."""
    retry: tuple[float, ...] = (15, 30, 60, 120, 300, 600)
    """Delays before the second attempt, the third, and so on; the last one applies to all further attempts."""


@dataclass(frozen=True)
class AttemptContext:
    """Everything that an attempt works with."""

    record: RunRecord
    record_sha256: str
    """SHA-256 of the run.json from which the record was read."""
    workspace: Workspace
    node: NodeContext
    status: StatusFile
    worker_log: WorkerLog
    signals: Signals
    peers: Peers
    """The other nodes."""
    is_cancelled: Callable[[], bool]
    """Checks for the cancel mark."""
    is_forced: Callable[[], bool]
    """Checks whether the cancellation skips the grace period."""
    superseded: Callable[[], int | None]
    """Looks for a newer attempt, which alone may write results from then on; None if there is none."""
    timing: Timing
    remote: Remote | None = None
    """The run in a cloud's store; None if the store is a local folder."""
    uploader: Uploader | None = None
    """The process that uploads to a cloud's store."""
    earlier: Sequence[Path] = ()
    """Run directories in the workspaces that earlier workers left on this machine, the newest first."""

"""The result of checking a run: its state, and the work that is pending for it, as data. ``reconcile`` carries the work out."""

from dataclasses import dataclass
from typing import Any

from cloud_train.providers.base import Handle, Observation
from cloud_train.run.ledger_entry import Entry
from cloud_train.run.record import AttemptStatus
from cloud_train.run.view import RunView
from cloud_train.storage.base import ObjectInfo


@dataclass(frozen=True)
class Forget:
    """Remove the run from the ledger: its submission was cut off before its ``run.json`` was written."""


@dataclass(frozen=True)
class RecordLaunch:
    """Record in the ledger that an attempt was launched, with the provider's handle, or as unmanaged."""

    attempt: int
    reference: dict[str, Any]


@dataclass(frozen=True)
class RecordNeverLaunched:
    """Record the end of an attempt whose submission was cut off. If its provider was asked to start it, the run directory is written first,
    so that a worker that starts late finds the attempt taken.
    """

    attempt: int
    status: AttemptStatus
    claims: bool
    """Whether to write the end into the run directory first."""


@dataclass(frozen=True)
class StopLaunch:
    """Stop everything that a launch left running after its worker vanished."""

    launch: Handle


@dataclass(frozen=True)
class WriteStatus:
    """Write an attempt's end into the run directory on behalf of the worker of ``launch``, which ended without doing so.

    The end is written only if the status is still in the version that was ``seen``; a worker that lives takes it back.
    """

    launch: Handle | None
    attempt: int
    status: AttemptStatus
    seen: ObjectInfo | None
    """None: the worker has not begun the attempt."""


@dataclass(frozen=True)
class RecordStatus:
    """Record an attempt's status in the ledger, as the run directory has it or will have it."""

    attempt: int
    status: AttemptStatus
    is_unmanaged: bool = False
    """Whether the attempt belongs to a launch of another machine."""


@dataclass(frozen=True)
class CleanUp:
    """Remove everything that an ended launch left at its provider."""

    launch: Handle


Settlement = Forget | RecordLaunch | RecordNeverLaunched
Pending = RecordLaunch | StopLaunch | WriteStatus | RecordStatus | CleanUp


@dataclass(frozen=True)
class Findings:
    """The result of checking one run. Nothing was written."""

    run: RunView
    """The current state of the run, including an end that is not recorded yet."""
    entry: Entry
    """The ledger's row before the check."""
    settlement: Settlement | None = None
    """To be recorded about a submission whose process is gone, under the run's submission lock and before ``pending``."""
    launch: Handle | None = None
    """The launch that was observed, with the number of its attempt; None if no provider was asked."""
    observation: Observation | None = None
    pending: tuple[Pending, ...] = ()
    """Actions to carry out, in this order."""

"""One run as the ledger records it, as the command line shows it and as ``--json`` prints it."""

from dataclasses import dataclass, replace
from datetime import UTC, datetime
from typing import Any, Self

from cloud_train.run.documents import LATEST
from cloud_train.run.record import AttemptStatus
from cloud_train.run.states import Cause, State

_TIMES = ("created", "started", "ended", "heartbeat")
_LONGEST_PAUSE_SECONDS = 30.0
"""A worker writes a heartbeat every 5 to 10 s. A longer pause is not counted: the worker may be gone, or a clock may be wrong."""
NOT_RECORDED = "not yet recorded"


MOVED = "moved to "
"""How the message begins of an attempt that takes place in another store."""


@dataclass(frozen=True)
class RunView:
    """One run with its newest attempt. Times are seconds since the epoch."""

    run_id: str
    name: str
    """The job's name."""
    provider: str
    store: str
    """URL of the store that holds the run directory."""
    job_file: str | None
    created: float
    attempt: int
    """Number of the newest attempt, from 1."""
    state: State
    cause: Cause | None = None
    """Why the attempt ended; None until then."""
    message: str = ""
    started: float | None = None
    ended: float | None = None
    host: str = ""
    resumed_step: int | None = None
    """The step of the checkpoint that the attempt started from."""
    heartbeat: float | None = None
    """When the worker last reported; None for a run read from the ledger alone."""
    is_unmanaged: bool = False
    """Whether the attempt was launched from another machine, so that only its worker's status is known here."""
    elapsed: float | None = None
    """Seconds that the attempt took until ``ended``, or had taken at ``heartbeat``, by a clock that is never set; None if unknown."""
    is_recorded: bool = True
    """False for an end inferred from the provider's report and recorded neither in the ledger nor in the run directory."""

    @property
    def run_directory(self) -> str:
        """URL of the run directory."""
        return f"{self.store.rstrip('/')}/{self.run_id}"

    @property
    def state_text(self) -> str:
        """The state as it is displayed, such as ``running`` or ``interrupted (not yet recorded)``."""
        return self.state.value if self.is_recorded else f"{self.state} ({NOT_RECORDED})"

    @property
    def moved_to(self) -> str | None:
        """URL of the run directory in which the run continues; None unless a complete move has ended its attempt here."""
        place = self.message.removeprefix(MOVED)
        is_claim = self.cause is Cause.INFRASTRUCTURE and not self.host and self.message.startswith(MOVED)
        return place if is_claim and place.endswith(f"/{self.run_id}") else None

    def duration(self, now: float | None = None) -> float | None:
        """Seconds that the attempt took, or has taken by ``now``; None if it has not started, or if that is unknown.

        If its worker measured them, no clock that was set in the meantime counts, and neither does one that differs from this machine's.
        """
        if self.started is None:
            return None
        if self.ended is not None and self.elapsed is not None:
            return self.elapsed or None  # 0.0: its worker was gone before it measured any
        if self.ended is not None:
            return max(0.0, self.ended - self.started) if self.host else None  # no worker began it
        if now is None:
            return None
        if self.elapsed is not None and self.heartbeat is not None:
            since = now - self.heartbeat
            return self.elapsed + (since if 0 <= since <= _LONGEST_PAUSE_SECONDS else 0.0)
        return max(0.0, now - self.started)

    def shown_by(self, number: int, status: AttemptStatus) -> Self:
        """The run, updated from the status of attempt ``number``."""
        return replace(
            self,
            attempt=number,
            state=status.state,
            cause=status.cause,
            message=status.message,
            started=status.began,
            ended=status.ended,
            elapsed=status.elapsed if status.ended is not None else None,  # until then it changes with every heartbeat: see ``Entry.view``
            host=status.host,
            resumed_step=status.resumed_step,
        )

    def to_json(self) -> dict[str, Any]:
        """The run as ``--json`` prints it; times are ISO 8601 in UTC."""
        fields = {name: instant(value) if name in _TIMES else value for name, value in vars(self).items()}
        fields["is_elsewhere"] = fields.pop("is_unmanaged")
        del fields["elapsed"]  # part of ``duration_seconds``
        return {**fields, "run_directory": self.run_directory, "duration_seconds": self.duration()}


def instant(seconds: float | None) -> str | None:
    """Seconds since the epoch as ISO 8601 in UTC, to the millisecond; None outside the years 1970 to 9999."""
    if seconds is None or not 0 <= seconds <= LATEST:
        return None
    return datetime.fromtimestamp(round(seconds, 3), UTC).isoformat(timespec="milliseconds").replace("+00:00", "Z")

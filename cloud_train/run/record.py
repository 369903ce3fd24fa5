"""``run.json`` and ``status.json``: what a run is, written once, and where each attempt stands, written by its worker."""

from __future__ import annotations  # the worker runs on Python 3.10 as well, in images of the user's

import json
from dataclasses import asdict, dataclass, field, replace
from typing import TYPE_CHECKING, Any

from cloud_train.errors import CorruptError
from cloud_train.run.ranking import USUAL, Ranking
from cloud_train.run.states import Cause, State

if TYPE_CHECKING:
    from typing_extensions import Self  # noqa: UP035 -- typing has it from Python 3.11 on

FORMAT = 1


def sha256_of(written: bytes) -> str:
    """The SHA-256 of a ``run.json`` as it was written, in hexadecimal: what the ledger and the worker know it by."""
    import hashlib  # 2 ms, which a command that shows what the ledger has does without

    return hashlib.sha256(written).hexdigest()


@dataclass(frozen=True)
class Program:
    """What the worker starts. Pure data, without secrets: their values reach the program through the worker's own environment."""

    command: tuple[str, ...]
    directory: str
    """Working directory, absolute."""
    environment: dict[str, str] = field(default_factory=dict)
    data: str | None = None
    """Absolute path for ``CLOUD_TRAIN_DATA``."""
    grace_seconds: float = 30.0
    duration_seconds: float | None = None
    keep_checkpoints: int = 3
    ranking: Ranking = USUAL
    """Which checkpoints are the best, and how many of them are kept beside the newest."""
    attempts: int = 1
    """Launches at most, the first one counted."""
    retry_on: tuple[Cause, ...] = ()

    def retries(self, cause: Cause, attempt: int) -> bool:
        """Whether an attempt of this number that ended with ``cause`` is followed by another."""
        return attempt < self.attempts and cause in self.retry_on


@dataclass(frozen=True)
class RunRecord:
    """``run.json``: the spec, the plan and provenance. Written once, when the run is submitted."""

    run_id: str
    created: float
    """Seconds since the epoch."""
    job: dict[str, Any]
    """The resolved JobSpec as JSON."""
    program: Program
    plan: dict[str, Any]
    """Provider, store, layers, data facts, steps: what ``--dry-run`` prints."""
    provenance: dict[str, Any]
    """Where it comes from: job file, git commit, versions, host."""

    def to_json(self) -> bytes:
        """The bytes of ``run.json``."""
        return (json.dumps({"format": FORMAT, **asdict(self)}, indent=2) + "\n").encode()

    @classmethod
    def from_json(cls, data: bytes, where: str) -> Self:
        """Read ``run.json``; raises CorruptError, which names ``where``."""
        try:
            fields = _fields(data)
            program = fields.pop("program")
            program["command"] = tuple(program["command"])
            program["ranking"] = Ranking(**program["ranking"])
            program["retry_on"] = tuple(Cause(cause) for cause in program["retry_on"])
            return cls(program=Program(**program), **fields)
        except (ValueError, TypeError, KeyError, AttributeError) as error:
            raise CorruptError(f"{where} is not a run record: {error}") from error


@dataclass(frozen=True)
class AttemptStatus:
    """``status.json``: where one attempt stands."""

    state: State
    started: float
    heartbeat: float
    host: str
    pid: int
    cause: Cause | None = None
    message: str = ""
    """What the program said, or what the worker found, about the end."""
    ended: float | None = None
    program_exit_code: int | None = None
    """Exit status of the program; negative for a signal."""
    resumed_step: int | None = None
    """The step of the checkpoint that this attempt started from."""
    launch: str = ""
    """What the platform calls the job that the attempt's worker belongs to; empty where there is no platform."""

    def ended_with(self, cause: Cause, message: str, now: float, program_exit_code: int | None = None) -> Self:
        """This status, ended."""
        return replace(self, state=cause.state, cause=cause, message=message, ended=now, heartbeat=now, program_exit_code=program_exit_code)

    def to_json(self) -> bytes:
        """The bytes of ``status.json``."""
        return (json.dumps({"format": FORMAT, **asdict(self)}) + "\n").encode()

    @classmethod
    def from_json(cls, data: bytes, where: str) -> Self:
        """Read ``status.json``; raises CorruptError, which names ``where``."""
        try:
            fields = _fields(data)
            fields["state"] = State(fields["state"])
            fields["cause"] = Cause(fields["cause"]) if fields["cause"] else None
            return cls(**fields)
        except (ValueError, TypeError, KeyError, AttributeError) as error:
            raise CorruptError(f"{where} is not an attempt's status: {error}") from error


def _fields(data: bytes) -> dict[str, Any]:
    fields = json.loads(data)
    if not isinstance(fields, dict) or fields.pop("format", None) != FORMAT:
        raise ValueError(f"its format is not {FORMAT}")
    return fields

"""``run.json``, which describes a run and is written once, and ``status.json``, in which the worker reports on each attempt."""

from __future__ import annotations  # the worker also runs on Python 3.10, in users' images

import json
from dataclasses import asdict, dataclass, field, replace
from typing import TYPE_CHECKING, Any

from cloud_train.errors import CorruptError
from cloud_train.run import documents
from cloud_train.run.documents import Fields
from cloud_train.run.ranking import USUAL, Ranking
from cloud_train.run.starting_point import StartingPoint
from cloud_train.run.states import Cause, State

if TYPE_CHECKING:
    from typing_extensions import Self  # noqa: UP035 -- typing has it from Python 3.11 on

FORMAT = 1
_LARGEST_PID = 2**32
_MOST_WORDS = 100_000
_MOST_NODES = 100_000
_CLOCK_STEP_SECONDS = 60.0
"""By how much a worker's clock has to be set during an attempt to change what is shown as the attempt's start."""


def sha256_of(written: bytes) -> str:
    """The SHA-256 of a ``run.json``'s bytes, in hexadecimal, by which the ledger and the worker identify it."""
    import hashlib  # takes 2 ms, which commands that only show the ledger can save

    return hashlib.sha256(written).hexdigest()


@dataclass(frozen=True)
class Program:
    """The program that the worker starts. It contains no secrets: the program inherits their values from the worker's environment."""

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
    """Which checkpoints are the best, and how many of them are kept in addition to the newest."""
    attempts: int = 1
    """Maximum number of attempts, including the first."""
    retry_on: tuple[Cause, ...] = ()

    def retries(self, cause: Cause, attempt: int) -> bool:
        """Whether another attempt follows attempt number ``attempt`` if that ended with ``cause``."""
        return attempt < self.attempts and cause in self.retry_on


@dataclass(frozen=True)
class RunRecord:
    """``run.json``: the spec, the plan and provenance, written once when the run is submitted."""

    run_id: str
    created: float
    """Seconds since the epoch."""
    job: dict[str, Any]
    """The resolved JobSpec as JSON."""
    program: Program
    plan: dict[str, Any]
    """Provider, store, layers, data facts, steps: what ``--dry-run`` prints."""
    provenance: dict[str, Any]
    """Job file, git commit, versions and host."""

    def to_json(self) -> bytes:
        """The bytes of ``run.json``."""
        return (json.dumps({"format": FORMAT, **asdict(self)}, indent=2) + "\n").encode()

    @classmethod
    def from_json(cls, data: bytes, where: str) -> Self:
        """Parse ``run.json``; raises CorruptError, which names ``where``."""
        try:
            fields = _fields(data, documents.LARGEST_RECORD)
            job, plan, provenance = (fields.mapping(name) for name in ("job", "plan", "provenance"))
            _check_sections(job, plan, provenance)
            return cls(
                run_id=fields.text("run_id", 200),
                created=fields.time("created"),
                job=job,
                program=_program(fields.mapping("program")),
                plan=plan,
                provenance=provenance,
            )
        except ValueError as error:
            raise CorruptError(f"{where} is not a run record: {error}") from error


@dataclass(frozen=True)
class AttemptStatus:
    """``status.json``: the state of one attempt."""

    state: State
    started: float
    heartbeat: float
    host: str
    pid: int
    cause: Cause | None = None
    message: str = ""
    """The reason for the end, from the program or from the worker."""
    ended: float | None = None
    program_exit_code: int | None = None
    """Exit status of the program; negative for a signal."""
    resumed_step: int | None = None
    """The step of the checkpoint that this attempt started from."""
    launch: str = ""
    """The platform's id of the worker's job; empty without a platform."""
    token: str = ""
    """The launch that the attempt belongs to, which alone may write its results; empty from earlier versions."""
    origin: int | None = None
    """The attempt that made the checkpoint from which this one started, 0 for a start from the beginning; None if that is not recorded."""
    closed: bool = False
    """Whether a resume has followed this end: then its worker may not take the end back, even if it is alive."""
    elapsed: float | None = None
    """Seconds from the start to the worker's last heartbeat or to its end, by a clock that is never set; None from earlier versions."""
    moved_to: str = ""
    """URL of the run directory in another store in which this attempt takes place; no worker begins it here. Once it is ``closed``, the
    move is complete.
    """

    @property
    def began(self) -> float:
        """When the attempt started, in seconds since the epoch by the clock that its worker has now.

        ``started`` was read at the start, perhaps before the clock was set. An end has it corrected already.
        """
        if self.elapsed is None or self.ended is not None:
            return self.started
        began = float((self.heartbeat - self.elapsed) // 1)  # whole seconds: the same at the next heartbeat, and not after the end
        return self.started if abs(began - self.started) < _CLOCK_STEP_SECONDS else max(0.0, began)

    def ended_with(self, cause: Cause, message: str, now: float, program_exit_code: int | None = None) -> Self:
        """This status, ended."""
        return replace(
            self,
            state=cause.state,
            cause=cause,
            message=message,
            started=self.began,
            ended=now,
            heartbeat=now,
            program_exit_code=program_exit_code,
        )

    def to_json(self) -> bytes:
        """The bytes of ``status.json``."""
        return (json.dumps({"format": FORMAT, **asdict(self)}) + "\n").encode()

    @classmethod
    def from_json(cls, data: bytes, where: str) -> Self:
        """Parse ``status.json``; raises CorruptError, which names ``where``."""
        try:
            return cls(**cls._read(_fields(data, documents.LARGEST_STATUS)))
        except ValueError as error:
            raise CorruptError(f"{where} is not an attempt's status: {error}") from error

    @classmethod
    def _read(cls, fields: Fields) -> dict[str, Any]:
        """The fields by name; raises ValueError. Unknown fields, which a newer version may have added, are ignored."""
        state, cause = State(fields.text("state", 40)), None if fields.is_null("cause") else Cause(fields.text("cause", 40))
        if state.is_end is not (cause is not None and cause.state is state):
            raise ValueError(f"the state {state} contradicts the cause {cause}")
        return {
            "state": state,
            "cause": cause,
            "started": fields.time("started"),
            "heartbeat": fields.time("heartbeat"),
            "host": fields.text("host"),
            "pid": fields.whole("pid", 0, _LARGEST_PID),
            "message": fields.text("message", documents.LARGEST_STATUS, default="")[: documents.LONGEST_MESSAGE],
            "ended": None if fields.is_null("ended") else fields.time("ended"),
            "program_exit_code": fields.whole_or_none("program_exit_code", -_LARGEST_PID, _LARGEST_PID),
            "resumed_step": fields.whole_or_none("resumed_step", 0, documents.LARGEST_STEP),
            "launch": fields.text("launch", default=""),
            "token": fields.text("token", 64, default=""),
            "origin": fields.whole_or_none("origin", 0, documents.MOST_ATTEMPTS),
            "closed": fields.flag("closed", default=False),
            "elapsed": fields.number_or_none("elapsed", 0, documents.LATEST),
            "moved_to": documents.one_line(fields.text("moved_to", default="")),
        }


def _fields(data: bytes, largest: int) -> Fields:
    document = documents.load(data, largest)
    documents.check_format(document, FORMAT)
    return Fields(document)


def _program(values: dict[str, Any]) -> Program:
    """The program, in which no unknown field is allowed because it will be executed."""
    fields = Fields(values, "program")
    command = tuple(fields.argument("command", word) for word in fields.items("command", _MOST_WORDS))
    environment = fields.mapping("environment", default={})
    if not command:
        fields.refuse("command", "a list of at least one text")
    program = Program(
        command=command,
        directory=fields.argument("directory", fields.value("directory")),
        environment={name: fields.argument("environment", value) for name, value in environment.items()},
        data=None if fields.is_null("data") else fields.argument("data", fields.value("data")),
        grace_seconds=fields.number("grace_seconds", 0, documents.LATEST, default=30.0),
        duration_seconds=fields.number_or_none("duration_seconds", 0, documents.LATEST),
        keep_checkpoints=fields.whole("keep_checkpoints", 0, documents.LARGEST_STEP, default=3),
        ranking=_ranking(fields.mapping("ranking", default={})),
        attempts=fields.whole("attempts", 0, documents.MOST_ATTEMPTS, default=1),
        retry_on=tuple(Cause(cause) for cause in fields.items("retry_on", len(Cause), default=())),
    )
    fields.refuse_others()
    return program


def _ranking(values: dict[str, Any]) -> Ranking:
    fields = Fields(values, "program.ranking")
    metric = None if fields.is_null("metric") else fields.text("metric")
    goal = None if fields.is_null("goal") else fields.text("goal")
    if goal not in (None, "min", "max"):
        fields.refuse("goal", "'min' or 'max'")
    ranking = Ranking(metric, goal, fields.whole("keep", 0, documents.LARGEST_STEP, default=1))
    fields.refuse_others()
    return ranking


def _check_sections(job: dict[str, Any], plan: dict[str, Any], provenance: dict[str, Any]) -> None:
    """Raise ValueError for a wrong type in a field that is read without the job's pydantic models."""
    of_job, of_plan = Fields(job, "job"), Fields(plan, "plan")
    of_job.text("name", default="")
    for section in ("model", "train", "resources"):
        of_job.mapping(section, default={})
    Fields(of_job.mapping("resources", default={}), "job.resources").whole("nodes", 1, _MOST_NODES, default=1)
    Fields(of_job.mapping("train", default={}), "job.train").number_or_none("epochs", 0, documents.LARGEST_STEP)
    for name in of_job.items("secrets", _MOST_WORDS, default=()):
        of_job.argument("secrets", name)
    of_plan.text("provider", default="")
    of_plan.text("store", default="")
    of_plan.mapping("provider_settings", default={})
    of_plan.whole_or_none("total_steps", 0, documents.LARGEST_STEP)
    of_plan.whole_or_none("most_download_bytes", 1, documents.LARGEST_STEP)
    StartingPoint.from_plan(plan)
    if not (of_provenance := Fields(provenance, "provenance")).is_null("job_file"):
        of_provenance.text("job_file")

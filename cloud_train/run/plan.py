"""A plan: everything that submitting a job would do, as pure data. Nothing has been sent, written or started."""

import json
import secrets
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from datetime import UTC, datetime
from typing import Any, Self

from cloud_train.errors import CorruptError
from cloud_train.job.models import JobSpec
from cloud_train.run.documents import Fields
from cloud_train.run.record import Program, RunRecord
from cloud_train.run.starting_point import StartingPoint
from cloud_train.spec.facts import DataFacts, LayerFacts

NOT_WRITTEN = "0" * 64
"""Placeholder for the SHA-256 of ``run.json`` in a plan that has not been submitted."""
_BESIDE = frozenset({"job", "program", "record_sha256", "is_foreign", "token", "remarks", "threads"})
"""Fields left out of the plan in ``run.json``: the first two are stored next to it, ``remarks`` and ``threads`` are for the
user alone, and the others are about that file itself."""
_ALPHABET = "0123456789abcdefghjkmnpqrstvwxyz"  # Crockford's base 32: no i, l, o, u to misread


@dataclass(frozen=True)
class Plan:
    """A job resolved for a provider and a store."""

    run_id: str
    attempt: int
    job: JobSpec
    job_file: str
    """The job file, absolute."""
    provider: str
    provider_settings: dict[str, Any]
    """The provider's part of the config file."""
    store: str
    """URL of the store; a local folder is absolute."""
    program: Program
    layers: tuple[LayerFacts, ...]
    """The model, layer by layer; empty for a script."""
    data: DataFacts | None
    steps_per_epoch: int | None
    total_steps: int | None
    origins: dict[str, str]
    """The origin of each value in the resolved spec: dotted path → ``file:line``, ``--set``, ``default``, …"""
    notes: tuple[str, ...]
    """Warnings before submitting, such as a resource limit that this provider does not enforce."""
    image: str | None = None
    """The container image: a description of its build, then, once built, its name by digest; None without containers."""
    host_data: str | None = None
    """Absolute path of the job's data on this machine, to mount into the container; None without data or without a container."""
    most_download_bytes: int | None = None
    """The largest file to download for the data set, in bytes; None without a limit. In JSON only if there is one."""
    start: StartingPoint | None = None
    """The weights that the run begins with; None for random ones. In JSON only if there are some."""
    record_sha256: str = NOT_WRITTEN
    """SHA-256, in hexadecimal, of the ``run.json`` that the worker may run; zeros until that file is written."""
    is_foreign: bool = False
    """Whether another machine wrote ``run.json``."""
    takes_token: bool = True
    """Whether the worker of the image knows ``--token``; those of earlier versions do not."""
    token: str = ""
    """What the attempt is launched with (``new_token``); empty until then."""
    remarks: tuple[str, ...] = ()
    """What the user should know before paying, shown before everything else; not kept in ``run.json``."""
    threads: Mapping[str, str] = field(default_factory=dict, compare=False)
    """The variables that say how the program's threads wait, beside other programs; empty on a rented machine. Not kept in ``run.json``."""

    @property
    def parameters(self) -> int:
        """Trainable parameters of the model."""
        return sum(layer.parameters for layer in self.layers)

    def to_dict(self) -> dict[str, Any]:
        """The plan as JSON."""
        return {
            **self.facts(),
            "remarks": list(self.remarks),
            "threads": dict(self.threads),
            "job": self.job.model_dump(mode="json"),
            "program": asdict(self.program),
        }

    def facts(self) -> dict[str, Any]:
        """The plan as ``run.json`` holds it: without the job and the program, which have their own sections there."""
        fields = {name: value for name, value in vars(self).items() if name not in _BESIDE}
        if self.most_download_bytes is None:
            del fields["most_download_bytes"]
        if self.start is None:
            del fields["start"]
        return {
            **fields,
            **({"start": self.start.to_dict()} if self.start else {}),
            "notes": list(self.notes),
            "layers": [asdict(layer) for layer in self.layers],
            "parameters": self.parameters if self.layers else None,
            "data": asdict(self.data) if self.data else None,
        }

    @classmethod
    def of_attempt(cls, record: RunRecord, attempt: int, record_sha256: str) -> Self:
        """The plan of a further attempt at the run that ``record`` describes; ``record_sha256`` is the SHA-256 of the ``run.json``.

        Raises CorruptError for a record whose plan this version cannot read.
        """
        try:
            fields = {name: value for name, value in record.plan.items() if name not in {"parameters", "attempt", "run_id", *_BESIDE}}
            fields["layers"] = tuple(LayerFacts(**{**layer, "output_shape": tuple(layer["output_shape"])}) for layer in fields["layers"])
            if data := fields["data"]:
                fields["data"] = DataFacts(
                    **{**data, "sample_shape": tuple(data["sample_shape"]), "remarks": tuple(map(str, data.get("remarks", ())))}
                )
            fields["notes"] = tuple(map(str, fields["notes"]))
            fields["start"] = StartingPoint.from_plan(record.plan)
            _check_types(fields)
            fields["takes_token"] = fields["image"] is None or fields.get("takes_token") is True
            job = JobSpec.model_validate_json(json.dumps(record.job))
            return cls(run_id=record.run_id, attempt=attempt, job=job, program=record.program, record_sha256=record_sha256, **fields)
        except (TypeError, ValueError, KeyError, AttributeError) as error:  # pydantic's ValidationError is a ValueError
            raise CorruptError(
                f"run.json of {record.run_id} does not hold a plan that this version of cloud-train can read: {error}"
            ) from error


def new_token() -> str:
    """A random token for one launch: the ledger keeps it, the worker writes it into the status of its attempts, and nothing else has it."""
    return secrets.token_hex(8)


def new_run_id(name: str, now: datetime | None = None) -> str:
    """A new id for a run of the job ``name`` (at most 40 characters), at the UTC time ``now``.

    An id is ``<name>-<yymmdd>-<hhmmss>-<4 characters>`` in UTC, at most 59 characters of ``a-z0-9-``: it fits SageMaker's job names (63
    characters, no underscore), Vertex AI's label values (63) and Docker's container names, and it sorts by name, then by time. It is drawn
    before anything is sent, because providers use it as the idempotency key of a launch.
    """
    stamp = (now or datetime.now(UTC)).strftime("%y%m%d-%H%M%S")
    return f"{name}-{stamp}-" + "".join(secrets.choice(_ALPHABET) for _ in range(4))


def _check_types(fields: dict[str, Any]) -> None:
    """Raise ValueError for a field that is used and has the wrong type: the file may come from anyone."""
    said = Fields(fields)
    fields["job_file"] = said.text("job_file")
    if "\0" in fields["job_file"]:
        raise ValueError("'job_file' is not a path")
    for name in ("image", "host_data"):
        fields[name] = None if said.is_null(name) else said.text(name)
    fields["provider_settings"] = said.mapping("provider_settings")
    fields["origins"] = {str(key): str(value) for key, value in said.mapping("origins").items()}
